"""Replies that are stopped, and what conversations keep: read, joined and deleted by routes."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import uuid
from typing import Any, Dict, List, Sequence, Tuple

import pytest

from omniforge_chat import ChatError, Claim, Message, Settings, create_app
from omniforge_chat.core.kept import OVER
from omniforge_chat.rules import DIALECTS

from ..support.answers import refusal
from ..support.app import HandDrivenRequest, call
from ..support.client import Client
from ..support.conducted import Conductor, Reading, ask, chat, resume
from ..support.constants import CONVERSATION, PATIENCE
from ..support.responders import saying
from ..support.servers import ServiceThread

SETTINGS = Settings(
    history="memory", replay="memory", dialects=DIALECTS, heartbeat_interval=None, replay_grace=60
)
CHAT = "/api/v1/chat"
CONVERSATIONS = "/api/v1/conversations"


@pytest.fixture
def conversation() -> str:
    """The id of a new conversation."""
    return str(uuid.uuid4())


def stop(port: int, reply_id: str) -> Tuple[int, Any]:
    status, _, body = ask(port, f"{CHAT}/replies/{reply_id}", method="DELETE")
    return status, body


def stored(port: int, conversation_id: str) -> List[Tuple[str, str, bool]]:
    """The messages of a conversation."""
    status, headers, body = ask(port, f"{CONVERSATIONS}/{conversation_id}")
    assert status == 200
    assert headers["cache-control"] == "no-store"
    assert set(body) == {"conversation_id", "messages"}
    assert body["conversation_id"] == conversation_id
    for each in body["messages"]:
        assert list(each) == ["role", "content", "complete", "time"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", each["time"])
    return [(each["role"], each["content"], each["complete"]) for each in body["messages"]]


# Stopping


def test_a_stopped_reply_is_complete_with_what_there_is_of_it(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """For everybody who reads it; and its conversation knows that it was cut."""
    with chat(port, message, conversation_id=conversation) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        name = reading.until("Hel").reply_id
        with resume(port, name) as other:
            other.until("Hel")
            assert stop(port, name) == (202, {"status": "stopping"})
            event, data = reading.end()
            assert other.end() == (event, data)
        assert (event, data["finish_reason"], data["usage"]["tokens"]) == ("done", "stopped", 1)
        assert reading.last_id == f"{name}.{OVER}"
        assert reply.closed.wait(PATIENCE)
        assert reply.cancelled
    for _ in range(2):
        assert stop(port, name) == (200, {"status": "ended"})
    assert stored(port, conversation) == [("user", message, True), ("assistant", "Hel", False)]


def test_a_reply_is_stopped_before_its_first_token(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """A model may think for a minute. Nothing is remembered of such a turn."""
    with chat(port, message, conversation_id=conversation) as reading:
        conductor.reply(message)
        assert stop(port, reading.reply_id)[0] == 202
        event, data = reading.end()
        assert (event, data["finish_reason"], reading.said) == ("done", "stopped", "")
    found = refusal(*ask(port, f"{CONVERSATIONS}/{conversation}"))
    assert found[:2] == (404, "conversation_not_found")


def test_a_reply_whose_client_has_left_is_stopped(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """From another device, by the id of the conversation."""
    with chat(port, message, conversation_id=conversation) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        name = reading.until("Hel").reply_id
    path = f"{CONVERSATIONS}/{conversation}/stop"
    status, _, body = ask(port, path, method="POST")
    assert (status, body) == (202, {"status": "stopping"})
    assert reply.closed.wait(PATIENCE)
    with resume(port, name) as rest:
        event, data = rest.end()
        assert (event, data["finish_reason"], rest.said) == ("done", "stopped", "Hel")
    assert ask(port, path, method="POST")[::2] == (200, {"status": "ended"})
    assert stored(port, conversation)[1] == ("assistant", "Hel", False)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (
            "/v1/chat/completions",
            {"model": "m"},
            '"message":{"role":"assistant","content":"Hel","refusal":null},"logprobs":null,'
            '"finish_reason":"stop"',
        ),
        ("/v1/chat/completions", {"model": "m", "stream": True}, '"finish_reason":"stop"'),
        ("/api/chat", {"id": "chat"}, '"finishReason":"other"'),
        ("/ag-ui", {"threadId": "a", "runId": "b"}, '"result":{"finish_reason":"stopped"}'),
    ],
)
def test_a_reply_in_any_format_is_stopped(
    conductor: Conductor, port: int, message: str, path: str, body: Dict[str, Any], expected: str
) -> None:
    """Also one that is sent as one document, whose client knows its id only by the conversation."""
    chat_id = str(uuid.uuid4())
    with Client(port) as client:
        before = {"id": "1", "role": "user", "content": message}
        headers = {"X-Conversation-ID": chat_id}
        body = {**body, "messages": [before], "id": chat_id, "threadId": chat_id}
        client.post(body, path=path, headers=headers)
        conductor.reply(message).say("Hel")
        known = path != "/v1/chat/completions" or body.get("stream")
        if known:
            status, sent = client.head()
            assert stop(port, sent["x-reply-id"])[0] == 202
        else:
            path = f"{CONVERSATIONS}/{chat_id}/stop"
            assert ask(port, path, method="POST")[0] == 202
            status, sent = client.head()
        assert status == 200
        assert expected in client.content(sent).decode()


def test_of_a_stop_and_the_end_one_comes_first(conductor: Conductor, port: int) -> None:
    """There is one terminal event, the same for each reader, and no error."""
    for number in range(30):
        message = f"race {number}"
        with chat(port, message) as reading:
            reply = conductor.reply(message)
            reply.say("a")
            reading.until("a")
            stopping = threading.Thread(target=stop, args=(port, reading.reply_id))
            stopping.start()
            reply.finish()
            event, data = reading.end()
            stopping.join()
            assert (event, reading.said) == ("done", "a")
            with resume(port, reading.reply_id) as rest:
                assert rest.end() == (event, data)
                assert rest.said == "a"


# The reply that runs in a conversation


def test_the_running_reply_of_a_conversation_is_joined(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """A page that is loaded again knows its conversation and no more."""
    path = f"{CONVERSATIONS}/{conversation}/stream"
    assert ask(port, path)[0] == 204
    with chat(port, message, conversation_id=conversation) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        reading.until("Hel")
        with Client(port) as client:
            client.ask(path)
            joined = Reading(client).until("Hel")
            reply.say("lo", None)
            assert joined.end() == reading.end()
            assert joined.said == "Hello"
            assert joined.reply_id == reading.reply_id
            assert joined.headers["location"] == f"{CHAT}/replies/{reading.reply_id}"
    status, headers, _ = ask(port, path)
    assert (status, headers["cache-control"]) == (204, "no-store")


def test_use_chat_joins_a_running_reply_in_its_own_format(
    conductor: Conductor, port: int, message: str
) -> None:
    """`resume: true` asks at the address of the chat, with the chat's id below it."""
    chat_id = str(uuid.uuid4())
    path = f"/api/chat/{chat_id}/stream"
    assert ask(port, path)[0] == 204
    with Client(port) as first, Client(port) as second:
        said = {"id": "1", "role": "user", "parts": [{"type": "text", "text": message}]}
        first.post({"id": chat_id, "messages": [said]}, path="/api/chat")
        reply = conductor.reply(message)
        reply.say("Hel")
        first.head()
        begun = first.piece()
        second.ask(path)
        status, headers = second.head()
        assert (status, headers["x-vercel-ai-ui-message-stream"]) == (200, "v1")
        reply.say("lo", None)
        sent = second.content(headers)
        assert begun.startswith(b'data: {"type":"start","messageId":"msg-')
        assert sent.startswith(b'data: {"type":"start","messageId":"msg-')
        assert re.findall(rb'"delta":"(.*?)"', sent) in ([b"Hel", b"lo"], [b"Hello"])
        assert sent.endswith(b"data: [DONE]\n\n")
        assert b"\nid:" not in sent
    assert ask(port, path)[0] == 204


