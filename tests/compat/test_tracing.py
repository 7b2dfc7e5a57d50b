"""Tools that watch an app from around it: each sees the chat, and the chat is answered as ever.

They patch what they find, so each has a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, List

import pytest

from ..support.constants import PATIENCE
from ..support.process import environment

pytest.importorskip("logfire", reason="the tools are not installed: make test-compat")

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


def _spans(script: str, directory: Path) -> List[Any]:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join([ASK, OPENTELEMETRY, textwrap.dedent(script)])],
        cwd=directory,
        # Nothing is sent anywhere.
        env=environment(
            DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
            DD_REMOTE_CONFIGURATION_ENABLED="false",
            DD_TRACE_AGENT_URL="http://127.0.0.1:9",
        ),
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: List[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_around_the_app_sees_the_chat_and_its_route(tool: str, tmp_path: Path) -> None:
    """asgiref and ddtrace take an app whose `__call__` is a plain function for one of ASGI 2."""
    assert ["POST /api/v1/chat", "/api/v1/chat"] in _spans(TOOLS[tool], tmp_path)


def test_the_command_line_under_opentelemetry_instrument_answers(tmp_path: Path) -> None:
    """Nothing of the service's own has to be touched for it."""
    script = tmp_path / "asked.py"
    script.write_text(
        ASK + "\nfrom omniforge_chat import create_app\nasyncio.run(ask(create_app()))"
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("opentelemetry-instrument")), sys.executable, script],
        env=environment(
            OTEL_TRACES_EXPORTER="console",
            OTEL_METRICS_EXPORTER="none",
            OTEL_LOGS_EXPORTER="none",
        ),
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"http.route": "/api/v1/chat"' in done.stdout
