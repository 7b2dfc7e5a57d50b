"""The wire formats: a body becomes a request, a reply becomes frames. No I/O.

- `protocol`: Dialect and Request, which a format derives.
- `documents`: the JSON of a body; `messages`: the conversation in it.
- A module for each format. Its `dialect` is the class; its name is in `settings.DIALECTS`, and that
  is all that a further one needs.

`http` decodes by them and `stream` sends their frames; neither knows one by name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Collection

from ..settings import Settings
from .protocol import Dialect, Event, Operation, Request, Resource, all_errors, refusal

__all__ = [
    "Dialect",
    "Event",
    "Operation",
    "Request",
    "Resource",
    "all_errors",
    "make_dialect",
    "refusal",
]


def make_dialect(name: str, settings: Settings, parts: Collection[str] = ()) -> Dialect:
    """The format called `name`, one of `settings.DIALECTS`; for `parts` see Dialect."""
    made: Dialect = import_module(f".{name}", __name__).dialect(settings, parts)
    return made
