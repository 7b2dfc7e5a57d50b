"""A reply that is kept: the ids of its frames, and the rest of it from each of them.

All over sockets: a client cuts its connection, and asks for the rest over another one.
"""

from __future__ import annotations

import asyncio
from typing import Any, AsyncIterator, Dict, List, Optional, Set, Tuple, Union

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omniforge_chat import ChatError, Finish, Settings, Thought, Turn, Usage, create_app
from omniforge_chat.core.kept import OVER
from omniforge_chat.core.sse import MAX_TEXT_BYTES, Decoder
from omniforge_chat.replay import MemoryReplay
from omniforge_chat.replay.live import LiveReply
from omniforge_chat.rules import DIALECTS

from ..support.answers import refusal, text
from ..support.app import HandDrivenRequest, call
from ..support.client import Client
from ..support.conducted import (
    Conductor,
    Reading,
    answer,
    ask,
    chat,
    resume,
    said,
    spread,
)
from ..support.constants import CONVERSATION
from ..support.responders import saying

SETTINGS = Settings(replay="memory", thoughts=True, dialects=DIALECTS, heartbeat_interval=None)
CHAT = "/api/v1/chat"
UNKNOWN = "A" * 22


def ended(conductor: Conductor, port: int, message: str, *items: Any) -> Reading:
    """A reply of `items` that was read to its end, on a connection that is closed."""
    with chat(port, message) as reading:
        conductor.reply(message).say(*items, None)
        reading.end()
    return reading


# The ids of its frames


def test_each_frame_has_the_position_behind_it(
    conductor: Conductor, port: int, message: str
) -> None:
    """A client that read a frame has all before it: characters, however they were sent."""
    with chat(port, message) as reading:
        reply = conductor.reply(message)
        name = reading.reply_id
        reply.say("Hel", "lo")
        assert reading.client.piece().decode() == (
            f'retry: 1000\nevent: chunk\ndata: {{"content":"Hel"}}\nid: {name}.3\n\n'
            f'event: chunk\ndata: {{"content":"lo"}}\nid: {name}.5\n\n'
        )
        reply.say("😀", Thought("hm"), "é")
        assert reading.client.piece().decode() == (
            f'event: chunk\ndata: {{"content":"😀"}}\nid: {name}.6\n\n'
            f'event: thought\ndata: {{"content":"hm"}}\nid: {name}.8\n\n'
            f'event: chunk\ndata: {{"content":"é"}}\nid: {name}.9\n\n'
        )
        reply.finish()
        done = reading.client.piece()
        assert done.startswith(b"event: done\n")
        assert done.endswith(b"\nid: %b.%d\n\n" % (name.encode(), OVER))
    assert reading.headers["location"] == f"/api/v1/chat/replies/{name}"


@pytest.mark.parametrize("item", [None, ChatError("no")])
def test_the_only_frame_of_a_reply_without_text_has_an_id_too(
    conductor: Conductor, port: int, message: str, item: Any
) -> None:
    """So its client knows the time to wait, and that there is no more."""
    with chat(port, message) as reading:
        conductor.reply(message).say(item)
        frame = reading.client.piece()
        assert frame.startswith(b"retry: 1000\nevent: ")
        assert frame.endswith(b"\nid: %b.%d\n\n" % (reading.reply_id.encode(), OVER))


def test_a_long_text_has_an_id_at_each_of_its_parts(
    conductor: Conductor, port: int, message: str
) -> None:
    """A client that got half of it before a cut wants the other half."""
    long = "a😀" * MAX_TEXT_BYTES
    reading = ended(conductor, port, message, "x", long, "y")
    positions = [int(frame.id.rpartition(".")[2]) for frame in reading.frames[:-1]]
    assert len(positions) > 5
    lengths = [len(said([frame])) for frame in reading.frames[:-1]]
    assert positions == [sum(lengths[: n + 1]) for n in range(len(lengths))]
    for number in range(len(lengths)):
        with resume(port, reading.reply_id, reading.frames[number].id) as rest:
            rest.end()
            assert said(reading.frames[: number + 1]) + rest.said == f"x{long}y"


