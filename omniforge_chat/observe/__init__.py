"""The observers that come with the package: what is logged, counted and traced.

- `logged`: the lines of the log when a chat or a reader ends.
- `metrics`: Metrics, which counts.
- `families`: the names of what it counts.
- `counts`: the numbers, of one worker or of several.
- `process`: the resources that this process takes.
- `lag`: how late the event loop is.
- `exposition`: the numbers as Prometheus reads them.
- `fleet`: those of all workers of a service, also of those that have died.
- `otel`: OpenTelemetry, which is imported if the settings want it.
- `tracing`: Tracing, which makes spans.
- `conventions`: the names in spans.
- `export`: the SDK, which sends the spans of a service.
"""

from __future__ import annotations

from typing import Optional

from ..settings import Settings
from .exposition import Exposition
from .metrics import Metrics
from .otel import check_tracing, make_tracing, start_export

__all__ = [
    "Exposition",
    "Metrics",
    "check_tracing",
    "make_exposition",
    "make_tracing",
    "start_export",
]


def make_exposition(settings: Settings) -> Optional[Exposition]:
    """What tells the numbers of an app, if `settings` want it, with an observer that counts them.

    Raises SettingsError if prometheus-client is missing.
    """
    return None if settings.metrics == "off" else Exposition(Metrics())
