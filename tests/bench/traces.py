"""python -m tests.bench.traces: the cost of the spans of a chat, with and without an SDK.

The ways take turns in short pieces of CPU time, and the median of each is shown. "Off" is what is
done for each chat and each request to a provider if nobody traces. An SDK has a BatchSpanProcessor
whose exporter drops all; its thread is part of the CPU time.
"""

from __future__ import annotations

import time
import timeit
from statistics import median
from typing import Any, Callable, Dict, List, Optional, Sequence

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from omniforge_chat import Tracing, Turn, Usage
from omniforge_chat.logs import enter_trace
from omniforge_chat.observer import ChatEnd, Observers, UpstreamCall, UpstreamEnd, tell
from omniforge_chat.responders.providers.attempts import UNWATCHED

PIECES, CALLS = 40, 500

TURN = Turn("hi", "786c0280-d430-47d0-a997-1dd2cb0659a1", "5f835bd2cf71e68c9e24dd5deecb3318")
END = ChatEnd(TURN, "done", 200, 20, Usage(42, 20, 22), "stop", 0.1, 1.9, 2000, 1)
CALL = UpstreamCall("openai", "m", "127.0.0.1", 8080, 1, {"temperature": 0.5}, TURN)
CALL_END = UpstreamEnd(CALL, "done", 200, 1.9, 0.1, Usage(42, 20, 22), "stop", "chatcmpl-1", "m")
SCOPE: Dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "scheme": "http",
    "path": "/api/v1/chat",
    "root_path": "",
    "http_version": "1.1",
    "client": ("127.0.0.1", 1),
    "headers": [(b"host", b"127.0.0.1:8000"), (b"user-agent", b"bench"), (b"accept", b"*/*")],
}

Way = Callable[[], object]


class _Dropping(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def traced(sampler: Optional[Sampler], *, asks: bool) -> Way:
    """A chat that `asks` a provider, or answers itself. No sampler is no SDK."""
    provider = None
    if sampler is not None:
        provider = TracerProvider(sampler=sampler)
        provider.add_span_processor(BatchSpanProcessor(_Dropping()))
    observers = Observers([Tracing(provider)])

    def chat() -> None:
        tell(observers.chat_began, TURN, SCOPE)
        if asks:
            tell(observers.upstream_began, CALL)
            tell(observers.upstream_ended, CALL_END)
        tell(observers.first_chunk, TURN, 0.1)
        tell(observers.chat_ended, END)

    return chat


def off(*, asks: bool) -> Way:
    observers = Observers()
    headers = dict(SCOPE["headers"])
    fields: Dict[str, Any] = {}

    def chat() -> None:
        enter_trace(headers.get(b"traceparent"))
        observers.enter()
        if asks:
            with UNWATCHED as attempts:
                attempts.begin(fields)
                attempts.responded(200)

    return chat


def main() -> None:
    """Print the costs."""
    samplers = {"without an SDK": None, "not sampled": ALWAYS_OFF, "sampled": ALWAYS_ON}
    ways: Dict[str, List[Way]] = {"off": [off(asks=asks) for asks in (False, True)]}
    for name, sampler in samplers.items():
        ways[name] = [traced(sampler, asks=asks) for asks in (False, True)]
    times: Dict[Way, List[float]] = {way: [] for pair in ways.values() for way in pair}
    for _ in range(PIECES):
        for way, kept in times.items():
            took = timeit.timeit(way, number=CALLS, timer=time.process_time)
            kept.append(took / CALLS * 1e6)
    for name, (alone, asking) in ways.items():
        figures = median(times[alone]), median(times[asking])
        print("{:15} a chat {:6.2f} µs; that asks a provider {:6.2f} µs".format(name, *figures))


if __name__ == "__main__":
    main()
