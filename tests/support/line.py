"""One chat in a timeless event loop, between a test that is client and server and an app."""

from __future__ import annotations

import asyncio
from typing import (
    Any,
    AsyncIterator,
    Awaitable,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Union,
)

from starlette.types import Message

from omniforge_chat import Observer, Settings, Turn, Usage, create_app
from omniforge_chat.core.frames import HEARTBEAT
from omniforge_chat.core.responder import Responder
from omniforge_chat.stream.response import ABORT

from .answers import last, text
from .app import HandDrivenRequest
from .logs import Records
from .timeless import clock, now, passing, settle

REFERENCE = "ref-1"

FOREVER = 10.0**8
"""Seconds that nothing but the stream itself brings to an end."""

OFF: Dict[str, Any] = {
    "heartbeat_interval": None,
    "first_chunk_timeout": None,
    "idle_timeout": None,
    "total_timeout": None,
    "send_timeout": None,
}

Step = Union[str, Usage, float, None, BaseException, Callable[[], Awaitable[Any]]]


class Script:
    """A responder that does one step after the other, and then has ended.

    A text or a Usage is yielded; a number is slept for, in seconds; None waits for `go_on`; an
    exception is raised; anything else is called, and what that returns awaited. In its `finally` it
    sleeps for `clean_up`, or awaits what that returns. `called` tells whether it was, `closing` and
    `closed` are the times before and after its clean-up, in seconds since it was called.
    """

    def __init__(
        self, *steps: Step, clean_up: Union[float, Callable[[], Awaitable[Any]], None] = None
    ) -> None:
        self._steps = steps
        self._clean_up = clean_up
        self._went_on = asyncio.Event()
        self.called = False
        self.closing: Optional[float] = None
        self.closed: Optional[float] = None

    def go_on(self) -> None:
        self._went_on.set()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        self.called = True
        began = now()
        try:
            for step in self._steps:
                if isinstance(step, (str, Usage)):
                    yield step
                elif isinstance(step, BaseException):
                    raise type(step)(*step.args)
                elif step is None:
                    await self._went_on.wait()
                    self._went_on.clear()
                else:
                    await _do(step)
        finally:
            self.closing = round(now() - began, 3)
            if self._clean_up is not None:
                await _do(self._clean_up)
            self.closed = round(now() - began, 3)


async def _do(step: Union[float, Callable[[], Awaitable[Any]]]) -> None:
    await (asyncio.sleep(step) if isinstance(step, (int, float)) else step())


def computing(seconds: float) -> Callable[[], Awaitable[None]]:
    """A step that takes time, and does not wait."""

    async def compute() -> None:
        clock().work(seconds)

    return compute


TOLD = {
    "nothing": "done",
    "leave": None,
    "drain": "shutting_down",
    "deadline": "timeout",
    "cancel": "shutting_down",
}
"""The causes that can end a stream, and what the client is told of each."""

CAUSES = ["leave", "drain", "deadline", "cancel"]


