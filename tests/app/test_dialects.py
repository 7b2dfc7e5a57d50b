"""What all wire formats have in common, through the app: the turn, the store, limits, shapes."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
from typing import Any, AsyncIterator, Dict, List, Mapping, MutableMapping, Sequence

import msgspec
import pytest
from starlette.types import Message as ASGIMessage

from omniforge_chat import (
    Claim,
    History,
    Message,
    Settings,
    SettingsError,
    Thought,
    Turn,
    create_app,
)
from omniforge_chat.app import ChatApp
from omniforge_chat.dialects import Dialect, Request, make_dialect
from omniforge_chat.dialects.native import Native, NativeFrames
from omniforge_chat.errors import HostNotAllowed, InternalError
from omniforge_chat.http import ChatEndpoint
from omniforge_chat.models import Parameters
from omniforge_chat.rules import DIALECTS
from omniforge_chat.stream.lifecycle import Lifecycle

from ..support.app import HandDrivenRequest, call
from ..support.constants import CONVERSATION
from ..support.responders import saying
from ..support.timeless import passing, timeless

OTHERS = [name for name in DIALECTS if name != "native"]


class Listener:
    """A responder that keeps its turns."""

    def __init__(self, takes: Sequence[str] = ()) -> None:
        self.turns: List[Turn] = []
        self.takes_parts = takes

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        self.turns.append(turn)
        yield "Hello"


class Untouched(History):
    """A store that nobody may ask."""

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        raise AssertionError("it was read")

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        raise AssertionError("it was written")


def dialect(name: str) -> Dialect:
    return make_dialect(name, Settings())


def said(role: str, content: object, **fields: object) -> Dict[str, Any]:
    """A message in the words of each format at once."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return {"id": "m", "role": role, "content": content, "parts": parts, **fields}


def body(*messages: Mapping[str, Any], **fields: object) -> Dict[str, Any]:
    """A request in the words of each format at once."""
    if not messages:
        messages = (said("user", "hi"),)
    ids = {"id": "chat-1", "threadId": "chat-1", "runId": "run-1"}
    return {"model": "m", "stream": True, "messages": [*messages], **ids, **fields}


def ask(app: ChatApp, name: str, asked: object, **options: Any) -> Any:
    return call(app, asked, path=dialect(name).path, **options)


@pytest.mark.parametrize("name", OTHERS)
def test_a_responder_gets_what_the_client_sends(name: str) -> None:
    """One turn, whatever the client; and a store is neither read nor written for it."""
    listener = Listener()
    settings = Settings(dialects=(name,))
    app = create_app(listener, settings=settings, history=Untouched())
    earlier = [said("system", "Be kind."), said("user", "Hi"), said("assistant", "Hello")]
    asked = body(*earlier, said("user", "And now? 👋"), temperature=0.5)
    asked["forwardedProps"] = {"temperature": 0.5}
    answer = ask(app, name, asked)
    assert answer.status == 200, answer.body
    [turn] = listener.turns
    assert (turn.message, turn.system, turn.dialect) == ("And now? 👋", "Be kind.", name)
    assert turn.history == (Message("user", "Hi"), Message("assistant", "Hello"))
    assert turn.parameters["temperature"] == 0.5
    assert not turn.remembered
    with pytest.raises(TypeError):
        turn.parameters["temperature"] = 1  # type: ignore[index] # that is what is tested
    assert answer.headers["x-conversation-id"] == turn.conversation_id


@pytest.mark.parametrize("name", OTHERS)
def test_huge_parameters_are_left_out(name: str) -> None:
    """A stream holds them while it is open: a MiB of empty lists takes more than 20 of memory."""
    listener = Listener()
    lists = {
        "first": [[]] * 20_000,
        "second": [[]] * 20_000,
        "third": ["x"],
        "fourth": "x" * 90_000,
    }
    asked = {**body(), **lists, "forwardedProps": lists}
    assert ask(create_app(listener, settings=Settings(dialects=(name,))), name, asked).status == 200
    parameters = listener.turns[0].parameters
    assert {*lists} & {*parameters} == {"first", "third", "fourth"}


@pytest.mark.parametrize("name", OTHERS)
def test_the_largest_parameters_are_left_out_first(name: str) -> None:
    """Clients send long lists of tools, in front of what a model is asked to heed."""
    listener = Listener()
    shape = {"type": "json_schema", "json_schema": {"name": "x" * 1000}}
    sent = {"tools": ["x" * 65_000], "response_format": shape, "stop": ["END"]}
    asked = {**body(), **sent, "forwardedProps": sent}
    ask(create_app(listener, settings=Settings(dialects=(name,))), name, asked)
    assert {*sent} & {*listener.turns[0].parameters} == {"response_format", "stop"}


