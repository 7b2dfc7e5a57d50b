"""The observer that counts, and the text that it becomes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
import time
from typing import Any, Dict, Optional, Tuple

import msgspec
import pytest

from omniforge_chat import ChatError, Settings, SettingsError, Turn, Usage
from omniforge_chat.errors import Overloaded
from omniforge_chat.observe.counts import MAX_SERIES, Counts
from omniforge_chat.observe.exposition import Exposition
from omniforge_chat.observe.families import FAMILIES
from omniforge_chat.observe.lag import SECONDS
from omniforge_chat.observe.metrics import MAX_OWN_CODES, Metrics
from omniforge_chat.observer import ChatEnd, ReadEnd, Refusal, UpstreamCall, UpstreamEnd

from ..support.docs import DOCS
from ..support.metrics import Scrape

TURN = Turn("hi", "c", "r")
END = ChatEnd(TURN, "done", 200, 5, Usage(9, 4, 5), "stop", 0.5, 2.5, 1000, 2)


def ended(**fields: Any) -> ChatEnd:
    return msgspec.structs.replace(END, **fields)


def told(metrics: Metrics, accept: str = "") -> Scrape:
    text, kind = asyncio.run(Exposition(metrics).render(accept))
    return Scrape(text.decode(), kind)


def test_a_chat_is_counted_by_its_format_and_by_how_it_ended() -> None:
    """How a stream ended is what an operator asks first, and what a status of 200 does not tell."""
    metrics = Metrics()
    metrics.chat_ended(END)
    metrics.chat_ended(ended(turn=Turn("hi", "c", "r", dialect="openai"), outcome="stalled"))
    metrics.chat_ended(ended(outcome="upstream_error"))
    scrape = told(metrics)
    chats = "omniforge_chats_total"
    assert scrape(chats, dialect="native", outcome="done") == 1
    assert scrape(chats, dialect="openai", outcome="stalled") == 1
    assert scrape(chats, dialect="native", outcome="upstream_error") == 1
    assert scrape("omniforge_response_bytes_total") == 3000
    assert scrape("omniforge_heartbeats_total") == 6


def test_times_are_in_buckets_whose_bound_belongs_to_them() -> None:
    """Prometheus means `le` by a bound: at most that many seconds."""
    metrics = Metrics()
    metrics.chat_ended(ended(first_chunk=0.5, seconds=2.5))
    metrics.chat_ended(ended(first_chunk=None, chunks=0, seconds=1000.0))
    scrape = told(metrics)
    duration, first = "omniforge_chat_duration_seconds", "omniforge_time_to_first_chunk_seconds"
    assert scrape(f"{duration}_bucket", le="1.0") == 0
    assert scrape(f"{duration}_bucket", le="2.5") == 1
    assert scrape(f"{duration}_bucket", le="900.0") == 1
    assert scrape(f"{duration}_bucket", le="+Inf") == scrape(f"{duration}_count") == 2
    assert scrape(f"{duration}_sum") == 1002.5
    assert scrape(f"{first}_bucket", le="0.25") == 0
    assert scrape(f"{first}_bucket", le="0.5") == scrape(f"{first}_count") == 1


@pytest.mark.parametrize(
    ("chunks", "mean"), [(5, 0.5), (1, None), (0, None)], ids=["many", "one", "none"]
)
def test_the_time_per_chunk_is_that_after_the_first(chunks: int, mean: Optional[float]) -> None:
    """A model's speed, which the wait for its first word would hide."""
    metrics = Metrics()
    metrics.chat_ended(ended(chunks=chunks, first_chunk=0.5 if chunks else None, seconds=2.5))
    scrape, name = told(metrics), "omniforge_time_per_chunk_seconds"
    assert scrape(f"{name}_count") == (0 if mean is None else 1)
    assert scrape(f"{name}_sum") == (mean or 0)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(9, 4, 5), {("prompt", "false"): 4, ("completion", "false"): 5}),
        (Usage(9, 4, 5, estimated=True), {("prompt", "true"): 4, ("completion", "true"): 5}),
        (Usage(9, estimated=True), {("completion", "true"): 9}),
        (Usage(9), {("unknown", "false"): 9}),
        (Usage(9, 9), {("prompt", "false"): 9}),
        (None, {}),
    ],
)
def test_tokens_are_told_by_kind(
    usage: Optional[Usage], expected: Dict[Tuple[str, str], int]
) -> None:
    """They are money; and an estimate must not be taken for a bill."""
    metrics = Metrics()
    metrics.chat_ended(ended(usage=usage))
    scrape = told(metrics)
    for kind in ("prompt", "completion", "unknown"):
        for estimated in ("false", "true"):
            found = scrape("omniforge_tokens_total", kind=kind, estimated=estimated)
            assert found == expected.get((kind, estimated), 0)


