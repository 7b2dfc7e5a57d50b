"""Relaying a model: what both wire formats have in common, against a provider on a real socket."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import socket
import sys
import time
import weakref
from email.utils import formatdate
from typing import Any, AsyncGenerator, Dict, List, Optional, Tuple

import anyio
import httpx
import pytest

from omniforge_chat import Finish, Message, Settings, Turn, Usage, create_app
from omniforge_chat.errors import SettingsError, UpstreamRateLimited
from omniforge_chat.models import Done, Error, Event
from omniforge_chat.responders.providers import client as provider_client
from omniforge_chat.responders.providers import stream as provider_stream
from omniforge_chat.responders.providers.errors import retry_after as asked_wait

from ..support.harness import CONVERSATION, PATIENCE, LiveServer, events_of, last, text
from ..support.provider import KEY, WIRES, Call, Provider, Script, Wire, frame
from ..support.relay import COUNTED, TURN, ask, failed, said, using


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest.fixture(autouse=True)
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tries of a test follow each other closely."""
    monkeypatch.setattr(provider_client, "BACKOFF_SECONDS", 0.001)


def test_a_reply_is_relayed_with_what_it_cost_and_why_it_ended(wire: Wire) -> None:
    """The whole purpose, in one reply."""
    with Provider(wire.answer("Hel", "lo")) as provider:
        events = ask(wire.make(provider))
    assert said(events) == ["Hel", "lo"]
    assert events[-1] == Done(CONVERSATION, COUNTED, "stop")


def test_a_cut_by_length_says_so(wire: Wire) -> None:
    """Each provider has its own word for it; clients see one."""

    async def script(call: Call) -> None:
        await call.stream(*wire.reply("Hel", reason=wire.length))

    with Provider(script) as provider:
        assert ask(wire.make(provider))[-1] == Done(CONVERSATION, COUNTED, "length")


def test_the_request_carries_the_conversation_and_asks_for_no_compression(wire: Wire) -> None:
    """A compressor holds tokens back; a provider refuses roles that do not alternate."""
    history = (
        Message("assistant", "from a window that began in the middle"),
        Message("user", "one"),
        Message("assistant", "two", complete=False),
        Message("user", "three"),
        Message("assistant", ""),
    )
    options: Dict[str, Any] = {
        "model": "m",
        "system_prompt": "Be brief.",
        "temperature": 0,
        "max_tokens": 9,
        "extra_body": {"top_k": 3, "stream": False},
        "extra_headers": {"X-Team": "red"},
        "extra_query": {"api-version": "1"},
    }
    with Provider(wire.answer("x")) as provider:
        ask(wire.make(provider, **options), Turn("four", CONVERSATION, "r", history))
        call = provider.call()
    assert call.headers["accept-encoding"] == "identity"
    assert call.headers["x-team"] == "red"
    assert KEY in call.headers.get("authorization", call.headers.get("x-api-key", ""))
    assert call.path.endswith("?api-version=1")
    sent = {name: call.body[name] for name in ("model", "temperature", "max_tokens", "top_k")}
    assert sent == {"model": "m", "temperature": 0, "max_tokens": 9, "top_k": 3}
    assert call.body["stream"] is True
    assert "Be brief." in json.dumps(call.body)
    messages = [m for m in call.body["messages"] if m["role"] != "system"]
    assert messages == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three\n\nfour"},
    ]


def test_a_header_of_ones_own_replaces_ours_however_it_is_written(wire: Wire) -> None:
    """Two keys, or two types, and a server may take either."""
    theirs = {
        "AUTHORIZATION": "Bearer theirs",
        "X-API-KEY": "theirs",
        "accept-encoding": "br",
        "content-Type": "application/json; charset=utf-8",
    }
    with Provider(wire.answer("x")) as provider:
        ask(wire.make(provider, extra_headers=theirs))
        call = provider.call()
    for name, value in theirs.items():
        assert call.header_names.count(name.lower()) == 1
        assert call.headers[name.lower()] == value


def test_frames_may_come_byte_by_byte(wire: Wire) -> None:
    """A read may end within a frame, and within a character."""
    stream = b": hello\n\n" + b"".join(wire.reply("Gr\u00fc\u00dfe ", "\U0001f600"))

    async def script(call: Call) -> None:
        await call.stream(*(stream[i : i + 1] for i in range(len(stream))))

    with Provider(script) as provider:
        events = ask(wire.make(provider))
    assert said(events) == ["Gr\u00fc\u00dfe ", "\U0001f600"]
    assert events[-1] == Done(CONVERSATION, COUNTED, "stop")


def test_what_one_read_brings_goes_out_as_one_chunk(wire: Wire) -> None:
    """Fewer events for the same text; the end may come with it."""

    async def script(call: Call) -> None:
        await call.stream(b"".join(wire.reply("a", "b", "c")))

    with Provider(script) as provider:
        events = ask(wire.make(provider))
    assert said(events) == ["abc"]
    assert events[-1] == Done(CONVERSATION, COUNTED, "stop")


def test_a_finished_reply_leaves_its_connection_to_the_next(wire: Wire) -> None:
    """A new connection, and its TLS handshake, for each reply would cost more than the reply."""

    async def use(responder: Any) -> None:
        for _ in range(3):
            async for _ in responder(TURN):
                pass

    with Provider(wire.answer("x")) as provider:
        using(wire.make(provider), use)
        assert (len(provider.calls), provider.connections) == (3, 1)


# Failures before the stream


def refusal(status: int, document: Any = None, **headers: str) -> Script:
    async def script(call: Call) -> None:
        await call.refuse(status, document, **headers)

    return script


