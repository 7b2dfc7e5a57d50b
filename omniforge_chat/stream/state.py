"""The state of one stream: no I/O, no event loop, no clock.

The shell (response.py) tells it each event and the time, does the action that it answers, and asks
it when something is next due. Phases, events and actions are those of transitions.py.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Optional, Tuple

from ..errors import Abandoned, ChatError, ReplyTimeout, ShuttingDown
from ..settings import Settings
from .transitions import TABLE, Action, Event, Phase

ATTEMPTS = 3
ATTEMPT_SECONDS = 0.05
"""How often, and how far apart, a responder that refuses to end is cancelled again at most."""

# Bound once: to look a member up by way of its class takes 75 ns on Python 3.11.
_W, _S, _C, _F, _O, _A = Phase
_NOTHING, _FLUSH = Action.NOTHING, Action.FLUSH
_TAKEN, _TAKEN_LATE, _TAKEN_ENDED = Event.TAKEN, Event.TAKEN_LATE, Event.TAKEN_ENDED
_ENDED, _CLOSED = Event.ENDED, Event.CLOSED


class _Due(Enum):
    """The subject of a timer. The text of a limit goes to the client."""

    NOTHING = ""
    FIRST_CHUNK = "No token came"
    NEXT_CHUNK = "No further token came"
    WHOLE_REPLY = "The reply did not end"
    HEARTBEAT = "heartbeat"
    STALLED = "stalled"
    INSIST = "insist"
    NOBODY = "nobody"


class StreamState:
    """The state of one stream.

    All times are of one monotonic clock, in seconds; limits are those of Settings. The attributes
    are for reading. `stopped` says that nothing the responder still yields will be read. `gone` is
    how the client left: "disconnected" or "stalled". `cause` is why the stream ends before its
    responder does. If the reply goes on without its client, `away_since` is when that left, and
    `left_at_send` whether a piece was on its way then. `followed_at` is for setting: when somebody
    else was last seen to read the reply.
    """

    _grace: Optional[float] = None
    _stalls = False
    away_since: Optional[float] = None
    left_at_send = False
    followed_at = -inf

    # All are set for each stream, though one that never waits needs few. To read a default of the
    # class costs more than to set it, and for each token there are ten such reads: that was 6 % of
    # a short reply's stream and of a paced token (`make bench`, short and paced, with `--before`).
    def __init__(self, limits: Settings, now: float) -> None:
        self._limits = limits
        self.started = now
        self.stopped = False
        self.phase = _W
        self.begun = False  # the start of the response was sent
        self.was_torn = False  # a send was cancelled
        self.cause: Optional[ChatError] = None
        self.gone: Optional[str] = None
        self.attempts = 0  # how often a responder that refuses to end was cancelled again
        self._shown = False  # something was sent behind the start, without which servers hold it
        self._ended = False  # the responder has ended
        self._decided = False  # and it is decided which event ends the reply
        self._beating = False  # a heartbeat is on its way
        self._idle_since: Optional[float] = None  # the last piece was taken
        self._quiet_since = inf  # the last frame was taken
        self._sending_since: Optional[float] = None
        self._cleaning_since: Optional[float] = None
        self._end_at: Optional[float] = None  # the end was decided before it came
        self._unsent = 0  # bytes, at the last look

    def keep(self, grace: float, *, stalled: bool) -> None:
        """The reply goes on if its client leaves, until for `grace` seconds nobody has read it.

        `stalled` says whether also if the client does not read: then its connection is dropped.
        """
        self._grace = grace
        self._stalls = stalled

    def _on(self, event: Event) -> Action:
        self.phase, action = TABLE[self.phase][event]
        return action

    # The responder

    def about_to_wait(self, now: float, ready: bool, cancelled: bool = False) -> Action:
        """The responder is about to wait: FLUSH, GIVE_UP or NOTHING.

        `ready` says that there are pieces to send. `cancelled` says that somebody outside has
        cancelled a send: then pieces go out with the last frame, as another send would be in the
        way of the end.
        """
        if (ready or not self._shown) and self._cleaning_since is None and not cancelled:
            if not self._beating:
                self._sending_since = now
            if self.phase is _W:  # the row of the table, in place: tests.bench.tricks
                self.phase = _S
                return _FLUSH
            return self._on(Event.READY)
        if self.attempts > ATTEMPTS:
            return self._on(Event.REFUSED)
        if self.phase is _C and self._cleaning_since is None:
            self._cleaning_since = now
        return _NOTHING

    def responder_ended(self, decided: bool) -> None:
        """It has no more to say, and cleans up; `decided` tells that it ended by itself."""
        self._ended = True
        self._decided = self._decided or decided
        self._on(_ENDED)

    def closed(self, now: float, decided: bool) -> Action:
        """The responder is closed, or given up: FLUSH for the last frame, or how it ends without.

        If it is not `decided` how the reply ends, it ends with `cause`.
        """
        if not self._ended:
            self._on(_ENDED)  # nobody has told: the event loop is closed, say
        self._ended = self._decided = True
        if self._cleaning_since is not None:
            self._cleaning_since = None
            self.attempts = 0
        if self.gone is not None:
            stalled = self.gone == "stalled" and self.away_since is None
            return self._on(Event.CLOSED_STALLED if stalled else Event.CLOSED_UNHEARD)
        if not decided:
            self.hurry(now)
            self.cause = self.cause or ShuttingDown("The server ended the reply")
        if not self._beating:
            self._sending_since = now
        return self._on(_CLOSED)

    def hurry(self, now: float) -> None:
        """From now on the client has `cleanup_timeout` to take the last frame."""
        self._end_at = now

    def stop(self) -> None:
        """Nothing that the responder still yields is read."""
        self.stopped = True

    # Sends

    @property
    def sending(self) -> bool:
        """Whether a send is on its way."""
        return self._sending_since is not None

    def send_began(self, now: float) -> None:
        """A send that had to wait for its turn has begun."""
        self._sending_since = now

    def taken(self, now: float, pieces: bool) -> Action:
        """A send ended well, with `pieces` in it or without: CANCEL if the end is decided."""
        self._sending_since = None
        self._shown = True
        self._quiet_since = now
        if pieces:
            self._idle_since = now
        if self.phase is not _S:
            return self._on(_TAKEN)
        if not (self._ended or self.stopped):
            self.phase = _W  # as above
            return _NOTHING
        self._cleaning_since = now
        return self._on(_TAKEN_ENDED if self._ended else _TAKEN_LATE)

    def torn(self, now: float) -> None:
        """A send was cancelled, perhaps while it waited for a heartbeat, whose time goes on."""
        if not self._beating:
            self._sending_since = None
        self.was_torn = True
        if self.phase is _S and (self._ended or self.stopped):
            self._cleaning_since = now
        self._on(Event.TORN_ENDED if self._ended or self.stopped else Event.TORN)

    def failed(self, now: float) -> Action:
        """A send failed: CANCEL, as the responder might go on for ever."""
        self._sending_since = None
        self.stopped = True
        self._cleaning_since = now
        return self._on(Event.FAILED)

    def beat(self, now: float, taken: bool) -> None:
        """A heartbeat is no longer on its way."""
        self._beating = False
        self._sending_since = None
        if taken:
            self._quiet_since = now

    def look(self, now: float, unsent: int) -> None:
        """The client has not taken `unsent` bytes of the sends so far.

        If it has taken some since the last look, though not yet all of a send, it has its time
        again; but not once the end is decided, or its slowness would put that off.
        """
        if unsent < self._unsent and self._end_at is None:
            self._sending_since = now
        self._unsent = unsent

    # The end

    def client_left(self, now: float, how: str) -> Action:
        """The client has left ("disconnected") or does not read ("stalled")."""
        if self.gone is not None or self.phase is _O:
            return _NOTHING
        self.gone = how
        stalled = how == "stalled"
        kept = self._grace is not None and (self._stalls or not stalled)
        if kept and self.phase in (_W, _S) and not (self._ended or self.stopped):
            self.away_since = now
            self.left_at_send = self.phase is _S
            self._sending_since = None
            return self._on(Event.STALLED_KEPT if stalled else Event.LEFT_KEPT)
        self.stopped = True
        return self._told(now, Event.LEFT)

    def end(self, now: float, cause: ChatError) -> Action:
        """A limit, a stop or the drain ends the stream with `cause`, if nothing else has."""
        if self.cause is not None or self.phase is _O:
            return _NOTHING
        if self.gone is not None and self.phase is not _A:
            return _NOTHING
        self.cause = cause
        self._end_at = now
        if self._decided:
            return _NOTHING  # too late to say so, but the client has less time for the last frame
        self.stopped = True
        return self._told(now, Event.END)

    def _told(self, now: float, event: Event) -> Action:
        """Tell the responder to end, if it is not about to anyway: its time for that begins."""
        action = self._on(event)
        if self.phase is _C and self._cleaning_since is None:
            self._cleaning_since = now
        return action

    def abandon(self) -> None:
        """Nobody waits for the end any more."""
        self.phase = _O

    # Timers

    def due(self) -> float:
        """When `timer` should be called next; infinite for never."""
        return self._next()[0]

    def timer(self, now: float) -> Action:
        """Time has come to `now`: the action for whatever is due."""
        due, subject, limit = self._next()
        if due > now:
            return _NOTHING
        if subject is _Due.HEARTBEAT:
            action = self._on(Event.QUIET)
            if action is Action.HEARTBEAT:
                self._beating = True
                self._sending_since = now
            return action
        if subject is _Due.STALLED:
            return self.client_left(now, "stalled")
        if subject is _Due.INSIST:
            self.attempts += 1
            return self._on(Event.INSIST)
        if subject is _Due.NOBODY:
            return self.end(now, Abandoned("Nobody came back for the reply"))
        return self.end(now, ReplyTimeout(f"{subject.value} within {limit:g} seconds"))

    def _next(self) -> Tuple[float, _Due, float]:
        """The time of the next timer, its subject, and its limit in seconds."""
        limits, sending, end_at = self._limits, self._sending_since, self._end_at
        if self.attempts > ATTEMPTS:
            return inf, _Due.NOTHING, 0.0
        if self._cleaning_since is not None:
            seconds = limits.cleanup_timeout + self.attempts * ATTEMPT_SECONDS
            return self._cleaning_since + seconds, _Due.INSIST, seconds
        best: Tuple[float, _Due, float] = (inf, _Due.NOTHING, 0.0)

        def add(subject: _Due, since: float, seconds: Optional[float]) -> None:
            nonlocal best
            if seconds is not None and since + seconds < best[0]:
                best = (since + seconds, subject, seconds)

        if end_at is None:
            add(_Due.WHOLE_REPLY, self.started, limits.total_timeout)
        if sending is not None:
            add(_Due.STALLED, sending, limits.send_timeout)
            if end_at is not None:
                add(_Due.STALLED, max(sending, end_at), limits.cleanup_timeout)
            return best
        if end_at is None:
            if self._idle_since is None:
                add(_Due.FIRST_CHUNK, self.started, limits.first_chunk_timeout)
            else:
                add(_Due.NEXT_CHUNK, self._idle_since, limits.idle_timeout)
        if self.phase is _A:
            assert self.away_since is not None
            add(_Due.NOBODY, max(self.away_since, self.followed_at), self._grace)
        elif not self._beating:
            add(_Due.HEARTBEAT, self._quiet_since, limits.heartbeat_interval)
        return best
