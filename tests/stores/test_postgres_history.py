"""What only PostgreSQL can do to a store of conversations."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Dict, List, Optional

import psycopg
import pytest

from omniforge_chat import (
    ConversationBusy,
    HistoryUnavailable,
    PostgresHistory,
    Settings,
    SettingsError,
)
from omniforge_chat.conversations import make_history, postgres, sql
from omniforge_chat.stores import StoreUnavailable

from ..support.constants import PATIENCE
from ..support.histories import InPostgres, Processes, contents, keep, said, turn, until
from ..support.stores import PostgresServer
from ..support.stores.postgres import PASSWORD


@pytest.fixture
def tables(postgres_cluster: PostgresServer) -> InPostgres:
    return InPostgres(postgres_cluster)


@pytest.fixture
def processes(tables: InPostgres) -> Processes:
    return Processes(tables)


# Addresses


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_the_settings_name_the_database(scheme: str) -> None:
    """Both schemes are libpq's. Nothing is connected before it is used."""
    history = make_history(Settings(history=f"{scheme}://u:p@127.0.0.1:1/d"))
    assert isinstance(history, PostgresHistory)


@pytest.mark.parametrize(
    "url",
    [
        *("postgresql://u:secret@[/d", "postgresql://u:secret@h/d?nonsense=1"),
        *("postgresql://u:secret@h:port/d", "postgresql://u:%zzsecret@h/d"),
    ],
)
def test_an_address_that_cannot_be_one_is_named_without_its_password(url: str) -> None:
    """When the service starts."""
    with pytest.raises(SettingsError) as caught:
        PostgresHistory(url)
    assert "expected a URL such as postgresql://USER:PASSWORD@HOST:5432/DATABASE" in str(
        caught.value
    )
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("missing", ["psycopg", "psycopg.pq"])
def test_a_package_that_is_missing_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "psycopg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SettingsError, match=r"pip install 'omniforge-chat\[postgres\]'"):
        PostgresHistory("postgresql://u:secret@h/d")


def changed(
    url: str,
    password: str = PASSWORD,
    database: str = "postgres",
    user: str = "postgres",
    options: str = "",
) -> str:
    """Another way to the same server."""
    host = url.partition("@")[2].partition("/")[0]
    return f"postgresql://{user}:{password}@{host}/{database}?{options}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"password": "wrong-secret"}, "it refuses the user or the password"),
        ({"user": "stranger"}, "it refuses the user or the password"),
        ({"database": "nowhere"}, "there is no such database"),
        ({"options": "options=-cdefault_transaction_read_only%3Don"}, "it takes no writes"),
        ({"options": "options=-csearch_path%3Dnowhere"}, "it does not do what it is asked"),
        ({"user": "reader", "password": "reader"}, "the user has too few rights"),
    ],
)
def test_a_server_that_refuses_is_told_in_one_line_with_what_to_do(
    tables: InPostgres, changes: Dict[str, str], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client hears nothing of it, and nobody sees the password."""
    server = tables.server
    if changes.get("user") == "reader":
        server.execute("DROP ROLE IF EXISTS reader")
        server.execute("CREATE ROLE reader LOGIN PASSWORD 'reader'")
        server.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    history = PostgresHistory(changed(server.url, **changes))

    async def test() -> None:
        for _ in range(2):
            with pytest.raises(HistoryUnavailable, match="The store of conversations is out of"):
                await history.begin_turn(turn())
        with pytest.raises(StoreUnavailable, match=told):
            await history.check()
        await history.aclose()

    asyncio.run(test())
    [record] = [record for record in caplog.records if record.name == "omniforge_chat"]
    line = record.getMessage()
    assert told in line
    assert "\n" not in line
    assert "secret" not in line
    assert PASSWORD not in line
    assert line.startswith(f"postgresql 127.0.0.1:{server.port}/")


def test_an_old_server_is_refused(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would fail in the middle of each turn."""
    monkeypatch.setattr(postgres, "_OLDEST", 99)

    async def test() -> None:
        with pytest.raises(HistoryUnavailable):
            await processes().begin_turn(turn())

    processes.run(test)
    assert "99 or newer is needed" in caplog.text


# Restarts


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
def test_a_server_that_was_started_anew_is_not_noticed(
    tables: InPostgres,
    processes: Processes,
    number: Optional[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The connections are broken, and are replaced before anybody hears of it."""

    async def test() -> None:
        history = processes()
        await asyncio.gather(*(keep(history, "1", "2", str(n)) for n in range(20)))
        await history.begin_turn(claim := turn("1"))
        tables.server.restart(number)
        await history.end_turn(claim, said("3", "4"))
        found = await asyncio.gather(*(contents(history, str(n)) for n in range(20)))
        assert sorted(found) == [["1", "2"]] * 19 + [["1", "2", "3", "4"]]

    processes.run(test)
    assert [record for record in caplog.records if record.name == "omniforge_chat"] == []


def test_a_connection_that_breaks_in_the_middle_doubles_nothing(
    tables: InPostgres, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether the transaction was made; so it is made again, and changes nothing."""
    monkeypatch.setattr(sql, "AGAIN_SECONDS", 0.01)

    async def break_connections() -> None:
        while True:
            await asyncio.sleep(0.03)
            tables.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'omniforge-chat'"
            )

    async def test() -> None:
        history = processes()
        breaking = asyncio.ensure_future(break_connections())
        expected: List[str] = []
        while len(expected) < 40:
            claim = turn(message=str(len(expected)))
            try:
                messages = await history.begin_turn(claim)
            except (HistoryUnavailable, ConversationBusy):
                # It broke in both tries; or the turn before it has to try again to end.
                await asyncio.sleep(0.01)
                continue
            assert [m.content for m in messages] == expected
            await history.end_turn(claim, said(claim.message, "reply"))
            expected += [claim.message, "reply"]
        breaking.cancel()
        await history.aclose()  # all turns have ended then
        assert await contents(history) == expected

    processes.run(test)


def test_a_table_that_somebody_has_locked_is_not_waited_for_for_long(
    tables: InPostgres,
    processes: Processes,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator who changes a table by hand must not hold up threads for ever."""
    monkeypatch.setattr(postgres, "STATEMENT_SECONDS", 0.1)

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        with psycopg.connect(tables.setting) as other:
            other.execute("LOCK TABLE omniforge_conversations IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(HistoryUnavailable):
                await asyncio.wait_for(history.begin_turn(turn()), PATIENCE)
        assert "it takes too long for a statement" in caplog.text
        assert await contents(history) == ["1", "2"]

    processes.run(test)


def test_a_process_has_few_connections(tables: InPostgres) -> None:
    """A server takes a hundred of them from everybody."""

    async def test() -> None:
        history = PostgresHistory(f"{tables.setting}&application_name=mine")
        await asyncio.gather(*(keep(history, "1", "2", str(n)) for n in range(100)))
        mine = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'mine'"
        [(number,)] = tables.execute(mine)
        assert 1 < number <= postgres.CONNECTIONS
        await history.aclose()
        await until(lambda: tables.execute(mine) == [(0,)])

    asyncio.run(asyncio.wait_for(test(), PATIENCE))
