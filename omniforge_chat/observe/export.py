"""The SDK of OpenTelemetry, which sends the spans of a service where its variables say.

It reads them itself: the endpoint, headers, limits, the sampler.
https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import os
import threading
from importlib import metadata
from typing import Any, List, Optional

from opentelemetry import trace
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from ..rules import SettingsError

_GROUP = "opentelemetry_traces_exporter"
_OTLP = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


class Export:
    """Sends the spans of this process, until it is closed. There is one for a process.

    If somebody else has set up an SDK, that one is used, and this does nothing. Raises
    SettingsError.
    """

    def __init__(self) -> None:
        self._provider: Optional[TracerProvider] = None
        if _is_set_up():
            return
        self._provider = _make_provider()
        trace.set_tracer_provider(self._provider)

    def close(self, seconds: float) -> None:
        """Send what waits, but for no longer than that."""
        if self._provider is not None:
            # Its own time limits are longer, and not for all of it.
            thread = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
            thread.start()
            thread.join(seconds)


def check() -> None:
    """Raises SettingsError if an Export cannot be made."""
    if not _is_set_up():
        _make_provider().shutdown()


def _is_set_up() -> bool:
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _make_provider() -> TracerProvider:
    exporters = _exporters()
    provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporters() -> List[SpanExporter]:
    names = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    return [_exporter(name.strip()) for name in names.split(",") if name.strip() != "none"]


def _exporter(name: str) -> SpanExporter:
    variable = "OTEL_TRACES_EXPORTER"
    given = name
    if name == "otlp":
        variable = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
        if variable not in os.environ:
            variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
        given = os.environ.get(variable, "").strip() or "http/protobuf"
        name = _OTLP.get(given, given)
    found: Any = metadata.entry_points()
    group = found.select(group=_GROUP) if hasattr(found, "select") else found.get(_GROUP, ())
    known = {entry.name: entry for entry in group}
    if name not in known:
        raise SettingsError(variable, given, f"one that is installed: {', '.join(sorted(known))}")
    try:
        exporter: SpanExporter = known[name].load()()
    except Exception as error:  # another variable of it, which it reads itself
        raise SettingsError(variable, given, f"one that can be made: {error}") from error
    return exporter


def _resource() -> Resource:
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "omniforge-chat"}))
    return resource