class Line(HandDrivenRequest):
    """One chat, between a test that is the client and the server, and an app of its own.

    The client reads, until `stop_reading`; as with uvicorn, a `send` then waits before it takes
    anything. `fails` is what `send` raises, and `receives` what `receive` does after the body, if
    not what they should. `end` waits until it is over, and sees that nothing is left of it.
    """

    def __init__(
        self,
        responder: Responder,
        *,
        receives: Optional[Callable[[], Message]] = None,
        fails: Optional[Exception] = None,
        body: object = None,
        path: str = "/api/v1/chat",
        headers: Optional[Mapping[str, str]] = None,
        observers: Sequence[Observer] = (),
        **limits: Any,
    ) -> None:
        super().__init__(body, path=path, headers={"X-Request-ID": REFERENCE, **(headers or {})})
        self.scope["extensions"] = {ABORT: self._abort}
        self.app = create_app(responder, settings=Settings(**limits), observers=observers)
        self.script = responder if isinstance(responder, Script) else Script()
        self.fails = fails
        self.times: List[float] = []
        self.aborts = 0
        self.cancels = 0
        self.records = Records()
        self._receives = receives
        self._drains: List[asyncio.Future[None]] = []
        self._reads = asyncio.Event()
        self._reads.set()
        self._began = now()
        self.task = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        try:
            with self.records:
                await self.run(self.app)
            for _ in range(3):  # a server, or a middleware, still has something to do
                await asyncio.sleep(0)
        finally:
            cancelling = getattr(asyncio.current_task(), "cancelling", None)
            # What was cancelled for the stream's own purposes has been taken back.
            assert cancelling is None or cancelling() == self.cancels

    async def receive(self) -> Message:
        if self.received and self._receives is not None:
            try:
                return self._receives()
            except Exception:
                self.leave()
                raise
        return await super().receive()

    async def send(self, message: Message) -> None:
        await self._reads.wait()
        if self.fails is not None:
            raise self.fails
        if not self.gone.is_set():
            self.sent.append(message)
            self.times.append(round(now() - self._began, 3))

    def _abort(self) -> None:
        self.aborts += 1
        self.leave()

    # What can happen to it

    def stop_reading(self) -> None:
        self._reads.clear()

    def read_on(self) -> None:
        self._reads.set()

    def leave(self) -> None:
        """Be gone: `receive` tells of it, and what waits in `send` is let go without a word."""
        self.gone.set()
        self._reads.set()

    def cancel(self) -> None:
        """Cancel the request, as a server does that wants to end."""
        self.cancels += self.task.cancel()

    def drain(self, seconds: float = 0) -> None:
        """Let the app begin to drain."""
        self._drains.append(asyncio.ensure_future(self.app.drain(seconds)))

    def meet(self, cause: str) -> None:
        """Make `cause` happen now. (A deadline comes by itself, with time.)"""
        if cause not in ("deadline", "nothing"):
            getattr(self, cause)()

    # What has become of it

    @property
    def types(self) -> List[str]:
        """The types of the messages that the app has sent."""
        return [message["type"].rpartition(".")[2] for message in self.sent]

    @property
    def bodies(self) -> List[bytes]:
        """What the app has sent after the headers, message by message."""
        return [message["body"] for message in self.sent[1:]]

    @property
    def heartbeats(self) -> List[float]:
        """When there were heartbeats, in seconds since the beginning."""
        return [t for m, t in zip(self.sent, self.times) if m.get("body") == HEARTBEAT]

    @property
    def said(self) -> str:
        """The text that has reached the client."""
        return text(self.frames)

    def ending(self) -> Any:
        """The fields of the terminal event that the client got, which was the only one."""
        assert not self.gone.is_set()
        event, data = last(self.frames)
        return {"code": "done", **data} if event == "done" else data

    @property
    def told(self) -> Optional[str]:
        """What the client was told of the end: "done" or an error's code; None if it has left."""
        return None if self.gone.is_set() else str(self.ending()["code"])

    @property
    def tokens(self) -> Optional[int]:
        """The usage that the client was told."""
        tokens: Optional[int] = self.ending().get("usage", {}).get("tokens")
        return tokens

    @property
    def outcome(self) -> str:
        """How the chat has ended, as the log has it."""
        [ended] = [vars(r)["chat"] for r in self.records.all if "chat" in vars(r)]
        return str(ended["outcome"])

    @property
    def troubles(self) -> List[str]:
        """What was logged as a warning or worse, always under the request's id."""
        parts = [trouble.rpartition(" ") for trouble in self.records.troubles]
        assert all(reference == f"request_id={REFERENCE}" for _, _, reference in parts)
        return [trouble for trouble, _, _ in parts]

    # Waiting for it

    async def at(self, seconds: float) -> None:
        """Let all happen until so many seconds after the beginning."""
        await passing(self._began + seconds - now())
        await settle()

    async def until(self, said: str) -> None:
        """Let everything happen that can happen now; then this is what has been said."""
        await settle()
        assert self.said == said

    async def end(self, *, cancelled: Optional[bool] = None) -> float:
        """How many seconds the request took, which is over and has left nothing behind."""
        await asyncio.wait([self.task], timeout=10.0**5)
        took = now() - self._began
        assert self.task.done(), "it does not end"
        if cancelled is None:
            cancelled = self.cancels > 0
        assert self.task.cancelled() == cancelled
        assert self.app.open_streams == 0
        assert self.app._lifecycle._waiting == set()
        await settle()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        if not cancelled:
            self.task.result()
        self._check_messages()
        return round(took, 3)

    def _check_messages(self) -> None:
        """Each message holds whole frames, a heartbeat is alone in its own, and the end is last."""
        for body in self.bodies:
            assert body in (b"", HEARTBEAT) or (body.endswith(b"\n\n") and b"\n:" not in body)
            assert body == HEARTBEAT or not body.startswith(b":")
        if not self.gone.is_set() and self.fails is None:
            more = [message["more_body"] for message in self.sent[1:]]
            assert more == [True] * (len(more) - 1) + [False]


async def ended_by(cause: str, responder: Responder, **limits: Any) -> Line:
    """A stream that has said "a" and waited, until `cause` came to it at second 10."""
    line = Line(responder, idle_timeout=10 if cause == "deadline" else None, **limits)
    await passing(10)
    line.meet(cause)
    return line


PHASES: Dict[str, List[Step]] = {
    "nothing": ["a", FOREVER],
    "headers": [FOREVER],
    "frame": ["a", 20, "b", FOREVER],
    "heartbeat": ["a", FOREVER],
    "last frame": ["a", 20, "b"],
}
"""The things that a stream may be sending, and steps of a responder that bring it there."""


async def stuck(sending: str, **limits: Any) -> Line:
    """A stream of PHASES at second 20, that sends this, which its client does not take.

    The headers are sent from the beginning on, and the other things since second 20.
    """
    line = Line(Script(*PHASES[sending]), heartbeat_interval=beat_of(sending), **limits)
    await stick(line, sending)
    return line


def beat_of(sending: str) -> Optional[float]:
    """The `heartbeat_interval` of such a stream."""
    return 20 if sending == "heartbeat" else None


async def stick(line: Line, sending: str) -> None:
    """Bring a stream of PHASES there."""
    if sending == "headers":
        line.stop_reading()
    await line.at(19)
    line.stop_reading()
    await line.at(20)
