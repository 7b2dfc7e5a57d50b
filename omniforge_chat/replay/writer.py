"""The replies that this process produces, on their way to Redis.

Nothing waits for Redis: what is added is noted here, and stored by the next round of the pump. All
of a reply's text is held until it has ended and is stored, so that it can be put in again if the
server has lost it, and read here without asking.

Two bounds hold for the memory of all replies together. Above half of it, the text of the longest
replies is let go of as soon as it is stored. Above all of it, Redis is away or too slow, and the
longest replies are kept no more.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

import msgspec

from ..logs import logger
from ..stores import Command, Keys, StoreUnreadable
from .live import GAP, LiveReply
from .produced import Produced
from .pulse import Pulse
from .pump import Pump
from .shelf import Shelf
from .stored import (
    ADD,
    CLOSED,
    END,
    FORGOTTEN,
    GONE,
    LIST,
    LOSE,
    WRONG,
    Begin,
    Lives,
    encode_end,
    list_key,
)

ROUND_CHARACTERS = 512 * 1024
REPLY_CHARACTERS = 200
"""How much one round stores at most, besides the last of its replies; and how many characters a
reply counts as, besides its own."""

AT_ONCE = 100
"""How many replies a round prepares before the event loop goes on with others. For 300 replies, the
line `pauses` of `python -m tests.bench.replay` said 1.3 ms without this, and says 0.7 to 0.9."""

TOGETHER = 500
"""How many replies one script adds to: nobody else is served meanwhile."""

MAX_UNKNOWN = 1_000

GIVE_UP_SECONDS = 60.0
"""How long after its end somebody tries to store a reply."""

_pack = msgspec.msgpack.Encoder().encode


class _Job(NamedTuple):
    """What a round stores of a reply: the text up to a position, and perhaps its end.

    `added` is that for ADD.
    """

    reply: Produced
    position: int
    ends: bool
    added: Tuple[Any, ...]


class _Note(NamedTuple):
    """A further command of a round: that a reply is lost, or which conversation it belongs to."""

    reply: Produced
    loses: bool
    command: Command


class Writer:
    """The replies that are produced here: a Home for them, and a Part of the pump."""

    def __init__(self, keys: Keys, pump: Pump, pulse: Pulse, lives: Lives, limit: int) -> None:
        self.replies: Shelf[Produced] = Shelf()
        self._keys = keys
        self._pump = pump
        self._pulse = pulse
        self._lives = lives
        self._limit = limit  # in bytes
        self._held = 0
        self._dirty: Dict[Produced, None] = {}
        self._jobs: List[_Job] = []  # of the round that is on its way
        self._notes: List[_Note] = []  # likewise
        self._unknown: Dict[str, None] = {}  # others read them, and believe that they run here
        self._closed = False

    def record(self, reply_id: str, conversation_id: str, owner: str) -> Produced:
        key = self._keys.reply(reply_id)
        reply = Produced(self, reply_id, key, conversation_id, owner)
        self.replies.add(reply)
        self.changed(reply)
        self._pump.hurry()  # until it is stored, other workers neither find nor delete it
        return reply

    def heard_stop(self, reply_id: str) -> None:
        """Somebody stops a reply at another worker."""
        reply = self.replies.get(reply_id)
        if reply is not None:
            reply.request_stop()

    def heard_forget(self, reply_id: str) -> None:
        """Somebody deletes a reply at another worker."""
        reply = self.replies.get(reply_id)
        if reply is not None:
            self.forget(reply)

    def heard_followed(self, message: str) -> None:
        """Replies are being read at another worker: for each, how many more have come there."""
        for word in message.split():
            reply_id, _, readers = word.partition(":")
            reply = self.replies.get(reply_id)
            if reply is not None and readers.isdigit():
                reply.seen(int(readers))
            elif reply is None and not self._closed and len(self._unknown) < MAX_UNKNOWN:
                self._unknown[reply_id] = None
                self._pump.wake()

    def heard_missing(self, reply_id: str) -> None:
        """Somebody looks for a reply that should be in the store."""
        reply = self.replies.get(reply_id)
        if reply is not None:
            self.changed(reply)

    @property
    def unstored(self) -> int:
        """The number of characters that are not stored yet."""
        return sum(reply.length - reply.stored for reply in self.replies if not reply.closed)

    def forget(self, reply: Produced) -> None:
        """Stop a reply, and keep nothing of it."""
        reply.closed = True
        reply.lose()
        self._remove(reply)
        reply.request_stop()

    def aclose(self) -> None:
        """Let go of everything. What is not stored by now never is."""
        self._closed = True
        unsaved = len(self._dirty)
        if unsaved:
            logger.error("%d replies were not stored whole, as the store is out of reach", unsaved)
        for reply in list(self.replies):
            reply.closed = True
            reply.lose()
            self._remove(reply)

    # See Home

    def changed(self, reply: LiveReply) -> None:
        if reply.awaited:
            self._pulse.wake(reply)
        if isinstance(reply, Produced) and not reply.closed and reply in self.replies:
            self._dirty[reply] = None
            self._pump.wake()

    def grew(self, reply: LiveReply, size: int) -> None:
        self._held += size
        while size > 0 and self._held > self._limit:
            largest = max(self.replies, key=lambda reply: reply.held)
            if not largest.held:
                break
            largest.lose()

    def ended(self, reply: LiveReply) -> None:
        if isinstance(reply, Produced) and reply in self.replies:
            reply.ended_at = monotonic()
            if reply.closed:
                self._remove(reply)
            else:
                self._dirty[reply] = None
                self._pump.hurry()

    # See Part

    @property
    def busy(self) -> bool:
        return bool(self._dirty or self._unknown)

    async def commands(self, worker: str) -> Sequence[Command]:
        self._jobs, self._notes, room = [], [], ROUND_CHARACTERS
        for number, reply in enumerate(list(self._dirty)):
            if room <= 0:
                self._pump.hurry()
                break
            if number % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
            if reply not in self._dirty:
                continue  # it was let go of meanwhile
            del self._dirty[reply]
            reply.noted = False
            position, begin = reply.length, None
            if reply.lost or not reply.begun:
                begin = Begin(worker, reply.conversation_id, reply.owner)
                self._notes.append(self._note(reply, begin))
            if not reply.lost:
                room -= REPLY_CHARACTERS + position - reply.stored
                last = reply.last and encode_end(reply.last, position)
                added = (reply.stored, reply.take(position), begin or False, last or False)
                self._jobs.append(_Job(reply, position, last is not None, added))
        # What others have deleted while this was prepared must not be there again.
        self._jobs = [job for job in self._jobs if job.reply in self.replies]
        self._notes = [note for note in self._notes if note.reply in self.replies]
        adds = []
        for first in range(0, len(self._jobs), TOGETHER):
            jobs = self._jobs[first : first + TOGETHER]
            packed = _pack([job.added for job in jobs])
            adds.append(ADD([job.reply.key for job in jobs], packed, *self._lives))
        return [*adds, *(note.command for note in self._notes), *self._ends()]

    def _note(self, reply: Produced, begin: Begin) -> _Note:
        if reply.lost:
            gap = encode_end(GAP, None)
            return _Note(reply, True, LOSE([reply.key], *begin, gap, self._lives.running))
        index = list_key(self._keys, reply.conversation_id, reply.owner)
        return _Note(reply, False, LIST([index], reply.reply_id, sum(self._lives)))

    def _ends(self) -> List[Command]:
        """End what is not produced here any more. Most have an end already, and are left alone.

        Of the others, the server has lost the end, after it had said that it was stored.
        """
        unknown, self._unknown = self._unknown, {}
        keys, end = map(self._keys.reply, unknown), encode_end(GAP, None)
        return [END([key], end, self._lives.ended) for key in keys]

    def answered(self, answers: Sequence[Any]) -> None:
        jobs, self._jobs = self._jobs, []
        notes, self._notes = self._notes, []
        for first in range(0, len(jobs), TOGETHER):
            some = jobs[first : first + TOGETHER]
            stored, *answers = answers
            if isinstance(stored, StoreUnreadable):
                logger.error("redis: replies cannot be stored: %s", stored)
                stored = [WRONG] * len(some)
            for job, answer in zip(some, stored):
                self._stored(job, answer)
        for note, answer in zip(notes, answers):
            if isinstance(answer, StoreUnreadable):
                reply_id = note.reply.reply_id
                logger.error("redis: the reply %s cannot be noted: %s", reply_id, answer)
            if note.loses:
                self._close(note.reply)
        if self._held > self._limit // 2:
            self._let_go()

    async def check(self) -> None:
        pass

    def failed(self) -> None:
        for job in self._jobs:
            job.reply.go_to(job.reply.stored)
        self._jobs, self._notes = [], []
        now, given_up = monotonic(), 0
        for reply in list(self.replies):
            if now - reply.ended_at > GIVE_UP_SECONDS:
                given_up += 1
                self._remove(reply)
            elif not reply.closed:
                # Those that are silent, too: the server may come back without them.
                self._dirty[reply] = None
        if given_up:
            logger.error("%d ended replies could not be stored, and are kept no more", given_up)

    def _stored(self, job: _Job, answer: int) -> None:
        """The store's answer: the position at which the reply ends there, or why it has none."""
        reply = job.reply
        if reply not in self.replies:
            return  # it was deleted meanwhile
        if answer == job.position:
            reply.begun = True
            reply.stored = answer
        elif answer == CLOSED and job.ends:
            self._remove(reply)
        elif answer == FORGOTTEN:
            self.forget(reply)
        elif answer == CLOSED:
            self._close(reply)  # others took this worker for dead
        elif answer == WRONG or answer > reply.length:
            logger.error("redis: the key %s holds something else than its reply", reply.key)
            self._close(reply)
        else:
            reply.begun = answer != GONE
            if not reply.go_to(max(answer, 0)):
                reply.lose()
            self._dirty[reply] = None

    def _close(self, reply: Produced) -> None:
        """Store nothing more of it. Until it ends, it can still be read here."""
        reply.closed = True
        self._dirty.pop(reply, None)
        if reply.last is not None and reply in self.replies:
            self._remove(reply)

    def _remove(self, reply: Produced) -> None:
        self.replies.remove(reply)
        self._dirty.pop(reply, None)
        self._held -= reply.held

    def _let_go(self) -> None:
        for reply in sorted(self.replies, key=lambda reply: reply.held, reverse=True):
            if self._held <= self._limit // 4:
                break
            if reply.length == reply.stored:
                reply.let_go()
