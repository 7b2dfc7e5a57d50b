"""How much a caller may have: the Protocol of a store that counts it, and what counts mean.

A subject is a caller, or an address if nobody is known. Of each a store has four numbers, and one
step looks at all of them before it changes any. So whoever is refused has used up nothing.

- The rate. Each chat costs `seconds / chats` of time, which runs off as time passes (the generic
  cell rate algorithm, with the burst of the whole rate). `backlog` is the time that has not run
  off. Chats pass as long as theirs and the backlog are not longer than `seconds` together. So in
  any time there are no more than the chats of the rate, and those that have run off in that time.
- The streams that are open, and apart from them the readers of kept replies: who comes back for a
  reply must find a place, also if all of theirs are taken.
- The tokens of the day, which begins at midnight UTC. They are known when a reply has ended. So
  each open stream reserves some, or many at once would use up a day several times.
"""

from __future__ import annotations

import ipaddress
import math
from functools import lru_cache
from typing import List, NamedTuple, Optional, Protocol, Sequence, Tuple

from ..errors import RateLimited
from ..models import Allowance, Rate

RESERVED_TOKENS = 1_000
"""What an open stream is taken to cost while nobody knows."""

DAY = 86_400.0

SOON_SECONDS = 1.0
"""The wait for a stream to end. Nobody knows when one will."""

PRECISION = 1e-6
"""The seconds by which a difference of times may be wrong: a float of seconds since 1970 is."""

Fields = Tuple[Tuple[bytes, bytes], ...]
"""Header fields of a response: lower-case names and their values."""


class Pass(Protocol):
    """The permission for one request, to give back when that is over."""

    @property
    def headers(self) -> Sequence[Tuple[bytes, bytes]]:
        """The RateLimit fields of the response, whatever its status is."""

    async def produce(self) -> None:
        """The request reads no reply, as was thought, and is to begin one: take what that takes.

        If it did not enter with `reads`, this does nothing. Raises as `enter` does, and then the
        request still has its place among the readers.
        """

    def leave(self, tokens: int) -> None:
        """The request is over, and has cost so many tokens. Never raises; once is enough."""


class Limiter(Protocol):
    """A store that counts what callers have. One belongs to an app."""

    async def enter(self, subject: str, allowance: Allowance, *, reads: bool = False) -> Pass:
        """Let a request of `subject`, which `subject_of` makes, pass if its allowance has room.

        If it `reads` (it comes back for a reply, or sends a message again) it takes no chat of the
        rate, and its place is among the readers. Raises RateLimited, whose `retry_after` is the
        true wait, and LimitsUnavailable.
        """

    async def aclose(self) -> None:
        """Write what is left to write."""


class Counts(NamedTuple):
    """What a subject has, in the moment in which it asks for more.

    `backlog` is in seconds, `places` are the streams or readers, `tokens` are those of today, and
    `now` is in seconds since 1970.
    """

    backlog: float
    places: int
    tokens: int
    now: float


def subject_of(caller_id: Optional[str], address: str) -> str:
    """Whose counts a request belongs to: those of the caller, else those of the address.

    An IPv6 address counts with all of its /64, as one household has so many. `address` is "" for a
    client that has none, as over a Unix socket.
    """
    if caller_id is not None:
        return f"id:{caller_id}"
    if ":" in address:
        try:
            given = ipaddress.IPv6Address(address.partition("%")[0])
        except ValueError:
            return f"address:{address}"
        mapped = given.ipv4_mapped
        address = str(mapped or f"{ipaddress.IPv6Address(int(given) >> 64 << 64)}/64")
    return f"address:{address}"


def backlog_after(backlog: float, elapsed: float, rate: Rate) -> float:
    """What is left of a backlog; at most the whole rate, which may be a new one.

    If the clock was set back, that is taken for time that has passed. Else whoever has used up a
    rate would be refused until the clock is again where it was.
    """
    return min(max(0.0, backlog - abs(elapsed)), float(rate.seconds))


def refusal(allowance: Allowance, reads: bool, counts: Counts) -> Optional[RateLimited]:
    """The refusal of a request for which there is no room; None if there is."""
    waits: List[Tuple[float, str]] = []
    rate, streams, limit = allowance.rate, allowance.streams, allowance.tokens_per_day
    if rate is not None and not reads and _room(rate, counts.backlog) < 1:
        reason = f"Your chats are limited to {rate}"
        waits.append((_wait(rate, counts.backlog), reason))
    if streams is not None and counts.places >= streams:
        what = "kept replies may be read" if reads else "chats may be answered"
        waits.append((SOON_SECONDS, f"{streams} of your {what} at once"))
    if limit is not None and not reads:
        if counts.tokens >= limit:
            reason = f"You have used up the {limit} tokens of this day (UTC)"
            waits.append((DAY - counts.now % DAY, reason))
        elif counts.tokens + counts.places * RESERVED_TOKENS >= limit:
            reason = f"Your open chats may use up the {limit} tokens of this day (UTC)"
            waits.append((SOON_SECONDS, reason))
    if not waits:
        return None
    wait, reason = max(waits)
    seconds = _whole(wait)
    names = ("RateLimit-Policy", "RateLimit")
    values = [value.decode() for _, value in fields(allowance, reads, *counts[:2])]
    return RateLimited(
        f"{reason}; wait {seconds} s", retry_after=seconds, headers=dict(zip(names, values))
    )


def fields(allowance: Allowance, reads: bool, backlog: float, places: int) -> Fields:
    """The RateLimit fields of a request, after what it has taken."""
    rate, streams = allowance.rate, allowance.streams
    policies, names = _policies(allowance, reads)
    if not policies:
        return ()
    limits = []
    if rate is not None:
        left = _room(rate, backlog)
        wait = "" if left else f";t={_whole(_wait(rate, backlog))}"
        limits.append(f'"{names[0]}";r={left}{wait}')
    if streams is not None:
        limits.append(f'"{names[1]}";r={max(0, streams - places)}')
    return (b"ratelimit-policy", policies), (b"ratelimit", ", ".join(limits).encode())


# The fields of draft-ietf-httpapi-ratelimit-headers-11. It has no unit for tokens, so there is no
# policy for them. `t` is the time to the next chat, and stands there only if none is left: chats
# come back one by one, and no client should take the others for what it may have in that time.
@lru_cache(maxsize=1_000)
def _policies(allowance: Allowance, reads: bool) -> Tuple[bytes, Tuple[str, str]]:
    """The policies, and the names of the rate and of the places."""
    rate, streams = allowance.rate, allowance.streams
    names = (str(rate).partition("/")[2], "readers" if reads else "streams")
    policies = []
    if rate is not None:
        policies.append(f'"{names[0]}";q={rate.chats};w={rate.seconds}')
    if streams is not None:
        policies.append(f'"{names[1]}";q={streams};qu="concurrent-requests"')
    return ", ".join(policies).encode(), names


def _room(rate: Rate, backlog: float) -> int:
    """The chats that may begin now."""
    cost = rate.seconds / rate.chats
    return max(0, int((rate.seconds - backlog + min(PRECISION, cost / 10)) / cost))


def _wait(rate: Rate, backlog: float) -> float:
    """The seconds until a chat may begin, if none may now."""
    return backlog + rate.seconds / rate.chats - rate.seconds


def _whole(seconds: float) -> int:
    """The whole seconds after which so many have passed; not one more for an error of floats."""
    return max(1, math.ceil(seconds - PRECISION / 2))
