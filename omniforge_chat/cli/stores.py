"""The stores that the settings name, for a command that works on them itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import AsyncIterator, List, NamedTuple, Optional, Protocol, cast

from ..access import make_limiter
from ..conversations import History, make_history
from ..replay import Replay, make_replay
from ..rules import masked
from ..settings import Settings, variable
from ..stores import Finding, SharedRedis, StoreUnavailable, make_redis

LONGEST_CHECK = 10.0
"""How many seconds a store may take to tell what it is."""


class Stores(NamedTuple):
    """The stores of a service, and the server that those of them share that are in Redis."""

    history: Optional[History]
    replay: Optional[Replay]
    redis: Optional[SharedRedis]


class Checked(Protocol):
    """A store that is not in the memory of a process."""

    async def check(self) -> Finding:
        """Reach the store, and say what it is; nothing is logged.

        Raises StoreUnavailable, whose text is one line.
        """


class Report(NamedTuple):
    """What was found of one part: `state` is "ok", "warning", "failed" or "off"."""

    state: str
    part: str
    text: str


def make_stores(settings: Settings) -> Stores:
    """The stores; nothing is opened yet.

    Raises SettingsError if a package is missing for one of them, or an address is none.
    """
    redis = make_redis(settings)
    return Stores(make_history(settings, redis), make_replay(settings, redis), redis)


@contextlib.asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """The stores, which are closed at the end."""
    stores = make_stores(settings)
    try:
        yield stores
    finally:
        for store in stores:  # Redis is the last of them
            aclose = getattr(store, "aclose", None)
            if aclose is not None:
                await aclose()


async def check_stores(settings: Settings, *, makes_file: bool) -> List[Report]:
    """Reach each store that is not of one process.

    Unless it `makes_file`, a file of SQLite that is not there is left to the service: it might
    belong to another user than that of the service, and be of no use to it.
    """
    async with open_stores(settings) as stores:
        found = []
        for name in ("history", "replay", "limits"):
            kind = limits_of(settings) if name == "limits" else getattr(settings, name)
            if kind == "off":
                found.append(Report("off", name, ""))
            elif name == "limits" and counts_apart(settings):
                found.append(Report("warning", name, counts_apart(settings)))
            elif kind == "memory":
                found.append(Report("ok", name, "in the memory of the process that serves"))
            elif name == "history" and not makes_file and missing_file(settings):
                text = f"the service will make {missing_file(settings)}"
                found.append(Report("ok", name, text))
            else:
                store = stores.redis if kind == "redis" else getattr(stores, name)
                found.append(await _report(name, _address(settings, kind), store))
    return found


def limits_of(settings: Settings) -> str:
    """Where limits of callers are counted, or "off" if there are none."""
    limited = make_limiter(settings) is not None
    return settings.limits if limited else "off"


def counts_apart(settings: Settings) -> str:
    """The warning if each worker counts for itself what all should count together, or ""."""
    if limits_of(settings) != "memory" or settings.workers == 1:
        return ""
    return (
        f"each of {settings.workers} workers counts for itself, so a caller may have so many times "
        f"as much; {variable('limits')}=redis counts for all"
    )


def missing_file(settings: Settings) -> str:
    """The file that conversations are to be in, if it is not there; else nothing."""
    kind, _, path = settings.history.partition(":")
    return "" if kind != "sqlite" or os.path.exists(path) else os.path.abspath(path)


async def _report(name: str, address: str, store: object) -> Report:
    try:
        finding = await asyncio.wait_for(cast(Checked, store).check(), LONGEST_CHECK)
    except StoreUnavailable as failure:
        return Report("failed", name, f"{address}: {failure}")
    except asyncio.TimeoutError:
        return Report("failed", name, f"{address}: no answer within {LONGEST_CHECK:g} s")
    parts = [f"{finding.product} {finding.version} at {address}", finding.contents]
    text = "; ".join([*filter(None, parts), *finding.warnings])
    return Report("warning" if finding.warnings else "ok", name, text)


def _address(settings: Settings, kind: str) -> str:
    """Where the store is, without passwords."""
    if kind.startswith("sqlite:"):
        return os.path.abspath(kind[len("sqlite:") :])
    return masked(settings.redis_url if kind == "redis" else kind).partition("?")[0]
