"""What `/metrics` tells after chats of each kind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from omniforge_chat import ChatError, Settings, Usage, create_app
from omniforge_chat.observe.counts import Counts
from omniforge_chat.server.metrics import OwnAddress, open_metrics_listener
from omniforge_chat.stream.refusals import Refusals

from ..support.app import HandDrivenRequest, call
from ..support.away import KeptLine
from ..support.constants import CONVERSATION as ID
from ..support.line import Script
from ..support.logs import Records
from ..support.metrics import Scrape
from ..support.responders import saying
from ..support.timeless import timeless

ON = Settings(metrics="on", dialects=("native", "openai", "ai_sdk", "ag_ui"))
OPENAI = {"model": "omniforge", "messages": [{"role": "user", "content": "hi"}]}


def read(app: Any, **request: Any) -> Scrape:
    answer = call(app, b"", method="GET", **{"path": "/metrics", **request})
    assert answer.status == 200
    return Scrape(answer.body.decode(), answer.headers["content-type"])


def test_each_chat_is_there_with_how_it_ended() -> None:
    """A status of 200 tells nothing of it."""
    app = create_app(saying("one", "two", Usage(9, 4, 5)), settings=ON)
    sent = len(call(app).body)
    sent += len(call(app, OPENAI, path="/v1/chat/completions").body)
    call(app, {"message": ""})
    call(app, OPENAI, path="/v1/nothing")
    scrape, chats = read(app), "omniforge_chats_total"
    assert scrape(chats) == scrape(chats, outcome="done") == 2
    assert scrape(chats, dialect="native") == scrape(chats, dialect="openai") == 1
    assert scrape("omniforge_refusals_total", code="validation_error") == 1
    assert scrape("omniforge_tokens_total", kind="completion", estimated="false") == 10
    assert scrape("omniforge_chat_duration_seconds_count") == 2
    assert scrape("omniforge_time_to_first_chunk_seconds_count") == 2
    assert scrape("omniforge_time_per_chunk_seconds_count") == 2
    assert scrape("omniforge_open_streams") == 0
    assert scrape("omniforge_max_streams") == ON.max_streams
    assert scrape("omniforge_workers") == scrape("omniforge_build_info") == 1
    # A document in place of a stream is held back, and counts when it is made.
    assert scrape("omniforge_response_bytes_total") == sent


def test_a_reply_that_failed_has_the_code_that_the_client_saw() -> None:
    """Whoever looks for it finds it in the log and in the numbers by the same word."""
    app = create_app(saying("a", ChatError("No", code="no_agent")), settings=ON)
    call(app)
    assert read(app)("omniforge_chats_total", outcome="no_agent") == 1


@timeless
async def test_a_reply_whose_client_has_left_is_detached_and_who_comes_back_is_counted() -> None:
    """Two numbers that nobody else knows: work without a client, and how often it was worth it."""
    line = KeptLine(
        Script("Hel", 20, "lo", 20), body={"message": "hi", "conversation_id": ID}, metrics="on"
    )
    await line.until_away(10)
    meanwhile = HandDrivenRequest(b"", method="GET", path="/metrics")
    await meanwhile.run(line.app)
    scrape = Scrape(meanwhile.body.decode())
    assert scrape("omniforge_open_streams") == scrape("omniforge_detached_streams") == 1
    follower = line.follow(f"{line.reply_id}.3")
    await follower.end()
    await line.end()
    after = HandDrivenRequest(b"", method="GET", path="/metrics")
    await after.run(line.app)
    scrape = Scrape(after.body.decode())
    assert scrape("omniforge_detached_streams") == 0
    assert scrape("omniforge_replies_resumed_total", outcome="done") == 1
    assert scrape("omniforge_chats_total", outcome="done") == 1
    await line.app.aclose()


def test_prometheus_gets_the_format_that_it_asks_for() -> None:
    """It asks for OpenMetrics first; a browser for nothing of the kind."""
    app = create_app(saying("a"), settings=ON)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.3"
    assert read(app, headers={"Accept": accept}).kind.startswith("application/openmetrics-text")
    assert read(app).kind.startswith("text/plain; version=0.0.4")


def test_nobody_stores_the_numbers_on_their_way() -> None:
    """They are true for a moment."""
    app = create_app(saying("a"), settings=ON)
    answer = call(app, b"", method="GET", path="/metrics")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]


def test_numbers_that_cannot_be_had_are_a_failed_scrape() -> None:
    """Prometheus then knows that it has none; and a failure each 15 seconds fills no log."""

    class Gone:
        async def counts(self) -> Counts:
            raise OSError("the directory of the workers has gone")

    app = create_app(saying("a"), settings=ON)
    assert app.exposition is not None
    app.exposition.source = Gone()
    with Records() as records:
        answer = call(app, b"", method="GET", path="/metrics")
    assert (answer.status, records.all) == (503, [])


@pytest.mark.parametrize("metrics", ["off", "127.0.0.1:9100"])
def test_without_the_setting_there_is_no_such_page(metrics: str) -> None:
    """How much a service has to do is nobody's business; and the page may be a host's own."""
    app = create_app(saying("a"), settings=Settings(metrics=metrics))
    assert call(app, b"", method="GET", path="/metrics").status == 404


def test_who_may_not_read_the_numbers_is_among_them() -> None:
    """A Prometheus without its key is seen, if another one has it."""
    keys = "one:ofk_0123456789abcdef0123456789"
    app = create_app(saying("a"), settings=Settings(metrics="on", api_keys=keys))
    assert call(app, b"", method="GET", path="/metrics").status == 401
    assert app.exposition is not None
    assert app.exposition.metrics.counts.counters["omniforge_refusals_total"] == {
        ("unauthorized",): 1
    }


def test_an_address_of_their_own_is_host_and_port() -> None:
    """The service may have the same port at another address, where everybody reaches it."""
    settings = Settings(metrics="127.0.0.1:0")
    app = create_app(saying("a"), settings=settings)
    listener = open_metrics_listener(settings)
    assert listener is not None
    with listener:
        host, port = listener.getsockname()
        both = OwnAddress(app, app, settings, listener, Refusals())
        for server, status in (
            ((host, port), 200),
            (("127.0.0.2", port), 404),
            ((host, port + 1), 404),
            (None, 404),
        ):
            given = {"headers": {"Host": "localhost"}, "server": server}
            assert call(both, b"", method="GET", path="/metrics", **given).status == status


def test_two_apps_of_a_process_know_nothing_of_each_other() -> None:
    """A mounted one counts its own chats, whatever else runs there."""
    one, other = (create_app(saying("a"), settings=ON) for _ in range(2))
    host = Starlette(routes=[Mount("/one", one), Mount("/other", other)])
    call(host, path="/one/api/v1/chat")
    assert read(host, path="/one/metrics")("omniforge_chats_total") == 1
    assert read(host, path="/other/metrics")("omniforge_chats_total") == 0


def test_variables_of_prometheus_client_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for its own counters, which nobody uses here."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    monkeypatch.setenv("prometheus_multiproc_dir", "/nowhere")
    app = create_app(saying("a"), settings=ON)
    call(app)
    assert read(app)("omniforge_chats_total") == 1


def test_a_store_tells_how_long_it_took(tmp_path: Path) -> None:
    """If chats begin late, the store is the first suspect."""
    settings = Settings(metrics="on", history=f"sqlite:{tmp_path / 'conversations.db'}")
    app = create_app(saying("a"), settings=settings)

    async def run() -> None:
        await HandDrivenRequest().run(app)
        await app.aclose()

    asyncio.run(run())
    scrape = read(app)
    assert scrape("omniforge_store_duration_seconds_count", store="sqlite") >= 2
    assert scrape("omniforge_store_failures_total") == 0


def test_a_store_that_is_away_is_counted_as_failing() -> None:
    """Its refusals are 503, and say nothing of the reason."""
    settings = Settings(metrics="on", history="redis", redis_url="redis://127.0.0.1:1/0")
    app = create_app(saying("a"), settings=settings)

    async def run() -> None:
        await HandDrivenRequest().run(app)
        await app.aclose()

    asyncio.run(run())
    scrape = read(app)
    assert scrape("omniforge_store_failures_total", store="redis") > 0
    assert scrape("omniforge_refusals_total", code="history_unavailable") == 1
