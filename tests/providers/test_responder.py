"""Relaying a reply: the request that goes out, and the end that the reply comes to."""

from __future__ import annotations

import json
from typing import Any, Dict, List

from omniforge_chat import Finish, Message, Settings, Turn, Usage, create_app

from ..support.answers import last, text
from ..support.constants import CONVERSATION, PATIENCE
from ..support.growth import LINEAR, growth
from ..support.provider import Call, Provider, opening, streaming
from ..support.relay import COMPLETE, COUNTED, TURN, ask, failed, relayed, said, using
from ..support.servers import UvicornThread
from ..support.wires import KEY, OPENAI, Wire

HELLO = [*OPENAI.opening(), OPENAI.text("Hello")]


def test_a_reply_is_relayed_with_what_it_cost_and_why_it_ended(wire: Wire) -> None:
    """The whole purpose, in one reply."""
    events = relayed(wire.answer("Hel", "lo"), wire)
    assert (said(events), events[-1]) == (["Hel", "lo"], COMPLETE)


def test_what_one_read_brings_goes_out_as_one_piece() -> None:
    """Then what it cost, as soon as that is known, and at last why it ended."""

    async def use(responder: Any) -> List[Any]:
        return [item async for item in responder(TURN)]

    with Provider(streaming(b"".join(OPENAI.reply("a", "b", "c")))) as provider:
        assert using(OPENAI.make(provider), use) == ["abc", COUNTED, Finish("stop")]


def test_the_request_carries_the_conversation_and_asks_for_no_compression(wire: Wire) -> None:
    """A compressor holds tokens back; a provider refuses roles that do not alternate."""
    history = (
        Message("assistant", "from a window that began in the middle"),
        Message("user", "one"),
        Message("assistant", "two", complete=False),
        Message("user", "three"),
        Message("assistant", ""),
    )
    options: Dict[str, Any] = {
        "model": "m",
        "system_prompt": "Be brief.",
        "temperature": 0,
        "max_tokens": 9,
        "extra_body": {"top_k": 3},
        "extra_headers": {"X-Team": "red"},
        "extra_query": {"api-version": "1"},
    }
    with Provider(wire.answer("x")) as provider:
        ask(wire.make(provider, **options), Turn("four", CONVERSATION, "r", history))
        call = provider.call()
    assert call.headers["accept-encoding"] == "identity"
    assert call.headers["x-team"] == "red"
    assert KEY in call.headers.get("authorization", call.headers.get("x-api-key", ""))
    responder = wire.make(provider)
    assert call.path == f"{wire.base_path}{responder.path()}?api-version=1"
    sent = {name: call.body[name] for name in ("model", "temperature", "max_tokens", "top_k")}
    assert sent == {"model": "m", "temperature": 0, "max_tokens": 9, "top_k": 3}
    assert call.body["stream"] is True
    assert "Be brief." in json.dumps(call.body)
    messages = [m for m in call.body["messages"] if m["role"] != "system"]
    assert messages == [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three\n\nfour"},
    ]


def test_a_conversation_from_a_request_is_taken_as_it_comes(wire: Wire) -> None:
    """It may be anything of a mebibyte: no store has kept it in order."""
    long = "x" * 300_000
    said = ["Welcome!", "How are you?", "a", long, "<think>hm</think>", "b", "c", "  "]
    roles = [*["assistant"] * 2, *["user"] * 2, *["assistant"] * 3, "user"]
    turn = Turn("d", CONVERSATION, "r", tuple(map(Message, roles, said)))
    responder = wire.responder(base_url="http://h")
    assert responder.messages(turn) == [
        {"role": "user", "content": f"a\n\n{long}"},
        {"role": "assistant", "content": "b\n\nc"},
        {"role": "user", "content": "d"},
    ]

    def merge(messages: int) -> None:
        history = tuple(Message("user", "xy" * 16) for _ in range(messages))
        assert len(responder.messages(Turn("d", CONVERSATION, "r", history))) == 1

    assert growth(merge, 2_048) < LINEAR  # the event loop waits for it


def test_a_header_of_ones_own_replaces_ours_however_it_is_written(wire: Wire) -> None:
    """Two keys, or two types, and a server may take either."""
    theirs = {
        "AUTHORIZATION": "Bearer theirs",
        "X-API-KEY": "theirs",
        "accept-encoding": "br",
        "content-Type": "application/json; charset=utf-8",
    }
    with Provider(wire.answer("x")) as provider:
        ask(wire.make(provider, extra_headers=theirs))
        call = provider.call()
    for name, value in theirs.items():
        assert call.header_names.count(name.lower()) == 1
        assert call.headers[name.lower()] == value


# The end


def test_a_cut_reply_has_the_usage_known_so_far(wire: Wire) -> None:
    """Whoever counts tokens counts them also where a stream breaks."""
    error = failed(relayed(streaming(*wire.opening(), wire.text("x" * 40)), wire))
    known = Usage(10, estimated=True) if wire is OPENAI else Usage(17, 7, 10, True)
    assert error.usage == known


def test_a_frame_that_cannot_be_read_ends_the_reply_and_the_connection() -> None:
    """The text that came with it in the same read still goes out."""
    with Provider(opening(*HELLO, b"data: {oops\n\n", OPENAI.text("!"))) as provider:
        events = ask(OPENAI.make(provider))
        assert provider.call().gone.wait(PATIENCE)
    assert said(events) == ["Hello"]
    assert failed(events).code == "upstream_error"
    assert failed(events).message == "The model provider sent something that cannot be read"


def test_the_service_answers_with_the_models_words(wire: Wire) -> None:
    """What a client of the whole service sees."""

    async def script(call: Call) -> None:
        await wire.answer("Hel", "lo")(call)
        await call.left()

    with Provider(script) as provider:
        with UvicornThread(create_app(wire.make(provider), settings=Settings())) as server:
            with server.chat("hi", conversation_id=CONVERSATION) as client:
                client.head()
                frames = client.frames()
            assert not provider.call().gone.is_set()  # it is kept for the next reply
            server.stop()
        assert provider.call().gone.wait(PATIENCE)
    assert text(frames) == "Hello"
    usage = {"tokens": 12, "prompt_tokens": 7, "completion_tokens": 5}
    done = {"conversation_id": CONVERSATION, "usage": usage, "finish_reason": "stop"}
    assert last(frames) == ("done", done)
