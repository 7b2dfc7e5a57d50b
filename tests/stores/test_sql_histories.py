"""What SQLite and PostgreSQL do alike when all is not well: leases, failures, and old data."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from omniforge_chat import ConversationBusy, HistoryUnavailable
from omniforge_chat.conversations import database, sql, sqlite
from omniforge_chat.conversations.sql import SQLHistory
from omniforge_chat.stores import StoreUnavailable, health

from ..support.constants import PATIENCE
from ..support.docs import ROOT
from ..support.histories import (
    InPostgres,
    InSQLite,
    Processes,
    Tables,
    contents,
    keep,
    said,
    turn,
    until,
)


@pytest.fixture(params=["sqlite", "postgres"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    """A database, which is empty."""
    if request.param == "postgres":
        cluster = request.getfixturevalue("postgres_cluster")
        yield InPostgres(cluster)
        cluster.heal()
    else:
        yield InSQLite(tmp_path)


@pytest.fixture
def processes(stores: Tables) -> Processes:
    return Processes(stores)


def one(processes: Processes, **limits: float) -> SQLHistory:
    """A history whose other side a test knows."""
    history = processes(**limits)
    assert isinstance(history, SQLHistory)
    return history


def lines(caplog: pytest.LogCaptureFixture) -> List[str]:
    """What the service has logged."""
    return [record.getMessage() for record in caplog.records if record.name == "omniforge_chat"]


# Leases


def test_a_claim_lives_as_long_as_its_process(
    processes: Processes, stores: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply may take a quarter of an hour, and the lease is seconds."""
    monkeypatch.setattr(sql, "RENEW_SECONDS", 0.01)

    async def test() -> None:
        history, other = processes(), processes()
        claims = [turn(name) for name in "abc"]
        for claim in claims:
            await history.begin_turn(claim)
        renewed = "SELECT COUNT(*) FROM omniforge_conversations WHERE turn_until > 0"
        for _ in range(3):
            stores.execute("UPDATE omniforge_conversations SET turn_until = 0")
            await until(lambda: stores.execute(renewed) == [(3,)])
        with pytest.raises(ConversationBusy):
            await other.begin_turn(turn("a"))
        for claim in claims:
            await history.end_turn(claim, said("1", "2"))
        assert await contents(other) == ["1", "2"]

    processes.run(test)


