"""Make the store of conversations that the settings name."""

from __future__ import annotations

import importlib
from typing import Any, Optional

from ..rules import SettingsError
from ..settings import Settings
from ..stores import SharedRedis
from .memory import MemoryHistory
from .protocol import History
from .redis import RedisHistory

_HOMES = {
    "sqlite": ("sqlite", "SQLiteHistory"),
    "postgresql": ("postgres", "PostgresHistory"),
    "postgres": ("postgres", "PostgresHistory"),
}
"""Modules and classes. They are imported when they are named: others do without their drivers."""


def make_history(settings: Settings, redis: Optional[SharedRedis] = None) -> Optional[History]:
    """The store of conversations that `settings` name, or None. It opens nothing yet.

    `redis` is for the one in Redis. Raises SettingsError if the store lacks a package, or if its
    path or URL cannot be one.
    """
    if settings.history == "memory":
        return MemoryHistory.from_settings(settings)
    if settings.history == "redis" and redis is not None:
        return RedisHistory.from_settings(settings, redis)
    kind = settings.history.partition(":")[0]
    if kind not in _HOMES:
        return None
    module, name = _HOMES[kind]
    try:
        home: Any = importlib.import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        if error.name not in ("sqlite3", "_sqlite3"):
            raise
        expected = "a Python that was built with SQLite"
        raise SettingsError("history", settings.history, expected) from None
    history: History = getattr(home, name).from_settings(settings)
    return history
