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
    closing    the responder's       its end; after `cleanup_timeout` it is cancelled again, and at
               clean-up              last given up
    ending     the client, for the   its end; the client leaves; `send_timeout`, or
               last frame            `cleanup_timeout` once a deadline, the drain or a cancel has
                                     ended it

`waiting` and `sending` alternate; `closing` is skipped where the responder has ended by itself;
`ending` is skipped where the client is gone. When a stream first waits it gets a child task, which
watches for the client's leaving, and one timer, which fires when the next thing may be due. Both
only ever decide the cause of the end (`_interrupt`); the request's own task does the rest.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Awaitable, Callable, Optional

from starlette.types import Message, Receive, Send

from .. import request_id
from ..core.cancellation import COUNTS_CANCELS, Canceller
from ..core.driver import Abandoned, drive
from ..core.reply import Reply, Responder, converse
from ..core.sse import HEARTBEAT, encode, encode_chunks, encode_leading
from ..errors import ChatError, ReplyTimeout, ShuttingDown, StreamError
from ..logs import chat_ended, logger
from ..models import Done, Event, Turn
from ..settings import Settings
from .lifecycle import Lifecycle
from .state import ATTEMPTS, Due, Timetable

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventStream:
    """The response to one chat: it answers `turn` with `responder`, and tells how it ended.

    Exactly one terminal frame is the last thing sent, unless the client has left or does not read;
    then the responder is cancelled and closed, and `abort`, where the server offers it, drops the
    connection with all that is unsent. Where `unsent` tells how many bytes that is, a client that
    takes some of them reads, however slowly; otherwise it is one that takes what a `send` brings.
    """

    def __init__(
        self,
        turn: Turn,
        responder: Responder,
        settings: Settings,
        lifecycle: Lifecycle,
        receive: Receive,
        send: Send,
        abort: Optional[Callable[[], None]] = None,
        unsent: Optional[Callable[[], int]] = None,
    ) -> None:
        self._turn = turn
        self._responder = responder
        self._settings = settings
        self._lifecycle = lifecycle
        self._receive = receive
        self._send = send
        self._abort = abort
        self._unsent = unsent
        self._reply = Reply(turn)
        self._times = Timetable(settings, monotonic())

    # What a stream begins with; one that never waits leaves most of it as it is.
    _begun = False  # the start of the response has been sent
    _headers_out = False  # and something behind it, without which some servers hold it
    _torn = False  # a send was cancelled
    _ending = False  # the responder has ended
    _over = False
    _terminal: Optional[Event] = None  # encoded already; nothing may follow it
    _end: Optional[ChatError] = None  # why it ends before the responder does
    _gone: Optional[str] = None  # how the client left: "disconnected" or "stalled"
    # What a stream has of its own once it has waited.
    _canceller = Canceller()
    _watcher: Optional[asyncio.Task[None]] = None
    _timer: Optional[asyncio.TimerHandle] = None
    _beat: Optional[asyncio.Task[None]] = None

    async def respond(self) -> None:
        """Send the whole response, and log how it ended."""
        cancelled: Optional[asyncio.CancelledError] = None
        steps = self._run
        try:
            while not self._over and self._gone is None:
                try:
                    await drive(steps(), self._before_wait)
                except asyncio.CancelledError as error:
                    if self._ending and cancelled is not None:
                        break  # asked twice, the server is not kept waiting for the client
                    cancelled = self._judge(error)
                    if self._ending:
                        if self._gone is None:
                            cancelled = error
                        # The last frame gets one more try, with `cleanup_timeout` to be taken.
                        self._end_early()
                except Abandoned:
                    refuses = "send" if self._ending else "responder"
                    logger.error("%s given up request_id=%s", refuses, self._turn.request_id)
                except (GeneratorExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    if self._ending:
                        raise
                    # It is of a kind of its own, as the panics of extension modules are; or a
                    # SystemExit, which is not a responder's to raise while others are served.
                    self._reply.fail(error)
                steps = self._finish
        finally:
            self._release()
        if self._gone == "stalled" and self._abort is not None:
            self._abort()
            await asyncio.sleep(0)  # the server hears of it in the next turn of the loop
        if cancelled is not None:
            raise cancelled

    async def _run(self) -> None:
        """The whole response; where something comes between, `_finish` is called again."""
        await converse(self._turn, self._responder, self._reply)
        await self._finish()

    async def _finish(self) -> None:
        """The terminal frame, if it is still owed, and the end of the response."""
        self._ending = True
        self._reply.closing = False
        self._times.closing_since = None
        self._times.attempts = 0  # the responder has ended, if late
        if self._gone is not None:
            return
        if not self._reply.ended:
            self._reply.fail(self._end_early())
        await self._flush(last=True)
        self._over = True

    def _end_early(self) -> ChatError:
        if self._end is None:
            self._end = ShuttingDown("The server ended the reply")
        self._times.end_at = monotonic()
        return self._end

    def _encode(self, *, last: bool) -> bytes:
        """The frames of what is ready; what cannot be encoded ends the stream."""
        reply = self._reply
        try:
            body = encode_chunks(reply.ready)
        except (TypeError, ValueError) as error:
            body, count = encode_leading(reply.ready)
            del reply.ready[count:]
            reply.fail(_unencodable("a piece of text", error))
            reply.stop()
        if not last:
            return body
        try:
            self._terminal = reply.terminal()
            return body + encode(self._terminal)
        except (TypeError, ValueError) as error:
            reply.fail(_unencodable("what ended it", error))
            reply.reported = None  # it may be what cannot be encoded
            self._terminal = reply.terminal()
            return body + encode(self._terminal)

    async def _flush(self, *, last: bool = False) -> None:
        """Send what is ready. Raises CancelledError where the end was decided meanwhile."""
        while self._beat is not None and not self._beat.done():
            await asyncio.wait([self._beat])
        reply, times = self._reply, self._times
        body = self._encode(last=last)
        times.sending_since = monotonic()
        try:
            if not self._begun:
                await self._send(self._start())
                self._begun = True
            await self._send({"type": "http.response.body", "body": body, "more_body": not last})
        except asyncio.CancelledError:
            self._torn = True
            raise
        except OSError:
            self._left()
            self._close()
            raise asyncio.CancelledError from None
        except Exception as error:
            if last:
                raise
            # The server, or a middleware, failed to send. That is no business of the responder's,
            # which might catch it and go on for ever: it is told to end as ever.
            reply.fail(error)
            reply.stop()
            self._close()
            raise asyncio.CancelledError from None
        finally:
            times.sending_since = None
        times.idle_since = times.quiet_since = monotonic()
        self._headers_out = True
        if reply.ready:
            reply.sent()  # only now: where a cancelled send took nothing, nothing is lost
            times.chunks_came = True
        if reply.closing:
            self._close()
        if reply.stopped and times.closing_since is None and not last:
            self._close()
            raise asyncio.CancelledError

    def _start(self) -> Message:
        turn = self._turn
        headers = [
            *_HEADERS,
            (b"x-conversation-id", turn.conversation_id.encode("ascii")),
            (request_id.HEADER, turn.request_id.encode("ascii")),
        ]
        return {"type": "http.response.start", "status": 200, "headers": headers}

    def _left(self) -> None:
        """A send says that the client has left (ASGI 2.4; older servers say nothing)."""
        self._gone = self._gone or "disconnected"
        self._reply.stop()

    def _before_wait(self) -> Optional[Awaitable[None]]:
        """Something is about to wait: see that it is watched, and that what is ready goes out."""
        times, reply = self._times, self._reply
        if self._watcher is None:
            self._arm()
        if times.attempts > ATTEMPTS:
            raise Abandoned
        if (
            (reply.ready or not self._headers_out)
            # When it ends, what is left goes out with the last frame.
            and times.closing_since is None
            and not self._ending
            and not (self._torn and self._canceller.interfered)
        ):
            return self._flush()
        if reply.closing:
            self._close()
        return None

    def _arm(self) -> None:
        self._canceller = Canceller()
        self._canceller.attach()
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
        sending = self._times.sending_since is not None
        if gone is not None:
            self._gone = gone
            self._reply.stop()
        elif self._end is not None:
            return
        else:
            self._end = end
            self._times.end_at = monotonic()
            if self._reply.ended:
                return  # too late to say so, but the client has less time for the last frame now
            self._reply.stop()
            if sending:
                return  # a frame that is on its way is not torn: `_flush` and `_beat` see to it
        if sending or self._times.closing_since is None:
            self._cancel()

    def _close(self) -> None:
        """The responder is about to end, and its time for that begins."""
        if self._times.closing_since is None:
            self._times.closing_since = monotonic()

    def _cancel(self) -> None:
        self._close()
        self._canceller.cancel()

    def _tick(self) -> None:
        """Do what is due, and come again when the next thing may be."""
        now = monotonic()
        if self._unsent is not None and self._times.sending_since is not None:
            self._times.look(self._unsent(), now)
        due, what, limit = self._times.next()
        if due <= now:
            self._act(what, limit)
            due, _, _ = self._times.next()
        # The state may change at once after this, and with it what is due; no sooner than this.
        due = min(due, now + self._settings.shortest_limit)
        self._timer = asyncio.get_running_loop().call_later(due - now, self._tick)

    def _act(self, what: Due, limit: float) -> None:
        if what is Due.HEARTBEAT:
            # A task of its own: the request's task is busy waiting for the responder.
            self._times.beating = True
            self._beat = asyncio.get_running_loop().create_task(self._heartbeat())
        elif what is Due.STALLED:
            self._interrupt(gone="stalled")
        elif what is Due.INSIST:
            self._insist()
        else:
            self._interrupt(end=ReplyTimeout(f"{what.value} within {limit:g} seconds"))

    async def _heartbeat(self) -> None:
        times, reply = self._times, self._reply
        times.sending_since = monotonic()
        try:
            await self._send({"type": "http.response.body", "body": HEARTBEAT, "more_body": True})
        except OSError:
            self._left()
        except Exception:
            # The server failed to send: nobody can be told any more.
            logger.exception("heartbeat failed request_id=%s", self._turn.request_id)
            self._left()
        finally:
            times.sending_since = None
            times.beating = False
        times.quiet_since = monotonic()
        waiting = times.closing_since is None and not reply.ended and not self._over
        if reply.stopped and waiting:
            self._cancel()  # the end was decided while this was on its way

    def _insist(self) -> None:
        """Cancel once more a responder that has had its time to end."""
        if self._times.attempts == 0:
            logger.error(
                "responder did not end within %g s of its cancellation request_id=%s",
                self._settings.cleanup_timeout,
                self._turn.request_id,
            )
        self._times.attempts += 1
        self._cancel()

    def _judge(self, error: asyncio.CancelledError) -> Optional[asyncio.CancelledError]:
        """`error`, if it came from outside and is to be passed on when the stream has been ended.

        It is our own where we decided the end, and the responder's own bug where it awaited
        something that was cancelled elsewhere. Before Python 3.11 a task does not tell whether it
        was asked to cancel; there, what we did not decide counts as from outside.
        """
        decided = self._reply.stopped
        if self._canceller.interfered if COUNTS_CANCELS else not decided:
            self._canceller.acknowledge()
            return error
        if not decided and not self._reply.ended:
            bug = RuntimeError("the responder was cancelled, but not by its stream")
            bug.__cause__ = error
            self._reply.fail(bug)
        return None

    def _release(self) -> None:
        """Let go of all that a stream holds, and log how it ended."""
        told, self._over = self._over, True
        if self._watcher is not None:
            for child in (self._watcher, self._timer, self._beat):
                if child is not None:
                    child.cancel()
            self._lifecycle.closed(self)
            self._canceller.detach()
        reply, started = self._reply, self._times.started
        outcome = "done" if told else "cancelled"
        if reply.error is not None:
            outcome = reply.error.code
        # A complete reply has cost something, if it had no text.
        usage = self._terminal.usage if isinstance(self._terminal, Done) else reply.usage()
        first = reply.first_at if reply.chunks else None
        chat_ended(
            self._turn.request_id,
            self._turn.conversation_id,
            self._gone or outcome,
            reply.chunks,
            0 if usage is None else usage.tokens,
            # Milliseconds, with one decimal; round() takes three times as long.
            None if first is None else int(10_000 * (first - started) + 0.5) / 10,
            int(10_000 * (monotonic() - started) + 0.5) / 10,
        )


def _unencodable(what: str, error: Exception) -> StreamError:
    failure = StreamError(f"{what} cannot be encoded")
    failure.__cause__ = error
    return failure