def test_a_piece_that_cannot_be_sent_is_not_kept(
    conductor: Conductor, port: int, message: str
) -> None:
    """What is kept is what clients got; and the failure is a part of it."""
    with chat(port, message) as reading:
        conductor.reply(message).say("a", "\ud800", "b")
        event, data = reading.end()
        assert (event, data["code"], reading.said) == ("error", "stream_error", "a")
    with resume(port, reading.reply_id) as again:
        assert again.end() == (event, data)
        assert again.said == "a"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "omniforge", "stream": True}),
        ("/v1/chat/completions", {"model": "omniforge"}),
        ("/api/chat", {"id": "chat"}),
        ("/ag-ui", {"threadId": "a", "runId": "b", "state": {}, "tools": [], "context": []}),
    ],
)
def test_frames_of_other_formats_have_no_ids_but_their_replies_are_kept(
    conductor: Conductor, port: int, message: str, path: str, body: Dict[str, Any]
) -> None:
    """Their clients know no ids, and some fail at them. They have the header."""
    with Client(port) as client:
        said_before = {"id": "1", "role": "user", "content": message}
        client.post({**body, "messages": [said_before]}, path=path)
        conductor.reply(message).say("Hel", Thought("hm"), "lo", None)
        status, headers = client.head()
        sent = client.content(headers)
        assert (status, b"id: " in sent, b"retry: " in sent) == (200, False, False)
    assert headers["location"] == f"/api/v1/chat/replies/{headers['x-reply-id']}"
    with resume(port, headers["x-reply-id"]) as reading:
        assert reading.end()[0] == "done"
        assert (reading.said, text(reading.frames)) == ("Helhmlo", "Hello")


def test_without_a_store_nothing_of_it_exists() -> None:
    """Frames, headers and routes are those of a service that never heard of it."""
    app = create_app(saying("Hi"), settings=Settings())
    answer = call(app)
    assert answer.body.startswith(b'event: chunk\ndata: {"content":"Hi"}\n\nevent: done\n')
    assert not {"x-reply-id", "location"} & set(answer.headers)
    for path in (f"{CHAT}/replies/{UNKNOWN}", f"/api/v1/conversations/{CONVERSATION}/stream"):
        assert refusal(*call(app, method="GET", path=path).json())[:2] == (404, "not_found")
    assert call(app, headers={"Last-Event-ID": "x"}).status == 204
    assert call(app, headers={"Idempotency-Key": "x"}).frames[-1].event == "done"
    assert call(app, headers={"Idempotency-Key": ""}).frames[-1].event == "done"


# The rest of it


PIECES = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
    | st.text("😀é\x85\n", min_size=1).map(Thought),
    max_size=8,
)


class Halting:
    """A responder that does what a script says, and halts before some of its items."""

    def __init__(self, script: List[Any], halts: Set[int]) -> None:
        self._script = script
        self._halts = halts
        self.reached = asyncio.Semaphore(0)
        self.go_on = asyncio.Semaphore(0)

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        for number, item in enumerate(self._script):
            if number in self._halts:
                self.reached.release()
                await self.go_on.acquire()
            if isinstance(item, Exception):
                raise item
            yield item


HALTING: List[Halting] = []
app = create_app(lambda turn: HALTING[0](turn), settings=SETTINGS)
"""One for all examples, as to make it takes longer than they do."""


