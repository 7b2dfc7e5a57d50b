"""A store of conversations in a database: all that SQLite and PostgreSQL have in common."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timezone
from time import monotonic
from typing import Any, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Sequence, Set

from ..errors import ConversationBusy, ConversationNotFound, HistoryUnavailable
from ..logs import logger
from ..models import Message, StoredMessage
from ..observer import Observers
from ..rules import AT_LEAST_1_KIB, AT_LEAST_ONE, SECONDS, check
from ..settings import Settings
from ..stores import Finding, StoreUnavailable
from . import sql_statements
from .database import Database, Driver, Rows
from .memory import CONVERSATION_BYTES
from .protocol import Claim
from .sql_statements import MESSAGE_BYTES, SWEPT, Statement
from .window import Messages, fitted

LEASE_SECONDS = 10.0
"""How long a claim is good for if its process does not renew it."""

RENEW_SECONDS = 3.0
"""How often it does."""

TRY_SECONDS = 60.0
"""How long the end of a turn is tried again before it is given up."""

AGAIN_SECONDS = 0.5

CLOSE_SECONDS = 3.0
"""How long `aclose` waits for the ends of turns."""

SWEEP_SECONDS = 60.0
"""The time from one search for expired conversations to the next."""

SWEEPS = 50
"""How many transactions of one search follow each other. Turns come between them."""


class SQLHistory:
    """What SQLiteHistory and PostgresHistory are; `driver` is the database."""

    def __init__(self, driver: Driver, *, max_messages: int, max_bytes: int, ttl: float) -> None:
        check("max_messages", max_messages, AT_LEAST_ONE)
        check("max_bytes", max_bytes, AT_LEAST_1_KIB)
        check("ttl", ttl, SECONDS)
        self._database = Database(driver)
        self._bounds: Dict[str, Any] = {
            "messages": max(max_messages, 2),  # the newest turn stays
            "bytes": max_bytes - CONVERSATION_BYTES,
            "ttl": float(ttl),
            "lease": LEASE_SECONDS,
        }
        self._held: Dict[str, str] = {}  # conversations by the turns that this process answers
        self._keeper: Optional[asyncio.Task[None]] = None
        self._ending: Set[asyncio.Task[None]] = set()
        self._sweep_at = 0.0

    @staticmethod
    def limits(settings: Settings) -> Dict[str, Any]:
        """The limits in `settings`, as arguments."""
        return {
            "max_messages": settings.history_messages,
            "max_bytes": settings.history_bytes,
            "ttl": settings.history_ttl,
        }

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        """See History."""
        values = self._values(claim)
        # If there is no answer, perhaps it is claimed all the same.
        undo = sql_statements.end(values, (), 0)
        [*_, rows] = await self._run(sql_statements.begin(values), undo)
        owner, turn, *_ = rows[0] if rows else (None, None)
        if rows and owner != claim.owner.encode():
            raise _unknown()
        if turn != claim.turn_id:
            raise ConversationBusy("Another message of this conversation is being answered")
        try:
            messages = [stored.message for stored in _stored(rows)]
        except ValueError as error:
            await self.end_turn(claim, ())
            self._refuse(claim.conversation_id, error)
        self._held[claim.turn_id] = claim.conversation_id
        if self._keeper is None or self._keeper.done() or self._keeper.get_loop().is_closed():
            self._keeper = asyncio.ensure_future(self._keep())
        return messages

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int = 0) -> None:
        """See History."""
        values = self._values(claim)
        values["messages"] = max(values["messages"], len(messages))
        fitting = fitted(tuple(messages), values["bytes"], _bytes_of)
        end = sql_statements.end(values, fitting, replaced)
        if not self._database.available or not await self._try(claim, end, bool(messages)):
            # The client is not kept waiting.
            task = asyncio.ensure_future(self._end_later(claim, end, bool(messages)))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def read(self, conversation_id: str, owner: str) -> Sequence[StoredMessage]:
        """See StoredConversations."""
        values = {**self._bounds, "id": conversation_id, "owner": owner.encode()}
        [*_, rows, abandoned] = await self._run(sql_statements.read(values))
        try:
            stored = _stored(rows)
            stored += [_Stored(Message("user", text.decode()), at) for text, at in abandoned]
        except ValueError as error:
            self._refuse(conversation_id, error)
        if not stored or rows[0][0] != values["owner"]:
            raise _unknown()
        return [
            StoredMessage(
                *(each.message.role, each.message.content, each.message.complete),
                datetime.fromtimestamp(each.at, timezone.utc),
            )
            for each in stored
        ]

    @property
    def observers(self) -> Observers:
        """They are told how long the database took to answer."""
        return self._database.observers

    @observers.setter
    def observers(self, observers: Observers) -> None:
        self._database.observers = observers

    async def delete(self, conversation_id: str, owner: str) -> None:
        """See StoredConversations."""
        values = {**self._bounds, "id": conversation_id, "owner": owner.encode()}
        [*_, found, _] = await self._run(sql_statements.delete(values))
        if not found:
            raise _unknown()

    async def check(self) -> Finding:
        """Reach the database, and say what it is and has. Nothing is logged.

        Raises StoreUnavailable, whose text says in one line what is wrong, and what to do.
        """
        rows = await self._database.try_to_run(sql_statements.count())
        [server], [number], [version] = (rows[place][0] for place in range(3))
        conversations = "1 conversation" if number == 1 else f"{number} conversations"
        return Finding(
            self._database.product,
            str(server).split()[0],
            contents=f"{conversations}, in tables of version {version}",
        )

    async def aclose(self) -> None:
        """Give the turns that have ended, and are not stored yet, a last chance."""
        loop = asyncio.get_running_loop()
        tasks = [task for task in self._ending if task.get_loop() is loop]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.wait(tasks)
        if self._keeper is not None and self._keeper.get_loop() is loop:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        await self._database.aclose()

    def _values(self, claim: Claim) -> Dict[str, Any]:
        return {
            **self._bounds,
            "id": claim.conversation_id,
            "owner": claim.owner.encode(),
            "turn": claim.turn_id,
            "message": claim.message.encode(),
        }

    async def _run(
        self, statements: Sequence[Statement], undo: Sequence[Statement] = ()
    ) -> List[Rows]:
        try:
            return await self._database.run(statements, undo)
        except StoreUnavailable:
            raise HistoryUnavailable("The store of conversations is out of reach") from None

    def _refuse(self, conversation_id: str, error: ValueError) -> NoReturn:
        logger.error(
            "%s %s: conversation_id=%s cannot be read; delete it (%s)",
            *(self._database.product, self._database.address, conversation_id, error),
        )
        raise HistoryUnavailable("This conversation cannot be read")

    async def _try(self, claim: Claim, end: Sequence[Statement], matters: bool) -> bool:
        """Whether the turn has ended. `matters` says whether it has messages."""
        try:
            [*_, ended] = await self._database.run(end)
        except StoreUnavailable:
            return False
        except BaseException:
            self._held.pop(claim.turn_id, None)
            raise
        self._held.pop(claim.turn_id, None)
        if matters and ended and ended[0][0] != claim.turn_id:
            _lose(claim, "its claim had expired, and the conversation went on without it")
        return True

    async def _end_later(self, claim: Claim, end: Sequence[Statement], matters: bool) -> None:
        """Try to end a turn until that has worked, or it is given up and its claim expires."""
        until = monotonic() + TRY_SECONDS
        try:
            while monotonic() < until:
                await asyncio.sleep(AGAIN_SECONDS)
                if await self._try(claim, end, matters):
                    return
            if matters:
                _lose(claim, f"the database was out of reach for {TRY_SECONDS:g} s")
        except asyncio.CancelledError:
            if matters:
                _lose(claim, "the database was out of reach until the end of this process")
            raise
        finally:
            self._held.pop(claim.turn_id, None)

    async def _keep(self) -> None:
        """Renew the claims of this process, as long as there are any; and sweep meanwhile."""
        while self._held:
            await self._sweep()
            # Once the database is back, before others ask it for an expired claim.
            await asyncio.sleep(RENEW_SECONDS if self._database.available else AGAIN_SECONDS)
            if self._held:
                with contextlib.suppress(StoreUnavailable):
                    await self._database.run(sql_statements.renew(self._held, LEASE_SECONDS))

    async def _sweep(self) -> None:
        """Delete conversations that have expired, if it is time to, but not very many."""
        if monotonic() < self._sweep_at:
            return
        with contextlib.suppress(StoreUnavailable):
            for _ in range(SWEEPS):
                [*_, expired, _] = await self._database.run(sql_statements.sweep(self._bounds))
                if len(expired) < SWEPT:
                    self._sweep_at = monotonic() + SWEEP_SECONDS
                    break


class _Stored(NamedTuple):
    message: Message
    at: float


def _stored(rows: Rows) -> List[_Stored]:
    """The messages in the rows of a conversation. Raises ValueError if they are none."""
    return list(_read(rows))


def _read(rows: Rows) -> Iterator[_Stored]:
    for _, _, role, content, complete, shortened, at in rows:
        if role is None:
            return  # the conversation has no messages
        if not isinstance(content, bytes):
            raise ValueError("a message is no text in UTF-8")
        yield _Stored(Message(role, content.decode(), bool(complete), bool(shortened)), at)


def _bytes_of(messages: Messages) -> int:
    return sum(len(message.content.encode()) + MESSAGE_BYTES for message in messages)


def _lose(claim: Claim, reason: str) -> None:
    logger.warning("history lost a turn conversation_id=%s: %s", claim.conversation_id, reason)


def _unknown() -> ConversationNotFound:
    return ConversationNotFound("No conversation with this id is stored")
