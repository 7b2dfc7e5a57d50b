"""Replies that outlive their connection: stores of them, for clients that come back.

`stream` records a reply, and `http` finds it again; `app` makes the store that the settings name.
"""

from .protocol import Entry, Kept, Keyed, Recording, Replay

__all__ = ["Entry", "Kept", "Keyed", "Recording", "Replay"]