@settings(max_examples=50)
@given(PIECES, st.booleans(), st.data())
def test_from_each_id_the_rest_comes_exactly_once(
    pieces: List[Union[str, Thought]], fails: bool, data: Any
) -> None:
    """However it was cut into pieces and writes, and whether it had ended at the time."""
    end: List[Any] = [ChatError("no")] if fails else [Usage(3), Finish("stop")]
    halts = data.draw(st.sets(st.integers(0, len(pieces))), "it halts before")

    async def run() -> None:
        HALTING[:] = [responder := Halting([*pieces, *end], halts)]
        own = HandDrivenRequest()
        serving = asyncio.ensure_future(own.run(app))
        rests: List[Tuple[int, HandDrivenRequest, asyncio.Future[None]]] = []

        def come_back(at: int) -> None:
            rest = again(own, at)
            rests.append((at, rest, asyncio.ensure_future(rest.run(app))))

        for _ in halts:
            await responder.reached.acquire()
            await asyncio.sleep(0)
            for at in data.draw(st.sets(st.integers(-1, len(own.frames) - 1), max_size=2)):
                come_back(at)
            if data.draw(st.booleans(), "its client leaves"):
                own.gone.set()
            for _ in range(3):
                await asyncio.sleep(0)
            responder.go_on.release()
        await serving
        for at in range(-1, len([frame for frame in own.frames if frame.event != "done"])):
            come_back(at)
        await asyncio.gather(*(task for _, _, task in rests))
        check(own, rests)
        assert app.open_streams == 0

    def check(own: HandDrivenRequest, rests: List[Any]) -> None:
        kinds = ["thought" if isinstance(piece, Thought) else "chunk" for piece in pieces]
        texts = [piece.text if isinstance(piece, Thought) else piece for piece in pieces]
        expected = [(kind, each) for kind, text in zip(kinds, texts) for each in text]
        for at, rest, _ in rests:
            assert spread(own.frames[: at + 1]) + spread(rest.frames) == expected
            assert rest.frames[-1].event == ("error" if fails else "done")
            assert rest.frames[-1] == rests[0][1].frames[-1]
        if not own.gone.is_set():
            assert own.frames[-1] == rests[0][1].frames[-1]

    asyncio.run(run())


def again(request: HandDrivenRequest, at: int) -> HandDrivenRequest:
    """A request for what comes behind the frame `at` of another one; -1 for all."""
    name = request.headers["x-reply-id"]
    headers = {} if at < 0 else {"Last-Event-ID": request.frames[at].id}
    return HandDrivenRequest(b"", method="GET", path=f"{CHAT}/replies/{name}", headers=headers)


def test_a_client_goes_on_with_a_reply_that_goes_on(
    conductor: Conductor, port: int, message: str
) -> None:
    """A phone in a tunnel: what it has missed comes at once, as one chunk, then it comes live."""
    with chat(port, message) as reading:
        reply = conductor.reply(message)
        reply.say("Hel", "lo ")
        reading.until("Hello ")
        name, known = reading.reply_id, reading.frames[0].id
    reply.say("wor")
    reply.say("ld")
    with resume(port, name, known) as rest:
        assert {*reading.headers} == {*rest.headers}
        assert rest.headers["location"] == reading.headers["location"]
        assert rest.headers["x-conversation-id"] == reading.headers["x-conversation-id"]
        assert rest.headers["x-request-id"] != reading.headers["x-request-id"]
        assert rest.reply_id == name
        missed = rest.client.piece()
        assert missed.startswith(b"retry: 1000\nevent: chunk\n")
        assert b'"lo wor' in missed or b'"lo world"' in missed or b'"lo "' in missed
        rest.frames = Decoder().feed(missed)
        reply.say("!")
        rest.until("lo world!")
        reply.say(Usage(7), Finish("length"), None)
        event, data = rest.end()
        assert rest.client.ended
    assert (event, data["usage"], data["finish_reason"]) == ("done", {"tokens": 7}, "length")
    assert rest.last_id == f"{name}.{OVER}"


def test_two_who_read_one_reply_both_get_all_of_it_and_one_may_leave(
    conductor: Conductor, port: int, message: str
) -> None:
    """The same conversation in two tabs; neither they nor the first client feel each other."""
    with chat(port, message) as reading:
        reply = conductor.reply(message)
        reply.say("a")
        reading.until("a")
        name = reading.reply_id
        with resume(port, name) as first, resume(port, name, f"{name}.0") as second:
            with resume(port, name) as leaving:
                leaving.until("a")
            first.until("a")
            second.until("a")
            reply.say("b", None)
            assert first.end() == second.end() == reading.end()
            assert first.said == second.said == reading.said == "ab"