def test_a_redirect_is_not_followed(wire: Wire) -> None:
    """It would take the key to whatever address it names."""
    with Provider(wire.answer("x")) as elsewhere:
        moved = refusal(307, {}, location=elsewhere.url)
        with Provider(moved) as provider:
            client = httpx.AsyncClient(follow_redirects=True)

            async def use(responder: Any) -> Error:
                async with client:
                    return failed(await events_of(TURN, responder))

            assert using(wire.make(provider, client=client), use).code == "upstream_error"
        assert not elsewhere.calls


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "upstream_error", "The model provider rejected the request: no such luck"),
        (401, "upstream_error", "The model provider refused the credentials of this service"),
        (403, "upstream_error", "The model provider does not permit this service to use the model"),
        (404, "upstream_error", "The model provider does not know the model, or the address"),
        (422, "upstream_error", "The model provider rejected the request: no such luck"),
        (500, "upstream_error", "The model provider failed"),
        (504, "upstream_timeout", "The model provider took too long"),
        (302, "upstream_error", "The model provider failed"),
    ],
)
def test_a_refusal_is_told_as_far_as_it_is_the_clients_business(
    wire: Wire, status: int, code: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator finds the rest in the log, under the request's id; nothing is tried again."""
    document = {"error": {"message": "no such luck", "type": "some_error"}}
    with Provider(refusal(status, document)) as provider:
        events = ask(wire.make(provider))
        assert len(provider.calls) == 1
    assert failed(events).code == code
    assert failed(events).message.startswith(message)
    assert failed(events).usage is None
    assert ("no such luck" in failed(events).message) == (status in (400, 422))
    (line,) = [record.getMessage() for record in caplog.records if record.name == "omniforge_chat"]
    assert "request_id=request-1" in line
    assert f"status={status}" in line
    assert ("no such luck" in line) == (status != 401)


@pytest.mark.parametrize(
    "reason",
    [
        "Your credit balance is too low. Please go to Plans & Billing to upgrade.",
        "This organization has been disabled.",
        "You exceeded your current quota",
        "Your credit_balance is 0 for org-Abc123",
        "insufficient_quota for proj_abc",
        "Insufficient funds: top up",
    ],
)
def test_a_reason_that_is_about_the_operator_s_account_is_told_to_the_operator(
    wire: Wire, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Some providers give these the status of a bad request."""
    document = {"error": {"message": reason, "type": "invalid_request_error"}}
    with Provider(refusal(400, document)) as provider:
        error = failed(ask(wire.make(provider)))
    assert error.message == "The model provider rejected the request"
    assert reason in caplog.text


def test_a_reason_is_bounded_and_on_one_line(wire: Wire) -> None:
    """It is somebody else's text, on its way to a client and to a log."""
    document = {"error": {"message": "you sent\n" + "x" * 5000}}
    with Provider(refusal(400, document)) as provider:
        error = failed(ask(wire.make(provider)))
    assert error.message.startswith("The model provider rejected the request: you sent xxx")
    assert len(error.message) < 400


@pytest.mark.parametrize("body", [b"", b"<html>oops", b'"text"', b"[1]", b'{"error": "text"}'])
def test_a_refusal_without_the_usual_document_is_one_too(wire: Wire, body: bytes) -> None:
    """Proxies and gateways answer in their own ways."""
    with Provider(refusal(500, body)) as provider:
        assert failed(ask(wire.make(provider))).message == "The model provider failed"


@pytest.mark.parametrize(("seconds", "endless"), [(0.05, False), (2 * PATIENCE, True)])
def test_a_refusal_is_read_only_so_far(
    wire: Wire, seconds: float, endless: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is known; a body that stalls, or has no end, is not waited for."""
    monkeypatch.setattr(provider_client, "REFUSAL_SECONDS", seconds)

    async def script(call: Call) -> None:
        await call.refuse(404, b"x", content_length=str(10**18))
        while endless:
            await call.send(b"x" * 65536)
        await call.left()

    with Provider(script) as provider:
        message = failed(ask(wire.make(provider))).message
        assert message.startswith("The model provider does not know the model")
        provider.wait_for_open_connections(0)


def date_in(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("headers", "shown"),
    [
        ({}, "The model provider is at its rate limit"),
        ({"retry_after": "30"}, "The model provider is at its rate limit; try again in 30 seconds"),
        ({"retry_after": date_in(3600)}, "The model provider is at its rate limit; try again in 3"),
        (
            {"x_ratelimit_reset_tokens": "6m0.5s", "x_ratelimit_remaining_tokens": "0"},
            "The model provider is at its rate limit; try again in 361 seconds",
        ),
    ],
)
def test_a_rate_limit_says_how_long_to_wait(
    wire: Wire, headers: Dict[str, str], shown: str
) -> None:
    """A wait that is too long for us is the client's to decide about."""
    with Provider(refusal(429, {}, **headers)) as provider:
        error = failed(ask(wire.make(provider)))
        assert len(provider.calls) == (1 if headers else 3)
    assert error.code == "upstream_rate_limited"
    assert error.message.startswith(shown)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e300"}, None),
        ({"x-ratelimit-reset-requests": f"{'9' * 400}s"}, None),
        ({"retry-after": date_in(-60)}, 0.0),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-reset-requests": "1h", "x-ratelimit-remaining-requests": "5"}, None),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "1m1s"}, 61.0),
    ],
)
def test_the_wait_is_read_in_all_its_forms(headers: Dict[str, str], wait: Optional[float]) -> None:
    """RFC 9110, section 10.2.3, and what providers made beside it."""
    assert asked_wait(headers) == wait


def test_an_exhausted_quota_is_not_tried_again(wire: Wire) -> None:
    """It has the status of a rate limit, but no waiting helps."""
    document = {"error": {"code": "insufficient_quota", "message": "pay"}}
    with Provider(refusal(429, document)) as provider:
        assert failed(ask(wire.make(provider))).code == "upstream_rate_limited"
        assert len(provider.calls) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 529])
def test_a_passing_refusal_is_tried_again(wire: Wire, status: int) -> None:
    """Nobody has to know of it."""
    refusals = (refusal(status, {}, retry_after="0"), refusal(status, {}))
    with Provider(*refusals, wire.answer("Hello")) as provider:
        events = ask(wire.make(provider))
        assert len(provider.calls) == 3
    assert (said(events), events[-1]) == (["Hello"], Done(CONVERSATION, COUNTED, "stop"))