@pytest.mark.parametrize("name", OTHERS)
def test_there_are_no_more_parameters_than_anybody_has(name: str) -> None:
    """A MiB has room for 100,000 short fields, and each takes more than 100 bytes of memory."""
    listener = Listener()
    many = {f"x{number}": number for number in range(2000)}
    asked = {**body(), **many, "forwardedProps": many}
    assert ask(create_app(listener, settings=Settings(dialects=(name,))), name, asked).status == 200
    assert len(listener.turns[0].parameters) == 1000


def test_a_turn_can_be_handed_to_another_process() -> None:
    """A model may run in one, and get its turn pickled, or as JSON."""
    parts = ({"type": "image_url", "image_url": {"url": "data:,"}},)
    given = Parameters(temperature=0.5, stop=["END"])
    for turn in (
        Turn("hi", "chat-1", "r"),
        Turn("hi", "chat-1", "r", (Message("user", "a"),), parameters=given, parts=parts),
    ):
        for again in (pickle.loads(pickle.dumps(turn)), copy.deepcopy(turn), copy.copy(turn)):
            assert again == turn
            with pytest.raises(TypeError, match="cannot be changed"):
                again.parameters["temperature"] = 1  # type: ignore[index]
        assert msgspec.json.decode(msgspec.json.encode(turn), type=Turn) == turn
    assert {Turn("hi", "chat-1", "r", parameters=given): 1}[
        Turn("hi", "chat-1", "r", parameters=Parameters(given))
    ]


def test_parameters_cannot_be_changed() -> None:
    """They are a dict, which has many ways to be changed."""
    found = Parameters(a=1)
    for name in {*dir(found)} & {*dir(MutableMapping), "__ior__"} - {*dir(Mapping)}:
        with pytest.raises(TypeError, match="cannot be changed"):
            getattr(found, name)("a")
    assert found == {"a": 1}


@pytest.mark.parametrize("name", OTHERS)
def test_parts_that_the_responder_does_not_take_are_refused(name: str) -> None:
    """A picture that nobody looks at is not dropped in silence; a declared one is passed on."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    asked = body(said("user", [{"type": "text", "text": "Look"}, picture]))
    refused = ask(create_app(settings=Settings(dialects=(name,))), name, asked)
    assert refused.status == 422
    assert b"image_url" in refused.body
    listener = Listener(takes=["image_url"])
    answer = ask(create_app(listener, settings=Settings(dialects=(name,))), name, asked)
    assert answer.status == 200
    assert (listener.turns[0].message, listener.turns[0].parts) == ("Look", (picture,))


def test_what_a_responder_declares_must_be_names() -> None:
    """A text would be taken for its letters."""
    takes: Any = "image_url"
    with pytest.raises(TypeError, match="takes_parts"):
        create_app(Listener(takes=takes), settings=Settings())


@pytest.mark.parametrize("name", OTHERS)
def test_a_whole_conversation_fits_into_a_body(name: str) -> None:
    """Clients send all of it each time: the limit of a message would end a chat of some weeks."""
    app = create_app(settings=Settings(dialects=("native", name)))
    long = said("user", "x" * 450_000)
    assert ask(app, name, body(long)).status == 200
    assert ask(app, name, body(said("user", "x" * 550_000))).status == 413
    assert call(app, {"message": "hi", "x": "x" * 200_000}).status == 413
    smaller = create_app(settings=Settings(dialects=(name,), max_history_body_bytes=1_000))
    assert ask(smaller, name, body(said("user", "x" * 1_000))).status == 413


@pytest.mark.parametrize("name", DIALECTS)
def test_errors_at_the_path_of_a_format_have_its_shape(name: str) -> None:
    """405, too, though the router raises it."""
    app = create_app(settings=Settings(dialects=DIALECTS))
    wrong = call(app, b"[", path=dialect(name).path)
    answer = call(app, method="GET", path=dialect(name).path)
    assert (wrong.status, answer.status) == (400, 405)
    assert answer.headers["content-type"] == wrong.headers["content-type"]
    if answer.headers["content-type"] == "application/json":
        assert json.loads(answer.body).keys() == json.loads(wrong.body).keys()


@pytest.mark.parametrize("mounted", ["", "/assistant"])
@pytest.mark.parametrize("name", DIALECTS)
def test_the_refusal_of_a_host_has_the_shape_of_the_format(name: str, mounted: str) -> None:
    """Whoever has not set ALLOWED_HOSTS reads there that it is missing."""
    app = create_app(settings=Settings(dialects=DIALECTS, allowed_hosts=("localhost",)))
    made, evil = dialect(name), {"host": "evil.example"}
    answer = call(app, path=mounted + made.path, root_path=mounted, headers=evil)
    error = HostNotAllowed("Host: 'evil.example' is not a name of this service (ALLOWED_HOSTS)")
    body, media_type = made.refusal(error)
    assert (answer.status, answer.body) == (421, body)
    assert answer.headers["content-type"] == media_type


class Unreadable(HandDrivenRequest):
    """Its body cannot be received."""

    async def receive(self) -> ASGIMessage:
        raise ZeroDivisionError


class Broken:
    """A middleware of a host that fails."""

    def __init__(self, app: Any) -> None:
        pass

    async def __call__(self, *args: Any) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("name", DIALECTS)
def test_a_failure_before_the_reply_has_the_shape_of_the_format(name: str) -> None:
    """Whether the chat meets it, or a layer of the host's around it."""
    made = dialect(name)
    settings = Settings(dialects=DIALECTS)

    async def ask_both() -> List[HandDrivenRequest]:
        chat, layer = Unreadable(path=made.path), HandDrivenRequest(path=made.path)
        await chat.run(create_app(settings=settings))
        app = create_app(settings=settings)
        app.add_middleware(Broken)
        with pytest.raises(ZeroDivisionError):  # a server logs it
            await layer.run(app)
        return [chat, layer]

    for answer in asyncio.run(ask_both()):
        reference = answer.headers["x-request-id"]
        error = InternalError(f"Internal server error (reference {reference})")
        told = answer.body, answer.headers["content-type"]
        assert (answer.status, told) == (500, made.refusal(error))