def test_the_header_is_newer_than_the_address(
    conductor: Conductor, port: int, message: str
) -> None:
    """An EventSource begins with `?after`, and asks again at the same address with its header."""
    reading = ended(conductor, port, message, "Hel", "lo", "!")
    name = reading.reply_id
    first, second, third, over = (frame.id for frame in reading.frames)
    for query, header, expected in (
        (f"?after={first}", None, "lo!"),
        (f"?after={first}", second, "!"),
        (f"?after={third}&after={second}", None, "!"),
        ("?before=x", None, "Hello!"),
    ):
        with resume(port, name, header, query) as rest:
            assert rest.end()[0] == "done"
            assert rest.said == expected
    path = f"{CHAT}/replies/{name}"
    assert ask(port, f"{path}?after={over}")[0] == 204
    assert ask(port, f"{path}?after=")[0] == 400


def test_who_has_all_the_text_gets_the_end_and_who_has_that_gets_nothing(
    conductor: Conductor, port: int, message: str
) -> None:
    """A client that asks by itself stops at 204 (WHATWG HTML, section 9.2.3)."""
    reading = ended(conductor, port, message, "Hi")
    text_id, over = (frame.id for frame in reading.frames)
    for _ in range(2):
        with resume(port, reading.reply_id, text_id) as rest:
            assert [frame.event for frame in (rest.end() and rest.frames)] == ["done"]
            assert rest.frames == reading.frames[1:]
        status, headers, body = ask(
            port, f"{CHAT}/replies/{reading.reply_id}", headers={"Last-Event-ID": over}
        )
        assert (status, body) == (204, None)
        assert headers["cache-control"] == "no-store"
        assert headers["x-request-id"]
        assert "content-type" not in headers


def test_an_error_comes_again(conductor: Conductor, port: int, message: str) -> None:
    """If it got lost with the connection, the client would take its half for the whole."""
    reading = ended(conductor, port, message, "Hi", ChatError("Nobody is there", code="own"))
    for frame in reading.frames:
        with resume(port, reading.reply_id, frame.id) as rest:
            event, data = rest.end()
            assert rest.frames == reading.frames[-1:]
    assert (event, data["code"], data["usage"]) == (
        "error",
        "own",
        {"tokens": 1, "estimated": True},
    )


def test_a_reply_that_is_too_long_to_keep_says_so_and_is_never_doubled(
    conductor: Conductor, port: int, message: str
) -> None:
    """Its own client gets all of it; whoever comes back hears that a part is missing."""
    with chat(port, message) as reading:
        reply = conductor.reply(message)
        reply.say("a")
        reading.until("a")
        with resume(port, reading.reply_id) as behind:
            behind.until("a")
            reply.say(*["x" * 16_000] * 70)
            event, data = behind.end()
            assert (event, data["code"]) == ("error", "replay_gap")
        for at in (0, 50):
            with resume(port, reading.reply_id, f"{reading.reply_id}.{at}") as rest:
                assert [rest.end()[1]["code"]] == ["replay_gap"]
        reply.finish()
        assert reading.end()[0] == "done"
    headers = {"Last-Event-ID": reading.last_id}
    assert ask(port, f"{CHAT}/replies/{reading.reply_id}", headers=headers)[0] == 204


# What cannot be resumed


NO_POSITIONS = {
    "nothing": "",
    "garbage": "x",
    "another reply": f"{UNKNOWN}.1",
    "negative": "{}.-1",
    "beyond the text": "{}.3",
    "beyond 2^53": "{}.9007199254740992",
    "beyond any number": "{}." + "9" * 17,
    "a sign": "{}.+1",
    "a zero": "{}.01",
    "a fraction": "{}.1.0",
    "other digits": "{}.\xb2",
    "no number": "{}.",
    "no dot": "{}",
    "two": "{}.1, {}.1",
    "10 KB": "{}." + "1" * 10_000,
    "10 KB of something else": "\xff" * 10_000,
}


