"""Cancelling a relayed reply at each of its steps: nothing of it may stay behind."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import json
import socket
import types
from typing import Any, Callable, Coroutine, Generator, List, Optional

import httpx
import pytest

from omniforge_chat.errors import UpstreamError, UpstreamTimeout
from omniforge_chat.observer import Observers
from omniforge_chat.responders.providers.body import MAX_REFUSAL_BYTES
from omniforge_chat.responders.providers.openai import OpenAIResponder

from ..support.constants import PATIENCE
from ..support.provider import Call, Provider, Script, refusing
from ..support.relay import TURN, UpstreamWitness
from ..support.wires import OPENAI

_anyio = tuple(int(part) for part in importlib.metadata.version("anyio").split(".")[:2])


class Steps:
    """Counts what all tasks of a loop wait for, and calls `act` at the waits of these numbers.

    Either when the task is about to wait, or when what it waits for has come but the task has not
    yet learnt of it.
    """

    def __init__(self, numbers: range, act: Callable[[], object], *, when_done: bool) -> None:
        self.counted = 0
        self._numbers = numbers
        self._act = act
        self._when_done = when_done

    def make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        """A task factory."""
        return asyncio.Task(self._watched(coroutine), loop=loop, **options)

    async def _watched(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return await self._steps(coroutine)

    @types.coroutine
    def _steps(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = coroutine.send
        value: Any = None
        while True:
            try:
                awaited = resume(value)
            except StopIteration as stop:
                return stop.value
            self.counted += 1
            if self.counted in self._numbers:
                if self._when_done and isinstance(awaited, asyncio.Future):
                    awaited.add_done_callback(lambda _: self._act())
                else:
                    self._act()
            try:
                value = yield awaited
                resume = coroutine.send
            except BaseException as error:
                resume, value = coroutine.throw, error


async def read(responder: Any, leaves_after_text: bool) -> None:
    """Read a reply to its end, or as far as its first text, or until it is refused."""
    reply = responder(TURN)
    try:
        async for _ in reply:
            if leaves_after_text:
                break
    except UpstreamTimeout:
        raise
    except UpstreamError:
        pass
    finally:
        await reply.aclose()


async def answer(call: Call) -> None:
    """A reply in several pieces."""
    await call.head()
    await call.part(b"".join(OPENAI.opening()) + OPENAI.text("x"))
    await call.part(OPENAI.text("y"))
    for part in (*OPENAI.finish(OPENAI.stop), OPENAI.end()):
        await call.part(part)
    await call.end()


refuse = refusing(500, b"x" * (MAX_REFUSAL_BYTES + 10_000))
"""A refusal of which not all is read, so that its connection is closed."""


@pytest.mark.skipif(
    _anyio < (4, 16), reason="its connect_tcp drops a connection that is left while it is made"
)
@pytest.mark.parametrize(
    ("script", "leaves_after_text"), [(answer, False), (answer, True), (refuse, False)]
)
@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("when_done", [False, True])
@pytest.mark.parametrize("own_client", [False, True])
def test_a_reply_can_be_cancelled_at_every_step(
    own_client: bool, when_done: bool, times: int, script: Script, leaves_after_text: bool
) -> None:
    """At each wait, and at those after it: the connection is closed, and its place is free.

    A library that is torn out of its clean-up keeps a connection for good, and the service comes to
    a stand when all are kept. And observers hear of the end of each request that began, once.
    """

    async def cancelled_at(number: int, responder: Any) -> bool:
        """Whether the reply was cancelled at that step, and not over before."""
        reading: Optional[asyncio.Task[None]] = None

        def act() -> None:
            if reading is not None:
                reading.cancel()

        loop = asyncio.get_running_loop()
        steps = Steps(range(number, number + times), act, when_done=when_done)
        loop.set_task_factory(steps.make_task)
        reading = loop.create_task(read(responder, leaves_after_text))
        await asyncio.wait([reading])
        loop.set_task_factory(None)
        with contextlib.suppress(asyncio.CancelledError):
            reading.result()
        return steps.counted >= number

    async def main() -> int:
        witness = UpstreamWitness()
        Observers([witness]).enter()
        # A given client has a pool of one: what is left behind in it blocks the next reply.
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(limits=limits) as client:
            options = {"client": client} if own_client else {}
            responder = OPENAI.make(
                provider, max_connections=1, first_chunk_timeout=PATIENCE, **options
            )
            number = 1
            while await cancelled_at(number, responder):
                await asyncio.wait_for(read(responder, False), PATIENCE)
                wait = provider.wait_for_open_connections
                await asyncio.get_running_loop().run_in_executor(None, wait, 1)
                # What was not read to its end is closed by a task of the event loop's own.
                others = asyncio.all_tasks() - {asyncio.current_task()}
                if others:
                    _, late = await asyncio.wait(others, timeout=PATIENCE)
                    assert not late
                number += 1
                assert len(witness.ended) == len(witness.began)
            await responder.aclose()
        assert [end.call for end in witness.ended] == witness.began
        return number

    with Provider(script) as provider:
        assert asyncio.run(main()) > 5
        provider.wait_for_open_connections(0)


@pytest.mark.skipif(importlib.util.find_spec("hypercorn") is None, reason="no hypercorn here")
def test_a_silent_reply_ends_alone_on_a_connection_that_is_shared() -> None:
    """Over HTTP/2 all replies may come over one; httpcore hands errors from one to the others."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    silenced: asyncio.Event

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked = json.loads((await receive())["body"])
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def say(*frames: bytes, more: bool = True) -> None:
            body = b"".join(frames)
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await say(OPENAI.text("x"))
        await silenced.wait()
        if asked["silent"]:
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        await say(OPENAI.text("y"), *OPENAI.finish(OPENAI.stop), OPENAI.end(), more=False)

    async def main() -> None:
        nonlocal silenced
        silenced = asyncio.Event()
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = Config()
        config.bind = [f"fd://{listener.detach()}"]
        config.graceful_timeout = 0.1
        config.errorlog = None
        # With a trigger of its own it takes no signals.
        never = asyncio.Event()
        serving = asyncio.ensure_future(serve(app, config, shutdown_trigger=never.wait))
        async with httpx.AsyncClient(http1=False, http2=True) as client:

            def make(**options: Any) -> Any:
                body = {"silent": "idle_timeout" in options}
                url = f"http://127.0.0.1:{port}"
                return OpenAIResponder(base_url=url, extra_body=body, client=client, **options)

            async def texts(responder: Any) -> List[str]:
                return [item async for item in responder(TURN) if isinstance(item, str)]

            lively = [asyncio.ensure_future(texts(make())) for _ in range(2)]
            with pytest.raises(UpstreamTimeout):
                await texts(make(idle_timeout=0.1))
            silenced.set()
            assert await asyncio.gather(*lively) == [["x", "y"], ["x", "y"]]
        serving.cancel()
        await asyncio.wait([serving])

    asyncio.run(asyncio.wait_for(main(), PATIENCE))
