"""The observers that come with the package: what is logged, counted and traced.

- `logged`: the lines of the log when a chat or a reader ends.
- `metrics`: Metrics, which counts.
- `families`: the names of what it counts.
- `counts`: the numbers, of one worker or of several.
- `lag`: how late the event loop is.
- `exposition`: the numbers as Prometheus reads them.
- `fleet`: those of all workers of a service, also of those that have died.
"""

from __future__ import annotations

from typing import Optional

from ..settings import Settings
from .exposition import Exposition
from .metrics import Metrics

__all__ = ["Exposition", "Metrics", "make_exposition"]


def make_exposition(settings: Settings) -> Optional[Exposition]:
    """What tells the numbers of an app, if `settings` want it, with an observer that counts them.

    Raises SettingsError if prometheus-client is missing.
    """
    return None if settings.metrics == "off" else Exposition(Metrics())
