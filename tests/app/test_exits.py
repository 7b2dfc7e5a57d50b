"""A responder that raises what is meant to end a program, a task or an iteration, not a reply."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, AsyncIterator, Callable, List, Optional

import pytest

from omniforge_chat import Settings, Turn, create_app
from omniforge_chat.core.driver import drive

from ..support.answers import last, text
from ..support.app import HandDrivenRequest
from ..support.client import assert_next_request_works
from ..support.logs import Records
from ..support.servers import WIRES, UvicornThread


class Panic(BaseException):
    """As an extension module in Rust raises it."""


EXITS = [
    *(KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError),
    *(StopIteration, StopAsyncIteration, Panic),
]

PASSED_ON: List[type] = [KeyboardInterrupt]
"""Nobody can tell whether these come from the responder or from outside."""
if sys.version_info < (3, 11):
    PASSED_ON.append(asyncio.CancelledError)


class Raising:
    """A responder that raises `exit_` at one place if the message is "hi", and answers others."""

    def __init__(self, exit_: type, place: str) -> None:
        self._exit, self._place = exit_, place

    def __call__(self, turn: Turn) -> AsyncIterator[str]:
        if self._place == "call" and turn.message == "hi":
            raise self._exit("the secret cause")
        return self._answer(turn)

    async def _answer(self, turn: Turn) -> AsyncIterator[str]:
        if turn.message != "hi":
            yield "ok"
            return
        try:
            if self._place == "first":
                raise self._exit("the secret cause")
            yield "some"
            if self._place == "later":
                await asyncio.sleep(0)
            if self._place in ("second", "later"):
                raise self._exit("the secret cause")
            yield " more"
        finally:
            if self._place == "cleanup":
                raise self._exit("the secret cause")


PLACES = ["call", "first", "second", "later", "cleanup"]


async def _ask(app: Any, patience: Callable[..., Any]) -> Optional[BaseException]:
    made = HandDrivenRequest()
    task = asyncio.ensure_future(patience(made.run(app)))
    await asyncio.wait([task])
    frames = made.frames
    assert made.status == 200
    event, data = last(frames)
    assert event == "error"
    assert "secret" not in str(data)
    assert text(frames) in ("", "some", "some more")
    assert ("usage" in data) == (text(frames) != "")
    assert app.open_streams == 0
    return task.result()  # type: ignore[no-any-return]  # of `_caught`


async def _caught(request: Any) -> Optional[BaseException]:
    """What the server catches: uvicorn takes anything."""
    try:
        await request
    except BaseException as error:
        return error
    return None


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("exit_", EXITS)
@pytest.mark.parametrize("history", ["off", "memory"])
def test_whatever_a_responder_raises_the_client_gets_an_error(
    exit_: type, place: str, history: Any
) -> None:
    """Never plain text, and never a stream that ends without a word."""
    app = create_app(Raising(exit_, place), settings=Settings(history=history))
    with Records() as records:
        passed_on = asyncio.run(_ask(app, _caught))
    assert passed_on is None or exit_ in PASSED_ON
    assert isinstance(passed_on, KeyboardInterrupt) == (exit_ is KeyboardInterrupt)
    [outcome] = [vars(r)["chat"]["outcome"] for r in records.all if hasattr(r, "chat")]
    assert outcome not in ("done", "cancelled")


async def _made() -> HandDrivenRequest:
    return HandDrivenRequest()


def test_a_real_interrupt_still_ends_the_program() -> None:
    """It comes in the middle of whatever runs, which may be a responder."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "some"
        raise KeyboardInterrupt

    loop = asyncio.new_event_loop()  # asyncio.run of Python 3.9 leaves its own open
    try:
        made = loop.run_until_complete(_made())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(made.run(create_app(respond, settings=Settings())))
    finally:
        loop.close()
    assert last(made.frames)[0] == "error"


@pytest.fixture(scope="module", params=WIRES)
def server(request: pytest.FixtureRequest) -> Any:
    responder = Raising(Panic, "first")
    app = create_app(lambda turn: responder(turn), settings=Settings())
    with UvicornThread(app, **request.param) as live:
        live.responder = responder  # type: ignore[attr-defined]  # for the tests
        yield live


@pytest.mark.parametrize("exit_", EXITS)
def test_on_the_wire_it_is_an_error_too_and_the_server_serves_on(server: Any, exit_: type) -> None:
    """Others have open streams."""
    for place in PLACES:
        server.responder.__init__(exit_, place)
        with server.chat() as client:
            assert client.head()[0] == 200
            assert last(client.frames())[0] == "error"
            if exit_ not in PASSED_ON:  # uvicorn closes the connection behind what it catches
                assert_next_request_works(client)
    with server.chat("ok") as client:
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"


# The driver


def test_a_coroutine_that_is_closed_hears_generator_exit_and_is_no_failure() -> None:
    """The event loop has ended, and lets go of its tasks."""
    heard: List[type] = []

    async def work() -> None:
        try:
            await asyncio.sleep(1)
        except BaseException as error:
            heard.append(type(error))
            raise

    async def run() -> None:
        steps: Any = drive(work(), lambda: None)
        next(steps)
        steps.close()

    asyncio.run(run())
    assert heard == [GeneratorExit]
