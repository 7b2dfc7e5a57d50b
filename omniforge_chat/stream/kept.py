"""A stream whose reply is kept, and one that reads a kept reply.

If the client of a KeptStream leaves, the stream goes on as it is, in the same task; only its sends
are left out. So the limits, the drain and the log are those of every stream. It ends when the reply
does, when it is stopped, or when for some time nobody has read the reply.
"""

from __future__ import annotations

import asyncio
from math import inf
from time import monotonic
from typing import Any

from msgspec.structs import asdict, replace
from starlette.types import Message as ASGIMessage

from ..core.kept import Recorder
from ..errors import Abandoned, ChatError, ShuttingDown
from ..observer import ChatEnd, ReadEnd, tell
from ..replay import Recording
from ..settings import Settings
from .envelope import Headers
from .response import EventStream
from .transitions import Action
from .whole import WholeReply

STOPPED = "stopped"
"""The reason why a reply has ended that was stopped."""

FOLLOWED_SECONDS = 2.0
"""How long after the last sign of a reader a reply counts as being read: some are at other workers,
which tell of theirs now and then."""


class Stopped(ChatError):
    """Somebody has stopped the reply. No client sees it: the reply is then complete."""


class KeptWholeReply(WholeReply):
    """A WholeReply whose pieces go to `recorder`, too."""

    __slots__ = ("_recorder",)

    def __init__(self, *arguments: Any, recorder: Recorder, thoughts: bool) -> None:
        super().__init__(*arguments, thoughts=thoughts)
        self._recorder = recorder

    def sent(self) -> None:
        """Keep the pieces of `ready`, here and there."""
        if self.ready:
            self._recorder.add(self.ready)
        super().sent()


class KeptStream(EventStream):
    """The response to a chat whose reply goes to `recording`, and outlives its client.

    It outlives it until for `grace` seconds nobody has read it; with 0 it does not.
    """

    _recording: Recording
    _reply_id = ""
    _left = False
    _gives_up = False

    def keep(self, recording: Recording, reply_id: str, *, grace: float, headers: Headers) -> None:
        """Call this before `respond`."""
        self._recording = recording
        self._reply_id = reply_id
        self.headers = (*self.headers, *headers)
        if grace > 0:
            self._state.keep(grace, stalled=self._abort is not None)
        recording.stop = self.stop

    def stop(self) -> None:
        """End the reply as complete, with what there is of it."""
        self._act(self._state.end(monotonic(), Stopped("The reply was stopped")))

    @property
    def followed(self) -> bool:
        """Whether somebody reads the reply now, as far as is known here."""
        return monotonic() - self._recording.followed_at < FOLLOWED_SECONDS

    def give_way(self) -> None:
        """End the reply, as its place is needed and nobody reads it."""
        cause = Abandoned("Nobody was there for the reply when its place was needed")
        self._act(self._state.end(monotonic(), cause))

    def _not_sent(self, error: BaseException, last: bool) -> bool:
        state, ours = self._state, self._cancellation
        if isinstance(error, asyncio.CancelledError):
            if self._gives_up and ours is not None:
                self._gives_up = False
                ours.retract()
                if not (ours.from_outside or state.stopped):
                    return self._keep_unsent(last)
        elif isinstance(error, Exception):
            if isinstance(error, OSError):
                state.client_left(monotonic(), "disconnected")
                self._go_away(sending=False)
            if state.away_since is not None:
                return self._keep_unsent(last)  # no failure of a send matters any more
        return super()._not_sent(error, last)

    def _keep_unsent(self, last: bool) -> bool:
        """Keep the pieces of a send that nobody waits for: it may not have come to its frames."""
        failed = self._reply.error
        self._reply.frames(last=last)
        if self._reply.error is not failed:
            self._state.stop()  # as in `_flush`
        return False

    def _act(self, action: Action) -> None:
        super()._act(action)
        if action is Action.ABORT and self._abort is not None:
            self._abort()
        self._go_away(sending=self._state.left_at_send)

    def _go_away(self, *, sending: bool) -> None:
        """Leave out all sends, if the client has just left and the reply goes on.

        One that is under way need not end: some servers let it wait for the client.
        """
        if self._state.away_since is None or self._left:
            return
        self._left = True
        self._send = _to_nobody
        self._lifecycle.went_away(self)
        if self._beat is not None and not self._beat.done():
            self._beat.cancel()  # a piece may wait for it
        elif sending and self._cancellation is not None:
            self._gives_up = True
            self._cancellation.cancel()
        if self._timer is not None:
            self._timer.cancel()  # something else is due next
            self._timer = asyncio.get_running_loop().call_later(0.0, self._tick)

    def _tick(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        before, followed_at = monotonic(), self._recording.followed_at
        # While somebody reads, the time in which somebody may come back does not begin.
        self._state.followed_at = inf if followed_at >= before else followed_at
        super()._tick()

    async def _finish(self) -> Action:
        reply = self._reply
        if isinstance(self._state.cause, Stopped) and not reply.ended:
            reply.finish_reason = STOPPED
            reply.complete = True
        return await super()._finish()

    def _release(self) -> None:
        reply, state, recording = self._reply, self._state, self._recording
        if not reply.ended:
            left = state.gone is not None and state.away_since is None
            ended = ShuttingDown("The server ended the reply")
            reply.fail(state.cause or (Abandoned("The client has left") if left else ended))
        if reply.last is None:
            reply.frames(last=True)  # nobody gets them, but they are known to have an encoding
            reply.sent()
        super()._release()
        self._lifecycle.ended(self)
        recording.stop = _nothing  # it would keep this stream
        if reply.last is not None:
            recording.end(reply.last)

    def _tell(self, end: ChatEnd) -> None:
        state, outcome, away = self._state, end.outcome, None
        if state.away_since is not None:
            away = monotonic() - state.away_since
            outcome = "done" if self._reply.error is None else self._reply.error.code
        followers = self._recording.followers
        super()._tell(
            replace(end, outcome=outcome, reply_id=self._reply_id, followers=followers, away=away)
        )


async def _to_nobody(message: ASGIMessage) -> None:
    """The send of a stream whose client has left."""


def _nothing() -> None:
    """The stop of a reply that has ended."""


def without_limits(settings: Settings) -> Settings:
    """`settings` for a stream that reads a kept reply, whose producer has the limits."""
    # `replace` of msgspec 0.20 would check nothing.
    off = dict.fromkeys(("first_chunk_timeout", "idle_timeout", "total_timeout"))
    return Settings(**{**asdict(settings), **off})


class FollowingStream(EventStream):
    """The response to a client that reads a kept reply."""

    _reply_id = ""
    _after = 0

    def follow(self, reply_id: str, after: int, headers: Headers) -> None:
        """Call this before `respond`."""
        self._reply_id = reply_id
        self._after = after
        self._unstarted = ()  # the reply has begun elsewhere
        self.headers = (*self.headers, *headers)

    def _start(self) -> ASGIMessage:
        start = super()._start()
        # A lost reply has no conversation.
        start["headers"] = [pair for pair in start["headers"] if pair[1]]
        return start

    def _tell(self, end: ChatEnd) -> None:
        self.tokens = 0  # those who have asked for the reply have paid
        read = ReadEnd(
            end.turn.request_id,
            end.turn.conversation_id,
            self._reply_id,
            end.outcome,
            self._after,
            end.seconds,
            end.sent_bytes,
            end.heartbeats,
        )
        tell(self._lifecycle.observers.reply_read, read)
