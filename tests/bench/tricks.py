"""python -m tests.bench.tricks: the small speed tricks of the package, each beside the plain way.

A trick stays only while it is faster. The two ways take turns in short pieces, and the median of
each is shown, with the ratio of the two.
"""

from __future__ import annotations

import timeit
import uuid
from statistics import median
from typing import Any, Callable, Dict, List, Tuple

import h11

from omniforge_chat.logs import CHAT, CHAT_FIELDS, TextFormatter
from omniforge_chat.logs.record import Ended
from omniforge_chat.models import new_conversation_id
from omniforge_chat.stream.state import StreamState
from omniforge_chat.stream.transitions import TABLE, TRANSITIONS, Event, Phase

TURNS, CALLS = 40, 20_000

Way = Callable[[], object]


class _Base:
    def step(self) -> None: ...


class _BySuper(_Base):
    def step(self) -> None:
        super().step()


class _ByName(_Base):
    def step(self) -> None:
        _Base.step(self)


def ways() -> Dict[str, Tuple[Way, Way]]:
    """Return the plain way and ours, by the module that takes it."""
    pieces = ["piece "] * 20
    by_super, by_name = _BySuper(), _ByName()
    data: Any = h11.Data(data=b"")
    now, begun = 12345.678, 12344.321
    phase, event = Phase.WAITING, Event.READY
    formatter, ended = TextFormatter(), (now, CHAT, CHAT_FIELDS)
    state: Any = StreamState.__new__(StreamState)
    state.phase = phase

    def shortcut() -> None:
        if state.phase is phase:
            state.phase = phase

    def looked_up() -> None:
        state.phase, _ = TABLE[state.phase][Event.TAKEN]

    return {
        "core/reply.py: the length of the joined pieces": (
            lambda: sum(map(len, pieces)),
            lambda: len("".join(pieces)),
        ),
        "logs/formats.py: the line of an end, without a record": (
            lambda: formatter.format(Ended(*ended)),
            lambda: formatter.format_end(*ended),
        ),
        "models.py: a random UUID as text": (lambda: str(uuid.uuid4()), new_conversation_id),
        "server: the class by name": (by_super.step, by_name.step),
        "server/h11_protocol.py: type() of an event": (
            lambda: isinstance(data, h11.Request),
            lambda: type(data) is h11.Request,
        ),
        "stream/response.py: a decimal of milliseconds": (
            lambda: round(1000 * (now - begun), 1),
            lambda: int(10_000 * (now - begun) + 0.5) / 10,
        ),
        "stream/state.py: a row of the table in place": (looked_up, shortcut),
        "stream/transitions.py: lists in place of a dict": (
            lambda: TRANSITIONS[phase, event],
            lambda: TABLE[phase][event],
        ),
    }


def main() -> None:
    """Print the time of each way."""
    print(f"{'':55}  plain, ns  ours, ns  ratio")
    for name, pair in ways().items():
        times: Tuple[List[float], List[float]] = ([], [])
        for _ in range(TURNS):
            for way, kept in zip(pair, times):
                kept.append(timeit.timeit(way, number=CALLS) / CALLS * 1e9)
        plain, ours = map(median, times)
        print(f"{name:55}  {plain:9.0f}  {ours:8.0f}  {plain / ours:5.2f}")


if __name__ == "__main__":
    main()
