"""One open stream: the shell around its state. It encodes, sends, watches, and sets the timer.

One write per wait. While the responder goes on yielding, its pieces are gathered; at the moment
something is about to wait, and only then, they go out in one `send()` (core/driver.py). So whatever
is ready is on its way before the responder waits, and a reply that never waits costs one write, no
child task and no timer.

When a stream first waits it gets a child task, which watches for the client's leaving, and one
timer, which fires when the next thing may be due. Both, and the drain, only tell the state
(state.py); the request's own task does the rest.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Awaitable, Callable, Optional

from starlette.types import Message as ASGIMessage
from starlette.types import Receive, Send

from ..core.cancellation import COUNTS_CANCELLATIONS, Cancellation
from ..core.driver import Abandoned, drive
from ..core.reply import Reply
from ..core.responder import Responder, converse
from ..errors import ShuttingDown
from ..logs import logger
from ..observer import ChatEnd, tell, tell_end
from ..settings import Settings
from .envelope import Headers, chat_end, start_of
from .lifecycle import Lifecycle
from .state import StreamState
from .transitions import Action, Phase

ABORT = "omniforge_chat.abort"
"""An ASGI extension of our server: a callable without arguments that drops the connection."""

UNSENT = "omniforge_chat.unsent"
"""Another one: a callable that returns the number of bytes that the client has not taken yet."""

# Bound once: to look a member up by way of its class takes 75 ns on Python 3.11.
_FINISHING, _OVER = Phase.FINISHING, Phase.OVER
_NOTHING, _FLUSH, _CANCEL = Action.NOTHING, Action.FLUSH, Action.CANCEL


class EventStream:
    """The response to one chat: `responder` answers into `reply`, which tells how it ended.

    Exactly one terminal frame is the last thing sent, unless the client has left or does not read;
    then the responder is cancelled and closed, and `abort`, if the server offers it, drops the
    connection with all that is unsent. If `unsent` tells how many bytes that is, a client that
    takes some of them reads, however slowly; else it has to take all that a `send` brings.
    """

    def __init__(
        self,
        reply: Reply,
        responder: Responder,
        settings: Settings,
        lifecycle: Lifecycle,
        receive: Receive,
        send: Send,
        abort: Optional[Callable[[], None]] = None,
        unsent: Optional[Callable[[], int]] = None,
    ) -> None:
        self._reply = reply
        self._turn = reply.turn
        self._responder = responder
        self._settings = settings
        self._lifecycle = lifecycle
        self._receive = receive
        self._send = send
        self._abort = abort
        self._unsent = unsent
        self._state = StreamState(settings, monotonic())
        self._beat: Optional[asyncio.Task[None]] = None
        self._unstarted = lifecycle.observers.first_chunk  # they wait for the first chunk
        self._sent_bytes = 0
        self._heartbeats = 0

    headers: Headers = ()
    """Further headers of the response. Set them before `respond`."""
    tokens = 0
    """The tokens that the reply has cost, when it has ended."""

    # A stream has these once it has waited.
    _cancellation: Optional[Cancellation] = None
    _watcher: Optional[asyncio.Task[None]] = None
    _timer: Optional[asyncio.TimerHandle] = None

    async def respond(self) -> None:
        """Send the whole response, and log how it ended."""
        state = self._state
        cancelled: Optional[BaseException] = None
        action, steps = _NOTHING, self._answer
        try:
            while state.phase is not _OVER:
                try:
                    action = await drive(steps(), self._before_wait)
                except asyncio.CancelledError as error:
                    finishing = state.phase is _FINISHING
                    if finishing and cancelled is not None:
                        break  # asked twice, the server is not kept waiting for the client
                    cancelled = self._from_outside(error) or cancelled
                    if finishing:
                        cancelled = cancelled or error
                        state.hurry(monotonic())  # the last frame gets one more try
                except Abandoned:
                    refuses = "send" if self._reply.last is not None else "responder"
                    logger.error("%s given up request_id=%s", refuses, self._turn.request_id)
                except BaseException as error:
                    if state.phase is _FINISHING or isinstance(error, GeneratorExit):
                        raise
                    # A panic of an extension module; or SystemExit, while others are served.
                    self._reply.fail(error)
                    if isinstance(error, KeyboardInterrupt):
                        cancelled = error  # it may be a real one, so the server has to hear of it
                steps = self._finish
        finally:
            self._release()
        if self._abort is not None and action is Action.ABORT:
            self._abort()
            await asyncio.sleep(0)  # the server hears of it in the loop's next turn
        if cancelled is not None:
            try:
                raise cancelled
            finally:
                cancelled = None  # its traceback knows this frame: they would keep each other

    def _from_outside(self, error: asyncio.CancelledError) -> Optional[asyncio.CancelledError]:
        """`error`, if it came from outside and is to be passed on when the stream has been ended.

        It is ours if the end was decided, and the responder's bug if it awaited something that was
        cancelled elsewhere. Before Python 3.11 it counts as outside if the end was not decided.
        """
        stopped, ours = self._state.stopped, self._cancellation
        if COUNTS_CANCELLATIONS and ours is not None and ours.from_outside:
            ours.acknowledge()
            return error
        if not (COUNTS_CANCELLATIONS or stopped):
            return error
        if not stopped and not self._reply.ended:
            bug = RuntimeError("the responder was cancelled, but not by its stream")
            bug.__cause__ = error
            self._reply.fail(bug)
        return None

    async def _answer(self) -> Action:
        """The whole response. If something comes between, `_finish` is called again."""
        await converse(self._turn, self._responder, self._reply, self._state)
        return await self._finish()

    async def _finish(self) -> Action:
        """Send the last frame, if it is still owed; the action that is left to do."""
        state, reply = self._state, self._reply
        action = state.closed(monotonic(), reply.ended)
        if action is _FLUSH:
            if not reply.ended and state.cause is not None:
                reply.fail(state.cause)
            await self._flush(last=True)
        return action

    # Sending

    async def _flush(self, *, last: bool = False) -> None:
        """Send the ready pieces. Raises CancelledError if the end was decided meanwhile."""
        state, reply = self._state, self._reply
        try:
            if self._beat is not None and not self._beat.done():
                await asyncio.wait([self._beat])
                state.send_began(monotonic())
            failed, body = reply.error, reply.frames(last=last)
            if reply.error is not failed:
                state.stop()  # a piece could not be encoded
            if not state.begun:
                await self._send(self._start())
                state.begun = True
            await self._send({"type": "http.response.body", "body": body, "more_body": not last})
            self._sent_bytes += len(body)
        except BaseException as error:
            if self._not_sent(error, last):
                raise
        pieces = bool(reply.ready)
        reply.sent()  # only now: if a cancelled send took nothing, nothing is lost
        if self._unstarted and reply.first_at is not None:
            hooks, self._unstarted = self._unstarted, ()
            tell(hooks, self._turn, reply.first_at - state.started)
        if state.taken(monotonic(), pieces) is _CANCEL:
            raise asyncio.CancelledError

    def _not_sent(self, error: BaseException, last: bool) -> bool:
        """A send raised `error`: whether that is to go on. Raises CancelledError in its place."""
        state, now = self._state, monotonic()
        if isinstance(error, asyncio.CancelledError):
            state.torn(now)
        elif isinstance(error, OSError):
            state.client_left(now, "disconnected")  # ASGI 2.4; older servers say nothing
            raise asyncio.CancelledError from None
        elif not last:
            # The server, or a middleware, failed to send. That is no business of the responder's,
            # which might catch it and go on for ever: it is told to end as ever.
            state.failed(now)
            if isinstance(error, Exception):
                self._reply.fail(error)
                raise asyncio.CancelledError from None
        return True

    def _start(self) -> ASGIMessage:
        return start_of(self._reply, self.headers)

    # Waiting

    def _before_wait(self) -> Optional[Awaitable[None]]:
        """Something is about to wait: send the ready pieces first, and watch the stream."""
        if self._watcher is None:
            self._arm()
        state = self._state
        ours = self._cancellation
        cancelled = state.was_torn and ours is not None and ours.from_outside
        action = state.about_to_wait(monotonic(), bool(self._reply.ready), cancelled)
        if action is _FLUSH:
            return self._flush()
        if action is Action.GIVE_UP:
            raise Abandoned
        return None

    def _arm(self) -> None:
        self._cancellation = Cancellation()
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
        self._act(self._state.client_left(monotonic(), "disconnected"))

    def shut_down(self) -> None:
        """End with `shutting_down`, from the drain."""
        cause = ShuttingDown("The server is shutting down; try again")
        self._act(self._state.end(monotonic(), cause))

    def _tick(self) -> None:
        """Let the state do its timers, and come again at the next one."""
        state, now = self._state, monotonic()
        if self._unsent is not None and state.sending:
            state.look(now, self._unsent())
        action = state.timer(now)
        if action is _CANCEL and state.attempts == 1:
            logger.error(
                "responder did not end within %g s of its cancellation request_id=%s",
                *(self._settings.cleanup_timeout, self._turn.request_id),
            )
        self._act(action)
        # The state may change right after this, and set a nearer timer: by no less than this.
        due = min(state.due(), now + self._settings.shortest_limit)
        self._timer = asyncio.get_running_loop().call_later(due - now, self._tick)

    def _act(self, action: Action) -> None:
        if action is _CANCEL and self._cancellation is not None:
            self._cancellation.cancel()
        elif action is Action.HEARTBEAT:
            # A task of its own: the request's task is busy waiting for the responder.
            self._beat = asyncio.get_running_loop().create_task(self._heartbeat())

    async def _heartbeat(self) -> None:
        state, beat, taken = self._state, self._reply.format.heartbeat, False
        try:
            await self._send({"type": "http.response.body", "body": beat, "more_body": True})
            taken = True
        except OSError:
            pass  # as in `_not_sent`
        except Exception:
            # The server failed to send: nobody can be told any more.
            logger.exception("heartbeat failed request_id=%s", self._turn.request_id)
        state.beat(monotonic(), taken)
        if taken:
            self._heartbeats += 1
            self._sent_bytes += len(beat)
        else:
            self._act(state.client_left(monotonic(), "disconnected"))

    def _release(self) -> None:
        """Let go of all that a stream holds, and tell how it ended."""
        state = self._state
        outcome = "done" if state.phase is _OVER else "cancelled"
        state.abandon()
        if self._cancellation is not None:  # it has waited
            for child in (self._watcher, self._timer, self._beat):
                if child is not None:
                    child.cancel()
            self._lifecycle.closed(self)
            self._cancellation.take_back()
            # A cancelled task keeps its traceback, and so this stream.
            self._watcher = self._timer = self._beat = None
        counts = self._sent_bytes, self._heartbeats
        end = chat_end(self._reply, state, monotonic(), outcome, *counts)
        if end.usage is not None:
            self.tokens = end.usage.tokens
        self._tell(end)

    def _tell(self, end: ChatEnd) -> None:
        """Tell the observers that the chat has ended."""
        tell_end(self._lifecycle.observers.chat_ended, end)
