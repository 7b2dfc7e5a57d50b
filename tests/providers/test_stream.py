"""Reading a stream within its time limits, and leaving it, in whatever wire format."""

from __future__ import annotations

import asyncio
import gc
import ssl
import sys
import time
from typing import Any, AsyncIterator, List

import httpx
import pytest

from omniforge_chat import Finish, Settings, create_app
from omniforge_chat.responders.providers import stream as provider_stream

from ..support.constants import PATIENCE
from ..support.provider import Call, Provider, Script, opening, streaming
from ..support.relay import COMPLETE, TURN, ask, failed, relayed, said, using
from ..support.responders import events_of
from ..support.servers import UvicornThread
from ..support.wires import OPENAI, frame

BEGUN = [*OPENAI.opening(), OPENAI.text("Hello")]
FINISHED = [*BEGUN, *OPENAI.finish("stop")]


def repeating(part: bytes) -> Script:
    """Go on with the same part until the client has left."""

    async def script(call: Call) -> None:
        leaving = asyncio.ensure_future(call.left())
        while not leaving.done():
            await call.part(part)
            await asyncio.wait([leaving], timeout=0.02)

    return script


async def gone(provider: Provider) -> bool:
    """Whether the client leaves the first call in time."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(None, provider.call().gone.wait, PATIENCE)


# The end


async def no_more(call: Call) -> None:
    call.writer.write_eof()


def test_what_follows_the_finish_does_not_decide() -> None:
    """The text is complete, and the client has all of it."""
    events = relayed(opening(*FINISHED, then=no_more))
    assert (said(events), events[-1]) == (["Hello"], COMPLETE)


@pytest.mark.parametrize("then", [Call.left, repeating(b"".join(OPENAI.opening()))])
def test_an_end_is_waited_for_only_shortly_after_the_finish(
    then: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The usage may follow, but `done` is not held back for it, however lively the provider is."""
    monkeypatch.setattr(provider_stream, "FINISH_SECONDS", 0.05)
    with Provider(opening(*FINISHED, then=then)) as provider:
        assert ask(OPENAI.make(provider))[-1] == COMPLETE
        assert provider.call().gone.wait(PATIENCE)


def test_the_end_of_the_body_is_waited_for_even_more_shortly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the end mark there is nothing left to learn but whether the connection is free."""
    monkeypatch.setattr(provider_stream, "FINISH_SECONDS", 2 * PATIENCE)
    monkeypatch.setattr(provider_stream, "DRAIN_SECONDS", 0.05)
    with Provider(opening(*FINISHED, OPENAI.end())) as provider:
        assert ask(OPENAI.make(provider))[-1] == COMPLETE
        assert provider.call().gone.wait(PATIENCE)


async def without_a_pause(call: Call) -> None:
    """Go on with comments as fast as they are taken."""
    comment = b": %s\n" % (b"x" * 60_000)
    while True:
        await call.part(comment)


@pytest.mark.parametrize("begun", [FINISHED, [*FINISHED, OPENAI.end()]])
def test_comments_without_a_pause_do_not_hold_the_end_back(
    begun: List[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each read has something at once then, so no timer ever finds one that waits."""
    monkeypatch.setattr(provider_stream, "FINISH_SECONDS", 0.05)
    monkeypatch.setattr(provider_stream, "DRAIN_SECONDS", 0.05)
    with Provider(opening(*begun, then=without_a_pause)) as provider:
        assert ask(OPENAI.make(provider))[-1] == COMPLETE
        provider.wait_for_open_connections(0)


@pytest.mark.parametrize(
    ("begun", "message"),
    [([], "did not begin to answer within 0.1 seconds"), (BEGUN, "was silent for 0.2 seconds")],
)
def test_comments_without_a_pause_are_a_silence(begun: List[bytes], message: str) -> None:
    """They say nothing, however many they are."""
    limits = {"first_chunk_timeout": 0.1, "idle_timeout": 0.2}
    with Provider(opening(*begun, then=without_a_pause)) as provider:
        error = failed(ask(OPENAI.make(provider, **limits)))
        provider.wait_for_open_connections(0)
    assert (error.code, error.message) == ("upstream_timeout", f"The model provider {message}")


def test_a_finished_reply_leaves_its_connection_to_the_next() -> None:
    """A new connection, and its TLS handshake, for each reply would cost more than the reply."""

    async def use(responder: Any) -> None:
        for _ in range(3):
            async for _ in responder(TURN):
                pass

    with Provider(OPENAI.answer("x")) as provider:
        using(OPENAI.make(provider), use)
        assert (len(provider.calls), provider.connections) == (3, 1)


def test_a_broken_connection_is_a_cut() -> None:
    """A reset may overtake the text that was sent before it."""

    async def reset(call: Call) -> None:
        call.reset()

    with Provider(opening(*BEGUN, then=reset)) as provider:
        events = ask(OPENAI.make(provider))
        assert len(provider.calls) == 1
    assert said(events) in (["Hello"], [])
    assert failed(events).message == "The model provider's reply was cut off"


def test_an_encryption_that_breaks_is_a_cut() -> None:
    """httpx does not make an error of its own of it, as it does of every other break."""

    async def pieces() -> AsyncIterator[bytes]:
        yield OPENAI.text("Hel")
        raise ssl.SSLError("decryption failed")

    async def main() -> None:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=pieces()))
        async with httpx.AsyncClient(transport=transport) as client:
            events = await events_of(TURN, OPENAI.responder(client=client))
        assert said(events) == ["Hel"]
        assert failed(events).code == "upstream_error"

    asyncio.run(main())


# Silence


