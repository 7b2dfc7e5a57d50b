"""The programs of docs/examples that stand in or around the chat, as people copy them."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator

import pytest

from omniforge_chat import ConversationBusy, Message, Settings, Turn, create_app

from ..support.answers import last, refusal, text
from ..support.constants import CONVERSATION
from ..support.docs import DOCS
from ..support.servers import ServiceThread, UvicornThread

EXAMPLES = DOCS / "examples"
NAMES = [path.stem for path in EXAMPLES.glob("*.py")]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Import an example, as the server does in whose directory it is."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in NAMES:
        sys.modules.pop(name, None)


# The responder


def test_the_responder_answers(load: Callable[[str], Any]) -> None:
    """It is the first that people change."""
    app = create_app(load("responder").respond, settings=Settings())
    with UvicornThread(app) as server, server.chat("Paris") as client:
        assert client.head()[0] == 200
        frames = client.frames()
        assert text(frames) == "Paris is in France.\nIt lies on the Seine.\n"
        assert last(frames)[1]["usage"] == {"tokens": 12}
        client.post({"message": "Atlantis"})
        client.head()
        assert last(client.frames())[1]["code"] == "unknown_city"


def test_the_responder_leaves_nothing_behind(load: Callable[[str], Any]) -> None:
    """Its tasks would ask on for a client that has left."""
    settings = Settings()
    with ServiceThread(
        create_app(load("responder").respond, settings=settings), settings
    ) as server:
        with server.chat("Rome") as client:
            client.head()
            client.frame()
        server.rest()


# The store


def test_the_store_keeps_what_was_said(load: Callable[[str], Any], tmp_path: Path) -> None:
    """In the file, so that another process finds it; and to each conversation its own."""
    said = [Message("user", "Hello"), Message("assistant", "Hi the", complete=False)]

    async def run() -> None:
        path = str(tmp_path / "chat.db")
        store, other = (load("store").SQLiteHistory(path) for _ in range(2))
        assert await store.begin_turn(CONVERSATION) == []
        await store.end_turn(CONVERSATION, said, 0)
        assert await other.begin_turn(CONVERSATION) == said
        await other.end_turn(CONVERSATION, [], 0)
        assert await store.begin_turn(CONVERSATION) == said
        assert await store.begin_turn("another") == []

    asyncio.run(run())


def test_the_store_replaces_the_last_messages(load: Callable[[str], Any], tmp_path: Path) -> None:
    """Of this conversation alone; and those of others who have claimed it meanwhile stay."""
    said, more = ([Message("user", name), Message("assistant", name)] for name in "ab")

    async def run() -> None:
        path = str(tmp_path / "chat.db")
        store = load("store").SQLiteHistory(path)
        for conversation_id in (CONVERSATION, "another"):
            for messages in (said, more):
                await store.begin_turn(conversation_id)
                await store.end_turn(conversation_id, messages, 0)
        assert await store.begin_turn(CONVERSATION) == said + more
        await store.end_turn(CONVERSATION, said, 2)
        assert await store.begin_turn("another") == said + more
        assert await store.begin_turn(CONVERSATION) == said + said
        late = load("store").SQLiteHistory(path)
        await late.end_turn(CONVERSATION, more, 2)
        await store.end_turn(CONVERSATION, [], 0)
        assert await store.begin_turn(CONVERSATION) == said + said + more

    asyncio.run(run())


def test_the_store_is_a_history(load: Callable[[str], Any], tmp_path: Path) -> None:
    """What the app asks of one, it has."""

    async def recall(turn: Turn) -> AsyncIterator[str]:
        yield "; ".join(message.content for message in turn.history) or "nothing"

    store = load("store").SQLiteHistory(str(tmp_path / "chat.db"))
    app = create_app(recall, settings=Settings(), history=store)
    with UvicornThread(app) as server, server.connect() as client:
        for message, reply in (("one", "nothing"), ("two", "one; nothing")):
            client.post({"message": message, "conversation_id": CONVERSATION})
            client.head()
            assert text(client.frames()) == reply


def test_the_store_lets_one_turn_at_a_time_into_a_conversation(
    load: Callable[[str], Any], tmp_path: Path
) -> None:
    """Two replies at once would be told to each other by nobody."""

    async def run() -> None:
        path = str(tmp_path / "chat.db")
        store, other = (load("store").SQLiteHistory(path) for _ in range(2))
        begun = await asyncio.gather(
            *(s.begin_turn(CONVERSATION) for s in (store, other) * 4), return_exceptions=True
        )
        assert [type(b) for b in begun].count(ConversationBusy) == 7
        winner, loser = (store, other) if [] in begun[::2] else (other, store)
        await loser.end_turn(CONVERSATION, [], 0)  # it has begun none: this ends nobody's
        with pytest.raises(ConversationBusy):
            await loser.begin_turn(CONVERSATION)
        await winner.end_turn(CONVERSATION, [], 0)
        assert await loser.begin_turn(CONVERSATION) == []

    asyncio.run(run())


def test_a_claim_lapses_whose_process_has_died(load: Callable[[str], Any], tmp_path: Path) -> None:
    """Nobody else would ever end it, and what it had begun is not ended by one that comes late."""

    async def run() -> None:
        path = str(tmp_path / "chat.db")
        dead = load("store").SQLiteHistory(path, lease=-1.0)
        living = load("store").SQLiteHistory(path)
        await dead.begin_turn(CONVERSATION)
        assert await living.begin_turn(CONVERSATION) == []
        await dead.end_turn(CONVERSATION, [], 0)
        with pytest.raises(ConversationBusy):
            await dead.begin_turn(CONVERSATION)

    asyncio.run(run())


# The guard


def test_the_guard_lets_in_who_has_the_token(
    load: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody else, to no route of the chat."""
    monkeypatch.setenv("ASSISTANT_TOKEN", "sesame")
    path = "/assistant/api/v1/chat"
    with UvicornThread(load("guarded").make_app()) as server, server.connect() as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sésame"}):
            client.post({"message": "Paris"}, path=path, headers=headers)
            status, answered, body = client.json()
            assert (status, body["code"]) == (401, "unauthorized")
            assert answered["www-authenticate"] == "Bearer"
        client.ask("/assistant/openapi.json")
        assert client.json()[0] == 401
        headers = {"Authorization": "Bearer sesame"}
        client.post({"message": "Paris"}, path=path, headers=headers)
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"
        client.post({"message": ""}, path=path, headers=headers)
        assert refusal(*client.json())[0] == 422
