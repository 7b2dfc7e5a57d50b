"""Replies that outlive their connection: stores of them, for clients that come back.

`stream` records a reply, and `http` finds it again; `app` makes the store that the settings name.
"""

from typing import Optional

from ..settings import Settings
from .memory import MemoryReplay
from .protocol import Entry, Kept, Keyed, Recording, Replay

__all__ = ["Entry", "Kept", "Keyed", "MemoryReplay", "Recording", "Replay", "make_replay"]


def make_replay(settings: Settings) -> Optional[Replay]:
    """The store of replies that `settings` name, or None."""
    return MemoryReplay.from_settings(settings) if settings.replay == "memory" else None
