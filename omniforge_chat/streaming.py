"""One open stream: events become frames, and frames go straight to the ASGI send channel.

One write per wait. While the responder goes on yielding, its frames are gathered in a buffer; at
the moment something is about to wait, and only then, they go out in one `send()` (driver.py). So
whatever is ready is on its way before the responder waits, and a reply that never waits costs one
write, no child task and no timer. The buffer is bounded in bytes and in time: at the bound it goes
out, and the event loop gets a turn, so that a responder that is always ready neither hides from its
own client nor starves the others.

The life of a stream:

    state      what it waits for     what can end it
    ---------  --------------------  -----------------------------------------------------------
    waiting    the responder         its end; the client leaves; a deadline; the drain; a cancel
    sending    the client (`send`)   the client leaves; `send_timeout`. A deadline or the drain is
                                     noted, and acts as soon as the send is through
    closing    the responder's       its end; after `close_timeout` it is cancelled again, and at
               clean-up              last given up
    ending     the client, for the   its end; the client leaves; `send_timeout`, or `close_timeout`
               last frame            once a deadline, the drain or a cancel has ended it

`waiting` and `sending` alternate; `closing` is skipped where the responder has ended by itself;
`ending` is skipped where the client is gone. When a stream first waits it gets a child task, which
watches for the client's leaving, and one timer, which fires when the next thing may be due. Both
only ever decide the cause of the end (`_interrupt`); the request's own task does the rest.
"""

from __future__ import annotations

import asyncio
import math
from functools import partial
from operator import itemgetter
from time import monotonic
from typing import Any, Awaitable, Callable, Iterator, List, Optional, Tuple

from starlette.types import Message, Receive, Send

from . import logs
from .chat import Responder, Tally, converse, describe
from .driver import Abandoned, drive
from .errors import ChatError, ReplyTimeout, ShuttingDown, StreamError
from .lifecycle import Lifecycle
from .logs import logger
from .models import Chunk, Done, Event, Turn
from .settings import Settings
from .sse import FRAME_BYTES, HEARTBEAT, encode, encode_chunks

BUFFER_BYTES = 16 * 1024
BUFFER_SECONDS = 0.005
"""How much, and for how long, what is ready is gathered at most."""

UTF8_BYTES = 4
"""The most that one character becomes. Sizes are bounded by it: to know them is to encode twice."""

