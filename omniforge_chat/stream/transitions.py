"""The phases of a stream, and the consequence of each event in them: the machine as one table.

A stream is always in one phase, named after the thing it waits for. An event that has no row in a
phase changes nothing. Four ideas explain the rows:

1. *The end is decided once, by the first cause.* A limit or the drain decides it (END). If the
   client leaves (LEFT), that overrules both, as nothing can be sent any more. A send that is under
   way is not torn for END: the client would get half a frame. END acts when the send has ended.
2. *Each cause cancels once.* After that the responder has `cleanup_timeout` to end. If it does not,
   it is cancelled again (INSIST) up to ATTEMPTS times, and then given up.
3. *A reply that is kept goes on without its client.* If the client leaves, or does not read, the
   stream is AWAY: its pieces are kept for a client that comes back, and sends are left out. A
   limit, a stop, the drain, or the end of the time in which somebody may come back, ends it (END).
4. *Heartbeats go beside.* While one is on its way, the stream still waits for its responder; pieces
   that become ready meanwhile wait for it. To the client's slowness it counts as a send.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Dict, List, Tuple


# IntEnum, as the keys of a table are hashed in C then; Enum hashes its members in Python.
class Phase(IntEnum):
    """The thing that a stream waits for."""

    WAITING = 0
    SENDING = 1
    CLEANING_UP = 2
    FINISHING = 3
    OVER = 4
    AWAY = 5


class Event(IntEnum):
    """Anything that can happen to a stream."""

    meaning: str

    def __new__(cls, number: int, meaning: str) -> Event:
        event = int.__new__(cls, number)
        event._value_ = number
        event.meaning = meaning
        return event

    READY = 0, "the responder is about to wait, and there is something to send"
    QUIET = 1, "nothing was sent for the heartbeat interval"
    TAKEN = 2, "a send has ended well"
    TAKEN_LATE = 3, "a send has ended well, and meanwhile the end was decided"
    TAKEN_ENDED = 4, "a send has ended well, and the responder had ended before it"
    TORN = 5, "a send was cancelled from outside"
    TORN_ENDED = 6, "a send was cancelled from outside, and the end was decided before it"
    FAILED = 7, "a send has failed, but not because the client has left"
    ENDED = 8, "the responder has no more to say"
    END = 9, "a limit, or the drain, ends the stream"
    LEFT = 10, "the client has left, or does not read"
    INSIST = 11, "the responder has had its time to clean up"
    REFUSED = 12, "the responder was cancelled often enough"
    CLOSED = 13, "the responder is closed, or given up"
    CLOSED_UNHEARD = 14, "the responder is closed, and the client has left"
    CLOSED_STALLED = 15, "the responder is closed, and the client does not read"
    LEFT_KEPT = 16, "the client has left, and the reply is kept"
    STALLED_KEPT = 17, "the client does not read, and the reply is kept"


class Action(Enum):
    """The answer to an event: the shell is to do this."""

    NOTHING = "nothing"
    FLUSH = "send what is ready"
    HEARTBEAT = "send a heartbeat"
    CANCEL = "cancel the responder"
    GIVE_UP = "give the responder up"
    ABORT = "drop the connection"


_W, _S, _C, _F, _O, _A = Phase
_NOTHING, _FLUSH, _HEARTBEAT, _CANCEL, _GIVE_UP, _ABORT = Action

TRANSITIONS: Dict[Tuple[Phase, Event], Tuple[Phase, Action]] = {
    (_W, Event.READY): (_S, _FLUSH),
    (_W, Event.QUIET): (_W, _HEARTBEAT),
    (_W, Event.ENDED): (_C, _NOTHING),
    (_W, Event.END): (_C, _CANCEL),
    (_W, Event.LEFT): (_C, _CANCEL),
    (_W, Event.LEFT_KEPT): (_A, _NOTHING),
    (_W, Event.STALLED_KEPT): (_A, _ABORT),
    (_S, Event.TAKEN): (_W, _NOTHING),
    (_S, Event.TAKEN_LATE): (_C, _CANCEL),
    (_S, Event.TAKEN_ENDED): (_C, _NOTHING),
    (_S, Event.TORN): (_W, _NOTHING),
    (_S, Event.TORN_ENDED): (_C, _NOTHING),
    (_S, Event.FAILED): (_C, _CANCEL),
    (_S, Event.ENDED): (_C, _NOTHING),
    (_S, Event.LEFT): (_C, _CANCEL),
    (_S, Event.LEFT_KEPT): (_A, _NOTHING),
    (_S, Event.STALLED_KEPT): (_A, _ABORT),
    (_A, Event.READY): (_A, _FLUSH),
    (_A, Event.ENDED): (_C, _NOTHING),
    (_A, Event.END): (_C, _CANCEL),
    (_C, Event.READY): (_S, _FLUSH),
    (_C, Event.INSIST): (_C, _CANCEL),
    (_C, Event.REFUSED): (_C, _GIVE_UP),
    (_C, Event.CLOSED): (_F, _FLUSH),
    (_C, Event.CLOSED_UNHEARD): (_O, _NOTHING),
    (_C, Event.CLOSED_STALLED): (_O, _ABORT),
    (_F, Event.TAKEN): (_O, _NOTHING),
    (_F, Event.CLOSED): (_F, _FLUSH),  # a send of the last frame was torn: it gets one more try
    (_F, Event.LEFT): (_C, _CANCEL),
}


# The same as a list for each phase, with a place for each event: faster than the dict
# (tests.bench.tricks).
TABLE: List[List[Tuple[Phase, Action]]] = [
    [TRANSITIONS.get((phase, event), (phase, _NOTHING)) for event in Event] for phase in Phase
]
