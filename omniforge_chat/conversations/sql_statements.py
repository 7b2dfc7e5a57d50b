"""Conversations in a database: the tables, and the transactions that change them.

| table | a row is |
|---|---|
| `omniforge_conversations` | a conversation: its owner, last use, and the claim of a running turn |
| `omniforge_messages` | a message, which is never changed; `n` orders those of a conversation |
| `omniforge_schema` | the version of these tables; there is one row |

Texts of people are bytes in UTF-8, because PostgreSQL's text cannot hold U+0000. Times are seconds
since 1970, by the clock of the database.

A transaction is a list of statements that need nothing from each other but the rows, so that all of
them take one round trip. Each may run twice, if nobody knows whether it has worked the first time:

- A turn begins: `turn` is then its id, `turn_until` the end of its lease, and `message` what it is
  to answer. If the process of an earlier claim has died, `turn_until` passes. Whoever comes next
  adds that claim's message to the conversation, and frees it.
- A turn ends: each statement changes something only if `turn` is still its id. The last one but
  one takes the id away, and leaves it in `ended`. So a second run changes nothing, and knows why.

In the texts, `{...}` stands for the few words that the databases have different.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ..models import Message

Statement = Tuple[str, Mapping[str, Any]]

VERSION = 1
"""The version of the tables."""

MESSAGE_BYTES = 80
"""What a message counts besides its text: a turn of two is as large as in memory."""

SWEPT = 10
"""How many expired conversations are deleted at once. They may have thousands of messages."""

RENEWED = 400
"""How many claims one statement renews. SQLite once had a limit of 999 values."""

_HAS_TABLES = "{has_tables}"
_VERSION = "SELECT version FROM omniforge_schema"
_TABLES = (
    "{lock_tables}",
    "CREATE TABLE IF NOT EXISTS omniforge_conversations ("
    " id TEXT PRIMARY KEY, owner {bytes} NOT NULL, used DOUBLE PRECISION NOT NULL,"
    " turn TEXT, turn_until DOUBLE PRECISION, message {bytes}, ended TEXT)",
    "CREATE INDEX IF NOT EXISTS omniforge_used ON omniforge_conversations (used)",
    "CREATE TABLE IF NOT EXISTS omniforge_messages ("
    " conversation TEXT NOT NULL REFERENCES omniforge_conversations (id) ON DELETE CASCADE,"
    " n BIGINT NOT NULL, role TEXT NOT NULL, content {bytes} NOT NULL,"
    " complete SMALLINT NOT NULL, shortened SMALLINT NOT NULL, at DOUBLE PRECISION NOT NULL,"
    " PRIMARY KEY (conversation, n))",
    "CREATE TABLE IF NOT EXISTS omniforge_schema (version INTEGER NOT NULL)",
    f"INSERT INTO omniforge_schema SELECT {VERSION}"
    " WHERE NOT EXISTS (SELECT 1 FROM omniforge_schema)",
)

_FORGET = (
    "DELETE FROM omniforge_conversations WHERE id = :id AND used < {now} - :ttl"
    " AND (turn IS NULL OR turn_until < {now})"
)
# Without it, PostgreSQL would let others change the conversation between two statements.
_LOCK = "SELECT 1 FROM omniforge_conversations WHERE id = :id{lock}"
_NEXT = "COALESCE((SELECT MAX(n) FROM omniforge_messages WHERE conversation = :id), 0) + 1"
_ADD_ABANDONED = (
    f"INSERT INTO omniforge_messages SELECT id, {_NEXT}, 'user', message, 1, 0, {{now}}"
    " FROM omniforge_conversations WHERE id = :id AND turn_until < {now}"
)
_FREE = (
    "UPDATE omniforge_conversations SET turn = NULL, turn_until = NULL, message = NULL"
    " WHERE id = :id AND turn_until < {now}"
)
_CLAIM = (
    "INSERT INTO omniforge_conversations (id, owner, used, turn, turn_until, message)"
    " VALUES (:id, :owner, {now}, :turn, {now} + :lease, :message)"
    " ON CONFLICT (id) DO UPDATE SET used = excluded.used, turn = excluded.turn,"
    " turn_until = excluded.turn_until, message = excluded.message"
    " WHERE omniforge_conversations.owner = excluded.owner AND"
    " (omniforge_conversations.turn IS NULL OR omniforge_conversations.turn = excluded.turn)"
)
# The first of the newest whole turns within the bounds; that of the newest turn, if that is larger.
_FIRST = (
    "(SELECT COALESCE(MIN(CASE WHEN role = 'user' AND total <= :bytes THEN n END),"
    " MAX(CASE WHEN role = 'user' THEN n END), MIN(n)) FROM"
    f" (SELECT n, role, SUM(LENGTH(content) + {MESSAGE_BYTES}) OVER (ORDER BY n DESC) AS total"
    " FROM (SELECT n, role, content FROM omniforge_messages WHERE conversation = :id"
    " ORDER BY n DESC LIMIT :messages) AS newest) AS counted)"
)
_LOAD = (
    "SELECT c.owner, c.turn, m.role, m.content, m.complete, m.shortened, m.at"
    " FROM omniforge_conversations AS c LEFT JOIN omniforge_messages AS m"
    f" ON m.conversation = c.id AND c.owner = :owner AND m.n >= {_FIRST}"
    " WHERE c.id = :id ORDER BY m.n"
)
_ABANDONED = (
    "SELECT message, turn_until FROM omniforge_conversations"
    " WHERE id = :id AND owner = :owner AND turn_until < {now}"
)
_IS_MINE = "EXISTS (SELECT 1 FROM omniforge_conversations WHERE id = :id AND turn = :turn)"
_REMOVE = (
    "DELETE FROM omniforge_messages WHERE conversation = :id AND n IN"
    " (SELECT n FROM omniforge_messages WHERE conversation = :id ORDER BY n DESC LIMIT :replaced)"
    f" AND {_IS_MINE}"
)
_ADD = (
    f"INSERT INTO omniforge_messages SELECT id, {_NEXT}, :role, :content, :complete, :shortened,"
    " {now} FROM omniforge_conversations WHERE id = :id AND turn = :turn"
)
_TRIM = f"DELETE FROM omniforge_messages WHERE conversation = :id AND n < {_FIRST} AND {_IS_MINE}"
_REMOVE_EMPTY = (
    "DELETE FROM omniforge_conversations WHERE id = :id AND turn = :turn"
    " AND NOT EXISTS (SELECT 1 FROM omniforge_messages WHERE conversation = :id)"
)
_RELEASE = (
    "UPDATE omniforge_conversations SET used = {now}, turn = NULL, turn_until = NULL,"
    " message = NULL, ended = :turn WHERE id = :id AND turn = :turn"
)
_ENDED = "SELECT ended FROM omniforge_conversations WHERE id = :id"
_OWNED = "SELECT 1 FROM omniforge_conversations WHERE id = :id AND owner = :owner{lock}"
_DELETE = "DELETE FROM omniforge_conversations WHERE id = :id AND owner = :owner"
_EXPIRED = (
    "SELECT id FROM omniforge_conversations WHERE used < {now} - :ttl"
    f" AND (turn IS NULL OR turn_until < {{now}}) ORDER BY used LIMIT {SWEPT}{{skip_locked}}"
)
_SWEEP = f"DELETE FROM omniforge_conversations WHERE id IN ({_EXPIRED})"
_COUNT = "SELECT COUNT(*) FROM omniforge_conversations"
_TOUCH = "UPDATE omniforge_schema SET version = version"


def has_tables() -> List[Statement]:
    """The last rows are empty if there are no tables."""
    return [(_HAS_TABLES, {})]


def make_tables() -> List[Statement]:
    return [(text, {}) for text in _TABLES]


def read_version() -> List[Statement]:
    """The last rows are the version of the tables."""
    return [(_VERSION, {})]


def begin(values: Mapping[str, Any]) -> List[Statement]:
    """The last rows are the conversation: see `_LOAD`. It is claimed if `turn` is there."""
    return [(text, values) for text in (_FORGET, _LOCK, _ADD_ABANDONED, _FREE, _CLAIM, _LOAD)]


def end(values: Mapping[str, Any], messages: Sequence[Message], replaced: int) -> List[Statement]:
    """The last rows have the id of the turn that ended last, and are empty if all was deleted."""
    if not messages:
        return [(text, values) for text in (_LOCK, _REMOVE_EMPTY, _RELEASE, _ENDED)]
    added = [
        {
            **values,
            "role": message.role,
            "content": message.content.encode(),
            "complete": int(message.complete),
            "shortened": int(message.shortened),
        }
        for message in messages
    ]
    return [
        (_LOCK, values),
        *([(_REMOVE, {**values, "replaced": replaced})] if replaced else ()),
        *((_ADD, each) for each in added),
        *((text, values) for text in (_TRIM, _RELEASE, _ENDED)),
    ]


def renew(turns: Mapping[str, str], lease: float) -> List[Statement]:
    """Renew the claims of `turns`, which are ids of conversations by those of their turns."""
    names = list(turns)
    return [
        _renewal(names[first : first + RENEWED], turns, lease)
        for first in range(0, len(names), RENEWED)
    ]


def _renewal(names: Sequence[str], turns: Mapping[str, str], lease: float) -> Statement:
    ids = ", ".join(f":c{number}" for number in range(len(names)))
    own = ", ".join(f":t{number}" for number in range(len(names)))
    values: Dict[str, Any] = {"lease": lease}
    for number, name in enumerate(names):
        values.update({f"c{number}": turns[name], f"t{number}": name})
    text = (
        "UPDATE omniforge_conversations SET turn_until = {now} + :lease"
        f" WHERE id IN ({ids}) AND turn IN ({own})"
    )
    return text, values


def read(values: Mapping[str, Any]) -> List[Statement]:
    """The last rows but one are the conversation: see `_LOAD`. The last ones are the message of a
    claim whose process seems to have died, and when.

    That claim stays: perhaps only the database was away, and the turn has yet to end.
    """
    return [(text, values) for text in (_FORGET, _LOCK, _LOAD, _ABANDONED)]


def delete(values: Mapping[str, Any]) -> List[Statement]:
    """The last rows but one are empty if there was nothing to delete."""
    return [(text, values) for text in (_FORGET, _OWNED, _DELETE)]


def sweep(values: Mapping[str, Any]) -> List[Statement]:
    """The last rows but one are those of the conversations that were deleted."""
    return [(text, values) for text in (_EXPIRED, _SWEEP)]


def count() -> List[Statement]:
    """The rows of three statements; the last one shows that something can be written."""
    return [("{server}", {}), (_COUNT, {}), (_VERSION, {}), (_TOUCH, {})]
