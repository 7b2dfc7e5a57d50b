"""Tools that watch an app from around it: each sees the chat, and the chat is answered as ever.

They patch what they find, so each has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ..support.constants import PATIENCE
from ..support.process import environment
from .table import Recorder, package

ASK = """
import asyncio, json

async def ask(app):
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": "/api/v1/chat", "raw_path": b"/api/v1/chat", "root_path": "",
        "query_string": b"", "headers": [(b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }
    sent, body = [], [{"type": "http.request", "body": b'{"message":"hi"}', "more_body": False}]

    async def receive():
        return body.pop() if body else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent
    assert b"event: done" in b"".join(message.get("body", b"") for message in sent), sent
"""

OPENTELEMETRY = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))

def told():
    found = exporter.get_finished_spans()
    print(json.dumps([[span.name, dict(span.attributes).get("http.route")] for span in found]))
"""

PACKAGES = {
    "opentelemetry": "opentelemetry-instrumentation-starlette",
    "logfire": "logfire",
    "ddtrace": "ddtrace",
    "starlette_exporter": "starlette-exporter",
}

TOOLS = {
    "opentelemetry, instrument_app": """
        from opentelemetry.instrumentation.starlette import StarletteInstrumentor
        from omniforge_chat import Settings, create_app

        app = create_app(settings=Settings())
        StarletteInstrumentor.instrument_app(app, tracer_provider=provider)
        asyncio.run(ask(app))
        told()
    """,
    "opentelemetry, instrument": """
        from opentelemetry.instrumentation.starlette import StarletteInstrumentor

        StarletteInstrumentor().instrument(tracer_provider=provider)
        from omniforge_chat import Settings, create_app

        asyncio.run(ask(create_app(settings=Settings())))
        told()
    """,
    "opentelemetry, add_middleware": """
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from omniforge_chat import Settings, create_app

        app = create_app(settings=Settings())
        details = lambda scope: ("POST /api/v1/chat", {"http.route": "/api/v1/chat"})
        app.add_middleware(
            OpenTelemetryMiddleware, tracer_provider=provider, default_span_details=details
        )
        asyncio.run(ask(app))
        told()
    """,
    "logfire": """
        import logfire
        from omniforge_chat import Settings, create_app

        logfire.configure(
            send_to_logfire=False, console=False,
            additional_span_processors=[SimpleSpanProcessor(exporter)],
        )
        app = create_app(settings=Settings())
        logfire.instrument_starlette(app)
        asyncio.run(ask(app))
        told()
    """,
    "starlette_exporter": """
        from prometheus_client import REGISTRY
        from starlette_exporter import PrometheusMiddleware
        from omniforge_chat import Settings, create_app

        app = create_app(settings=Settings())
        app.add_middleware(PrometheusMiddleware, group_paths=True)
        asyncio.run(ask(app))
        [counted] = [
            sample.labels
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name == "starlette_requests_total"
        ]
        told = [f"{counted['method']} {counted['path']}", counted["path"]]
        print(json.dumps([told]))
    """,
    "ddtrace": """
        import ddtrace.auto
        from ddtrace.trace import TraceFilter, tracer
        from omniforge_chat import Settings, create_app

        class Kept(TraceFilter):
            found = []

            def process_trace(self, trace):
                self.found += [[span.resource, span.get_tag("http.route")] for span in trace]

        tracer.configure(trace_processors=[Kept()])
        asyncio.run(ask(create_app(settings=Settings())))
        print(json.dumps(Kept.found))
    """,
}


def _printed(*command: str, directory: Path, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_around_the_app_sees_the_chat_and_its_route(
    tool: str, tmp_path: Path, record: Recorder
) -> None:
    """asgiref and ddtrace take an app whose `__call__` is a plain function for one of ASGI 2."""
    subject = package("tool", PACKAGES[tool.partition(",")[0]], title=tool)
    script = "\n".join([ASK, OPENTELEMETRY, textwrap.dedent(TOOLS[tool])])
    nothing_is_sent = {
        "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
        "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
    }
    printed = _printed(sys.executable, "-c", script, directory=tmp_path, **nothing_is_sent)
    assert ["POST /api/v1/chat", "/api/v1/chat"] in json.loads(printed)
    record(subject, "chat")
    record(subject, "route")


def test_a_service_under_opentelemetry_instrument_answers(tmp_path: Path, record: Recorder) -> None:
    """Nothing has to be touched for it: `create_app()` is the app that the service runs."""
    subject = package("tool", "opentelemetry-distro", title="opentelemetry-instrument")
    script = tmp_path / "asked.py"
    run = "from omniforge_chat import create_app\nasyncio.run(ask(create_app()))\n"
    script.write_text(f"{ASK}\n{run}")
    instrument = Path(sys.executable).with_name("opentelemetry-instrument")
    exporters = {"TRACES": "console", "METRICS": "none", "LOGS": "none"}
    variables = {f"OTEL_{name}_EXPORTER": value for name, value in exporters.items()}
    printed = _printed(
        str(instrument), sys.executable, str(script), directory=tmp_path, **variables
    )
    assert '"http.route": "/api/v1/chat"' in printed
    # Its variables turn on our own spans, which are parts of that tool's.
    assert '"omniforge.outcome": "done"' in printed
    assert "SpanKind.INTERNAL" in printed
    record(subject, "chat")
    record(subject, "route")
