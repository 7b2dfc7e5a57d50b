"""python -m tests.bench.metrics: the cost of counting a chat, beside that of prometheus-client.

Both ways take turns in short pieces of CPU time, and the median of each is shown. Then comes the
time of a scrape, in which the event loop of the worker that answers does nothing else.
"""

from __future__ import annotations

import asyncio
import time
import timeit
from statistics import median
from typing import Callable, List, Tuple

from prometheus_client import CollectorRegistry, Counter, Histogram

from omniforge_chat import Turn, Usage
from omniforge_chat.observe import Exposition, Metrics
from omniforge_chat.observe.families import FAMILIES
from omniforge_chat.observer import ChatEnd, Observers, tell

PIECES, CALLS, SCRAPES = 40, 5_000, 20

TURN = Turn("hi", "c", "r")
END = ChatEnd(TURN, "done", 200, 20, Usage(42, 20, 22), "stop", 0.1, 1.9, 2000, 1)


def ours(metrics: Metrics) -> Callable[[], None]:
    observers = Observers([metrics])

    def chat() -> None:
        tell(observers.chat_began, TURN, {})
        tell(observers.chat_ended, END)

    return chat


def theirs() -> Callable[[], None]:
    registry = CollectorRegistry()
    chats = Counter("chats", "-", ("dialect", "outcome"), registry=registry)
    tokens = Counter("tokens", "-", ("kind", "estimated"), registry=registry)
    sent, beats = (Counter(name, "-", registry=registry) for name in ("sent", "beats"))
    times = [
        Histogram(
            name, "-", buckets=FAMILIES[f"omniforge_{name}_seconds"].bounds, registry=registry
        )
        for name in ("chat_duration", "time_to_first_chunk", "time_per_chunk")
    ]

    def chat() -> None:
        chats.labels("native", "done").inc()
        tokens.labels("prompt", "false").inc(20)
        tokens.labels("completion", "false").inc(22)
        sent.inc(2000)
        beats.inc()
        for each in times:
            each.observe(1.9)

    return chat


async def main() -> None:
    """Print the costs."""
    metrics = Metrics()
    ways = ours(metrics), theirs()
    times: Tuple[List[float], List[float]] = ([], [])
    for _ in range(PIECES):
        for way, kept in zip(ways, times):
            took = timeit.timeit(way, number=CALLS, timer=time.process_time)
            kept.append(took / CALLS * 1e6)
    print("counting a chat   {:.2f} µs; by prometheus-client {:.2f}".format(*map(median, times)))
    exposition, scrapes, text = Exposition(metrics), [], b""
    for _ in range(SCRAPES):
        began = time.process_time()
        text, _ = await exposition.render("")
        scrapes.append(1000 * (time.process_time() - began))
    print(f"a scrape          {median(scrapes):.1f} ms for {len(text)} bytes")
    await metrics.aclose()


if __name__ == "__main__":
    asyncio.run(main())
