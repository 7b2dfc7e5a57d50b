"""The programs of docs/examples that stand in or around the chat, as people copy them."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Callable, Iterator

import pytest

from omniforge_chat import (
    Claim,
    ConversationBusy,
    ConversationNotFound,
    Message,
    Settings,
    Turn,
    create_app,
)

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


def claim(turn_id: str, conversation_id: str = CONVERSATION, owner: str = "") -> Claim:
    return Claim(conversation_id, owner, turn_id, "Hello")


def test_the_store_keeps_what_was_said(load: Callable[[str], Any], tmp_path: Path) -> None:
    """On the disk, so that the next process finds it; and to each conversation its own."""
    said = [Message("user", "Hello\0😀"), Message("assistant", "Hi the", complete=False)]

    async def run() -> None:
        store, later = (load("store").FileHistory(str(tmp_path / "new" / "chat")) for _ in range(2))
        assert await store.begin_turn(claim("1")) == []
        await store.end_turn(claim("1"), said, 0)
        assert await later.begin_turn(claim("2")) == said
        await later.end_turn(claim("2"), [], 0)
        assert await later.begin_turn(claim("3")) == said
        assert await later.begin_turn(claim("4", "../a/b")) == []

    asyncio.run(run())


def test_the_store_replaces_the_last_messages(load: Callable[[str], Any], tmp_path: Path) -> None:
    """Of this conversation alone; and a claim that is not the one that holds changes nothing."""
    said, more = ([Message("user", name), Message("assistant", name)] for name in "ab")

    async def run() -> None:
        store = load("store").FileHistory(str(tmp_path))
        for conversation_id in (CONVERSATION, "another"):
            for messages in (said, more):
                await store.begin_turn(claim("1", conversation_id))
                await store.end_turn(claim("1", conversation_id), messages, 0)
        assert await store.begin_turn(claim("2")) == said + more
        await store.end_turn(claim("3"), said, 4)
        await store.end_turn(claim("2"), said, 2)
        await store.end_turn(claim("2"), said, 2)
        assert await store.begin_turn(claim("3", "another")) == said + more
        assert await store.begin_turn(claim("4")) == said + said

    asyncio.run(run())


def test_the_store_is_a_history(load: Callable[[str], Any], tmp_path: Path) -> None:
    """What the app asks of one, it has."""

    async def recall(turn: Turn) -> AsyncIterator[str]:
        yield "; ".join(message.content for message in turn.history) or "nothing"

    store = load("store").FileHistory(str(tmp_path))
    app = create_app(recall, settings=Settings(), history=store)
    with UvicornThread(app) as server, server.connect() as client:
        for message, reply in (("one", "nothing"), ("two", "one; nothing")):
            client.post({"message": message, "conversation_id": CONVERSATION})
            client.head()
            assert text(client.frames()) == reply


def test_the_store_lets_one_turn_at_a_time_into_a_conversation(
    load: Callable[[str], Any], tmp_path: Path
) -> None:
    """Two replies at once would be told to each other by nobody; and it is its owner's alone."""

    async def run() -> None:
        store = load("store").FileHistory(str(tmp_path))
        claims = [claim(str(number)) for number in range(8)]
        begun = await asyncio.gather(*map(store.begin_turn, claims), return_exceptions=True)
        assert [type(b) for b in begun].count(ConversationBusy) == 7
        stranger = claim("9", owner="another")
        with pytest.raises(ConversationNotFound):
            await store.begin_turn(stranger)
        await store.end_turn(claims[begun.index([])], [Message("user", "Hello")], 0)
        with pytest.raises(ConversationNotFound):
            await store.begin_turn(stranger)
        assert len(await store.begin_turn(claims[0])) == 1

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