def test_three_tries_are_all(wire: Wire, caplog: pytest.LogCaptureFixture) -> None:
    """More of them make an overload worse."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    with Provider(refusal(503, {})) as provider:
        error = failed(ask(wire.make(provider)))
        assert len(provider.calls) == 3
    assert (error.code, error.message) == ("upstream_error", "The model provider is not available")
    lines = [record.getMessage() for record in caplog.records if record.name == "omniforge_chat"]
    assert [line.startswith("upstream tried again request_id=request-1") for line in lines] == [
        True,
        True,
        False,
    ]


def test_a_wait_beyond_the_deadline_is_not_begun(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client learns now what it would learn then."""
    monkeypatch.setattr(provider_client, "BACKOFF_SECONDS", 1000.0)
    with Provider(refusal(503, {})) as provider:
        assert failed(ask(wire.make(provider))).code == "upstream_error"
        assert len(provider.calls) == 1


def test_a_provider_that_cannot_be_reached_is_an_upstream_error(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """A connection that was refused may be tried again: nothing was sent."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        responder = wire.responder(base_url=f"http://127.0.0.1:{port}")
        error = failed(ask(responder))
    assert (error.code, error.message) == (
        "upstream_error",
        "The model provider cannot be reached",
    )
    assert caplog.text.count("upstream tried again") == 2


def test_a_stale_connection_of_the_pool_is_replaced(wire: Wire) -> None:
    """Servers close idle connections when they like; the request was never looked at."""

    async def script(call: Call) -> None:
        if any(call is not c and call.connection == c.connection for c in provider.calls):
            call.close()
        else:
            await wire.answer("x")(call)

    async def use(responder: Any) -> None:
        for _ in range(20):
            events = await events_of(TURN, responder)
            assert isinstance(events[-1], Done), events

    with Provider(script) as provider:
        using(wire.make(provider), use)
        assert provider.connections == 20


def test_after_a_stale_connection_the_next_is_a_new_one(wire: Wire) -> None:
    """Another old one may be as stale; and who falls over a request is not given it thrice."""

    async def script(call: Call) -> None:
        if len(provider.calls) <= 2:
            await wire.answer("x")(call)
        else:
            call.close()

    async def use(responder: Any) -> List[Event]:
        first, second = responder(TURN), responder(TURN)
        assert await first.__anext__()
        assert await second.__anext__()
        for reply in (first, second):
            assert [item async for item in reply][-1] == Finish("stop")
        return await events_of(TURN, responder)

    with Provider(script) as provider:
        assert failed(using(wire.make(provider), use)).code == "upstream_error"
        assert (len(provider.calls), provider.connections) == (4, 3)


def test_a_pooled_connection_that_brings_no_http_is_not_tried_again(wire: Wire) -> None:
    """Bytes have come, so somebody has seen the request."""

    async def script(call: Call) -> None:
        if len(provider.calls) == 1:
            await wire.answer("x")(call)
        else:
            await call.send(b"what is this\r\n\r\n")
            call.close()

    async def use(responder: Any) -> List[Event]:
        await events_of(TURN, responder)
        return await events_of(TURN, responder)

    with Provider(script) as provider:
        assert failed(using(wire.make(provider), use)).code == "upstream_error"
        assert (len(provider.calls), provider.connections) == (2, 1)


def test_a_client_of_ones_own_gets_one_more_connection_and_no_third(wire: Wire) -> None:
    """It keeps connections, which may all be stale; each that is not is work for the provider."""

    async def script(call: Call) -> None:
        if any(call is not c and call.connection == c.connection for c in provider.calls):
            call.close()
        else:
            await call.stream(*wire.reply("x"))

    async def use(client: httpx.AsyncClient) -> List[Event]:
        responder = wire.make(provider, client=client)
        replies = [responder(TURN) for _ in range(3)]
        for reply in replies:
            assert await reply.__anext__()
        for reply in replies:
            assert [item async for item in reply][-1] == Finish("stop")
        return await events_of(TURN, responder)

    async def main() -> List[Event]:
        async with httpx.AsyncClient() as client:
            return await asyncio.wait_for(use(client), PATIENCE)

    with Provider(script) as provider:
        assert failed(asyncio.run(main())).code == "upstream_error"
        assert len(provider.calls) == 3 + 2


class _Silent(httpx.AsyncHTTPTransport):
    """A transport that does not tell what it does."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions.pop("trace")
        return await super().handle_async_request(request)


def test_a_transport_that_tells_nothing_is_asked_once(wire: Wire) -> None:
    """Whether its connection was a new one is not known."""

    async def main() -> List[Event]:
        async with httpx.AsyncClient(transport=_Silent()) as client:
            return await events_of(TURN, wire.make(provider, client=client))

    async def script(call: Call) -> None:
        call.close()

    with Provider(script) as provider:
        assert failed(asyncio.run(main())).code == "upstream_error"
        assert len(provider.calls) == 1


def test_a_new_connection_by_way_of_a_proxy_is_a_new_one(wire: Wire) -> None:
    """SOCKS has steps of its own, by other names."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """RFC 1928, for one client that asks for nothing special."""
        await reader.readexactly(3)
        writer.write(b"\x05\x00")
        await reader.readexactly(4 + 4)
        port = int.from_bytes(await reader.readexactly(2), "big")
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))

    async def main() -> List[Event]:
        server = await asyncio.start_server(relay, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with httpx.AsyncClient(proxy=f"socks5://127.0.0.1:{port}") as client:
                return await events_of(TURN, wire.make(provider, client=client))
        finally:
            server.close()

    async def script(call: Call) -> None:
        call.close()

    with Provider(script) as provider:
        assert failed(asyncio.run(main())).code == "upstream_error"
        assert len(provider.calls) == 1


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        data = await reader.read(65536)
        if not data:
            break
        writer.write(data)
    writer.close()


@pytest.mark.parametrize("asked", ["0", "Wed, 01 Jan 2020 00:00:00 GMT"])
def test_a_provider_that_asks_for_no_wait_is_given_one(
    wire: Wire, asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Or all the replies that it refused in one moment would be back in the next."""
    monkeypatch.setattr(provider_client, "BACKOFF_SECONDS", 0.04)
    caplog.set_level(logging.INFO)
    with Provider(refusal(429, retry_after=asked), wire.answer("x")) as provider:
        assert isinstance(ask(wire.make(provider))[-1], Done)
    (wait,) = re.findall(r"upstream tried again .*wait_ms=(\d+)", caplog.text)
    assert 20 <= int(wait) <= 40


def test_a_new_connection_that_ends_without_an_answer_is_not_tried_again(wire: Wire) -> None:
    """The provider may have begun to work for us, and would do so twice."""

    async def script(call: Call) -> None:
        call.close()

    with Provider(script) as provider:
        error = failed(ask(wire.make(provider)))
        assert len(provider.calls) == 1
    assert error.code == "upstream_error"
    assert error.message == "The model provider closed the connection without an answer"


def test_a_compressed_stream_is_refused(wire: Wire) -> None:
    """It was not asked for, and would be garbage to us."""

    async def script(call: Call) -> None:
        await call.head(content_encoding="gzip")
        await call.left()

    with Provider(script) as provider:
        assert failed(ask(wire.make(provider))).code == "upstream_error"
        assert provider.call().gone.wait(PATIENCE)


# Failures within the stream


def test_a_clean_end_without_a_finish_is_a_cut(wire: Wire) -> None:
    """The commonest lie of relays: a reply that was cut off, reported as complete."""

    async def script(call: Call) -> None:
        await call.stream(*wire.opening(), wire.text("Hello, wor"))

    with Provider(script) as provider:
        events = ask(wire.make(provider))
        assert len(provider.calls) == 1
    assert said(events) == ["Hello, wor"]
    assert failed(events).code == "upstream_error"
    assert failed(events).message == "The model provider's reply was cut off"


def test_an_answer_that_is_no_stream_is_a_cut_and_the_log_says_what_it_was(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong base URL often leads to a page of a website."""

    async def script(call: Call) -> None:
        await call.head(content_type="text/html")
        await call.part(b"<html>Welcome</html>")
        await call.end()

    with Provider(script) as provider:
        assert failed(ask(wire.make(provider))).code == "upstream_error"
    assert "content_type=text/html" in caplog.text


def test_a_broken_connection_ends_with_the_usage_known_so_far(wire: Wire) -> None:
    """Whoever counts tokens counts them also where a stream breaks."""

    async def script(call: Call) -> None:
        await call.head()
        await call.part(b"".join(wire.opening()) + wire.text("12345678"))
        call.reset()

    with Provider(script) as provider:
        events = ask(wire.make(provider))
        assert len(provider.calls) == 1
    assert said(events) in (["12345678"], [])  # a reset may overtake what was sent before it
    assert failed(events).code == "upstream_error"
    if said(events):
        known = Usage(2, estimated=True) if wire.name == "openai" else Usage(9, 7, 2, True)
        assert failed(events).usage == known


@pytest.mark.parametrize(
    "garbage",
    [b"data: {oops\n\n", b"data: [1]\n\n", b"data: " + b"[" * 3000 + b"\n\n"],
    ids=["no JSON", "no object", "deep"],
)
def test_a_frame_that_cannot_be_read_ends_the_reply(wire: Wire, garbage: bytes) -> None:
    """What came with it in the same read still goes out."""

    async def script(call: Call) -> None:
        await call.head()
        await call.part(b"".join(wire.opening()) + wire.text("Hel") + garbage + wire.text("lo"))
        await call.left()

    with Provider(script) as provider:
        events = ask(wire.make(provider))
        assert provider.call().gone.wait(PATIENCE)
    assert said(events) == ["Hel"]
    assert failed(events).code == "upstream_error"
    assert failed(events).message == "The model provider sent something that cannot be read"


def test_a_frame_without_end_is_not_collected(wire: Wire) -> None:
    """Memory is bounded, whatever the provider does."""

    async def script(call: Call) -> None:
        await call.head()
        for _ in range(40):
            await call.part(b"x" * 65536)
        await call.left()

    with Provider(script) as provider:
        error = failed(ask(wire.make(provider)))
    assert error.message == "The model provider sent something that cannot be read"


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("server_error", "upstream_error", "The model provider failed"),
        ("overloaded_error", "upstream_error", "The model provider is overloaded"),
        ("rate_limit_error", "upstream_rate_limited", "The model provider is at its rate limit"),
        ("invalid_request_error", "upstream_error", "The model provider rejected the request: hm"),
    ],
)
def test_an_error_in_the_middle_is_the_end(
    wire: Wire, kind: str, code: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes under the status 200, and a clean end follows it."""

    async def script(call: Call) -> None:
        await call.stream(*wire.opening(), wire.text("Hel") + wire.error(kind, "hm"))

    with Provider(script) as provider:
        events = ask(wire.make(provider))
    assert said(events) == ["Hel"]
    assert (failed(events).code, failed(events).message) == (code, message)
    assert "request_id=request-1" in caplog.text
    assert "reason='hm'" in caplog.text


def finished(wire: Wire, then: Script, *, ended: bool = False) -> Script:
    """A reply up to why its text has ended, or up to the end mark, and what comes after that."""
    end = [wire.end()] if ended else []

    async def script(call: Call) -> None:
        await call.head()
        await call.part(
            b"".join([*wire.opening(), wire.text("Hello"), *wire.finish(wire.stop), *end])
        )
        await then(call)

    return script


async def no_more(call: Call) -> None:
    call.writer.write_eof()


def test_what_follows_the_finish_does_not_decide(wire: Wire) -> None:
    """The text is complete, and the client has all of it."""
    with Provider(finished(wire, no_more)) as provider:
        events = ask(wire.make(provider))
    assert (said(events), events[-1]) == (["Hello"], Done(CONVERSATION, COUNTED, "stop"))


def test_a_finish_without_an_end_is_waited_for_only_shortly(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usage may follow, but `done` is not held back for it as long as a token is."""
    monkeypatch.setattr(provider_stream, "FINISH_SECONDS", 0.05)
    with Provider(finished(wire, Call.left)) as provider:
        assert ask(wire.make(provider))[-1] == Done(CONVERSATION, COUNTED, "stop")
        assert provider.call().gone.wait(PATIENCE)


def test_frames_after_the_finish_do_not_hold_back_the_end(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However lively the provider is, the reply is complete."""
    monkeypatch.setattr(provider_stream, "FINISH_SECONDS", 0.1)

    async def go_on(call: Call) -> None:
        await keep_sending(call, b"".join(wire.opening()))

    with Provider(finished(wire, go_on)) as provider:
        assert ask(wire.make(provider))[-1] == Done(CONVERSATION, COUNTED, "stop")
        assert provider.call().gone.wait(PATIENCE)


def test_the_end_of_the_body_is_waited_for_even_more_shortly(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the end mark there is nothing left to learn but whether the connection is free."""
    monkeypatch.setattr(provider_stream, "FINISH_SECONDS", 2 * PATIENCE)
    monkeypatch.setattr(provider_stream, "DRAIN_SECONDS", 0.05)
    with Provider(finished(wire, Call.left, ended=True)) as provider:
        assert ask(wire.make(provider))[-1] == Done(CONVERSATION, COUNTED, "stop")
        assert provider.call().gone.wait(PATIENCE)


def test_text_after_a_finish_has_its_time(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some servers give a reason with every frame."""
    monkeypatch.setattr(provider_stream, "FINISH_SECONDS", 0.2)
    words = [f"{number} " for number in range(8)]

    async def go_on(call: Call) -> None:
        for word in words:
            await asyncio.sleep(0.05)
            await call.part(b"".join([wire.text(word), *wire.finish(wire.stop)]))
        await call.part(wire.end())
        await call.end()

    with Provider(finished(wire, go_on)) as provider:
        events = ask(wire.make(provider))
    assert said(events) == ["Hello", *words]
    assert isinstance(events[-1], Done)


@pytest.mark.parametrize("at_once", [False, True])
def test_what_cannot_be_read_after_the_finish_decides_nothing(wire: Wire, at_once: bool) -> None:
    """The text is complete, also where one read brings all of it."""
    parts = [*wire.opening(), wire.text("Hello"), *wire.finish(wire.stop)]
    parts.append(b"event: message_delta\ndata: no JSON\n\n")

    async def script(call: Call) -> None:
        await call.stream(*([b"".join(parts)] if at_once else parts))

    with Provider(script) as provider:
        events = ask(wire.make(provider))
    assert (said(events), events[-1]) == (["Hello"], Done(CONVERSATION, COUNTED, "stop"))


# Silence

SHORT: Dict[str, Any] = {"first_chunk_timeout": 0.1, "idle_timeout": 0.1}


async def no_head(call: Call) -> None:
    await call.left()


async def head_alone(call: Call) -> None:
    await call.head()
    await call.left()


async def keep_sending(call: Call, part: bytes) -> None:
    leaving = asyncio.ensure_future(call.left())
    while not leaving.done():
        await call.part(part)
        await asyncio.wait([leaving], timeout=0.02)


async def comments_alone(call: Call) -> None:
    await call.head()
    await keep_sending(call, b":\n\n")


async def pings_alone(call: Call) -> None:
    """Frames that say nothing: what Anthropic calls so, and a chunk without choices."""
    await call.head()
    empty = frame({"type": "ping", "choices": []}, "ping")
    await keep_sending(call, empty)


@pytest.mark.parametrize("script", [no_head, head_alone, comments_alone, pings_alone])
def test_a_silent_start_is_a_timeout(wire: Wire, script: Script) -> None:
    """Comments show that a server lives, not that its model does."""
    with Provider(script) as provider:
        responder = wire.make(provider, first_chunk_timeout=0.1)
        error = failed(ask(responder))
        assert provider.call().gone.wait(PATIENCE)
    assert error.code == "upstream_timeout"
    assert error.message == "The model provider did not begin to answer within 0.1 seconds"


def test_the_start_may_take_longer_than_a_pause(wire: Wire) -> None:
    """A long prompt takes its time, with or without a head that came at once."""

    async def script(call: Call) -> None:
        await call.head()
        await asyncio.sleep(0.3)
        for part in wire.reply("x"):
            await call.part(part)
        await call.end()

    with Provider(script) as provider:
        events = ask(wire.make(provider, first_chunk_timeout=PATIENCE, idle_timeout=0.1))
    assert isinstance(events[-1], Done)


@pytest.mark.parametrize("then", [head_alone, comments_alone])
def test_silence_between_tokens_is_a_timeout(wire: Wire, then: Script) -> None:
    """A stall without end is what users of relays complain of most."""

    async def script(call: Call) -> None:
        await call.head()
        await asyncio.sleep(0.05)  # the limit of the first frame holds for a while, and then ends
        for part in [*wire.opening(), wire.text("Hel"), wire.text("lo")]:
            await call.part(part)
        call.head = ignored  # type: ignore[method-assign]  # it was sent
        await then(call)

    async def ignored(**headers: str) -> None:
        pass

    with Provider(script) as provider:
        events = ask(wire.make(provider, idle_timeout=0.1))
        assert provider.call().gone.wait(PATIENCE)
    assert said(events) == ["Hel", "lo"]
    assert failed(events).code == "upstream_timeout"
    assert failed(events).message == "The model provider was silent for 0.1 seconds"
    assert failed(events).usage is not None


def test_time_that_the_client_takes_is_no_silence_of_the_provider(wire: Wire) -> None:
    """A slow reader must not be told that the provider stalled."""

    async def script(call: Call) -> None:
        await call.head()
        for part in [*wire.opening(), wire.text("a")]:
            await call.part(part)
        await call.part(b":\n\n")
        for part in [wire.text("b"), *wire.finish(wire.stop), wire.end()]:
            await call.part(part)
        await call.end()

    async def use(responder: Any) -> List[Any]:
        items = []
        async for item in responder(TURN):
            items.append(item)
            await asyncio.sleep(0.15)
        return items

    with Provider(script) as provider:
        items = using(wire.make(provider, idle_timeout=0.1), use)
    assert [item for item in items if isinstance(item, str)] == ["a", "b"]
    assert items[-1] == Finish("stop")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count there")
@pytest.mark.parametrize("finished", [False, True])
def test_a_cancellation_in_the_moment_of_the_deadline_is_one(wire: Wire, finished: bool) -> None:
    """Whoever cancelled waits for the task to end, and not for a reply to be told as silent."""

    async def script(call: Call) -> None:
        await call.head()
        ends = [*wire.finish(wire.stop), wire.end()] if finished else []
        await call.part(b"".join([*wire.opening(), wire.text("x"), *ends]))
        await call.left()

    async def use(responder: Any) -> None:
        async def read() -> None:
            async for item in responder(TURN):
                if item == "x":
                    came.set()

        came = asyncio.Event()
        reading = asyncio.ensure_future(read())
        await came.wait()
        loop = asyncio.get_running_loop()
        # Both are due when the loop gets its next turn, the deadline first.
        loop.call_later(0.25, reading.cancel)
        time.sleep(0.3)  # noqa: ASYNC251  # the event loop is busy
        await asyncio.wait([reading])
        assert reading.cancelled()

    monkey = pytest.MonkeyPatch()
    with Provider(script) as provider, monkey.context() as patch:
        patch.setattr(provider_stream, "DRAIN_SECONDS", 0.1)
        using(wire.make(provider, idle_timeout=0.1), use)


def test_a_closed_responder_fails_what_still_waited_for_its_turn(wire: Wire) -> None:
    """It is the provider that cannot be reached, not a bug of the service's."""

    async def use(responder: Any) -> List[Event]:
        first = responder(TURN)
        await first.__anext__()
        second = asyncio.ensure_future(events_of(TURN, responder))
        await anyio.wait_all_tasks_blocked()
        await responder.aclose()
        await first.aclose()
        return await second

    async def script(call: Call) -> None:
        await start_then_wait(call, wire)

    with Provider(script) as provider:
        error = failed(using(wire.make(provider, max_connections=1), use))
    assert error.code == "upstream_error"


def test_the_wait_for_a_free_connection_counts(wire: Wire) -> None:
    """Otherwise a pool that is full of stalled replies would hold the next ones without limit."""

    async def use(responder: Any) -> Error:
        first = responder(TURN)
        await first.__anext__()
        try:
            events = await events_of(TURN, responder)
        finally:
            await first.aclose()
        return failed(events)

    async def script(call: Call) -> None:
        await call.head()
        await call.part(b"".join(wire.opening()) + wire.text("x"))
        await call.left()

    with Provider(script) as provider:
        responder = wire.make(provider, max_connections=1, first_chunk_timeout=0.2)
        assert using(responder, use).code == "upstream_timeout"
        assert len(provider.calls) == 1


# Leaving


async def start_then_wait(call: Call, wire: Wire) -> None:
    await call.head()
    await call.part(b"".join(wire.opening()) + wire.text("x"))
    await call.left()


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_reply_closes_the_connection(wire: Wire, begun: bool) -> None:
    """Nobody pays for tokens that nobody reads, also while the head is awaited."""

    async def script(call: Call) -> None:
        await (start_then_wait(call, wire) if begun else no_head(call))

    async def use(responder: Any) -> None:
        arrived = asyncio.Event()

        async def read() -> None:
            reply: AsyncGenerator[Any, None] = responder(TURN)
            try:
                async for _ in reply:
                    arrived.set()
            finally:
                await reply.aclose()

        reading = asyncio.ensure_future(read())
        if begun:
            await arrived.wait()
        await asyncio.get_running_loop().run_in_executor(None, provider.call)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        gone = provider.call().gone.wait
        assert await asyncio.get_running_loop().run_in_executor(None, gone, PATIENCE)

    with Provider(script) as provider:
        using(wire.make(provider), use)


def test_a_closed_reply_closes_the_connection(wire: Wire) -> None:
    """The other way to leave: between two chunks."""

    async def script(call: Call) -> None:
        await start_then_wait(call, wire)

    async def use(responder: Any) -> None:
        reply = responder(TURN)
        assert await reply.__anext__() == "x"
        await reply.aclose()
        gone = provider.call().gone.wait
        assert await asyncio.get_running_loop().run_in_executor(None, gone, PATIENCE)

    with Provider(script) as provider:
        using(wire.make(provider), use)


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_of_the_service_that_leaves_ends_the_providers_work(
    wire: Wire, begun: bool
) -> None:
    """The same through the whole service, on the server's own event loop."""

    async def script(call: Call) -> None:
        await (start_then_wait(call, wire) if begun else no_head(call))

    with Provider(script) as provider:
        app = create_app(wire.make(provider), settings=Settings())
        with LiveServer(app) as server, server.chat("hi") as client:
            client.head()
            if begun:
                assert client.frame().event == "chunk"
            call = provider.call()
            client.close()
            assert call.gone.wait(PATIENCE)


def test_the_service_answers_with_the_models_words(wire: Wire) -> None:
    """What a client of the whole service sees."""

    async def script(call: Call) -> None:
        await wire.answer("Hel", "lo")(call)
        await call.left()

    with Provider(script) as provider:
        with LiveServer(create_app(wire.make(provider), settings=Settings())) as server:
            with server.chat("hi", conversation_id=CONVERSATION) as client:
                client.head()
                frames = client.frames()
            assert not provider.call().gone.is_set()  # it is kept for the next reply
            server.stop()
        assert provider.call().gone.wait(PATIENCE)
    assert text(frames) == "Hello"
    usage = {"tokens": 12, "prompt_tokens": 7, "completion_tokens": 5}
    done = {"conversation_id": CONVERSATION, "usage": usage, "finish_reason": "stop"}
    assert last(frames) == ("done", done)


# The client


def test_a_responder_serves_one_event_loop_after_the_other(wire: Wire) -> None:
    """It may be made at import, long before the loop that it serves."""
    with Provider(wire.answer("x")) as provider:
        responder = wire.make(provider)
        for _ in range(2):
            assert isinstance(ask(responder)[-1], Done)


def test_a_loop_that_has_ended_is_let_go(wire: Wire) -> None:
    """Where somebody runs one after the other and closes nothing, memory must not grow."""

    async def ask_and_forget() -> weakref.ref[asyncio.AbstractEventLoop]:
        assert isinstance((await events_of(TURN, responder))[-1], Done)
        return weakref.ref(asyncio.get_running_loop())

    async def answer_and_close(call: Call) -> None:
        await call.head(connection="close")  # so that there is nothing to keep
        for part in wire.reply("x"):
            await call.part(part)
        await call.end()
        call.close()

    with Provider(answer_and_close) as provider:
        responder = wire.make(provider)
        first = asyncio.run(ask_and_forget())
        asyncio.run(ask_and_forget())
        gc.collect()
        assert first() is None


def test_a_client_of_ones_own_is_used_and_left_open(wire: Wire) -> None:
    """Whoever opens a thing closes it."""

    async def main() -> None:
        async with httpx.AsyncClient(headers={"X-Mine": "yes"}) as client:
            responder = wire.make(provider, client=client)
            assert "x" in [item async for item in responder(TURN)]
            await responder.aclose()
            assert not client.is_closed
            assert "x" in [item async for item in responder(TURN)]

    with Provider(wire.answer("x")) as provider:
        asyncio.run(main())
        assert provider.call().headers["x-mine"] == "yes"
        assert provider.connections == 1


# Arguments


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"base_url": "localhost:8080"}, "base_url"),
        ({"base_url": "ftp://host"}, "base_url"),
        ({"base_url": "http://host:port"}, "base_url"),
        ({"base_url": "http://ho st"}, "base_url"),
        ({"base_url": "http://256.256.256.256"}, "base_url"),
        ({"base_url": "http://[v1.x]"}, "base_url"),
        ({"base_url": "http://xn--a"}, "base_url"),
        ({"base_url": "http://host/?key=password"}, "base_url"),
        ({"base_url": "http://host/#password"}, "base_url"),
        ({"base_url": "ftp://host?key=password"}, "base_url"),
        ({"base_url": "http://user:password@host"}, "base_url"),
        ({"base_url": "http://user:password@host:port"}, "base_url"),
        ({"base_url": "http://user:password@[host"}, "base_url"),
        ({"base_url": "user:password@host"}, "base_url"),
        ({"base_url": "http://h", "api_key": "pass\nword"}, "api_key"),
        ({"base_url": None}, "api_key"),
        ({"base_url": "http://h", "temperature": -1}, "temperature"),
        ({"base_url": "http://h", "temperature": float("nan")}, "temperature"),
        ({"base_url": "http://h", "max_tokens": 0}, "max_tokens"),
        ({"base_url": "http://h", "max_connections": True}, "max_connections"),
        ({"base_url": "http://h", "first_chunk_timeout": 0}, "first_chunk_timeout"),
        ({"base_url": "http://h", "idle_timeout": float("inf")}, "idle_timeout"),
        ({"base_url": "http://h", "connect_timeout": "1"}, "connect_timeout"),
        ({"base_url": "http://h", "extra_headers": {"X": "password\n"}}, "extra_headers"),
        ({"base_url": "http://h", "extra_body": {"x": object()}}, "extra_body"),
        ({"base_url": "http://h", "extra_body": ["pass"]}, "extra_body"),
        ({"base_url": "http://h", "extra_headers": {"X": 5}}, "extra_headers"),
        ({"base_url": "http://h", "extra_headers": ["X"]}, "extra_headers"),
        ({"base_url": "http://h", "extra_query": "a=pass"}, "extra_query"),
        ({"base_url": "http://h", "extra_query": {"a": None}}, "extra_query"),
        ({"base_url": "http://h", "extra_query": {"a": "\udcff"}}, "extra_query"),
        ({"base_url": b"http://h"}, "base_url"),
        ({"base_url": "http://h", "api_key": b"password"}, "api_key"),
        ({"base_url": "http://h", "client": httpx.Client}, "client"),
        ({"base_url": "http://h", "client": httpx.AsyncClient}, "client"),
        ({"base_url": "http://h", "extra_body": {"x": "pass\udcff"}}, "extra_body"),
        ({"base_url": "http://h", "model": "\udcff"}, "model"),
        ({"base_url": "http://h", "system_prompt": "\udcff"}, "system_prompt"),
    ],
)
def test_an_argument_of_no_use_is_named(wire: Wire, options: Any, named: str) -> None:
    """At the start, not with the first message; and no secret is quoted."""
    with pytest.raises(SettingsError) as raised:
        wire.responder(**options)
    assert raised.value.name == named
    assert "pass" not in str(raised.value)