@pytest.mark.parametrize("running", [True, False])
def test_an_id_that_is_none_of_this_reply_is_refused(
    conductor: Conductor, port: int, message: str, running: bool
) -> None:
    """In the one shape of errors, at once, and the reply does not feel it."""
    with chat(port, message) as reading:
        reply = conductor.reply(message)
        reply.say("Hi")
        name = reading.until("Hi").reply_id
        if not running:
            reply.finish()
            reading.end()
        wrong = {**NO_POSITIONS, **({"the end": f"{name}.{OVER}"} if running else {})}
        for kind, last_id in wrong.items():
            headers = {"Last-Event-ID": last_id.replace("{}", name)}
            found = refusal(*ask(port, f"{CHAT}/replies/{name}", headers=headers))
            assert found[:2] == (400, "validation_error"), kind
            assert found[2].startswith("Last-Event-ID: ")
            assert len(found[2]) < 100
            with Client(port) as client:
                client.post(b"whatever", headers=headers)
                if kind != "another reply":
                    assert refusal(*client.json())[:2] == (400, "validation_error"), kind
        if running:
            reply.finish()
            assert reading.end()[0] == "done"


@pytest.mark.parametrize("name", [UNKNOWN, "x", "x" * 10_000, "%ff", "a.b", "A" * 21 + "%0A"])
def test_a_reply_that_is_not_there_is_not_found(port: int, name: str) -> None:
    """Unknown, expired and somebody else's are one answer."""
    for method in ("GET", "DELETE"):
        found = refusal(*ask(port, f"{CHAT}/replies/{name}", method=method))
        assert found == (404, "reply_not_found", "No such reply is kept")
    for last_id, status in ((f"{UNKNOWN}.1", 404), ("x", 400)):
        headers = {"Last-Event-ID": last_id}
        assert refusal(*ask(port, f"{CHAT}/replies/{name}", headers=headers))[0] == status


@pytest.mark.parametrize("name", ["x", "x" * 10_000, "a.b", "A" * 21 + "\n", "A" * 21 + "é"])
def test_an_id_that_no_reply_can_have_is_not_looked_for(name: str) -> None:
    """A store on another machine has to do with ids alone that could be its own."""
    app = create_app(saying("Hi"), settings=Settings(), replay=Nowhere())
    for method in ("GET", "DELETE"):
        answer = call(app, method=method, path=f"{CHAT}/replies/{name}")
        assert refusal(*answer.json())[:2] == (404, "reply_not_found")


class Nowhere(MemoryReplay):
    """A store in which nobody may look for anything."""

    async def find(self, reply_id: str, owner: str) -> Optional[LiveReply]:
        raise AssertionError(reply_id)


def test_an_expired_reply_is_not_found() -> None:
    """Five minutes after its end, nobody comes back for it."""
    app = create_app(saying("Hi"), settings=Settings(replay="memory", replay_keep=0.001))

    async def run() -> Tuple[int, str]:
        first = HandDrivenRequest()
        await first.run(app)
        await asyncio.sleep(0.01)
        late = again(first, 0)
        await late.run(app)
        return refusal(*late.json())[:2]

    assert asyncio.run(run()) == (404, "reply_not_found")


@pytest.mark.parametrize("path", [CHAT, "/api/chat"])
def test_a_post_that_is_sent_again_by_a_client_gets_the_rest_and_never_a_second_reply(
    conductor: Conductor, port: int, message: str, path: str
) -> None:
    """As fetch-event-source does after a cut, with the body of the first one."""
    with chat(port, message) as reading:
        reply = conductor.reply(message)
        reply.say("Hel")
        last_id = reading.until("Hel").last_id
    with Client(port) as client:
        client.post({"message": message}, path=path, headers={"Last-Event-ID": last_id})
        rest = Reading(client)
        reply.say("lo", None)
        if path == CHAT:
            assert rest.end()[0] == "done"
            assert rest.said == "lo"
            last_id = rest.last_id
        else:
            assert b'{"type":"text-delta","id":"1","delta":"lo"}' in client.content(rest.headers)
        assert "idempotency-replayed" not in rest.headers
        # On the same connection, which is still good.
        if path == CHAT:
            client.post({"message": message}, path=path, headers={"Last-Event-ID": last_id})
            assert answer(client)[0] == 204
    assert conductor.times(message) == 1


