"""A store of conversations: the History protocol on SQLite, which several workers may share.

    app = create_app(respond, history=SQLiteHistory("conversations.db"))

It keeps everything. You may want to delete old conversations.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
import uuid
from typing import Iterator, List, Sequence

from omniforge_chat import ConversationBusy, Message

SCHEMA = """
PRAGMA journal_mode = wal;
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    complete INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS messages_of ON messages (conversation_id, id);
CREATE TABLE IF NOT EXISTS claims (
    conversation_id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    expires REAL NOT NULL
);
"""


class SQLiteHistory:
    """Conversations in the database file `path`, which is made if it is not there.

    A turn that has begun claims its conversation. If the process dies, the claim lapses after
    `lease` seconds. Choose more than a turn can take, which is `total_timeout` of the settings.
    """

    def __init__(self, path: str, *, lease: float = 1_800.0) -> None:
        self._path = path
        self._lease = lease
        self._owner = str(uuid.uuid4())
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.executescript(SCHEMA)

    async def begin_turn(self, conversation_id: str) -> Sequence[Message]:
        """Claim the conversation, and return its messages, oldest first.

        Raises ConversationBusy if somebody else has claimed it.
        """
        # SQLite blocks, and the event loop must not: every stream would stand still.
        return await asyncio.to_thread(self._begin, conversation_id)

    async def end_turn(
        self, conversation_id: str, messages: Sequence[Message], replaced: int
    ) -> None:
        """Put the turn's messages in place of the last `replaced`; release the conversation."""
        await asyncio.to_thread(self._end, conversation_id, messages, replaced)

    def _begin(self, conversation_id: str) -> List[Message]:
        now = time.time()
        with self._transaction() as database:
            claimed = database.execute(
                "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (conversation_id) DO UPDATE"
                " SET owner = excluded.owner, expires = excluded.expires WHERE expires < ?",
                (conversation_id, self._owner, now + self._lease, now),
            )
            if not claimed.rowcount:
                raise ConversationBusy("Another message of this conversation is being answered")
            rows = database.execute(
                "SELECT role, content, complete FROM messages"
                " WHERE conversation_id = ? ORDER BY id",
                (conversation_id,),
            )
            return [Message(role, content, bool(complete)) for role, content, complete in rows]

    def _end(self, conversation_id: str, messages: Sequence[Message], replaced: int) -> None:
        with self._transaction() as database:
            released = database.execute(
                "DELETE FROM claims WHERE conversation_id = ? AND owner = ?",
                (conversation_id, self._owner),
            )
            if released.rowcount:  # else the claim has lapsed, and the last messages are others'
                database.execute(
                    "DELETE FROM messages WHERE id IN (SELECT id FROM messages"
                    " WHERE conversation_id = ? ORDER BY id DESC LIMIT ?)",
                    (conversation_id, replaced),
                )
            database.executemany(
                "INSERT INTO messages (conversation_id, role, content, complete)"
                " VALUES (?, ?, ?, ?)",
                [(conversation_id, m.role, m.content, m.complete) for m in messages],
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing. It waits up to 5 seconds while another process writes."""
        # A connection of sqlite3 belongs to its thread, and is quickly opened.
        with contextlib.closing(sqlite3.connect(self._path, timeout=5.0)) as database, database:
            database.execute("BEGIN IMMEDIATE")
            yield database
