"""The versions of installed packages."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def version_of(package: str = "omniforge-chat") -> str:
    """The version of an installed package; "unknown" for one that runs from its source."""
    # Not at the head: it would take a twentieth of the time in which a service starts, as
    # `python -X importtime -m omniforge_chat --check` shows.
    metadata: Any = import_module("importlib.metadata")
    try:
        return str(metadata.version(package))
    except metadata.PackageNotFoundError:
        return "unknown"