def test_codes_of_a_host_s_own_are_bounded() -> None:
    """A code that is made from something that users send would fill Prometheus."""
    metrics = Metrics()
    for number in range(200):
        metrics.chat_ended(ended(outcome=f"own_{number}"))
        metrics.chat_refused(Refusal(_own(f"other_{number}"), "r", "native", {}))
    metrics.chat_ended(ended(outcome="x" * 1000))
    metrics.chat_ended(ended(outcome="worker_lost", turn=Turn("hi", "c", "r", dialect="mine")))
    scrape = told(metrics)
    outcomes = scrape.labels("omniforge_chats_total", "outcome")
    codes = scrape.labels("omniforge_refusals_total", "code")
    assert len((outcomes | codes) - {"other", "worker_lost"}) == MAX_OWN_CODES
    assert scrape("omniforge_chats_total", dialect="other", outcome="worker_lost") == 1
    assert scrape("omniforge_chats_total") == 202


def _own(code: str) -> Any:
    return ChatError("no", code=code)


def test_refusals_and_readers_are_counted() -> None:
    """A refused chat has no stream, and a client that came back no second chat."""
    metrics = Metrics()
    metrics.chat_refused(Refusal(Overloaded("full"), "r", "", {}))
    metrics.reply_read(ReadEnd("r", "c", "reply", "done", 3, 1.0, 500, 1))
    scrape = told(metrics)
    assert scrape("omniforge_refusals_total", code="overloaded") == 1
    assert scrape("omniforge_replies_resumed_total", outcome="done") == 1
    assert scrape("omniforge_response_bytes_total") == 500
    assert scrape("omniforge_heartbeats_total") == 1


def test_requests_to_a_provider_have_the_names_of_opentelemetry_too() -> None:
    """So that a dashboard that somebody has shows them."""
    metrics = Metrics()
    call = UpstreamCall("openai", "gpt", "api.example", 443, 1, {}, TURN)
    metrics.upstream_ended(UpstreamEnd(call, "done", 200, 1.0, 0.25, Usage(7, 3, 4)))
    metrics.upstream_ended(UpstreamEnd(call, "upstream_timeout", None, 60.0))
    metrics.upstream_ended(UpstreamEnd(call, "done", 200, 1.0, None, Usage(9, estimated=True)))
    scrape = told(metrics)
    attempts = "omniforge_upstream_attempts_total"
    assert scrape(attempts, provider="openai", result="done") == 2
    assert scrape(attempts, provider="openai", result="upstream_timeout") == 1
    model = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai"}
    name = "gen_ai_client_inference"
    assert scrape(f"{name}_duration_seconds_count", **model, error_type="") == 2
    failed = {**model, "error_type": "upstream_timeout"}
    assert scrape(f"{name}_duration_seconds_sum", **failed) == 60
    assert scrape(f"{name}_time_to_first_chunk_seconds_sum", **model) == 0.25
    for kind, number in (("input", 3), ("output", 4)):
        found = scrape(f"{name}_usage_{kind}_tokens_total", **model, gen_ai_token_modality="text")
        assert found == number


def test_stores_are_told_apart() -> None:
    """A slow store is no slow model."""
    metrics = Metrics()
    metrics.store_answered("redis", 0.002, False)
    metrics.store_answered("redis", 1.0, True)
    metrics.store_answered("something", 1.0, False)
    scrape = told(metrics)
    assert scrape("omniforge_store_duration_seconds_count", store="redis") == 2
    assert scrape("omniforge_store_failures_total", store="redis") == 1
    assert scrape("omniforge_store_duration_seconds_count", store="other") == 1


def test_the_lag_of_the_event_loop_is_counted_once_a_chat_has_begun() -> None:
    """What blocks the loop makes every stream wait, and no other number tells."""
    metrics = Metrics()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        metrics.chat_began(TURN, {})
        metrics.chat_began(TURN, {})
        due = loop.time() + SECONDS
        await asyncio.sleep(SECONDS)
        while looks(metrics) == 0:  # noqa: ASYNC110 # nobody tells
            await asyncio.sleep(0.01)
        assert loop.time() >= due
        await metrics.aclose()

    asyncio.run(run())
    assert looks(metrics) == 1


def looks(metrics: Metrics) -> float:
    return sum(metrics.counts.histograms["omniforge_event_loop_lag_seconds"][()][:-1])