def variables(wire: Wire, **more: str) -> Tuple[Dict[str, str], str]:
    prefix = wire.name.upper()
    return {name.replace("MODEL_", f"{prefix}_", 1): value for name, value in more.items()}, prefix


def test_the_environment_describes_a_responder(wire: Wire) -> None:
    """The names are those that the providers' own tools read."""
    with Provider(wire.answer("x")) as provider:
        environ, _ = variables(
            wire,
            MODEL_BASE_URL=f"{provider.url}{wire.base_path}/",
            MODEL_API_KEY=KEY,
            MODEL_MODEL="m",
            CHAT_SYSTEM_PROMPT="Be brief.",
            CHAT_TEMPERATURE="0.5",
            CHAT_MAX_TOKENS="9",
        )
        responder = wire.responder.from_env(environ)
        ask(responder)
        call = provider.call()
    assert (call.body["model"], call.body["temperature"], call.body["max_tokens"]) == ("m", 0.5, 9)
    assert "Be brief." in json.dumps(call.body)
    assert KEY in json.dumps(call.headers)
    assert repr(responder) == (
        f"{wire.responder.__name__}(base_url='{provider.url}{wire.base_path}', "
        "model='m', api_key='***')"
    )


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "{}_API_KEY=None: expected a key, as https://api."),
        ({"MODEL_API_KEY": " "}, "{}_API_KEY=None: expected a key, as https://api."),
        ({"MODEL_BASE_URL": "nowhere"}, "{}_BASE_URL='***': expected an address such as"),
        ({"MODEL_BASE_URL": "ftp://h"}, "{}_BASE_URL='ftp://h': expected an address such as"),
        ({"CHAT_TEMPERATURE": "hot"}, "CHAT_TEMPERATURE='hot': expected a number of at least 0"),
        ({"MODEL_API_KEY": KEY, "MODEL_MODEL": "\udcff"}, "{}_MODEL='\\udcff': expected text, in"),
        (
            {"MODEL_API_KEY": KEY, "CHAT_SYSTEM_PROMPT": "\udcff"},
            "CHAT_SYSTEM_PROMPT='\\udcff': expected text, in UTF-8",
        ),
        ({"CHAT_IDLE_TIMEOUT": "-1"}, "CHAT_IDLE_TIMEOUT='-1': expected a number of seconds"),
        ({"CHAT_IDLE_TIMEOUT": "long"}, "CHAT_IDLE_TIMEOUT='long': expected a number of seconds"),
        ({"CHAT_MAX_TOKENS": "1.5"}, "CHAT_MAX_TOKENS='1.5': expected a whole number of at least"),
    ],
)
def test_a_variable_of_no_use_is_named(wire: Wire, more: Dict[str, str], line: str) -> None:
    """One clear line, in the words of whoever set it."""
    environ, prefix = variables(wire, **more)
    with pytest.raises(SettingsError) as raised:
        wire.responder.from_env(environ)
    assert str(raised.value).startswith(line.format(prefix))


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE='/nowhere': expected certificates that can"),
        ("SSL_CERT_FILE", __file__, f"SSL_CERT_FILE='{__file__}': expected certificates that can"),
        ("SSLKEYLOGFILE", "/nowhere/x", "SSLKEYLOGFILE='/nowhere/x': expected a file that can be"),
        ("ALL_PROXY", "socks5://user:pass@h", "ALL_PROXY='***': expected a proxy that httpx can"),
        ("HTTPS_PROXY", "pass://h", "HTTPS_PROXY='***': expected a proxy that httpx can use"),
    ],
)
def test_a_variable_that_httpx_reads_is_named_too(
    wire: Wire, variable: str, value: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each message would fail for it, one after the other."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setitem(sys.modules, "socksio", None)  # an extra of httpx's, as if it were absent
    provider_client._tls.cache_clear()
    with pytest.raises(SettingsError) as raised:
        wire.responder(base_url="http://h")
    assert str(raised.value).startswith(line)
    assert "pass" not in str(raised.value)


@pytest.mark.parametrize(
    ("more", "seconds"),
    [
        ({}, 50),
        ({"CHAT_FIRST_CHUNK_TIMEOUT": "300", "CHAT_IDLE_TIMEOUT": "120"}, 290),
        ({"CHAT_FIRST_CHUNK_TIMEOUT": "0.3"}, 0.25),
    ],
)
def test_the_limits_of_the_service_are_those_of_the_responder(
    wire: Wire, more: Dict[str, str], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One variable is enough for a model that takes its time; and silence is told by its cause."""
    given: Dict[str, Any] = {}
    monkeypatch.setattr(wire.responder, "__init__", lambda self, **options: given.update(options))
    environ, _ = variables(wire, MODEL_API_KEY=KEY, **more)
    wire.responder.from_env(environ)
    assert given["first_chunk_timeout"] == pytest.approx(seconds)
    assert given["idle_timeout"] == (110 if len(more) == 2 else 50)


def test_a_limit_that_is_off_is_none(wire: Wire) -> None:
    """Whoever waits for hours on purpose is let wait."""

    async def script(call: Call) -> None:
        await call.head()
        for part in wire.reply("x"):
            await call.part(part)
        await call.end()

    with Provider(script) as provider:
        environ, _ = variables(
            wire,
            MODEL_BASE_URL=provider.url + wire.base_path,
            CHAT_FIRST_CHUNK_TIMEOUT="off",
            CHAT_IDLE_TIMEOUT="off",
        )
        assert isinstance(ask(wire.responder.from_env(environ))[-1], Done)


def test_a_server_of_ones_own_needs_neither_key_nor_model(wire: Wire) -> None:
    """It has one model, and asks nobody who they are."""
    with Provider(wire.answer("x")) as provider:
        environ, _ = variables(wire, MODEL_BASE_URL=provider.url + wire.base_path)
        assert isinstance(ask(wire.responder.from_env(environ))[-1], Done)
        call = provider.call()
    assert "model" not in call.body
    assert not {"authorization", "x-api-key"} & set(call.headers)


def test_a_rate_limit_error_carries_the_wait() -> None:
    """For a responder that falls back on another provider."""
    assert UpstreamRateLimited("wait", retry_after=0.2).retry_after == 0.2
    assert str(UpstreamRateLimited("Wait", retry_after=0.2)) == "Wait; try again in 1 second"