@pytest.mark.parametrize(
    "script",
    [
        Call.left,
        opening(),
        opening(then=repeating(b":\n\n")),
        opening(then=repeating(frame({"choices": []}))),
    ],
    ids=["no head", "head alone", "comments", "frames without a choice"],
)
def test_a_silent_start_is_a_timeout(script: Script) -> None:
    """Comments and pings show that a server lives, not that its model does."""
    with Provider(script) as provider:
        error = failed(ask(OPENAI.make(provider, first_chunk_timeout=0.1)))
        assert provider.call().gone.wait(PATIENCE)
    assert error.code == "upstream_timeout"
    assert error.message == "The model provider did not begin to answer within 0.1 seconds"


def test_the_start_may_take_longer_than_a_pause() -> None:
    """A long prompt takes its time, also where the head came at once."""

    async def later(call: Call) -> None:
        await asyncio.sleep(0.3)
        for part in OPENAI.reply("x"):
            await call.part(part)
        await call.end()

    events = relayed(opening(then=later), first_chunk_timeout=PATIENCE, idle_timeout=0.1)
    assert events[-1] == COMPLETE


def test_a_limit_that_is_off_is_none() -> None:
    """Whoever waits for hours on purpose is let wait."""
    events = relayed(OPENAI.answer("x"), first_chunk_timeout=None, idle_timeout=None)
    assert events[-1] == COMPLETE


def test_a_stream_that_timed_out_is_freed_without_a_collection() -> None:
    """Or the buffers of its connection stay for as long as nothing collects."""
    gc.collect()
    gc.disable()
    try:
        events = relayed(opening(*BEGUN), idle_timeout=0.1)
        assert failed(events).code == "upstream_timeout"
        kept = [o for o in gc.get_objects() if isinstance(o, provider_stream._DeadlinePassed)]
        assert kept == []
    finally:
        gc.enable()


@pytest.mark.parametrize("then", [Call.left, repeating(b":\n\n")], ids=["nothing", "comments"])
def test_silence_between_tokens_is_a_timeout(then: Script) -> None:
    """A stall without end is what users of relays complain of most."""

    async def script(call: Call) -> None:
        await call.head()
        await asyncio.sleep(0.05)  # the limit of the first frame holds for a while, and then ends
        for part in [*BEGUN, OPENAI.text("!")]:
            await call.part(part)
        await then(call)

    with Provider(script) as provider:
        events = ask(OPENAI.make(provider, idle_timeout=0.1))
        assert provider.call().gone.wait(PATIENCE)
    assert said(events) == ["Hello", "!"]
    assert failed(events).code == "upstream_timeout"
    assert failed(events).message == "The model provider was silent for 0.1 seconds"
    assert failed(events).usage is not None


def test_time_that_the_client_takes_is_no_silence_of_the_provider() -> None:
    """A slow reader must not be told that the provider stalled."""

    async def use(responder: Any) -> List[Any]:
        items = []
        async for item in responder(TURN):
            items.append(item)
            await asyncio.sleep(0.15)
        return items

    parts = [*OPENAI.opening(), OPENAI.text("a"), b":\n\n", OPENAI.text("b")]
    with Provider(streaming(*parts, *OPENAI.finish("stop"), OPENAI.end())) as provider:
        items = using(OPENAI.make(provider, idle_timeout=0.1), use)
    assert [item for item in items if isinstance(item, str)] == ["a", "b"]
    assert items[-1] == Finish("stop")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count there")
@pytest.mark.parametrize("ends", [[], [*OPENAI.finish("stop"), OPENAI.end()]])
def test_a_cancellation_in_the_moment_of_the_deadline_is_one(
    ends: List[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cancelled waits for the task to end, and not for a reply to be told as silent."""
    monkeypatch.setattr(provider_stream, "DRAIN_SECONDS", 0.1)

    async def use(responder: Any) -> None:
        async def read() -> None:
            async for item in responder(TURN):
                if item == "Hello":
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

    with Provider(opening(*BEGUN, *ends)) as provider:
        using(OPENAI.make(provider, idle_timeout=0.1), use)


# Leaving


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_reply_closes_the_connection(begun: bool) -> None:
    """Nobody pays for tokens that nobody reads, also while the head is awaited."""

    async def use(responder: Any) -> None:
        arrived = asyncio.Event()

        async def read() -> None:
            async for _ in responder(TURN):
                arrived.set()

        reading = asyncio.ensure_future(read())
        if begun:
            await arrived.wait()
        await asyncio.get_running_loop().run_in_executor(None, provider.call)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await gone(provider)

    with Provider(opening(*BEGUN) if begun else Call.left) as provider:
        using(OPENAI.make(provider), use)


def test_a_closed_reply_closes_the_connection() -> None:
    """The other way to leave: between two chunks."""

    async def use(responder: Any) -> None:
        reply = responder(TURN)
        assert await reply.__anext__() == "Hello"
        await reply.aclose()
        assert await gone(provider)

    with Provider(opening(*BEGUN)) as provider:
        using(OPENAI.make(provider), use)


@pytest.mark.parametrize("begun", [False, True])
def test_a_client_of_the_service_that_leaves_ends_the_providers_work(begun: bool) -> None:
    """The same through the whole service, on the server's own event loop."""
    with Provider(opening(*BEGUN) if begun else Call.left) as provider:
        app = create_app(OPENAI.make(provider), settings=Settings())
        with UvicornThread(app) as server, server.chat("hi") as client:
            client.head()
            if begun:
                assert client.frame().event == "chunk"
            call = provider.call()
            client.close()
            assert call.gone.wait(PATIENCE)