def test_the_same_numbers_come_as_openmetrics() -> None:
    """Prometheus asks for it first; its parser is stricter."""
    metrics = Metrics()
    metrics.chat_ended(END)
    scrape = told(metrics, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert scrape.kind.startswith("application/openmetrics-text; version=1.0.0")
    assert scrape("omniforge_chats_total", dialect="native", outcome="done") == 1


@pytest.mark.parametrize(
    "accept",
    ["application/openmetrics-text;version=abc", "text/plain;version=x", "\xff;;=,;", "a," * 9999],
)
def test_whatever_a_client_accepts_it_gets_the_numbers(accept: str) -> None:
    """The header is anybody's, and prometheus-client compares what is no number."""
    scrape = told(Metrics(), accept)  # which format it is, is up to the version of the package
    assert "omniforge_workers" in scrape.names


def test_each_name_has_a_unit_that_prometheus_knows() -> None:
    """`promtool check metrics` says so too, for those that have a value."""
    for name, family in FAMILIES.items():
        assert name.startswith(("omniforge_", "process_", "gen_ai_client_"))
        assert name.endswith("_total") == (family.kind == "counter")
        assert family.kind != "histogram" or name.endswith("_seconds")
        assert family.text.endswith(".")
        assert list(family.bounds) == sorted(set(family.bounds))


def test_numbers_of_several_workers_are_added() -> None:
    """Counters and histograms add up; gauges each in their own way."""
    one, other = Metrics(), Metrics()
    one.chat_ended(END)
    other.chat_ended(END)
    other.chat_ended(ended(outcome="timeout", seconds=60.0))
    total = Counts.zero()
    for metrics in (one, other):
        total.add(metrics.counts)
    chats = total.counters["omniforge_chats_total"]
    assert chats == {("native", "done"): 2, ("native", "timeout"): 1}
    assert total.histograms["omniforge_chat_duration_seconds"][()][-1] == 65
    assert one.counts.counters["omniforge_chats_total"] == {("native", "done"): 1}
    gauges: Dict[str, float] = {
        "omniforge_open_streams": 2,
        "omniforge_replay_behind_seconds": 1,
        "unknown": 1,
    }
    total.join(Counts(gauges=gauges))
    total.join(Counts(gauges={**gauges, "omniforge_replay_behind_seconds": 3}))
    assert total.gauges == {"omniforge_open_streams": 4, "omniforge_replay_behind_seconds": 3}


def test_numbers_of_another_version_do_no_harm() -> None:
    """While a deploy replaces the package, a new worker may be younger than the others."""
    total, name = Counts.zero(), "omniforge_chat_duration_seconds"
    total.add(Counts({"new_total": {(): 1}}, {"new_seconds": {(): [1, 2]}, name: {(): [1, 2]}}))
    assert total == Counts.zero()
    labels: Dict[Tuple[str, ...], float] = {(f"d{n}", "done"): 1 for n in range(2 * MAX_SERIES)}
    total.add(Counts({"omniforge_chats_total": labels}))
    assert len(total.counters["omniforge_chats_total"]) == MAX_SERIES + 1


def test_without_prometheus_client_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes at the start, and not at the first scrape."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "prometheus_client.core")
    with pytest.raises(SettingsError, match=r"omniforge-chat\[metrics\]"):
        Exposition(Metrics())
    assert Settings().metrics == "off"


def test_the_documentation_has_each_metric_and_its_labels() -> None:
    """Whoever writes an alert looks there, and finds no name that was."""
    page = (DOCS / "deployment.md").read_text("utf-8")
    rows = re.findall(r"^\| (`(?:omniforge|process|gen_ai)_.*?) \|(.*?)\|", page, re.MULTILINE)
    found = {name: labels for names, labels in rows for name in re.findall(r"`(\w+)`", names)}
    assert found.pop("omniforge_build_info").split() == ["`version`,", "`python`"]
    assert set(found) == set(FAMILIES)
    for name, family in FAMILIES.items():
        if not name.startswith("gen_ai"):
            assert tuple(re.findall(r"`(\w+)`", found[name])) == family.labels, name


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_files_of_the_process_are_counted() -> None:
    """A service that runs out of them refuses chats."""
    before = told(Metrics())
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(open(os.devnull, "rb"))
        after = told(Metrics())
    files = "process_open_fds"
    assert after(files) - before(files) == 20
    assert after(files) < after("process_max_fds")
    assert 1e6 < after("process_resident_memory_bytes") < 1e10
    assert 0 < before("process_cpu_seconds_total") <= after("process_cpu_seconds_total")
    assert time.time() - after("process_start_time_seconds") < 60
