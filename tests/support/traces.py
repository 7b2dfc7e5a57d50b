"""Spans, as a test sees them."""

from __future__ import annotations

from typing import Any, Dict, Tuple

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
NOT_SAMPLED = f"00-{TRACE}-{PARENT}-00"


class Spans:
    """A provider of spans that keeps them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def ended(self) -> Tuple[ReadableSpan, ...]:
        """Those that have ended, in this order."""
        return self._exporter.get_finished_spans()


def ids(span: ReadableSpan) -> Tuple[str, str, str]:
    """The ids of its trace, of itself and of its parent, or ""."""
    context, parent = span.get_span_context(), span.parent
    assert context is not None
    return (
        f"{context.trace_id:032x}",
        f"{context.span_id:016x}",
        "" if parent is None else f"{parent.span_id:016x}",
    )


def attributes(span: ReadableSpan) -> Dict[str, Any]:
    return dict(span.attributes or {})
