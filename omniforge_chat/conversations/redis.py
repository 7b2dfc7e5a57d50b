"""A store of conversations in Redis, for many processes on many machines."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from datetime import datetime, timezone
from functools import partial
from time import monotonic, time
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from msgspec.structs import replace

from ..errors import ConversationBusy, ConversationNotFound, HistoryUnavailable
from ..logs import logger
from ..models import Message, StoredMessage
from ..rules import AT_LEAST_1_KIB, AT_LEAST_ONE, SECONDS, SECONDS_OR_OFF, check
from ..settings import Settings
from ..stores import SharedRedis, StoreUnavailable, StoreUnreadable, Verdict, command
from .memory import CONVERSATION_BYTES, TURN_BYTES
from .protocol import Claim
from .redis_endings import Ending, Endings
from .redis_scripts import (
    BEGIN,
    DELETE,
    END,
    Held,
    Kept,
    beginning,
    encode,
    left_by,
    read_held,
    read_kept,
)
from .window import Messages, fitted, newest

ASK_SECONDS = 0.1
UNSURE_SECONDS = 3.0
"""How long a turn waits at most to see whether the worker that holds the conversation is dead."""

TOLD = 1_000
"""How many unreadable conversations are remembered, to log each only once."""

DAY = 86_400.0

SPARE_SECONDS = 60.0
"""How much longer than a turn its claim lives."""


class _Size(NamedTuple):
    messages: int
    bytes: int


def _size(kept: Kept, data: bytes) -> _Size:
    return _Size(len(kept.messages), len(data) + TURN_BYTES)


class _Turn(NamedTuple):
    """A turn that is running. Of what is in Redis it has the beginnings, which are never the same
    twice: `held` is that of its claim, and `newest` that of the newest of the `earlier` turns."""

    conversation_id: str
    owner: str
    turn_id: str
    held: bytes
    earlier: Sequence[_Size] = ()
    newest: bytes = b""


class RedisHistory:
    """A History in Redis, which several processes may share, on several machines.

    Of each conversation it keeps the newest whole turns that have at most `max_messages` messages
    and take at most `max_bytes`. The newest turn always stays, shortened if it must be. A
    conversation that nobody has used for `ttl` seconds is forgotten. No turn takes longer than
    `longest_turn` seconds, if that is known.

    If a worker dies, its conversations are free for the others in under a second, and the messages
    that it was answering are kept. If Redis is out of reach when a turn ends, that is tried again
    for a minute. Whoever made `redis` closes it, after this. Raises SettingsError for a limit that
    makes no sense.
    """

    def __init__(
        self,
        redis: SharedRedis,
        *,
        max_messages: int = 100,
        max_bytes: int = 128 * 1024,
        ttl: float = DAY,
        longest_turn: Optional[float] = 900.0,
    ) -> None:
        check("max_messages", max_messages, AT_LEAST_ONE)
        check("max_bytes", max_bytes, AT_LEAST_1_KIB)
        check("ttl", ttl, SECONDS)
        check("longest_turn", longest_turn, SECONDS_OR_OFF)
        self._redis = redis
        self._max_messages = max_messages
        self._max_bytes = max_bytes - CONVERSATION_BYTES
        self._ttl = max(1, int(ttl * 1000))
        # A claim lives as long as a conversation, for the message in it. If its worker dies, it is
        # taken over long before.
        longest = DAY if longest_turn is None else longest_turn + SPARE_SECONDS
        self._life = int(max(ttl, longest) * 1000)
        self._beginning: Set[str] = set()
        self._running: Dict[str, _Turn] = {}
        self._endings = Endings(redis, self._life / 1000, self._tell)
        self._told: OrderedDict[str, None] = OrderedDict()
        redis.hear("claimed", self._heard_claimed)

    @classmethod
    def from_settings(cls, settings: Settings, redis: SharedRedis) -> RedisHistory:
        """The one that `settings` describe."""
        return cls(
            redis,
            max_messages=settings.history_messages,
            max_bytes=settings.history_bytes,
            ttl=settings.history_ttl,
            longest_turn=settings.total_timeout,
        )

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        """See History."""
        with self._answering(claim.conversation_id):
            presence = self._redis.presence
            await presence.begin()
            held = Held(claim.owner, presence.worker, claim.turn_id, time(), claim.message)
            turn = _Turn(claim.conversation_id, claim.owner, claim.turn_id, beginning(held))
            self._beginning.add(claim.turn_id)
            try:
                log = await self._claim(turn, encode(held))
            finally:
                self._beginning.discard(claim.turn_id)
            try:
                kept = [read_kept(each) for each in log]
            except StoreUnreadable:
                await self._endings.end(self._end(turn))
                raise
        sizes = list(map(_size, kept, log))
        self._running[claim.turn_id] = turn._replace(
            earlier=sizes, newest=beginning(kept[-1]) if kept else b""
        )
        # The bounds may have been larger when these were stored.
        newest_ones = kept[len(kept) - self._fitting(sizes) :]
        return [message for each in newest_ones for message in each.messages]

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int = 0) -> None:
        """See History."""
        turn = self._running.pop(claim.turn_id, None)
        if turn is None:
            return
        await self._endings.end(self._end(turn, tuple(messages), replaced))

    async def read(self, conversation_id: str, owner: str) -> Sequence[StoredMessage]:
        """See StoredConversations."""
        with self._answering(conversation_id):
            turn, log, _ = self._keys(conversation_id)
            found = await self._redis.batch([command("GET", turn), command("LRANGE", log, 0, -1)])
            for each in found:
                if isinstance(each, StoreUnreadable):
                    raise each
            turns = [read_kept(each) for each in found[1]]
            held = None if found[0] is None else read_held(found[0])
            owners = {each.owner for each in turns[-1:]} | ({held.owner} if held else set())
            if owners != {owner}:
                raise _unknown()
            if held is not None and await self._verdict(held) is Verdict.DEAD:
                turns.append(left_by(held))
            if not turns:
                raise _unknown()
        return [
            StoredMessage(
                *(message.role, message.content, message.complete),
                datetime.fromtimestamp(turn.ended, timezone.utc),
            )
            for turn in turns
            for message in turn.messages
        ]

    async def delete(self, conversation_id: str, owner: str) -> None:
        """See StoredConversations."""
        with self._answering(conversation_id):
            keys = self._keys(conversation_id)
            delete = partial(DELETE, keys, encode(owner), self._life)
            try:
                found, value = await self._redis.run(delete(""))
                if found == b"held":
                    read_held(value)
                elif found == b"log":
                    read_kept(value)
            except StoreUnreadable:  # it is nobody's
                found, value = await self._redis.run(delete("unreadable"))
            if found != b"deleted" or not value:
                raise _unknown()

    async def aclose(self) -> None:
        """Give the turns that have ended, and are not stored yet, a last chance."""
        await self._endings.aclose()

    async def _claim(self, turn: _Turn, held: bytes) -> List[bytes]:
        """Claim a conversation. Returns its log."""
        dead = left = b""
        until = monotonic() + UNSURE_SECONDS
        failures: List[StoreUnavailable] = []
        try:
            while True:
                begin = BEGIN(
                    self._keys(turn.conversation_id),
                    *(held, encode(turn.owner), dead, left, self._life),
                )
                try:
                    found, value = await self._redis.run(begin)
                except StoreUnavailable as failure:
                    failures.append(failure)
                    # A connection that broke while nobody used it is found out like this.
                    if failure.kind != "UNREACHABLE" or len(failures) > 1:
                        raise
                    continue
                if found == b"begun":
                    log: List[bytes] = value
                    return log
                if found == b"log":
                    read_kept(value)
                    raise _unknown()
                other = read_held(value)
                if other.owner != turn.owner:
                    raise _unknown()
                verdict = await self._verdict(other)
                if verdict is Verdict.DEAD:
                    dead, left = value, encode(self._fitted(left_by(other)))
                elif verdict is Verdict.ALIVE or monotonic() > until:
                    words = ("claimed", turn.conversation_id, other.turn_id, beginning(other).hex())
                    await self._redis.presence.send(other.worker, " ".join(words))
                    raise ConversationBusy("Another message of this conversation is being answered")
                else:
                    await asyncio.sleep(ASK_SECONDS)
        except BaseException as error:
            # Perhaps the claim was made, and only the answer is missing.
            cut = isinstance(error, asyncio.CancelledError)
            if cut or any(failure.in_doubt for failure in failures):
                self._endings.later(self._end(turn))
            raise

    def _heard_claimed(self, message: str) -> None:
        """Somebody waits for a turn of this worker. If it has ended, Redis has lost its end."""
        conversation_id, turn_id, held = message.split(" ")
        here = (self._beginning, self._running, self._endings.turns)
        if not any(turn_id in turns for turns in here):
            lost = _Turn(conversation_id, "", turn_id, bytes.fromhex(held))
            self._endings.later(self._end(lost))

    async def _verdict(self, held: Held) -> Verdict:
        return (await self._redis.presence.verdicts([held.worker]))[held.worker]

    def _end(self, turn: _Turn, messages: Messages = (), replaced: int = 0) -> Ending:
        """The end of a turn with `messages`, or without any."""
        keys = self._keys(turn.conversation_id)
        without = END(keys, turn.held, b"", 0, 0, turn.newest, self._ttl)
        if not messages:
            return Ending(turn.conversation_id, turn.turn_id, without)
        kept = self._fitted(Kept(turn.owner, time(), messages))
        data = encode(kept)
        earlier, gone = list(turn.earlier), 0
        while replaced > 0 and earlier:
            replaced -= earlier.pop().messages
            gone += 1
        stay = self._fitting([*earlier, _size(kept, data)])
        end = END(keys, turn.held, data, gone, stay, turn.newest, self._ttl)
        return Ending(turn.conversation_id, turn.turn_id, without, end)

    def _fitting(self, sizes: Sequence[_Size]) -> int:
        """How many of the newest turns, which have these sizes, are within the bounds."""
        few = newest(sizes, self._max_messages, lambda size: size.messages)
        few = newest(few, self._max_bytes, lambda size: size.bytes)
        return max(len(few), min(len(sizes), 1))

    def _fitted(self, kept: Kept) -> Kept:
        """`kept`, shortened if it takes more than a conversation may."""
        room = self._max_bytes - TURN_BYTES
        messages = fitted(
            kept.messages, room, lambda each: len(encode(replace(kept, messages=each)))
        )
        return replace(kept, messages=messages)

    def _keys(self, conversation_id: str) -> Tuple[str, str, str]:
        key = self._redis.keys.conversation
        return (
            key(conversation_id, "turn"),
            key(conversation_id, "log"),
            key(conversation_id, "gone"),
        )

    @contextlib.contextmanager
    def _answering(self, conversation_id: str) -> Iterator[None]:
        """Turns what goes wrong into what the client is told."""
        try:
            yield
        except StoreUnavailable:
            raise HistoryUnavailable("The store of conversations is out of reach") from None
        except StoreUnreadable as failure:
            self._tell(conversation_id, failure)
            raise HistoryUnavailable("This conversation cannot be read") from None

    def _tell(self, conversation_id: str, failure: StoreUnreadable) -> None:
        """Log that a conversation cannot be read, if that is new."""
        if conversation_id not in self._told:
            self._told[conversation_id] = None
            if len(self._told) > TOLD:
                self._told.popitem(last=False)
            logger.error(
                "redis %s: one of the keys %s holds what is no conversation; delete it (%s)",
                *(self._redis.address, self._redis.keys.conversation(conversation_id, "*")),
                failure,
            )


def _unknown() -> ConversationNotFound:
    return ConversationNotFound("No conversation with this id is stored")
