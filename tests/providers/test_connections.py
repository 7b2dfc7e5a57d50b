"""The connections of a client: stale ones, new ones, their number, and whose they are."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any, List, Set

import anyio
import httpx

from omniforge_chat import Finish
from omniforge_chat.models import Done, Error, Event

from ..support.provider import Call, Provider, Script, hang_up, opening
from ..support.relay import COMPLETE, TURN, ask, ask_by, failed, using
from ..support.responders import events_of
from ..support.wires import OPENAI

BEGUN = [*OPENAI.opening(), OPENAI.text("x")]


def once_each() -> Script:
    """Answer the first request of each connection, and close it with the second."""
    known: Set[int] = set()

    async def script(call: Call) -> None:
        if call.connection in known:
            call.close()
        else:
            known.add(call.connection)
            await OPENAI.answer("x")(call)

    return script


async def at_once(responder: Any, count: int) -> None:
    """Relay this many replies at once, each over a connection of its own."""
    replies = [responder(TURN) for _ in range(count)]
    for reply in replies:
        assert await reply.__anext__() == "x"
    for reply in replies:
        assert [item async for item in reply][-1] == Finish("stop")


def test_a_stale_connection_of_the_pool_is_replaced() -> None:
    """Servers close idle connections when they like; the request was never looked at."""

    async def use(responder: Any) -> None:
        for _ in range(20):
            assert (await events_of(TURN, responder))[-1] == COMPLETE

    with Provider(once_each()) as provider:
        using(OPENAI.make(provider), use)
        assert provider.connections == 20


def test_after_a_stale_connection_the_next_is_a_new_one() -> None:
    """Another old one may be as stale; and who falls over a request is not given it thrice."""

    async def use(responder: Any) -> List[Event]:
        await at_once(responder, 2)
        return await events_of(TURN, responder)

    with Provider(OPENAI.answer("x"), OPENAI.answer("x"), hang_up) as provider:
        assert failed(using(OPENAI.make(provider), use)).code == "upstream_error"
        assert (len(provider.calls), provider.connections) == (4, 3)


def test_a_pooled_connection_that_brings_no_http_is_not_tried_again() -> None:
    """Bytes have come, so somebody has seen the request."""

    async def no_http(call: Call) -> None:
        await call.send(b"what is this\r\n\r\n")
        call.close()

    async def use(responder: Any) -> List[Event]:
        await events_of(TURN, responder)
        return await events_of(TURN, responder)

    with Provider(OPENAI.answer("x"), no_http) as provider:
        assert failed(using(OPENAI.make(provider), use)).code == "upstream_error"
        assert (len(provider.calls), provider.connections) == (2, 1)


def test_a_new_connection_that_ends_without_an_answer_is_not_tried_again() -> None:
    """The provider may have begun to work for us, and would do so twice."""

    with Provider(hang_up) as provider:
        error = failed(ask(OPENAI.make(provider)))
        assert len(provider.calls) == 1
    assert error.code == "upstream_error"
    assert error.message == "The model provider closed the connection without an answer"


def test_a_client_of_ones_own_gets_one_more_connection_and_no_third() -> None:
    """It keeps connections, which may all be stale; each that is not is work for the provider."""
    client = httpx.AsyncClient()

    async def use(responder: Any) -> List[Event]:
        async with client:
            await at_once(responder, 3)
            return await events_of(TURN, responder)

    with Provider(once_each()) as provider:
        assert failed(using(OPENAI.make(provider, client=client), use)).code == "upstream_error"
        assert len(provider.calls) == 3 + 2


class _Silent(httpx.AsyncHTTPTransport):
    """A transport that does not tell what it does."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions.pop("trace")
        return await super().handle_async_request(request)


def test_a_transport_that_tells_nothing_is_asked_once() -> None:
    """Whether its connection was a new one is not known."""

    with Provider(hang_up) as provider:
        events = ask_by(httpx.AsyncClient(transport=_Silent()), provider)
        assert failed(events).code == "upstream_error"
        assert len(provider.calls) == 1


def test_a_new_connection_by_way_of_a_proxy_is_a_new_one() -> None:
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
                return await events_of(TURN, OPENAI.make(provider, client=client))
        finally:
            server.close()

    with Provider(hang_up) as provider:
        assert failed(asyncio.run(main())).code == "upstream_error"
        assert len(provider.calls) == 1


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        data = await reader.read(65536)
        if not data:
            break
        writer.write(data)
    writer.close()


def test_a_closed_responder_fails_what_still_waited_for_its_turn() -> None:
    """It is the provider that cannot be reached, not a bug of the service's."""

    async def use(responder: Any) -> List[Event]:
        first = responder(TURN)
        await first.__anext__()
        second = asyncio.ensure_future(events_of(TURN, responder))
        await anyio.wait_all_tasks_blocked()
        await responder.aclose()
        await first.aclose()
        return await second

    with Provider(opening(*BEGUN)) as provider:
        error = failed(using(OPENAI.make(provider, max_connections=1), use))
    assert error.code == "upstream_error"


def test_the_wait_for_a_free_connection_counts() -> None:
    """Otherwise a pool that is full of stalled replies would hold the next ones without limit."""

    async def use(responder: Any) -> Error:
        first = responder(TURN)
        await first.__anext__()
        try:
            events = await events_of(TURN, responder)
        finally:
            await first.aclose()
        return failed(events)

    with Provider(opening(*BEGUN)) as provider:
        responder = OPENAI.make(provider, max_connections=1, first_chunk_timeout=0.2)
        assert using(responder, use).code == "upstream_timeout"
        assert len(provider.calls) == 1


def test_a_responder_serves_one_event_loop_after_the_other() -> None:
    """It may be made at import, long before the loop that it serves."""
    with Provider(OPENAI.answer("x")) as provider:
        responder = OPENAI.make(provider)
        for _ in range(2):
            assert isinstance(ask(responder)[-1], Done)


def test_a_loop_that_has_ended_is_let_go() -> None:
    """If somebody runs one after the other and closes nothing, memory must not grow."""

    async def ask_and_forget() -> weakref.ref[asyncio.AbstractEventLoop]:
        assert isinstance((await events_of(TURN, responder))[-1], Done)
        return weakref.ref(asyncio.get_running_loop())

    async def answer_and_close(call: Call) -> None:
        await call.head(connection="close")  # so that there is nothing to keep
        for part in OPENAI.reply("x"):
            await call.part(part)
        await call.end()
        call.close()

    with Provider(answer_and_close) as provider:
        responder = OPENAI.make(provider)
        first = asyncio.run(ask_and_forget())
        asyncio.run(ask_and_forget())
        gc.collect()
        assert first() is None


def test_a_client_of_ones_own_is_used_and_left_open() -> None:
    """Whoever opens a thing closes it."""

    async def main() -> None:
        async with httpx.AsyncClient(headers={"X-Mine": "yes"}) as client:
            responder = OPENAI.make(provider, client=client)
            assert "x" in [item async for item in responder(TURN)]
            await responder.aclose()
            assert not client.is_closed
            assert "x" in [item async for item in responder(TURN)]

    with Provider(OPENAI.answer("x")) as provider:
        asyncio.run(main())
        assert provider.call().headers["x-mine"] == "yes"
        assert provider.connections == 1