def test_many_claims_are_renewed_in_few_statements(
    processes: Processes, stores: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Databases have limits for the number of values in one."""
    monkeypatch.setattr(sql, "RENEW_SECONDS", 0.01)

    async def test() -> None:
        history = processes()
        await asyncio.gather(*(history.begin_turn(turn(str(n))) for n in range(500)))
        stores.execute("UPDATE omniforge_conversations SET turn_until = 0")
        renewed = "SELECT COUNT(*) FROM omniforge_conversations WHERE turn_until > 0"
        await until(lambda: stores.execute(renewed) == [(500,)])

    processes.run(test)


def test_whoever_reads_a_conversation_takes_no_turn_away(
    processes: Processes, stores: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database may be away for longer than a lease. A page that is loaded then must not cost its
    user the reply that still runs."""
    monkeypatch.setattr(sql, "RENEW_SECONDS", PATIENCE)

    async def test() -> None:
        history, other = processes(), processes()
        await keep(history, "1", "2")
        claim = turn(message="3")
        await history.begin_turn(claim)
        stores.execute("UPDATE omniforge_conversations SET turn_until = 0")
        for _ in range(2):
            assert [each.content for each in await other.read("a", "")] == ["1", "2", "3"]
        await history.end_turn(claim, said("3", "4"))
        assert [each.content for each in await other.read("a", "")] == ["1", "2", "3", "4"]

    processes.run(test)


# What is out of reach


def test_a_database_that_is_out_of_reach_refuses_turns_and_is_told_once(
    processes: Processes,
    stores: Tables,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line for each chat would fill the log, and what a server says is not for clients."""
    monkeypatch.setattr(health, "QUIET_SECONDS", 0.0)

    async def test() -> None:
        history = one(processes)
        await keep(history, "1", "2")
        with stores.outage():
            for _ in range(3):
                with pytest.raises(HistoryUnavailable) as caught:
                    await history.begin_turn(turn())
                assert str(caught.value) == "The store of conversations is out of reach"
            for call in (history.read, history.delete):
                with pytest.raises(HistoryUnavailable):
                    await call("a", "")
            with pytest.raises(StoreUnavailable):
                await history.check()
        told = lines(caplog)
        assert len(told) == len({*told}) <= 2  # it may be on its way down first
        assert await contents(history) == ["1", "2"]
        [back] = lines(caplog)[len(told) :]
        assert back.startswith(f"{told[0].partition(': ')[0]}: it is back after ")

    processes.run(test)
    assert "pass-of-the-tests" not in caplog.text


def test_a_turn_that_ends_while_the_database_is_away_is_stored_when_it_is_back(
    processes: Processes, stores: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A restart takes seconds; the client has the reply, and believes it known."""
    monkeypatch.setattr(sql, "AGAIN_SECONDS", 0.01)

    async def test() -> None:
        history, other = processes(), processes()
        await keep(history, "1", "2")
        await history.begin_turn(claim := turn())
        with stores.outage():
            await history.end_turn(claim, said("3", "4"))
        await until(lambda: stores.execute("SELECT COUNT(*) FROM omniforge_messages") == [(4,)])
        assert await contents(other) == ["1", "2", "3", "4"]

    processes.run(test)


def test_a_turn_that_could_never_be_stored_is_told(
    processes: Processes,
    stores: Tables,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is lost, and only the log can say so."""
    monkeypatch.setattr(sql, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(sql, "CLOSE_SECONDS", 0.05)

    async def test() -> None:
        history, closed = processes(), processes()
        for name in "ab":
            await history.begin_turn(turn(name))
        await history.begin_turn(mine := turn("c"))
        await closed.begin_turn(its := turn("d"))
        with stores.outage():
            await closed.end_turn(its, said("3", "4"))
            await closed.aclose()
            monkeypatch.setattr(sql, "TRY_SECONDS", 0.05)
            await history.end_turn(mine, said("3", "4"))
            await until(lambda: sum("lost a turn" in line for line in lines(caplog)) == 2)

    processes.run(test)
    told = [line for line in lines(caplog) if "history lost a turn" in line]
    assert "conversation_id=d: the database was out of reach until the end of this" in told[0]
    assert "conversation_id=c: the database was out of reach for 0.05 s" in told[1]


def test_a_database_that_hangs_holds_up_nothing_but_its_own_turns(
    processes: Processes,
    stores: Tables,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The streams of all others go on; and what it does at last is no claim that nobody has."""
    monkeypatch.setattr(database, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(database, "CLOSE_SECONDS", PATIENCE)
    monkeypatch.setattr(sqlite, "LOCKED_SECONDS", PATIENCE)

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        went_on = 0
        with stores.hang():
            begun = asyncio.gather(
                *(history.begin_turn(turn(name)) for name in ("a", "new", "a", "b", "c", "d")),
                return_exceptions=True,
            )
            while not begun.done():
                await asyncio.sleep(0.01)
                went_on += 1
            assert {type(each) for each in await begun} == {HistoryUnavailable}
        assert went_on > 5
        assert "no answer within 0.2 s" in caplog.text
        monkeypatch.setattr(database, "ANSWER_SECONDS", PATIENCE)
        await history.aclose()  # all that was begun has happened
        held = "SELECT COUNT(*) FROM omniforge_conversations WHERE turn IS NOT NULL"
        await until(lambda: stores.execute(held) == [(0,)])
        assert await contents(history) == ["1", "2"]
        assert stores.execute("SELECT id FROM omniforge_conversations") == [("a",)]

    processes.run(test)


def test_a_turn_whose_beginning_nobody_waits_for_is_given_back(
    processes: Processes, stores: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its conversation would be locked for the length of a lease."""
    monkeypatch.setattr(sqlite, "LOCKED_SECONDS", PATIENCE)
    monkeypatch.setattr(database, "CLOSE_SECONDS", PATIENCE)

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        with stores.hang():
            beginning = asyncio.ensure_future(history.begin_turn(turn()))
            await asyncio.sleep(0.05)
            beginning.cancel()
            with pytest.raises(asyncio.CancelledError):
                await beginning
        await history.aclose()  # all that was begun has happened
        held = "SELECT COUNT(*) FROM omniforge_conversations WHERE turn IS NOT NULL"
        await until(lambda: stores.execute(held) == [(0,)])
        assert await contents(history) == ["1", "2"]

    processes.run(test)


def test_a_turn_that_is_cancelled_as_its_beginning_is_answered_is_given_back(
    processes: Processes, stores: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is there, and nobody gets it."""
    answer = database.Database._answer

    async def test() -> None:
        def answer_and_cancel(self: database.Database, job: Any, *result: Any) -> None:
            answer(self, job, *result)
            if job.undo:  # not when the keeper of claims is answered
                beginning.cancel()

        history = processes()
        await keep(history, "1", "2")
        with monkeypatch.context() as patch:
            patch.setattr(database.Database, "_answer", answer_and_cancel)
            beginning = asyncio.ensure_future(history.begin_turn(turn()))
            with pytest.raises(asyncio.CancelledError):
                await beginning
        held = "SELECT COUNT(*) FROM omniforge_conversations WHERE turn IS NOT NULL"
        await until(lambda: stores.execute(held) == [(0,)])
        assert await contents(history) == ["1", "2"]

    processes.run(test)


# What is in the tables


def test_expired_conversations_are_deleted_when_others_go_on(
    processes: Processes, stores: Tables
) -> None:
    """Nobody comes back for them, and they would fill the disk."""

    async def test() -> None:
        history = processes()
        for number in range(25):
            await keep(history, "1", "2", f"old{number}")
        stores.execute("UPDATE omniforge_conversations SET used = 0")
        await history.aclose()
        claims = [turn("old1"), turn("new")]
        fresh = processes(ttl=60.0)
        for claim in claims:
            await fresh.begin_turn(claim)
        await until(lambda: len(stores.execute("SELECT id FROM omniforge_conversations")) == 2)
        for claim in claims:
            await fresh.end_turn(claim, said("3", "4"))
        assert stores.execute("SELECT COUNT(*) FROM omniforge_messages") == [(4,)]

    processes.run(test)


def test_nothing_is_left_of_a_conversation_that_was_deleted(
    processes: Processes, stores: Tables
) -> None:
    """Whoever asks for that may have the right to it."""

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2")
        await history.begin_turn(turn())
        await history.delete("a", "")
        for table in ("conversations", "messages"):
            assert stores.execute(f"SELECT COUNT(*) FROM omniforge_{table}") == [(0,)]

    processes.run(test)


def test_a_long_conversation_does_not_grow_for_ever(processes: Processes, stores: Tables) -> None:
    """What nobody loads any more would still be on the disk."""

    async def test() -> None:
        history = processes(max_messages=4)
        for number in range(10):
            await keep(history, str(number), "reply")
        assert stores.execute("SELECT COUNT(*) FROM omniforge_messages") == [(4,)]

    processes.run(test)


def test_a_message_that_is_no_text_costs_its_conversation_alone(
    processes: Processes, stores: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else has written into our tables, and is told where."""
    no_text = ["'\\xff'"] if isinstance(stores, InPostgres) else ["X'ff'", "'text'"]

    async def test() -> None:
        history = processes()
        await keep(history, "1", "2", "whole")
        for content in no_text:
            await keep(history, "1", "2", "broken")
            stores.execute(
                f"UPDATE omniforge_messages SET content = {content} WHERE conversation = 'broken'"
            )
            for _ in range(2):
                with pytest.raises(HistoryUnavailable, match="This conversation cannot be read"):
                    await history.begin_turn(turn("broken"))
            with pytest.raises(HistoryUnavailable):
                await history.read("broken", "")
            assert await contents(history, "whole") == ["1", "2"]
            await history.delete("broken", "")
            assert await contents(history, "broken") == []
        told = "conversation_id=broken cannot be read; delete it"
        assert caplog.text.count(told) == 3 * len(no_text)

    processes.run(test)


def test_tables_of_a_newer_version_are_left_alone(
    processes: Processes, stores: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    """An older process would spoil them."""

    async def test() -> None:
        await keep(processes(), "1", "2")
        stores.execute("UPDATE omniforge_schema SET version = 2")
        history = one(processes)
        with pytest.raises(HistoryUnavailable):
            await history.begin_turn(turn())
        assert "its tables are of version 2, and this is for version 1" in caplog.text
        with pytest.raises(StoreUnavailable, match="version 2"):
            await history.check()
        stores.execute("UPDATE omniforge_schema SET version = 1")
        assert await contents(history) == ["1", "2"]

    processes.run(test)


def test_many_processes_may_make_the_tables_at_once(processes: Processes, stores: Tables) -> None:
    """All workers of a service begin in the same moment."""

    async def test() -> None:
        histories = [one(processes) for _ in range(12)]
        found = await asyncio.gather(*(history.check() for history in histories))
        assert len({*found}) == 1
        assert stores.execute("SELECT version FROM omniforge_schema") == [(1,)]

    processes.run(test)


def test_a_check_tells_what_is_there(processes: Processes, stores: Tables) -> None:
    """An operator sees that it is the right database."""

    async def test() -> None:
        history = one(processes)
        for number, words in ((0, "0 conversations"), (1, "1 conversation")):
            if number:
                await keep(history, "1", "2")
            found = await history.check()
            assert found.product == ("postgresql" if isinstance(stores, InPostgres) else "sqlite")
            assert found.version[0].isdigit()
            assert found.contents == f"{words}, in tables of version 1"

    processes.run(test)


def test_a_history_may_be_used_after_it_was_closed(processes: Processes) -> None:
    """A host may start its app twice."""

    async def test() -> None:
        history = processes()
        for _ in range(2):
            await keep(history, "1", "2")
            await history.aclose()

    processes.run(test)


_FORKED = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")  # about the fork
from omniforge_chat import Claim, Message, Settings
from omniforge_chat.conversations import make_history

async def say(name):
    claim = Claim(name, "", f"{os.getpid()} {name}", "hi")
    earlier = await history.begin_turn(claim)
    await history.end_turn(claim, [Message("user", name)])
    return [message.content for message in earlier]

history = make_history(Settings(history=sys.argv[1]))
if "postgres" in sys.argv[1]:  # SQLite itself must not be in use before a fork
    asyncio.run(say("before"))
child = os.fork()
asyncio.run(say("child" if child == 0 else "parent"))
asyncio.run(history.aclose())
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert asyncio.run(say("child")) == ["child"]
assert asyncio.run(say("parent")) == ["parent"]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_no_connection_goes_through_a_fork(stores: Tables) -> None:
    """Two processes on one connection would read each other's answers."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKED, stores.setting],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
