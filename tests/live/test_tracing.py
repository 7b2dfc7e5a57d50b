"""A service that sends its spans to a collector, as the variables of OpenTelemetry say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ..support.collector import Collector
from ..support.command import Command, command
from ..support.process import running
from ..support.traces import SAMPLED

__all__ = ["command"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_sends_its_spans_before_it_ends(workers: str, tmp_path: Path) -> None:
    """Those of the last seconds are the ones to look at. With a trace in the log for each."""
    with Collector() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "WEB_CONCURRENCY": workers}
        with running(tmp_path, **variables) as service:
            for _ in range(4):
                service.reply()
            assert service.end() == 0
        spans = collector.spans(4)
        assert collector.is_empty()
    assert {span["name"] for span in spans} == {"POST /api/v1/chat"}
    assert {span["process"]["service.name"] for span in spans} == {"omniforge-chat"}
    log = "\n".join(service.log)
    assert {span["trace"] for span in spans} == set(re.findall(r"chat ended.* trace_id=(\w+)", log))
    assert "ERROR" not in log


def test_other_variables_of_opentelemetry_count_too(tmp_path: Path) -> None:
    """The SDK reads them itself: the name of the service, its attributes, the sampler."""
    with Collector() as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{collector.url}/v1/traces",
            "OTEL_SERVICE_NAME": "bots",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test",
            "OTEL_BSP_SCHEDULE_DELAY": "1",
        }
        with running(tmp_path, **variables) as service:
            service.reply()
            (span,) = collector.spans(1)
            assert service.end() == 0
    assert span["process"]["service.name"] == "bots"
    assert span["process"]["deployment.environment"] == "test"


def test_nothing_is_sent_without_a_variable_or_with_tracing_off(tmp_path: Path) -> None:
    """A name of a variable may be there for other programs of the machine."""
    with Collector() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "CHAT_TRACING": "off"}
        with running(tmp_path, **variables) as service:
            service.reply()
            assert service.end() == 0
        assert not collector.asked.is_set()
    assert "trace_id" not in "\n".join(service.log)


def test_headers_of_a_trace_that_are_none_are_not_in_the_log(tmp_path: Path) -> None:
    """They may tell about users, and any client could fill the log with them."""
    headers = {
        "traceparent": SAMPLED + "x" * 600,
        "tracestate": "canary=\xe9",
        "baggage": "canary" * 2000,
    }
    with running(tmp_path, CHAT_TRACING="on", OTEL_TRACES_EXPORTER="none") as service:
        for name, value in headers.items():
            with service.connect() as client:
                client.post({"message": "hi"}, headers={"traceparent": SAMPLED, name: value})
                assert client.head()[0] == 200
        assert service.end() == 0
    assert [line for line in service.log if "canary" in line or "opentelemetry" in line] == []


def test_a_collector_that_hangs_keeps_no_service_from_its_end(tmp_path: Path) -> None:
    """Spans are worth less than a deploy."""
    with Collector(hangs=True) as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "1",
            "CHAT_CLEANUP_TIMEOUT": "0.5",
        }
        with running(tmp_path, **variables) as service:
            service.reply()
            assert collector.asked.wait(10)
            service.reply("again")
            assert service.end() == 0


def test_what_is_missing_is_told_in_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the command that installs it."""
    monkeypatch.delitem(sys.modules, "omniforge_chat.observe.export", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    done = command("--check", CHAT_TRACING="on")
    assert done.status == 2
    assert done.err == (
        "omniforge-chat: CHAT_TRACING='on': expected off, or the extra otel: "
        "pip install 'omniforge-chat[otel]'\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "nothing"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
)
def test_an_exporter_that_is_not_there_is_told_in_one_line(
    name: str, value: str, command: Command
) -> None:
    """Else its spans would go nowhere, and nobody would know."""
    done = command("--check", **{"CHAT_TRACING": "on", name: value})
    assert done.status == 2
    assert done.err.startswith(
        f"omniforge-chat: {name}='{value}': expected one that is installed: "
    )
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_PROPAGATORS", "b33"),  # which is read by the import
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "-4"),
    ],
)
def test_a_variable_that_opentelemetry_cannot_use_is_told_in_one_line(
    name: str, value: str, tmp_path: Path
) -> None:
    """Not by a traceback; and several workers would fail with it again and again."""
    variables = {"CHAT_TRACING": "on", name: value, "WEB_CONCURRENCY": "2"}
    with running(tmp_path, **variables) as service:
        assert service.status() == 2
        [line] = service.log
    assert line.startswith("omniforge-chat: CHAT_TRACING='on': expected off, or variables OTEL_")
