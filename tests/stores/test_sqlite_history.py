"""What only SQLite's file can do to a store of conversations."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from omniforge_chat import HistoryUnavailable, Settings, SettingsError, SQLiteHistory, create_app
from omniforge_chat.conversations import make_history, sqlite
from omniforge_chat.stores import StoreUnavailable

from ..support.answers import last, refusal
from ..support.app import call
from ..support.constants import CONVERSATION, PATIENCE
from ..support.histories import InSQLite, Processes, contents, keep, turn
from ..support.responders import saying


@pytest.fixture
def file(tmp_path: Path) -> InSQLite:
    return InSQLite(tmp_path)


@pytest.fixture
def processes(file: InSQLite) -> Processes:
    return Processes(file)


def test_the_settings_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the directory in which the service was started, wherever it goes later."""
    monkeypatch.chdir(tmp_path)
    history = make_history(Settings(history="sqlite:a b.db", history_messages=4))
    assert isinstance(history, SQLiteHistory)
    monkeypatch.chdir("/")

    class Here(InSQLite):
        def make(self, **limits: Any) -> SQLiteHistory:
            assert isinstance(history, SQLiteHistory)
            return history

    processes = Processes(Here(tmp_path))

    async def test() -> None:
        assert os.listdir(tmp_path) == []  # nothing is opened before it is used
        for number in "123":
            await keep(processes(), number, number)
        assert await contents(processes()) == ["2", "2", "3", "3"]

    processes.run(test)
    assert [path.name for path in tmp_path.iterdir()] == ["a b.db"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", "a file that is no directory"),
        (".", "a file that is no directory"),
        ("nowhere/chat.db", "a file in a directory that is there"),
        ("a\0b", "the path of a file"),
    ],
)
def test_a_path_that_cannot_be_one_is_named(path: str, expected: str) -> None:
    """When the service starts, and not when somebody speaks to it."""
    with pytest.raises(SettingsError, match=expected):
        SQLiteHistory(path)


@pytest.mark.skipif(sys.platform == "win32", reason="it has other rights")
def test_only_the_user_of_the_service_may_read_the_file(
    file: InSQLite, processes: Processes
) -> None:
    """What people say is nobody else's; but whoever has given others the right has meant it."""

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        files = list(Path(file.path).parent.iterdir())
        assert len(files) == 3
        assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        os.chmod(file.path, 0o640)
        await history.aclose()
        await keep(history, "3", "4")
        assert os.stat(file.path).st_mode & 0o777 == 0o640

    processes.run(test)


@pytest.mark.parametrize("moved", [False, True])
def test_a_file_that_was_taken_away_or_replaced_is_noticed(
    file: InSQLite, processes: Processes, moved: bool
) -> None:
    """SQLite itself would write on in a file that nobody can find any more."""

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        for beside in ("-wal", "-shm"):
            os.unlink(f"{file.path}{beside}")
        os.rename(file.path, f"{file.path}.old")
        if moved:
            await keep(processes(), "3", "4", "another")
        assert await contents(history) == []
        assert len(await contents(history, "another")) == (2 if moved else 0)

    processes.run(test)


def test_what_is_no_database_is_not_touched(
    file: InSQLite, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody has mistyped the name of a file that they need."""
    text = "to do: write a book\n" * 100
    Path(file.path).write_text(text)

    async def test() -> None:
        history = processes()
        assert isinstance(history, SQLiteHistory)
        for _ in range(2):
            with pytest.raises(HistoryUnavailable):
                await history.begin_turn(turn())
        with pytest.raises(StoreUnavailable, match="it is no SQLite database; name another file"):
            await history.check()

    processes.run(test)
    assert Path(file.path).read_text() == text
    [record] = caplog.records
    assert record.getMessage() == (
        f"sqlite {file.path}: it is no SQLite database; name another file"
    )


def test_a_chat_is_refused_while_its_conversation_cannot_be_found(file: InSQLite) -> None:
    """An answer that has forgotten it would look like a right one; unless that is wanted."""
    Path(file.path).write_text("no database" * 100)
    body = {"message": "hi", "conversation_id": CONVERSATION}
    app = create_app(saying("hello"), settings=Settings(history=file.setting))
    answer = call(app, body)
    assert refusal(*answer.json())[:2] == (503, "history_unavailable")
    assert answer.headers["retry-after"] == "1"
    asyncio.run(app.aclose())
    settings = Settings(history=file.setting, history_required=False)
    app = create_app(saying("hello"), settings=settings)
    event, data = last(call(app, body).frames)
    assert (event, "history" in data) == ("done", False)
    asyncio.run(app.aclose())


def test_a_file_that_another_program_has_locked_is_waited_for(
    file: InSQLite,
    processes: Processes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A moment; whoever forgets a transaction must not make everybody wait."""
    monkeypatch.setattr(sqlite, "LOCKED_SECONDS", 0.05)

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        await history.aclose()
        with file.hang(), pytest.raises(HistoryUnavailable):
            await history.begin_turn(turn())
        assert await contents(history) == ["1", "2"]

    processes.run(test)
    assert "another process has locked it" in caplog.text


def damage(path: str) -> None:
    """Leave of a database no more than the beginning."""
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:8192] + b"\xa5" * (len(whole) - 8192))


def test_a_damaged_file_is_told(
    file: InSQLite, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is a matter for the backup, and no conversation is better than a wrong one."""

    async def test() -> None:
        history = processes()
        for number in range(50):
            await keep(history, "x" * 2_000, "y" * 2_000, str(number))
        await history.aclose()
        damage(file.path)
        with pytest.raises(HistoryUnavailable):
            await history.begin_turn(turn("1"))
        assert "it is damaged; bring it back from a backup" in caplog.text

    processes.run(test)


def test_a_file_of_another_program_is_shared_with_it(file: InSQLite, processes: Processes) -> None:
    """Its tables have names of their own, and stay as they are."""
    with contextlib.closing(sqlite3.connect(file.path)) as database, database:
        database.execute("CREATE TABLE messages (text TEXT)")
        database.execute("INSERT INTO messages VALUES ('mine')")

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        assert await contents(history) == ["1", "2"]
        assert file.execute("SELECT text FROM messages") == [("mine",)]

    processes.run(test)


def test_an_old_sqlite_is_refused(file: InSQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fail in the middle of each turn."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 24, 0))
    with pytest.raises(SettingsError, match=r"and SQLite 3\.25 or newer"):
        file.make()


def test_a_python_without_sqlite_says_so(file: InSQLite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some are built without it."""
    monkeypatch.delitem(sys.modules, "omniforge_chat.conversations.sqlite")
    monkeypatch.delattr("omniforge_chat.conversations.sqlite")
    monkeypatch.setitem(sys.modules, "sqlite3", None)
    with pytest.raises(SettingsError, match="a Python that was built with SQLite"):
        make_history(Settings(history=file.setting))


def test_threads_end_with_the_store(processes: Processes) -> None:
    """An app that is made and closed leaves nothing behind."""

    async def test() -> None:
        others = threading.enumerate()
        history = processes()
        await keep(history, "1", "2")
        [thread] = [each for each in threading.enumerate() if each not in others]
        await history.aclose()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    processes.run(test)
