"""What each store of conversations does alike."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Coroutine, Dict, List

import pytest

from omniforge_chat import ConversationBusy, ConversationNotFound, Message, SettingsError
from omniforge_chat.conversations.protocol import StoredConversations, check_history

from ..support.histories import (
    InMemory,
    InPostgres,
    InRedis,
    InSQLite,
    Processes,
    Stores,
    contents,
    keep,
    said,
    turn,
)
from ..support.stores.redis import SERVERS

SHARED = ["sqlite", "postgres", *SERVERS]


@pytest.fixture
def stores(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Stores:
    """A kind of store, which is empty."""
    if request.param in SERVERS:
        # A process may judge that another is dead as soon as it has begun.
        monkeypatch.setattr("omniforge_chat.stores.presence.STEADY_SECONDS", 0.0)
        return InRedis(request.getfixturevalue("redis_servers")(request.param))
    if request.param == "postgres":
        return InPostgres(request.getfixturevalue("postgres_cluster"))
    return InSQLite(tmp_path) if request.param == "sqlite" else InMemory()


@pytest.fixture
def processes(stores: Stores) -> Processes:
    """The processes that share it; one in memory is shared by nobody."""
    return Processes(stores)


every = pytest.mark.parametrize("stores", ["memory", *SHARED], indirect=True)
every_shared = pytest.mark.parametrize("stores", SHARED, indirect=True)


# Turns


@every
def test_a_turn_finds_what_was_said_before_it(processes: Processes) -> None:
    """Exactly as it was said: a model that is sent other words answers other words."""
    texts = ["\0", "a\0b", "😀" * 1000, "\U0010ffff\u0800é", "\ufeff\u2028\r\n", "'; --%s:id{now}"]

    async def test() -> None:
        one, other = processes(), processes()
        check_history(one)
        assert isinstance(one, StoredConversations)
        expected: List[Message] = []
        for number, text in enumerate(texts):
            history = (one, other)[number % 2]
            claim = turn(message=text)
            assert list(await history.begin_turn(claim)) == expected
            messages = said(text, text[::-1], complete=number % 3 == 0)
            await history.end_turn(claim, messages)
            expected += messages
        assert list(await one.begin_turn(turn())) == expected
        assert list(await one.begin_turn(turn("another"))) == []

    processes.run(test)


@every
def test_an_id_may_be_anything_that_a_header_can_carry(processes: Processes) -> None:
    """Other formats have ids of their own, and no two of them are one conversation."""
    ids = ["!", "~" * 128, "a", "A", "%s", ":id", "{now}", "'\"\\", "a_", "a%"]

    async def test() -> None:
        history = processes()
        for name in ids:
            await keep(history, name, "yes", name)
        for name in ids:
            assert await contents(history, name) == [name, "yes"]

    processes.run(test)


@every
def test_one_of_many_turns_at_once_gets_the_conversation(processes: Processes) -> None:
    """Replies that are made from the same past would not know of each other."""

    async def test() -> None:
        histories = [processes() for _ in range(4)]
        await keep(histories[0], "1", "2")
        for name in ("a", "new"):
            claims = [turn(name) for _ in range(40)]
            begun = await asyncio.gather(
                *(histories[n % 4].begin_turn(claim) for n, claim in enumerate(claims)),
                return_exceptions=True,
            )
            busy = [isinstance(each, ConversationBusy) for each in begun]
            assert busy.count(True) == 39
            winner = busy.index(False)
            await histories[winner % 4].end_turn(claims[winner], said("3", "4"))
            assert (await contents(histories[0], name))[-2:] == ["3", "4"]

    processes.run(test)


@every
def test_a_turn_without_a_reply_leaves_nothing(processes: Processes) -> None:
    """Its message would be asked twice when it is sent again."""

    async def test() -> None:
        history = processes()
        await history.begin_turn(claim := turn())
        await history.end_turn(claim, ())
        with pytest.raises(ConversationNotFound):
            await history.read("a", "")
        await keep(history, "1", "2")
        await history.begin_turn(claim := turn())
        await history.end_turn(claim, (), 2)
        assert await contents(history) == ["1", "2"]

    processes.run(test)


@every
@pytest.mark.parametrize(("replaced", "kept"), [(0, "112233"), (2, "1133"), (4, "33"), (9, "33")])
def test_the_newest_messages_can_be_replaced(
    processes: Processes, replaced: int, kept: str
) -> None:
    """With those that replace them, in one step."""

    async def test() -> None:
        history = processes()
        for name in ("a", "another"):
            for number in "12":
                await keep(history, number, number, name)
        await history.begin_turn(claim := turn())
        await history.end_turn(claim, said("3", "3"), replaced)
        assert "".join(await contents(history)) == kept
        assert "".join(await contents(history, "another")) == "1122"

    processes.run(test)


@every
def test_only_the_claim_that_holds_a_conversation_can_end_its_turn(processes: Processes) -> None:
    """One that comes late, or twice, would put its reply where it was not made for."""

    async def test() -> None:
        history, other = processes(), processes()
        await keep(history, "1", "2")
        holder, stranger = turn(), turn()
        await other.end_turn(stranger, said("3", "4"), 2)
        await history.begin_turn(holder)
        await other.end_turn(stranger, said("5", "6"), 2)
        with pytest.raises(ConversationBusy):
            await other.begin_turn(stranger)
        for _ in range(2):
            await history.end_turn(holder, said("7", "8"), 2)
        assert await contents(history) == ["7", "8"]

    processes.run(test)


# Bounds


@every
@pytest.mark.parametrize("bounds", [{"max_messages": 4}, {"max_messages": 5}, {"max_bytes": 3_000}])
def test_the_oldest_whole_turns_of_a_long_conversation_go(
    processes: Processes, bounds: Dict[str, int]
) -> None:
    """Half a turn would be an answer without its question."""

    async def test() -> None:
        history = processes(**bounds)
        for number in "1234":
            await keep(history, number * 400, number * 400)
        assert [text[0] for text in await contents(history)] == ["3", "3", "4", "4"]
        assert [m.content[0] for m in await history.read("a", "")] == ["3", "3", "4", "4"]

    processes.run(test)


@every
@pytest.mark.parametrize("character", ["x", "é", "你", "😀", "\0"])
def test_a_turn_larger_than_the_bound_loses_its_middle(
    processes: Processes, character: str
) -> None:
    """One enormous reply takes no more than a conversation may, and the next turn knows of it."""

    async def test() -> None:
        history = processes(max_bytes=4_096)
        await keep(history, "one", "two")
        await keep(history, "hi", f"<{character * 100_000}>")
        [user, reply] = await history.begin_turn(turn())
        assert user == Message("user", "hi")
        assert reply == Message("assistant", reply.content, complete=True, shortened=True)
        assert reply.content.startswith(f"<{character}")
        assert f"{character} [...] {character}" in reply.content
        assert reply.content.endswith(f"{character}>")
        assert 2_500 < len(reply.content.encode()) < 4_096

    processes.run(test)


@every
def test_the_newest_turn_is_kept_whatever_the_bounds(processes: Processes) -> None:
    """Otherwise a store of one message would remember nothing."""

    async def test() -> None:
        history = processes(max_messages=1, max_bytes=1_024)
        await keep(history, "1", "2")
        await keep(history, "3" * 10_000, "4" * 10_000)
        texts = await contents(history)
        assert [text[0] for text in texts] == ["3", "4"]
        assert all(" [...] " in text for text in texts)

    processes.run(test)


@every_shared
def test_a_smaller_bound_holds_for_what_is_stored_already(processes: Processes) -> None:
    """Whoever lowers a limit does so because of what there is."""

    async def test() -> None:
        generous = processes()
        for number in "1234":
            await keep(generous, number * 400, number * 400)
        assert [text[0] for text in await contents(processes(max_messages=4))] == [*"3344"]
        assert [text[0] for text in await contents(processes(max_bytes=1_024))] == [*"44"]
        assert len(await contents(generous)) == 8

    processes.run(test)


@every_shared
def test_a_conversation_that_nobody_has_used_for_long_is_forgotten(processes: Processes) -> None:
    """A turn that begins is a use of it; reading is none."""

    async def test() -> None:
        history = processes(ttl=60.0)
        for name in ("used", "unused", "running"):
            await keep(history, "1", "2", name)
            processes.stores.age(name, 50)
        await history.begin_turn(running := turn("running"))
        assert await contents(history, "used") == ["1", "2"]
        for name in ("used", "unused", "running"):
            await history.read(name, "")
            processes.stores.age(name, 20)
        processes.stores.age("running", 70)
        assert await contents(history, "used") == ["1", "2"]
        for call in (history.read, history.delete):
            with pytest.raises(ConversationNotFound):
                await call("unused", "")
        assert await contents(history, "unused") == []
        await history.end_turn(running, said("3", "4"))
        assert await contents(history, "running") == ["1", "2", "3", "4"]

    processes.run(test)


# Whose they are, and what becomes of them


@every
@pytest.mark.parametrize("owner", ["me", "", "\0é😀"])
def test_a_conversation_is_its_owner_s_alone(processes: Processes, owner: str) -> None:
    """For anybody else it does not exist, from its first turn on."""

    async def test() -> None:
        history, other = processes(), processes()
        await history.begin_turn(mine := turn(owner=owner))
        for _ in range(2):
            strangers: List[Coroutine[Any, Any, object]] = [
                other.begin_turn(turn(owner="you")),
                other.read("a", "you"),
                other.delete("a", "you"),
            ]
            for stranger in strangers:
                with pytest.raises(ConversationNotFound):
                    await stranger
            await history.end_turn(mine, said("1", "2"))
        assert len(await other.read("a", owner)) == 2
        assert len(await other.begin_turn(turn(owner=owner))) == 2

    processes.run(test)


@every
def test_a_conversation_can_be_read_while_it_is_continued(processes: Processes) -> None:
    """With the times at which its turns ended; it is not claimed for that."""

    async def test() -> None:
        history, other = processes(), processes()
        before = datetime.now(timezone.utc)
        claim = turn()
        await history.begin_turn(claim)
        await history.end_turn(claim, said("1", "2", complete=False))
        await history.begin_turn(running := turn())
        stored = await other.read("a", "")
        assert [(m.role, m.content, m.complete) for m in stored] == [
            ("user", "1", True),
            ("assistant", "2", False),
        ]
        # The clock of a database may be a little coarser.
        now = datetime.now(timezone.utc)
        assert all((m.time - before).total_seconds() > -0.1 for m in stored)
        assert all(m.time <= now for m in stored)
        await history.end_turn(running, said("3", "4"))
        assert len(await other.read("a", "")) == 4

    processes.run(test)


@every
def test_a_conversation_that_was_deleted_is_not_brought_back_by_its_running_turn(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever deletes a conversation wants nothing of it to be left."""

    async def test() -> None:
        history, other = processes(), processes()
        await keep(history, "1", "2")
        for _ in range(2):  # a new conversation, too
            running, next_one = turn(), turn()
            await history.begin_turn(running)
            await other.delete("a", "")
            assert list(await other.begin_turn(next_one)) == []
            await history.end_turn(running, said("5", "6"))
            await other.end_turn(next_one, ())
            for call in (history.read, history.delete):
                with pytest.raises(ConversationNotFound):
                    await call("a", "")
        await history.begin_turn(running := turn())
        await other.delete("a", "")
        await history.end_turn(running, said("5", "6"))
        assert await contents(other) == []

    processes.run(test)


