"""A request that is sent twice, with an Idempotency-Key: one reply, and both get it."""

from __future__ import annotations

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any, AsyncIterator, Dict, List, Optional, Sequence, Tuple

import pytest

from omniforge_chat import Claim, Message, Settings, Turn, UpstreamRateLimited, create_app
from omniforge_chat.app import ChatApp
from omniforge_chat.conversations.memory import MemoryHistory
from omniforge_chat.rules import DIALECTS

from ..support.answers import refusal, text
from ..support.app import HandDrivenRequest, call
from ..support.client import Client
from ..support.conducted import Conductor, Reading, chat
from ..support.constants import CONVERSATION, PATIENCE
from ..support.responders import saying
from ..support.timeless import settle, timeless

SETTINGS = Settings(
    history="memory", replay="memory", dialects=DIALECTS, heartbeat_interval=None, replay_grace=60
)
CHAT = "/api/v1/chat"


@pytest.fixture
def key() -> Dict[str, str]:
    """The header of a new key."""
    return {"Idempotency-Key": str(uuid.uuid4())}


@pytest.mark.parametrize("first", ["goes on", "has left", "has ended"])
def test_a_request_with_a_known_key_gets_the_reply_from_its_beginning(
    conductor: Conductor, port: int, message: str, key: Dict[str, str], first: str
) -> None:
    """A click whose answer got lost in a tunnel: the button is pressed again."""
    fields = {"conversation_id": str(uuid.uuid4())}
    with chat(port, message, headers=key, **fields) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        reading.until("Hel")
        assert "idempotency-replayed" not in reading.headers
        if first == "has left":
            reading.client.close()
        if first == "has ended":
            reply.say("lo", None)
            reading.end()
        with chat(port, message, headers=key, **fields) as again:
            assert again.status == 200
            assert again.headers["idempotency-replayed"] == "true"
            for name in ("x-reply-id", "x-conversation-id", "location"):
                assert again.headers[name] == reading.headers[name]
            assert again.headers["x-request-id"] != reading.headers["x-request-id"]
            if first != "has ended":
                again.until("Hel")
                reply.say("lo", None)
            assert again.end()[0] == "done"
            assert again.said == "Hello"
            if first == "goes on":
                assert reading.end()[0] == "done"
    assert conductor.times(message) == 1


def test_of_many_at_once_one_is_answered_and_all_get_its_reply(
    conductor: Conductor, port: int, message: str, key: Dict[str, str]
) -> None:
    """In a conversation, too, which can be claimed once: none of them is refused as busy."""
    conversation_id = str(uuid.uuid4())

    def send(_: int) -> Tuple[str, str, bool]:
        with chat(port, message, headers=key, conversation_id=conversation_id) as reading:
            assert reading.end()[0] == "done"
            return reading.reply_id, reading.said, "idempotency-replayed" in reading.headers

    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(send, number) for number in range(6)]
        conductor.reply(message).say("Hello", None)
        found = [answer.result(PATIENCE) for answer in answers]
    assert conductor.times(message) == 1
    assert {each[:2] for each in found} == {(found[0][0], "Hello")}
    assert [each[2] for each in found].count(False) == 1


CHATS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "ai_sdk": ("/api/chat", {"id": "chat"}),
    "openai": ("/v1/chat/completions", {"model": "omniforge", "stream": True}),
    "openai, no stream": ("/v1/chat/completions", {"model": "omniforge"}),
    "ag_ui": ("/ag-ui", {"threadId": "a", "runId": "b"}),
}


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("format_", CHATS)
def test_in_each_format_the_second_answer_is_as_the_first(
    conductor: Conductor, port: int, message: str, key: Dict[str, str], format_: str, ended: bool
) -> None:
    """Packages send a request again by themselves, and some of them with a key."""
    path, body = CHATS[format_]
    body = {**body, "messages": [{"id": "1", "role": "user", "content": f"{message} {ended}"}]}

    def said(client: Client) -> str:
        status, headers = client.head()
        assert status == 200
        found.append(headers)
        data = client.content(headers).decode()
        if "json" in headers["content-type"]:
            return str(json.loads(data)["choices"][0]["message"]["content"])
        lines = [line[6:] for line in data.splitlines() if line.startswith("data: {")]
        return "".join(pieces(json.loads(line)) for line in lines)

    def pieces(data: Any) -> str:
        delta = data.get("delta") or data.get("choices", [{}])[0].get("delta", "")
        return str(delta.get("content") or "" if isinstance(delta, dict) else delta)

    found: List[Dict[str, str]] = []
    with Client(port) as first, Client(port) as second:
        first.post(body, path=path, headers=key)
        reply = conductor.reply(f"{message} {ended}")
        if ended:
            reply.say("Hel", "lo", None)
            assert said(first) == "Hello"
        second.post(body, path=path, headers=key)
        if not ended:
            reply.say("Hel", "lo", None)
            assert said(first) == "Hello"
        assert said(second) == "Hello"
    assert ["idempotency-replayed" in headers for headers in found] == [False, True]
    assert found[0]["x-reply-id"] == found[1]["x-reply-id"]
    assert found[0]["content-type"] == found[1]["content-type"]