@pytest.mark.parametrize("mounted", ["", "/assistant"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_format_that_is_off_is_not_there(name: str, mounted: str) -> None:
    """A host knows which routes it has."""
    others = tuple(other for other in DIALECTS if other != name)
    app = create_app(settings=Settings(), dialects=others)
    path = dialect(name).path
    assert call(app, path=mounted + path, root_path=mounted).status == 404
    shown = json.loads(call(app, method="GET", path="/openapi.json").body)["paths"]
    assert {dialect(other).path for other in others} <= set(shown)
    assert path not in shown


def test_an_embedded_chat_speaks_its_own_format_alone() -> None:
    """Unless its host names others; a name that is none is an error at the start."""
    assert call(create_app(settings=Settings()), path="/ag-ui").status == 404
    with pytest.raises(SettingsError, match="dialects"):
        create_app(settings=Settings(), dialects=("smtp",))
    with pytest.raises(SettingsError, match="dialects"):
        create_app(settings=Settings(), dialects=())


@pytest.mark.parametrize("name", OTHERS)
def test_a_format_is_reached_under_every_prefix(name: str) -> None:
    """As the native one is: servers and hosts write the path of a mount in several ways."""
    app = create_app(settings=Settings(dialects=("native", name)))
    path = dialect(name).path
    for scope in (
        {"path": f"/a{path}", "root_path": "/a"},
        {"path": path, "root_path": "/a"},
        {"path": f"{path}/", "root_path": ""},
    ):
        assert call(app, body(), **scope).status == 200


@pytest.mark.parametrize("name", OTHERS)
def test_a_client_that_sends_no_id_gets_a_new_one(name: str) -> None:
    """And one that sends its own gets that back, whatever its form."""
    app = create_app(settings=Settings(dialects=(name,)))
    asked = body()
    for field in ("id", "threadId", "runId"):
        asked[field] = None
    answers = [ask(app, name, asked).headers["x-conversation-id"] for _ in range(2)]
    assert answers[0] != answers[1]
    assert all(len(made) == len(CONVERSATION) for made in answers)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_reply_that_never_waits_is_one_write(name: str) -> None:
    """A send costs more than a frame: a start and an end of their own would double it."""
    app = create_app(settings=Settings(dialects=(name,)))
    start, *bodies = ask(app, name, {**body(), "message": "hi"}).sent
    assert start["type"] == "http.response.start"
    assert [message["more_body"] for message in bodies] == [False]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("name", DIALECTS)
def test_thoughts_are_sent_only_if_they_are_switched_on(name: str, streamed: bool) -> None:
    """They are a model's notes to itself: an operator may not want them read."""
    for shown in (False, True):
        settings = Settings(dialects=(name,), thoughts=shown)
        app = create_app(saying(Thought("Hm."), "Hello"), settings=settings)
        answer = ask(app, name, body(stream=streamed, message="hi"))
        assert b"Hello" in answer.body
        assert (b"Hm." in answer.body) == shown


class BeatingFrames(NativeFrames):
    heartbeat = b": still here\n"


class BeatingRequest(Request, frozen=True):
    def frames(self, turn: Turn) -> BeatingFrames:
        return BeatingFrames()


class Beating(Native):
    """A format with a heartbeat of its own."""

    def decode(self, body: bytes, headers: Mapping[bytes, bytes]) -> Request:
        return BeatingRequest("hi")


@timeless
async def test_a_silence_is_filled_with_the_heartbeat_of_the_format() -> None:
    """A further one may need another than a comment."""
    settings = Settings()
    made = Beating(settings, ())
    asked = HandDrivenRequest()
    chat = ChatEndpoint(made, saying("Hel", None), settings, Lifecycle(max_streams=1), None)
    task = asyncio.ensure_future(asked.run(chat))
    await passing(16)
    asked.gone.set()
    await task
    assert asked.body == b'event: chunk\ndata: {"content":"Hel"}\n\n: still here\n'