# Processes that die


@every_shared
def test_a_conversation_of_a_dead_process_goes_on_with_its_last_message(
    processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """The user has said it; and what the dead one still has to say comes too late."""

    async def test() -> None:
        dead, living = processes(), processes()
        await keep(dead, "1", "2")
        for name in ("a", "new"):
            await dead.begin_turn(lost := turn(name, message="lost\0"))
            with pytest.raises(ConversationBusy):
                await living.begin_turn(turn(name))
            await processes.stores.kill(dead, name)
            earlier = await living.begin_turn(claim := turn(name))
            assert earlier[-1:] == [Message("user", "lost\0")]
            assert len(earlier) == (3 if name == "a" else 1)
            await dead.end_turn(lost, said("lost\0", "late"))
            assert "history lost a turn conversation_id=" in caplog.text
            await living.end_turn(claim, said("hi", "there"), 1)
            assert (await contents(dead, name))[-2:] == ["hi", "there"]
            assert "lost\0" not in await contents(dead, name)

    processes.run(test)


@every_shared
def test_the_message_that_a_dead_process_had_to_answer_can_be_read(processes: Processes) -> None:
    """Its user comes back to see what became of it."""

    async def test() -> None:
        dead, living = processes(), processes()
        await dead.begin_turn(turn(message="lost"))
        with pytest.raises(ConversationNotFound):
            await living.read("a", "")
        await processes.stores.kill(dead, "a")
        for _ in range(2):
            assert [m.content for m in await living.read("a", "")] == ["lost"]
        assert await contents(living) == ["lost"]

    processes.run(test)


@every_shared
def test_one_of_many_gets_the_conversation_of_a_dead_process(processes: Processes) -> None:
    """And its message is kept once."""

    async def test() -> None:
        histories = [processes() for _ in range(4)]
        for _ in range(5):
            await histories[0].begin_turn(turn(message="lost"))
            await processes.stores.kill(histories[0], "a")
            claims = [turn() for _ in range(20)]
            begun = await asyncio.gather(
                *(histories[n % 4].begin_turn(claim) for n, claim in enumerate(claims)),
                return_exceptions=True,
            )
            [winner] = [n for n, each in enumerate(begun) if not isinstance(each, BaseException)]
            assert begun[winner] == [Message("user", "lost")]
            await histories[winner % 4].end_turn(claims[winner], said("1", "2"), 1)
            assert await contents(histories[1]) == ["1", "2"]
            await histories[1].delete("a", "")

    processes.run(test)


@every
@pytest.mark.parametrize(
    "bounds", [{"max_messages": "5"}, {"max_bytes": 1_023}, {"ttl": 0}, {"max_messages": 0}]
)
def test_a_bound_of_no_use_is_named(stores: Stores, bounds: Dict[str, Any]) -> None:
    """When the store is made, and not when the first conversation does not fit."""
    with pytest.raises(SettingsError, match=next(iter(bounds))):
        stores.make(**bounds)