ATTEMPTS = 3
ATTEMPT_SECONDS = 0.05
"""How often, and how far apart, a responder that refuses to end is cancelled again at most."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """The response to one chat: it answers `turn` with `responder`, and tells how it ended.

    Exactly one terminal frame is the last thing sent, unless the client has left or does not read;
    then the responder is cancelled and closed, and `abort`, where the server offers it, drops the
    connection with all that is unsent.
    """

    # What most short replies never touch, so it costs them nothing.
    _begun = False  # the start of the response has been sent
    _headers_out = False  # and something behind it
    _terminal: Optional[Event] = None  # encoded already; nothing may follow it
    _end: Optional[ChatError] = None  # why it ends before the responder does, since `_end_at`
    _gone: Optional[str] = None  # how the client left: "disconnected" or "stalled"
    _stopped = False  # one of the two is set
    _over = False
    # Times, all of the monotonic clock, in seconds.
    _end_at = 0.0
    _first_chunk_at: Optional[float] = None
    _sending_since: Optional[float] = None
    _closing_since: Optional[float] = None
    # What a stream has once it has waited.
    _task: Optional[asyncio.Task[Any]] = None
    _watcher: Optional[asyncio.Task[None]] = None
    _timer: Optional[asyncio.TimerHandle] = None
    _beat: Optional[asyncio.Task[None]] = None
    _cancels = 0  # how often we have cancelled the request's task
    _attempts = 0  # how often of these because the responder refused to end

    def __init__(
        self,
        turn: Turn,
        responder: Responder,
        settings: Settings,
        lifecycle: Lifecycle,
        receive: Receive,
        send: Send,
        abort: Optional[Callable[[], None]] = None,
    ) -> None:
        self._turn = turn
        self._responder = responder
        self._settings = settings
        self._lifecycle = lifecycle
        self._receive = receive
        self._send = send
        self._abort = abort
        self._tally = Tally()
        self._ready: List[Chunk] = []
        self._started = self._idle_since = self._quiet_since = monotonic()

    async def respond(self) -> None:
        """Send the whole response, and log how it ended."""
        cancelled: Optional[asyncio.CancelledError] = None
        try:
            try:
                await drive(self._answer(), self._before_wait)
            except asyncio.CancelledError as error:
                cancelled = self._judge(error)
            except Abandoned:
                logger.error("responder given up request_id=%s", self._turn.request_id)
                self._attempts = 0
            except Exception as error:
                if self._terminal is not None:
                    raise  # it is the server that failed, and with the last frame
                self._fail(error)
            while not self._over and self._gone is None:
                try:
                    await drive(self._finish(), self._before_wait)
                except asyncio.CancelledError as error:
                    if cancelled is not None:
                        break  # asked twice, the server is not kept waiting for the client
                    cancelled = error if self._gone is None else self._judge(error)
                    # The last frame gets one more try, with `close_timeout` to be taken.
                    self._end = self._end or ShuttingDown("The server ended the reply")
                    self._end_at = monotonic()
        finally:
            self._release()
        if self._gone == "stalled" and self._abort is not None:
            self._abort()
            await asyncio.sleep(0)  # the server hears of it in the next turn of the loop
        if cancelled is not None:
            raise cancelled

    async def _answer(self) -> None:
        await self._pump()
        await self._finish()

    async def _begin(self) -> None:
        identity = (b"x-conversation-id", self._turn.conversation_id.encode("ascii"))
        await self._write(
            {"type": "http.response.start", "status": 200, "headers": [*_HEADERS, identity]}
        )
        self._begun = True

    async def _pump(self) -> None:
        """From the start of the response to the responder's end."""
        await self._begin()
        ready, tally = self._ready, self._tally
        oldest = 0.0  # when the first of the chunks that are ready came
        before = 0  # how many characters came before it
        events = converse(self._turn, self._responder, self._tally)
        try:
            async for event in events:
                if self._stopped:
                    # The responder swallowed its cancellation; what it says now is not read.
                    tally.take_back(event)
                    break
                if type(event) is not Chunk:
                    self._terminal = event
                    break
                if ready:
                    due = monotonic() - oldest >= BUFFER_SECONDS
                else:
                    due = False
                    oldest = monotonic()
                    before = tally.characters - len(event.content)
                    if self._first_chunk_at is None:
                        self._first_chunk_at = oldest
                ready.append(event)
                size = (tally.characters - before) * UTF8_BYTES + len(ready) * FRAME_BYTES
                if due or size >= BUFFER_BYTES:
                    await asyncio.sleep(0)  # a wait too, before which what is ready goes out
        finally:
            if self._closing_since is None:
                self._closing_since = monotonic()
            await events.aclose()

    async def _finish(self) -> None:
        """The terminal frame, if it is still owed, and the end of the response."""
        self._closing_since = None
        self._attempts = 0  # the responder has ended, if late
        if self._gone is not None:
            return
        if self._terminal is None:
            if self._end is None:
                self._end = ShuttingDown("The server ended the reply")
                self._end_at = monotonic()
            self._fail(self._end)
        if not self._begun:
            await self._begin()  # it was cancelled
        await self._flush(last=True)
        self._over = True

    def _fail(self, error: Exception) -> None:
        """End with what `error` is to a client; the log gets all of it."""
        self._terminal = describe(error, self._turn, self._tally)

    def _encode(self, *, last: bool) -> bytes:
        """The frames of what is ready; what cannot be encoded ends the stream."""
        try:
            body = encode_chunks(self._ready)
        except (TypeError, ValueError) as error:
            body = b"".join(self._salvage(error))
        if not last or self._terminal is None:
            return body
        try:
            return body + encode(self._terminal)
        except (TypeError, ValueError) as error:
            self._fail(_unencodable(self._terminal, error))
            return body + encode(self._terminal)

    def _salvage(self, error: Exception) -> Iterator[bytes]:
        """The frames of the chunks before the one that cannot be encoded; the rest is dropped."""
        for number, chunk in enumerate(self._ready):
            try:
                yield encode(chunk)
            except (TypeError, ValueError):
                for dropped in self._ready[number:]:
                    self._tally.take_back(dropped)
                del self._ready[number:]
                self._fail(_unencodable(chunk, error))
                self._stopped = True
                return

    async def _flush(self, *, last: bool = False) -> None:
        """Send what is in the buffer. Raises CancelledError where the end was decided meanwhile."""
        while self._beat is not None:
            await asyncio.wait([self._beat])
        body = self._encode(last=last)
        try:
            await self._write({"type": "http.response.body", "body": body, "more_body": not last})
        except asyncio.CancelledError:
            if self._closing_since is None:
                self._closing_since = monotonic()
            raise
        self._ready.clear()  # only now: where a cancelled send took nothing, nothing is lost
        self._headers_out = True
        self._idle_since = self._quiet_since
        if self._stopped and self._closing_since is None and not last:
            self._closing_since = monotonic()
            raise asyncio.CancelledError

    async def _write(self, message: Message) -> None:
        self._sending_since = monotonic()
        try:
            await self._send(message)
        except OSError:
            # ASGI 2.4: a send to a client that has left raises. Older servers say nothing.
            self._gone = self._gone or "disconnected"
            self._stopped = True
            raise asyncio.CancelledError from None
        finally:
            self._sending_since = None
        self._quiet_since = monotonic()

    def _before_wait(self) -> Optional[Awaitable[None]]:
        """Something is about to wait: see that it is watched, and that what is ready goes out."""
        if self._watcher is None:
            self._arm()
        if self._attempts > ATTEMPTS:
            raise Abandoned
        if self._gone is not None or (self._sending_since is not None and self._beat is None):
            return None  # there is nobody to send to; or it is a send that is about to wait
        if self._ready or not self._headers_out:
            # Some servers hold the headers back until there is a body, if an empty one.
            return self._flush()
        return None

    def _arm(self) -> None:
        self._task = asyncio.current_task()
        self._watcher = asyncio.get_running_loop().create_task(self._watch())
        self._lifecycle.opened(self)
        self._tick()

    async def _watch(self) -> None:
        """Wait for the client's leaving: only `receive()` tells of it."""
        try:
            if (await self._receive())["type"] != "http.disconnect":
                # A middleware that gives the body out again and again: asking on would never end.
                logger.warning(
                    "receive() repeats itself: the client's leaving goes unnoticed request_id=%s",
                    self._turn.request_id,
                )
                return
        except OSError:
            pass  # a server's other way to say so
        except Exception:
            # Without it nobody would notice the client's leaving, so it counts as having left.
            logger.exception("receive failed request_id=%s", self._turn.request_id)
        self._interrupt(gone="disconnected")

    def shut_down(self) -> None:
        """End with `shutting_down`, from the drain."""
        self._interrupt(end=ShuttingDown("The server is shutting down; try again"))

    def _interrupt(self, *, end: Optional[ChatError] = None, gone: Optional[str] = None) -> None:
        """Decide the end of the stream from outside of its task; the first cause wins.

        That the client is gone overrules any other, as nothing can be sent any more.
        """
        if self._over or self._gone is not None:
            return
        sending = self._sending_since is not None
        if gone is not None:
            self._gone = gone
            self._stopped = True
        elif self._end is not None:
            return
        else:
            self._end = end
            self._end_at = monotonic()
            if self._terminal is not None:
                return  # too late to say so, but the client has less time for the last frame now
            self._stopped = True
            if sending:
                return  # a frame that is on its way is not torn: `_flush` and `_beat` see to it
        if sending or self._closing_since is None:
            self._cancel()

    def _cancel(self) -> None:
        if self._closing_since is None:
            self._closing_since = monotonic()
        assert self._task is not None
        self._task.cancel()
        self._cancels += 1

    def _tick(self) -> None:
        """Do what is due, and come again when the next thing may be."""
        now = monotonic()
        due, act = min(self._agenda(), key=itemgetter(0))
        if due <= now:
            act()
            due, act = min(self._agenda(), key=itemgetter(0))
        # The state may change at once after this, and with it what is due; no sooner than this.
        due = min(due, now + self._settings.shortest_limit)
        self._timer = asyncio.get_running_loop().call_later(due - now, self._tick)

    def _agenda(self) -> List[Tuple[float, Callable[[], None]]]:
        """What may be due in the present state, each with its time."""
        limits = self._settings
        agenda: List[Tuple[float, Callable[[], None]]] = [(math.inf, lambda: None)]

        def add(since: float, seconds: Optional[float], act: Callable[[], None]) -> None:
            if seconds is not None:
                agenda.append((since + seconds, act))

        def limit(since: float, seconds: Optional[float], what: str) -> None:
            if seconds is not None and self._end is None:
                end = ReplyTimeout(f"{what} within {seconds:g} seconds")
                add(since, seconds, partial(self._interrupt, end=end))

        if self._closing_since is not None:
            patience = limits.close_timeout + self._attempts * ATTEMPT_SECONDS
            add(self._closing_since, patience, self._insist)
            return agenda
        limit(self._started, limits.total_timeout, "The reply did not end")
        if self._sending_since is not None:
            stalled = partial(self._interrupt, gone="stalled")
            add(self._sending_since, limits.send_timeout, stalled)
            if self._end is not None:
                add(max(self._sending_since, self._end_at), limits.close_timeout, stalled)
            return agenda
        if self._first_chunk_at is None:
            limit(self._started, limits.first_chunk_timeout, "No token came")
        else:
            limit(self._idle_since, limits.idle_timeout, "No further token came")
        if self._beat is None:
            add(self._quiet_since, limits.heartbeat_seconds, self._start_heartbeat)
        return agenda

    def _start_heartbeat(self) -> None:
        # A task of its own: the request's task is busy waiting for the responder.
        self._beat = asyncio.get_running_loop().create_task(self._heartbeat())

    async def _heartbeat(self) -> None:
        try:
            await self._write({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
        except asyncio.CancelledError:
            if self._gone is None:
                raise
        finally:
            self._beat = None
        waiting = self._closing_since is None and self._terminal is None and not self._over
        if self._stopped and waiting:
            self._cancel()  # the end was decided while this was on its way

    def _insist(self) -> None:
        """Cancel once more a responder that has had its time to end."""
        if self._attempts == 0:
            logger.error(
                "responder did not end within %g s of its cancellation request_id=%s",
                self._settings.close_timeout,
                self._turn.request_id,
            )
        self._attempts += 1
        self._cancel()

    def _judge(self, error: asyncio.CancelledError) -> Optional[asyncio.CancelledError]:
        """`error`, if it came from outside and is to be passed on when the stream has been ended.

        It is our own where we decided the end, and the responder's own bug where it awaited
        something that was cancelled elsewhere. Before Python 3.11 a task does not tell whether it
        was asked to cancel; there, what we did not decide counts as from outside.
        """
        cancelling = getattr(asyncio.current_task(), "cancelling", None)
        decided = self._stopped
        if not decided if cancelling is None else cancelling() > self._cancels:
            return error
        if not decided and self._terminal is None:
            bug = RuntimeError("the responder was cancelled, but not by its stream")
            bug.__cause__ = error
            self._fail(bug)
        return None

    def _release(self) -> None:
        """Let go of all that a stream holds, and log how it ended."""
        self._over = True
        if self._task is not None:
            for child in (self._watcher, self._timer, self._beat):
                if child is not None:
                    child.cancel()
            self._lifecycle.closed(self)
            uncancel = getattr(self._task, "uncancel", None)
            if uncancel is not None:
                for _ in range(self._cancels):
                    uncancel()
        tally = self._tally
        first = self._first_chunk_at if tally.chunks else None
        done = isinstance(self._terminal, Done)
        outcome = "done" if tally.error is None else tally.error.code
        logs.chat_ended(
            {
                "request_id": self._turn.request_id,
                "conversation_id": self._turn.conversation_id,
                "outcome": self._gone or outcome,
                "chunks": tally.chunks,
                "tokens": tally.usage().tokens if done or tally.produced else 0,
                "first_chunk_ms": None if first is None else _milliseconds(first - self._started),
                "total_ms": _milliseconds(monotonic() - self._started),
            }
        )


def _unencodable(event: Event, error: Exception) -> StreamError:
    failure = StreamError(f"{type(event).__name__} cannot be encoded")
    failure.__cause__ = error
    return failure


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)