def test_a_post_for_the_rest_of_an_unknown_reply_gets_a_stream_of_one_error(
    port: int, conductor: Conductor, message: str
) -> None:
    """To a status of 404 such a client would say: again, in a second; for ever."""
    with Client(port) as client:
        body = {"message": message}
        client.post(body, headers={"Last-Event-ID": f"{UNKNOWN}.7"})
        reading = Reading(client)
        event, data = reading.end()
        assert (reading.status, event, data["code"]) == (200, "error", "reply_not_found")
        assert "x-conversation-id" not in reading.headers
        assert reading.last_id == f"{UNKNOWN}.{OVER}"
        client.post(body, headers={"Last-Event-ID": reading.last_id})
        assert answer(client)[0] == 204
        client.post(body)
        conductor.reply(message).finish()
        assert Reading(client).end()[0] == "done"


def test_the_body_of_a_post_that_resumes_is_read_and_means_nothing(
    conductor: Conductor, port: int, message: str
) -> None:
    """The next request on the connection begins behind it; within the limit of any body."""
    reading = ended(conductor, port, message, "Hi")
    headers = {"Last-Event-ID": reading.frames[0].id, "Content-Type": "text/plain"}
    with Client(port) as client:
        for body in (b"", b"{", b"x" * 1_000_000):
            client.post(body, headers=headers)
            assert Reading(client).end()[0] == "done"
        client.post(b"x" * 2_000_000, headers=headers)
        assert refusal(*client.json())[:2] == (413, "payload_too_large")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/ag-ui"])
def test_a_post_with_an_id_of_a_format_without_ids_is_still_no_request_for_a_reply(
    port: int, conductor: Conductor, message: str, path: str
) -> None:
    """It is not known what its client has; but that it would pay twice is."""
    with Client(port) as client:
        client.post({"message": message}, path=path, headers={"Last-Event-ID": "x"})
        assert answer(client)[0] == 204


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_leaves_while_it_asks_for_the_rest_is_no_failure(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its body never came, so there is nobody to answer."""

    async def run() -> int:
        replay = create_app(saying("Hi"), settings=SETTINGS)
        first = HandDrivenRequest()
        await first.run(replay)
        path = f"{CHAT}/replies/{first.headers['x-reply-id']}" if method == "GET" else CHAT
        headers = {"Last-Event-ID": first.frames[0].id}
        half: List[Any] = [{"type": "http.request", "body": b"{", "more_body": True}]
        late = HandDrivenRequest(method=method, path=path, headers=headers, parts=half)
        late.gone.set()
        await late.run(replay)
        return len(late.sent) + replay.open_streams

    assert asyncio.run(run()) == 0
    assert [record for record in caplog.records if record.levelname != "INFO"] == []


def test_a_server_that_fails_to_send_the_rest_hears_of_it_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is the server's failure: nothing more is sent, and the log has it under the id."""

    class Failing(HandDrivenRequest):
        async def send(self, message: Any) -> None:
            if message.get("more_body") is False:
                raise LookupError("a bug of the server's")
            await super().send(message)

    async def run() -> None:
        replay = create_app(saying("Hi"), settings=SETTINGS)
        first = HandDrivenRequest()
        await first.run(replay)
        path = f"{CHAT}/replies/{first.headers['x-reply-id']}"
        await Failing(b"", method="GET", path=path).run(replay)

    with pytest.raises(LookupError):
        asyncio.run(run())
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("request failed request_id=")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (f"{CHAT}/replies/{UNKNOWN}", {"GET", "DELETE"}),
        (f"/api/v1/conversations/{CONVERSATION}/stream", {"GET"}),
        (f"/api/v1/conversations/{CONVERSATION}/stop", {"POST"}),
        (f"/api/chat/{CONVERSATION}/stream", {"GET"}),
    ],
)
def test_a_route_has_its_methods_alone(port: int, path: str, allowed: Set[str]) -> None:
    """A HEAD would run a whole stream for nothing."""
    for method in {"HEAD", "OPTIONS", "GET", "POST", "PUT", "DELETE", "PATCH"} - allowed:
        with Client(port) as client:
            client.ask(path, method=method)
            status, headers = client.head()
            assert (status, set(headers["allow"].split(", "))) == (405, allowed), method