def test_a_failure_is_the_answer_to_the_second_request_too(key: Dict[str, str]) -> None:
    """With its status, if it is one document: a client that sees 429 knows what to do."""
    app = create_app(
        saying("Hel", UpstreamRateLimited("Slow down")),
        settings=Settings(replay="memory", dialects=DIALECTS),
    )
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    answers = [call(app, body, path="/v1/chat/completions", headers=key).json() for _ in range(2)]
    assert [(status, body) for status, _, body in answers] == [answers[0][::2]] * 2
    assert answers[0][0] == 429


# What a key stands for


@pytest.mark.parametrize(
    "body", [b'{"message": "other"}', b'{"message": "%b"} '], ids=["message", "white space"]
)
def test_a_key_of_another_request_is_refused(
    conductor: Conductor, port: int, message: str, key: Dict[str, str], body: bytes
) -> None:
    """Else somebody would get the answer to a question that they have not asked."""
    with Client(port) as client:
        client.post(b'{"message": "%b"}' % message.encode(), headers=key)
        conductor.reply(message).say("Hi", None)
        Reading(client).end()
        client.post(body.replace(b"%b", message.encode()), headers=key)
        assert refusal(*client.json()) == (
            *(422, "idempotency_key_reused"),
            "Idempotency-Key: another request was sent with it",
        )


def test_a_key_of_a_request_in_another_format_is_refused(
    conductor: Conductor, port: int, message: str, key: Dict[str, str]
) -> None:
    """In the form of its own format, also if the body is the same."""
    said = [{"id": "1", "role": "user", "content": message}]
    with Client(port) as client:
        body = {"message": message, "messages": said, "model": "m"}
        client.post(body, headers=key)
        conductor.reply(message).say("Hi", None)
        Reading(client).end()
        client.post(body, path="/v1/chat/completions", headers=key)
        status, _, error = client.json()
        assert (status, error["error"]["code"]) == (422, "idempotency_key_reused")


def test_a_slash_at_the_end_of_the_path_changes_nothing(
    conductor: Conductor, port: int, message: str, key: Dict[str, str]
) -> None:
    """Here as anywhere."""
    with chat(port, message, headers=key) as reading:
        conductor.reply(message).say("Hi", None)
        reading.end()
    with Client(port) as client:
        client.post({"message": message}, path=f"{CHAT}/", headers=key)
        assert Reading(client).end()[0] == "done"
    assert conductor.times(message) == 1


@pytest.mark.parametrize("value", ["a", "k" * 255, '"quoted"', '"with space"', "a!#~ b", '"a" '])
def test_a_key_is_any_visible_text(value: str) -> None:
    """In quotation marks, as the draft has it, or without, as everybody else has it."""
    app = create_app(saying("Hi"), settings=Settings(replay="memory"))
    answers = [call(app, headers={"Idempotency-Key": value}) for _ in range(2)]
    assert [answer.status for answer in answers] == [200, 200]
    assert len({answer.headers["x-reply-id"] for answer in answers}) == 1
    bare = call(app, headers={"Idempotency-Key": value.strip().strip('"')})
    assert bare.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    "value",
    ["", " ", '""', "k" * 256, f'"{"k" * 256}"', "k" * 10_000, "é", "\xa0", "\xa0a", '"', 'a"b',
     '"a', 'a"', '"a"b"', "a\tb", "a\x7f"],
)  # fmt: skip
def test_a_key_that_is_none_is_refused(value: str) -> None:
    """And no reply is made: the client believes that it may send the request again."""
    called: List[str] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        called.append(turn.message)
        yield "Hi"

    app = create_app(respond, settings=Settings(replay="memory"))
    answer = call(app, headers={"Idempotency-Key": value})
    status, code, message = refusal(*answer.json())
    assert (status, code, called) == (400, "validation_error", [])
    assert message == "Idempotency-Key: must be 1 to 255 visible ASCII characters"


