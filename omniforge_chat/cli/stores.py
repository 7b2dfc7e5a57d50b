"""The stores that the settings name, for a command that works on them itself."""

from __future__ import annotations

import asyncio
import contextlib
from typing import AsyncIterator, List, NamedTuple, Optional, Protocol, cast

from ..conversations import History, make_history
from ..replay import Replay, make_replay
from ..rules import masked
from ..settings import Settings
from ..stores import Finding, SharedRedis, StoreUnavailable

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
    """What was found of one store: `state` is "ok", "warning", "failed" or "off"."""

    state: str
    store: str
    text: str


def make_stores(settings: Settings) -> Stores:
    """The stores; nothing is opened yet.

    Raises SettingsError if a package is missing for one of them, or an address is none.
    """
    redis = None
    if "redis" in (settings.history, settings.replay):
        redis = SharedRedis(settings.redis_url, settings.redis_prefix)
    return Stores(make_history(settings), make_replay(settings), redis)


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


async def check_stores(settings: Settings) -> List[Report]:
    """Reach each store that is not of this process."""
    async with open_stores(settings) as stores:
        found = []
        for name in ("history", "replay"):
            kind = getattr(settings, name)
            if kind == "off":
                found.append(Report("off", name, ""))
            elif kind == "memory":
                found.append(Report("ok", name, "in the memory of the process that serves"))
            else:
                store = stores.redis if kind == "redis" else getattr(stores, name)
                if store is None:
                    continue
                found.append(await _report(name, _address(settings, kind), store))
    return found


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
    if kind == "redis":
        kind = settings.redis_url
    return masked(kind[len("sqlite:") :] if kind.startswith("sqlite:") else kind.partition("?")[0])
