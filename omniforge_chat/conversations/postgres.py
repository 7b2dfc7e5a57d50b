"""A store of conversations in PostgreSQL, for many processes on many machines."""

from __future__ import annotations

import contextlib
import importlib
import re
from typing import Any, Dict, List, Sequence, Tuple, Type

from ..rules import SettingsError, without_passwords
from ..settings import Settings
from ..stores import StoreUnavailable
from .database import Rows
from .sql import SQLHistory
from .sql_statements import Statement

CONNECTIONS = 4
"""How many a process has at most. A transaction takes about a millisecond."""

STATEMENT_SECONDS = 4.0
"""How long the server may take for a statement: for a lock that somebody else has, for example."""

_OLDEST = 10
"""The first version that psycopg speaks to."""

_DEFAULTS = {
    "application_name": "omniforge-chat",
    "connect_timeout": 3,
    # A server that is no longer there, and cannot say so, is found out in 10 seconds (tcp(7)).
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Parameters of libpq. Those in the URL come first."""

_WORDS = {
    "bytes": "BYTEA",
    "now": "EXTRACT(EPOCH FROM NOW())",
    "lock": " FOR UPDATE",
    "skip_locked": " FOR UPDATE SKIP LOCKED",
    "lock_tables": "SELECT pg_advisory_xact_lock(2718281828459045)",
    "has_tables": "SELECT 1 WHERE to_regclass('omniforge_schema') IS NOT NULL",
    "server": "SELECT current_setting('server_version')",
}

_PLEASE = {
    "28": "it refuses the user or the password; correct the URL",
    "3D000": "there is no such database; create it, or correct the URL",
    "25006": "it takes no writes; the URL must name the primary",
    "42501": "the user has too few rights; let it create tables, or give it those of omniforge",
    "42": "its tables of omniforge are not as they should be; give the service another database",
    "53100": "its disk is full; make room",
    "53300": f"it has too many clients; a process here takes up to {CONNECTIONS} connections",
    "57014": "it takes too long for a statement; see whether it is overloaded, or a table locked",
    "57P": "it is starting or stopping; wait",
    "08": "it cannot be reached; start it, or correct the URL",
}
"""What to do, by the beginning of the code (PostgreSQL's documentation, appendix A)."""

_OF_TEXT = {
    "authentication failed": "28",
    "no password supplied": "28",
    "role .* does not exist": "28",
    "no pg_hba.conf entry": "28",
    "database .* does not exist": "3D000",
    "too many (clients|connections)": "53300",
    "the database system is": "57P",
}
"""Codes by what a server says that refuses a connection: libpq has only the text of that."""


class PostgresHistory(SQLHistory):
    """A History in the PostgreSQL at `url`, which many processes may share.

    `url` is one of libpq, such as `postgresql://user:password@host/database`. The tables are made
    if they are not there; their names begin with `omniforge_`. Of each conversation it keeps the
    newest whole turns that have at most `max_messages` messages and take at most `max_bytes`. The
    newest turn always stays, shortened if it must be. A conversation that nobody has used for `ttl`
    seconds is forgotten.

    If a process dies, its conversations are free for the others after 10 seconds, and the messages
    that it was answering are kept. If a turn cannot be stored when it ends, that is tried again for
    a minute. Nothing is opened before the first turn. It needs the extra `postgres`. Raises
    SettingsError if psycopg is missing or can make nothing of the URL, and for a limit that makes
    no sense.
    """

    def __init__(
        self,
        url: str,
        *,
        max_messages: int = 100,
        max_bytes: int = 128 * 1024,
        ttl: float = 86_400.0,
    ) -> None:
        driver = _Driver(url)
        super().__init__(driver, max_messages=max_messages, max_bytes=max_bytes, ttl=ttl)

    @classmethod
    def from_settings(cls, settings: Settings) -> PostgresHistory:
        """The one that `settings` describe."""
        return cls(settings.history, **cls.limits(settings))


class _Driver:
    product = "postgresql"
    connections = CONNECTIONS

    def __init__(self, url: str) -> None:
        shown = without_passwords(url).partition("?")[0]
        try:
            self._psycopg: Any = importlib.import_module("psycopg")
        except ImportError as error:  # also if there is no libpq
            if (error.name or "psycopg").partition(".")[0] != "psycopg":
                raise
            raise SettingsError(
                "history", shown, "psycopg: pip install 'omniforge-chat[postgres]'"
            ) from None
        self.errors: Tuple[Type[Exception], ...] = (self._psycopg.Error, OSError)
        try:
            given = self._psycopg.conninfo.conninfo_to_dict(url)
            for port in str(given.get("port", "")).split(","):
                int(port or 0)
        except (self._psycopg.Error, TypeError, ValueError):
            # What it says may quote a part of the password.
            expected = "a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE"
            raise SettingsError("history", shown, expected) from None
        self._parameters: Dict[str, Any] = {**_DEFAULTS, **given}
        self.address = (
            f"{given.get('host', 'localhost')}:{given.get('port', 5432)}/{given.get('dbname', '')}"
        )

    def connect(self) -> _Connection:
        connection = self._psycopg.connect(**self._parameters, autocommit=True)
        if connection.info.server_version < _OLDEST * 10_000:
            version = connection.info.parameter_status("server_version")
            connection.close()
            raise StoreUnavailable(
                "VERSION", f"it is of version {version}; {_OLDEST} or newer is needed"
            )
        return _Connection(connection)

    def is_broken(self, error: Exception) -> bool:
        return isinstance(
            error, (self._psycopg.OperationalError, self._psycopg.InterfaceError)
        ) and not isinstance(error, self._psycopg.errors.QueryCanceled)

    def failure(self, error: Exception) -> StoreUnavailable:
        text = " ".join(str(error).split())[:300]
        code = getattr(error, "sqlstate", None)
        if code is None:
            found = (code for words, code in _OF_TEXT.items() if re.search(words, text))
            code = next(found, "08")
        for beginning, please in _PLEASE.items():
            if code.startswith(beginning):
                return StoreUnavailable(beginning, f"{please} ({text})")
        return StoreUnavailable(code, f"it does not do what it is asked: {text}")


class _Connection:
    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._texts: Dict[str, str] = {}

    def run(self, statements: Sequence[Statement]) -> List[Rows]:
        execute = self._connection.execute
        # All of it goes out at once. Whatever the settings of the server are, a statement sees what
        # others have committed before it, and none waits for ever.
        with self._connection.pipeline():
            execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            execute(f"SET LOCAL statement_timeout = {STATEMENT_SECONDS * 1000:.0f}")
            cursors = [
                execute(self._text(text), values, binary=True) for text, values in statements
            ]
            execute("COMMIT")
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def _text(self, text: str) -> str:
        written = self._texts.get(text)
        if written is None:
            written = re.sub(r":(\w+)", r"%(\1)s", text.format_map(_WORDS))
            self._texts[text] = written
        return written

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self._connection.close()
