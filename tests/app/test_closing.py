"""The end of an app: what its responder and its history hold open is closed, whatever happens."""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Awaitable, Callable, List, Optional, Sequence

import pytest

from omniforge_chat import Claim, Message, Settings, Turn, create_app
from omniforge_chat.app import ChatApp

from ..support.client import assert_next_request_works
from ..support.constants import PATIENCE
from ..support.responders import saying
from ..support.servers import UvicornThread

SECRET = "redis://user:hunter2@db"


class Part:
    """Something with connections, which notes in which event loop they were closed."""

    def __init__(self, then: Optional[Callable[[], Awaitable[None]]] = None) -> None:
        self.closed_in: List[asyncio.AbstractEventLoop] = []
        self._then = then

    async def aclose(self) -> None:
        self.closed_in.append(asyncio.get_running_loop())
        if self._then is not None:
            await self._then()


class Model(Part):
    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        yield "hi"


class Store(Part):
    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        return ()

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        pass


def lifespan(app: ChatApp) -> List[str]:
    """What an app that is driven by hand says when it is started and then stopped."""

    async def run() -> List[str]:
        asked = iter(["lifespan.startup", "lifespan.shutdown"])
        said: List[str] = []

        async def receive() -> Any:
            return {"type": next(asked)}

        async def send(message: Any) -> None:
            said.append(message["type"])

        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        await asyncio.wait_for(app(scope, receive, send), PATIENCE)
        return said

    return asyncio.run(run())


ENDED = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_a_server_that_stops_has_the_responder_and_the_history_closed() -> None:
    """In its own event loop, which the connections belong to, and after the last chat."""
    model, store = Model(), Store()
    with UvicornThread(create_app(model, settings=Settings(), history=store)) as server:
        with server.connect() as client:
            assert_next_request_works(client)
        assert model.closed_in == store.closed_in == []
        server.stop()
        assert model.closed_in == store.closed_in == [server.loop]


def test_a_part_that_fails_to_close_is_logged_and_the_other_is_closed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The process ends anyway; that a server calls its end a failure would help nobody."""

    async def fail() -> None:
        raise ConnectionError(SECRET)

    model, store = Model(fail), Store()
    assert lifespan(create_app(model, settings=Settings(), history=store)) == ENDED
    assert len(store.closed_in) == 1
    (record,) = caplog.records
    assert record.getMessage() == "Model failed to close"
    assert record.exc_info is not None


def test_a_part_that_does_not_end_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """A store that has gone away must not hold a process that was told to stop."""

    async def hang() -> None:
        await asyncio.Event().wait()

    model, store = Model(), Store(hang)
    settings = Settings(cleanup_timeout=0.05)
    assert lifespan(create_app(model, settings=settings, history=store)) == ENDED
    assert len(model.closed_in) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "the app did not close within 0.05 s"
    ]


def test_what_cannot_be_closed_needs_no_closing(caplog: pytest.LogCaptureFixture) -> None:
    """A function holds nothing open, and an iterator class has its `aclose` for each reply."""

    class Reply:
        def __init__(self, turn: Turn) -> None:
            pass

        def __aiter__(self) -> AsyncIterator[str]:
            raise AssertionError

        async def aclose(self) -> None:
            raise AssertionError

    responders: List[Any] = [saying("hi"), Reply]
    for responder in responders:
        assert lifespan(create_app(responder, settings=Settings(history="memory"))) == ENDED
    assert caplog.records == []


def test_a_host_may_close_what_it_has_mounted() -> None:
    """A mounted app gets no lifespan. Nobody has to call it, but a tidy host can."""
    model = Model()
    app = create_app(model, settings=Settings())
    asyncio.run(app.aclose())
    assert len(model.closed_in) == 1