@pytest.mark.parametrize("path", [CONVERSATIONS, "/api/chat"])
@pytest.mark.parametrize("conversation_id", ["%C3%A9", "a%20b", "a" * 129, "%00", "%ff"])
def test_an_id_that_no_conversation_has_is_not_found(
    port: int, path: str, conversation_id: str
) -> None:
    """It never comes as far as a store."""
    with Client(port) as client:
        client.ask(f"{path}/{conversation_id}/stream")
        status, headers = client.head()
        assert status == 404
        native = headers["content-type"] == "application/json"
        assert native == (path == CONVERSATIONS)
    for method in ("GET", "DELETE"):
        found = refusal(*ask(port, f"{CONVERSATIONS}/{conversation_id}", method=method))
        assert found[:2] == (404, "conversation_not_found")
    path = f"{CONVERSATIONS}/{conversation_id}/stop"
    assert refusal(*ask(port, path, method="POST"))[0] == 404


def test_stopping_a_conversation_without_a_reply_is_not_found(port: int, conversation: str) -> None:
    """Nobody has spoken in it, or long ago."""
    path = f"{CONVERSATIONS}/{conversation}/stop"
    assert refusal(*ask(port, path, method="POST"))[:2] == (404, "reply_not_found")


# What is stored


def test_a_conversation_is_read(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """With its cut replies, so that a page can show it as it was."""
    for number, item in enumerate([None, ChatError("no")]):
        with chat(port, f"{message} {number}", conversation_id=conversation) as reading:
            conductor.reply(f"{message} {number}").say("😀\x00", "é", item)
            reading.end()
    assert stored(port, conversation) == [
        ("user", f"{message} 0", True),
        ("assistant", "😀\x00é", True),
        ("user", f"{message} 1", True),
        ("assistant", "😀\x00é", False),
    ]


def test_of_a_deleted_conversation_nothing_is_left(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """Not what was said, not the replies that are kept, and not what is being said."""
    names = []
    for number in range(2):
        with chat(port, f"{message} {number}", conversation_id=conversation) as reading:
            reply = conductor.reply(f"{message} {number}")
            reply.say("Hel")
            names.append(reading.until("Hel").reply_id)
            if number == 0:
                reply.finish()
                reading.end()
            else:
                assert ask(port, f"{CONVERSATIONS}/{conversation}", method="DELETE")[0] == 204
                event, data = reading.end()
                assert (event, data["finish_reason"]) == ("done", "stopped")
    for method in ("GET", "DELETE"):
        found = refusal(*ask(port, f"{CONVERSATIONS}/{conversation}", method=method))
        assert found[:2] == (404, "conversation_not_found")
    for name in names:
        assert refusal(*ask(port, f"{CHAT}/replies/{name}"))[1] == "reply_not_found"
    assert ask(port, f"{CONVERSATIONS}/{conversation}/stream")[0] == 204
    with chat(port, f"{message} 2", conversation_id=conversation) as reading:
        conductor.reply(f"{message} 2").say("again", None)
        assert reading.end()[1]["history"] == 0


def test_a_conversation_is_deleted_in_its_first_turn(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """Nothing of it is stored yet, and nothing will be. Its client need not be there."""
    with chat(port, message, conversation_id=conversation) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        reading.until("Hel")
    assert ask(port, f"{CONVERSATIONS}/{conversation}", method="DELETE")[0] == 204
    assert reply.closed.wait(PATIENCE)
    assert refusal(*ask(port, f"{CONVERSATIONS}/{conversation}"))[0] == 404


def test_a_reply_that_goes_on_without_its_client_is_remembered(
    conductor: Conductor, port: int, message: str, conversation: str
) -> None:
    """Whole, if it comes to its end; until then the conversation is being answered."""
    with chat(port, message, conversation_id=conversation) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        reading.until("Hel")
    with Client(port) as client:
        client.post({"message": "me too", "conversation_id": conversation})
        assert refusal(*client.json())[:2] == (409, "conversation_busy")
    reply.say("lo", None)
    with resume(port, reading.reply_id) as rest:
        rest.end()
    assert stored(port, conversation)[1] == ("assistant", "Hello", True)


def test_a_reply_for_which_nobody_comes_back_is_remembered_as_far_as_it_came(
    conductor: Conductor, service: ServiceThread, message: str, conversation: str
) -> None:
    """The user has seen that much, and may ask about it."""
    port = service.port
    body: Dict[str, Any] = {"conversation_id": conversation, "on_disconnect": 0.01}
    with chat(port, message, **body) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        name = reading.until("Hel").reply_id
    assert reply.closed.wait(PATIENCE)
    service.until(lambda: service.app.open_streams == 0)
    assert stored(port, conversation) == [("user", message, True), ("assistant", "Hel", False)]
    with resume(port, name) as late:
        event, data = late.end()
        assert (event, data["code"], late.said) == ("error", "abandoned", "Hel")


# The routes that there are


class Store:
    """One that can only begin and end turns."""

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        return ()

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        pass


@pytest.mark.parametrize(
    ("settings", "history", "there"),
    [
        (Settings(), None, ""),
        (Settings(history="memory"), None, "conversation"),
        (Settings(replay="memory"), None, "stream stop"),
        (Settings(), Store(), ""),
        (Settings(history="memory", replay="memory"), None, "conversation stream stop"),
    ],
)
def test_there_are_the_routes_of_what_is_kept(settings: Settings, history: Any, there: str) -> None:
    """A client can tell a service that forgets from a conversation that is not there."""
    app = create_app(saying("hi"), settings=settings, history=history)
    path = f"{CONVERSATIONS}/{CONVERSATION}"
    codes = {
        "conversation": call(app, method="GET", path=path),
        "stream": call(app, method="GET", path=f"{path}/stream"),
        "stop": call(app, method="POST", path=f"{path}/stop"),
    }
    for name, answer in codes.items():
        if name == "stream" and name in there.split():
            assert answer.status == 204
            continue
        expected = {"conversation": "conversation_not_found", "stop": "reply_not_found"}
        code = expected[name] if name in there.split() else "not_found"
        assert refusal(*answer.json())[:2] == (404, code)


class Broken(Store):
    """One that fails in a way that nobody has foreseen."""

    async def read(self, conversation_id: str, owner: str) -> Any:
        raise ConnectionError("redis://user:hunter2@db")

    async def delete(self, conversation_id: str, owner: str) -> None:
        raise LookupError("redis://user:hunter2@db")


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_store_that_fails_is_an_internal_error(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever it raises: the client has a reference, and the log what it was."""
    app = create_app(saying("hi"), settings=Settings(), history=Broken())
    answer = call(app, method=method, path=f"{CONVERSATIONS}/{CONVERSATION}")
    status, code, text = refusal(*answer.json())
    assert (status, code) == (500, "internal_error")
    assert "hunter2" not in text
    (record,) = caplog.records
    assert record.getMessage() == f"request failed request_id={answer.headers['x-request-id']}"
    assert record.exc_info


def test_places_and_the_drain_hold_for_those_who_come_back() -> None:
    """They are streams like others; but a stop is always heard, as it makes room."""
    app = create_app(
        saying("a", None), settings=Settings(replay="memory", max_streams=1, cleanup_timeout=0.1)
    )

    async def run() -> None:
        own = HandDrivenRequest()
        serving = asyncio.ensure_future(own.run(app))
        for _ in range(10):
            await asyncio.sleep(0)
        path = f"{CHAT}/replies/{own.headers['x-reply-id']}"

        async def code(method: str = "GET", **request: Any) -> Any:
            asked = HandDrivenRequest(method=method, **request)
            await asked.run(app)
            return asked.status, json.loads(asked.body).get("code")

        by_post: Dict[str, Any] = {"method": "POST", "headers": {"Last-Event-ID": own.frames[0].id}}
        running = f"{CONVERSATIONS}/{own.headers['x-conversation-id']}/stream"
        for expected in ("overloaded", "shutting_down"):
            if expected == "shutting_down":
                drain = asyncio.ensure_future(app.drain(10))
                await asyncio.sleep(0)
            assert await code(path=path) == (503, expected)
            assert await code(path=running) == (503, expected)
            assert await code(**by_post) == (503, expected)
        assert await code("DELETE", path=path) == (202, None)
        await asyncio.gather(serving, drain)

    asyncio.run(run())