def test_a_key_whose_reply_is_no_longer_kept_is_not_answered_once_more(
    key: Dict[str, str],
) -> None:
    """A second answer in silence is what the client wanted to be safe from."""
    app = create_app(saying("Hi"), settings=Settings(replay="memory", replay_keep=0.001))

    async def run() -> HandDrivenRequest:
        await HandDrivenRequest(headers=key).run(app)
        await asyncio.sleep(0.01)
        late = HandDrivenRequest(headers=key)
        await late.run(app)
        return late

    late = asyncio.run(run())
    assert refusal(*late.json())[:2] == (410, "reply_expired")


def test_a_key_means_nothing_to_a_service_that_keeps_no_replies(key: Dict[str, str]) -> None:
    """As ever. There are libraries that send one with each request."""
    app = create_app(saying("Hi"), settings=Settings())
    for _ in range(2):
        assert "idempotency-replayed" not in call(app, headers=key).headers


def test_a_request_that_was_refused_may_be_sent_again(
    key: Dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is noted once there will be a reply: not for a busy conversation, or a full service."""
    monkeypatch.setattr("omniforge_chat.http.replies.JOIN_SECONDS", 0.01)
    held: List[asyncio.Event] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        if turn.message == "first":
            held.append(asyncio.Event())
            await held[0].wait()
        yield turn.message

    async def run() -> None:
        settings = Settings(history="memory", replay="memory", max_streams=2)
        app = create_app(respond, settings=settings)

        async def send(message: str, headers: Optional[Dict[str, str]] = None) -> HandDrivenRequest:
            body = {"message": message, "conversation_id": CONVERSATION}
            made = HandDrivenRequest(body, headers=headers)
            await made.run(app)
            return made

        first = asyncio.ensure_future(send("first"))
        await asyncio.sleep(0.01)
        assert refusal(*(await send("", key)).json())[0] == 422
        assert refusal(*(await send("second", key)).json())[:2] == (409, "conversation_busy")
        app._lifecycle.max_streams = 1
        assert refusal(*(await send("second", key)).json())[:2] == (503, "overloaded")
        app._lifecycle.max_streams = 2
        held[0].set()
        await first
        answered = await send("second", key)
        assert text(answered.frames) == "second"
        assert "idempotency-replayed" not in answered.headers
        again = await send("second", key)
        assert text(again.frames) == "second"
        assert again.headers["idempotency-replayed"] == "true"

    asyncio.run(run())


class Late(HandDrivenRequest):
    """A request whose body comes when the test lets it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.arrives = asyncio.Event()

    async def receive(self) -> Any:
        await self.arrives.wait()
        return await super().receive()


class Full:
    """A service with a place for each of `max_streams`, of which a reply without client has one."""

    def __init__(self, max_streams: int, key: Optional[Dict[str, str]] = None) -> None:
        self.goes_on = asyncio.Event()
        settings = Settings(replay="memory", max_streams=max_streams)
        self.app = create_app(self._respond, settings=settings)
        self.first = HandDrivenRequest({"message": "first"}, headers=key)

    async def _respond(self, turn: Turn) -> AsyncIterator[str]:
        yield "Hello, "
        if turn.message == "first":
            await self.goes_on.wait()
        yield turn.message

    async def __aenter__(self) -> Full:
        self.producing = await self.begin(self.first)
        self.first.gone.set()
        await settle()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.goes_on.set()
        await self.producing
        assert self.app.open_streams == 0

    async def begin(self, request: HandDrivenRequest) -> asyncio.Future[None]:
        """The task that answers, which has come as far as it can."""
        task = asyncio.ensure_future(request.run(self.app))
        await settle()
        return task


@timeless
async def test_at_a_full_service_a_request_that_is_sent_again_does_not_push_its_own_reply_out(
    key: Dict[str, str],
) -> None:
    """Nobody reads that, and so it would give way."""
    async with Full(1, key) as service:
        again = HandDrivenRequest({"message": "first"}, headers=key)
        reading = await service.begin(again)
        assert service.app.open_streams == 2
        another = HandDrivenRequest(headers={**key, "Idempotency-Key": "another"})
        await another.run(service.app)
        assert refusal(*another.json())[:2] == (503, "overloaded")
        service.goes_on.set()
        await reading
        assert text(again.frames) == "Hello, first"


@timeless
async def test_at_a_full_service_a_first_request_with_a_key_takes_a_place_that_nobody_needs(
    key: Dict[str, str],
) -> None:
    """As every new chat does."""
    async with Full(1) as service:
        made = HandDrivenRequest({"message": "second"}, headers=key)
        await made.run(service.app)
        assert text(made.frames) == "Hello, second"
        await settle()
        assert service.producing.done()  # and nobody had to wait for that


@timeless
async def test_a_request_with_a_key_that_found_a_place_keeps_it_when_readers_come(
    key: Dict[str, str],
) -> None:
    """They have places of their own, beyond the others, before its body is there."""
    async with Full(2) as service:
        late = Late({"message": "second"}, headers=key)
        chatting = await service.begin(late)
        path = f"/api/v1/chat/replies/{service.first.headers['x-reply-id']}"
        reader = HandDrivenRequest(method="GET", path=path)
        reading = await service.begin(reader)
        assert service.app.open_streams == 3
        late.arrives.set()
        await chatting
        assert text(late.frames) == "Hello, second"
        service.goes_on.set()
        await reading
        assert text(reader.frames) == "Hello, first"


class Slow(MemoryHistory):
    """A store on another machine: the claim is there before the answer to it."""

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        messages = await super().begin_turn(claim)
        await asyncio.sleep(0.05)
        return messages


def test_a_request_joins_one_that_has_claimed_the_conversation_and_not_noted_its_key_yet(
    key: Dict[str, str],
) -> None:
    """Two clicks within a millisecond: the second is no other message of the conversation."""
    app = create_app(saying("Hi"), settings=Settings(replay="memory"), history=Slow())

    async def run() -> List[HandDrivenRequest]:
        body = {"message": "hi", "conversation_id": CONVERSATION}
        requests = [HandDrivenRequest(body, headers=key) for _ in range(3)]
        await asyncio.gather(*(request.run(app) for request in requests))
        return requests

    requests = asyncio.run(run())
    assert [text(request.frames) for request in requests] == ["Hi"] * 3
    assert len({request.headers["x-reply-id"] for request in requests}) == 1


def test_without_a_conversation_of_its_own_a_request_never_claims_another_one(
    key: Dict[str, str],
) -> None:
    """The first request of a chat has no id yet: its repetition would get a new conversation."""
    history = Slow()
    app = create_app(saying("Hi"), settings=Settings(replay="memory"), history=history)

    async def run() -> List[HandDrivenRequest]:
        requests = [HandDrivenRequest(headers=key) for _ in range(3)]
        await asyncio.gather(*(request.run(app) for request in requests))
        return requests

    requests = asyncio.run(run())
    assert len({request.headers["x-conversation-id"] for request in requests}) == 1
    assert len(history) == 1
    assert history._claims == {}


def test_the_rest_of_a_reply_is_no_second_request(key: Dict[str, str]) -> None:
    """A client that sends both has the first frames already."""
    app = create_app(saying("Hel", "lo"), settings=Settings(replay="memory"))
    first = call(app, headers=key)
    rest = call(app, headers={**key, "Last-Event-ID": first.frames[0].id})
    assert text(rest.frames) == "lo"


def test_an_app_of_its_own_has_keys_of_its_own(key: Dict[str, str]) -> None:
    """Two apps in one process know nothing of each other."""

    def make() -> ChatApp:
        return create_app(saying("Hi"), settings=Settings(replay="memory"))

    assert all("idempotency-replayed" not in call(make(), headers=key).headers for _ in range(2))
