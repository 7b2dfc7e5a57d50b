"""A store of conversations in a file, by SQLite, which the processes of one machine may share."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from time import monotonic, sleep, time
from typing import Dict, List, Sequence, Tuple, Type

from ..rules import FILE, SettingsError, check
from ..settings import Settings
from ..stores import StoreUnavailable
from .database import Rows
from .sql import SQLHistory
from .sql_statements import Statement

LOCKED_SECONDS = 4.0
"""How long a statement waits for a lock that another process has."""

_OLDEST = (3, 25)
"""The first version with window functions."""

_WORDS = {
    "bytes": "BLOB",
    "now": ":now",
    "lock": "",
    "skip_locked": "",
    "lock_tables": "SELECT 1",
    "has_tables": "SELECT 1 FROM sqlite_master WHERE name = 'omniforge_schema'",
    "server": "SELECT sqlite_version()",
}

_PLEASE = {
    "unable to open database file": "it cannot be opened; may this process write the directory?",
    "file is not a database": "it is no SQLite database; name another file",
    "attempt to write a readonly database": (
        "it may not be written; give this process the rights to the file and its directory"
    ),
    "database is locked": f"another process has locked it for {LOCKED_SECONDS:g} s; see which",
    "database or disk is full": "the disk is full; make room",
    "database disk image is malformed": "it is damaged; bring it back from a backup",
}
"""What to do, by the beginning of what SQLite says."""


class SQLiteHistory(SQLHistory):
    """A History in the file `path`, which is made if it is not there. Its directory must be.

    Several processes of one machine may share the file; on a network file system they must not.
    Only the user who runs them may read it. Of each conversation it keeps the newest whole turns
    that have at most `max_messages` messages and take at most `max_bytes`. The newest turn always
    stays, shortened if it must be. A conversation that nobody has used for `ttl` seconds is
    forgotten.

    If a process dies, its conversations are free for the others after 10 seconds, and the messages
    that it was answering are kept. If a turn cannot be stored when it ends, that is tried again for
    a minute. Nothing is opened before the first turn. Raises SettingsError for a path that cannot
    be one, and for a limit that makes no sense.
    """

    def __init__(
        self,
        path: str,
        *,
        max_messages: int = 100,
        max_bytes: int = 128 * 1024,
        ttl: float = 86_400.0,
    ) -> None:
        driver = _Driver(path)
        super().__init__(driver, max_messages=max_messages, max_bytes=max_bytes, ttl=ttl)

    @classmethod
    def from_settings(cls, settings: Settings) -> SQLiteHistory:
        """The one that `settings` describe."""
        return cls(settings.history.partition(":")[2], **cls.limits(settings))


class _Driver:
    product = "sqlite"
    connections = 1  # more would wait for each other
    errors: Tuple[Type[Exception], ...] = (sqlite3.Error, OSError)

    def __init__(self, path: str) -> None:
        check("path", path, FILE)
        self.address = os.path.abspath(path)
        problem = ""
        if os.path.isdir(self.address):
            problem = "that is no directory"
        elif not os.path.isdir(os.path.dirname(self.address)):
            problem = "in a directory that is there"
        elif sqlite3.sqlite_version_info < _OLDEST:
            problem = f"and SQLite {'.'.join(map(str, _OLDEST))} or newer"
        if problem:
            raise SettingsError("history", f"sqlite:{path}", f"a file {problem}")

    def connect(self) -> _Connection:
        return _Connection(self.address)

    def is_broken(self, error: Exception) -> bool:
        return isinstance(error, _Moved)

    def failure(self, error: Exception) -> StoreUnavailable:
        text = getattr(error, "strerror", None) or str(error)
        for beginning, please in _PLEASE.items():
            if text.startswith(beginning):
                return StoreUnavailable(beginning, please)
        return StoreUnavailable(text, f"it cannot be used: {text}")


class _Moved(sqlite3.OperationalError):
    """Somebody has moved, deleted or replaced the file. SQLite itself would write on in the old."""


class _Connection:
    def __init__(self, path: str) -> None:
        self._path = path
        self._texts: Dict[str, str] = {}
        is_new = not os.path.exists(path)
        self._connection = sqlite3.connect(path, timeout=LOCKED_SECONDS, isolation_level=None)
        try:
            self._connection.execute("PRAGMA schema_version")  # which makes the file
            if is_new:
                # What people say is nobody else's. The files beside it get the same rights. (It is
                # not made by os.open: to close that would release the locks of this process.)
                os.chmod(path, 0o600)
            self._file = self._now_there()
            self._write_ahead()
            # The last turns may be lost with the power, but the file is never damaged.
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            self.close()
            raise

    def _write_ahead(self) -> None:
        """Let others read while somebody writes. It is a property of the file."""
        until = monotonic() + LOCKED_SECONDS
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                # If others do the same now, SQLite does not wait for them.
                if "locked" not in str(error) or monotonic() > until:
                    raise
                sleep(0.01)

    def _now_there(self) -> Tuple[int, int]:
        """The identity of the file that has the path now."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return (0, 0)
        return (found.st_dev, found.st_ino)

    def run(self, statements: Sequence[Statement]) -> List[Rows]:
        if self._now_there() != self._file:
            raise _Moved("the file was moved")
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")  # it waits for other processes, and nothing after it does
        now = time()
        rows = [
            execute(self._text(text), {**values, "now": now}).fetchall()
            for text, values in statements
        ]
        execute("COMMIT")
        return rows

    def _text(self, text: str) -> str:
        written = self._texts.get(text)
        if written is None:
            written = self._texts[text] = text.format_map(_WORDS)
        return written

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
