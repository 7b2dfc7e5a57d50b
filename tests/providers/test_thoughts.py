"""A model's thoughts, in its text or apart from it, in whatever pieces they come."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import pytest

from omniforge_chat import Finish, Message, Settings, SettingsError, Thought, Turn, Usage
from omniforge_chat.responders.providers import thoughts
from omniforge_chat.responders.providers.thoughts import ThoughtSplitter, without_thoughts

from ..support.constants import CONVERSATION
from ..support.growth import LINEAR, growth
from ..support.provider import Provider, streaming
from ..support.relay import ask, items_from, parts_of, said, using
from ..support.wires import ANTHROPIC, KEY, OPENAI, Wire, frame


def split(pieces: List[str], *, implied: bool = False) -> Tuple[str, str]:
    """The thoughts of a text that comes in these pieces, and the reply."""
    splitter = ThoughtSplitter(implied=implied)
    found = [*map(splitter.feed, pieces), splitter.close()]
    return "".join(thought for thought, _ in found), "".join(text for _, text in found)


REPLIES = [
    ("Hello", "", "Hello"),
    ("", "", ""),
    (" \n", "", " \n"),
    ("\n Hello", "", "\n Hello"),
    ("<think>hm</think>Hello", "hm", "Hello"),
    ("<think></think>Hello", "", "Hello"),
    ("<think>\n\n</think>\n\nHello", "", "Hello"),
    ("\n<think>\nhm\n</think>\n\nHello\n", "hm\n", "Hello\n"),
    ("<think>a</think> <think>b</think> Hello", "ab", "Hello"),
    (
        "<think>a < b </think </ </thin <think> </think>Hello",
        "a < b </think </ </thin <think> ",
        "Hello",
    ),
    ("<think><</think>Hello", "<", "Hello"),
    ("[THINK]hm[/THINK]Hello [THINK]", "hm", "Hello [THINK]"),
    ("<thought>hm</thought>Hello", "hm", "Hello"),
    ("<thinking>hm</think></thinking>Hello", "hm</think>", "Hello"),
    ("<think>hm", "hm", ""),
    ("<think>hm</thin", "hm</thin", ""),
    ("<think>hm</think>\n ", "hm", ""),
    ("<thin", "", "<thin"),
    ("<thinker>hm</thinker>", "", "<thinker>hm</thinker>"),
    ("Say <think>hm</think>", "", "Say <think>hm</think>"),
    ("<b>Hello</b>", "", "<b>Hello</b>"),
]


@pytest.mark.parametrize(("text", "thought", "reply"), REPLIES)
def test_thoughts_at_the_start_are_told_apart_wherever_the_text_is_cut(
    text: str, thought: str, reply: str
) -> None:
    """A tag may come letter by letter, and its neighbours with it."""
    assert split(list(text)) == (thought, reply)
    for i in range(len(text) + 1):
        assert split([text[:i], "", text[i:]]) == (thought, reply)


@pytest.mark.parametrize(
    ("text", "thought", "reply"),
    [
        ("hm</think>\n\nHello", "hm", "Hello"),
        ("</think>Hello", "", "Hello"),
        ("<think>hm</think>Hello", "hm", "Hello"),
        (" <think>hm</think>Hello", "hm", "Hello"),
        ("hm</think><think>b</think>Hello", "hmb", "Hello"),
        ("hm</think>Hello </think>", "hm", "Hello </think>"),
        ("Hello", "", "Hello"),
        ("<think>hm", "hm", ""),
        ("", "", ""),
    ],
)
def test_implied_thoughts_end_at_the_first_closing_tag(text: str, thought: str, reply: str) -> None:
    """If there is none, all of it is the reply, which must not be lost."""
    for i in range(len(text) + 1):
        assert split([text[:i], text[i:]], implied=True) == (thought, reply)


def test_thoughts_go_out_as_they_come() -> None:
    """Whoever watches a model think does not wait for its last thought."""
    splitter = ThoughtSplitter()
    pieces = ["<th", "ink>", "hm", ", a <", " b", "</th", "ink>", "Hel", "lo"]
    assert list(map(splitter.feed, pieces)) == [
        *[("", ""), ("", ""), ("hm", ""), (", a ", ""), ("< b", "")],
        *[("", ""), ("", ""), ("", "Hel"), ("", "lo")],
    ]
    assert splitter.over


def test_text_is_held_back_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whatever the provider does."""
    monkeypatch.setattr(thoughts, "MAX_HELD_CHARACTERS", 10)
    found = ThoughtSplitter(implied=True)
    assert [found.feed("Hello ")[1] for _ in range(3)] == ["", "Hello Hello ", "Hello "]
    assert found.over
    assert found.close() == ("", "")
    thinking = ThoughtSplitter()
    assert all(thinking.feed(text)[1] == "" for text in ["<think>", *["hm </thin"] * 1000])
    assert len(thinking._tail) < 10


def test_white_space_without_end_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither memory nor time is a provider's to take; and all pieces come to the same."""
    monkeypatch.setattr(thoughts, "MAX_WHITE_CHARACTERS", 4)
    for white, tagged in ((4, ("hm", "Hello")), (5, ("", "     <think>hm</think> Hello"))):
        text = " " * white + "<think>hm</think> Hello"
        assert split([text]) == split(list(text)) == tagged
    text = "<think>hm</think>      <think>hm</think>      Hello"
    assert split([text]) == split(list(text)) == ("hmhm", "Hello")
    after = ThoughtSplitter()
    after.feed("<think>hm</think>")
    assert [after.feed(" ") for _ in range(9)] == [("", "")] * 9
    assert not after._tail


def test_long_thoughts_cost_next_to_nothing() -> None:
    """They are not searched anew with each piece."""

    def think(pieces: int) -> None:
        found = ThoughtSplitter(implied=True)
        for _ in range(pieces):
            found.feed("hm, ")

    assert growth(think, 4_000) < LINEAR


@pytest.mark.parametrize(
    "unit", ["<think></think>", "<think>a</think>\n ", "[THINK] [/THINK]", "<think>", " ", "<a"]
)
def test_a_mebibyte_of_tags_is_read_in_one_go(unit: str) -> None:
    """A client may send it as a conversation, and the event loop waits for it."""

    def read(size: int) -> None:
        text = unit * (size // len(unit))
        assert without_thoughts(text).strip() == (text if unit == "<a" else "")

    assert growth(read, 64 * 1024) < LINEAR


def test_a_long_reply_with_a_tag_in_it_is_not_doubled() -> None:
    """It is no stream, so nothing of it has to be held back."""
    long = "x" * thoughts.MAX_HELD_CHARACTERS
    assert without_thoughts(f"{long}</think>Hello") == "Hello"
    assert without_thoughts(f"{long}<think>{long}</think>") == f"{long}<think>{long}</think>"


@pytest.mark.parametrize("hide", ["off", "on", "implied"])
def test_earlier_thoughts_are_not_sent_back(wire: Wire, hide: str) -> None:
    """Shown or not: the model was not trained on them, and they fill its context."""
    history = (
        Message("user", "<think>mine</think> one"),
        Message("assistant", "<think>hm</think>\n\ntwo"),
        Message("user", "three"),
        Message("assistant", "<think>hm, hm", complete=False),
        Message("user", "four"),
        Message("assistant", "hm\n</think>\n\nfive"),
    )
    responder = wire.responder(base_url="http://h", hide_thoughts=hide)
    assert responder.messages(Turn("six", CONVERSATION, "r", history)) == [
        {"role": "user", "content": "<think>mine</think> one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three\n\nfour"},
        {"role": "assistant", "content": "five"},
        {"role": "user", "content": "six"},
    ]


@pytest.mark.parametrize("text", ["Say <think> and </think>.", "No tag", "a </thin", ""])
def test_a_reply_about_thoughts_is_kept(text: str) -> None:
    """Only what the reply begins with is a thought."""
    assert without_thoughts(text) == text


def test_the_environment_and_the_settings_switch_it(wire: Wire) -> None:
    """In the words of the variable; the settings win, as with the time limits."""
    make = wire.responder.from_env
    environ: Dict[str, str] = {f"{wire.responder.options_type.prefix}_API_KEY": KEY}

    def chosen(responder: Any) -> str:
        found: str = responder._options.hide_thoughts
        return found

    assert chosen(make(environ)) == "off"
    assert chosen(make({**environ, "CHAT_HIDE_THOUGHTS": "On"})) == "on"
    assert chosen(make(environ, limits=Settings(hide_thoughts="implied"))) == "implied"
    with pytest.raises(SettingsError, match="CHAT_HIDE_THOUGHTS='yes'"):
        make({**environ, "CHAT_HIDE_THOUGHTS": "yes"})
    for value in ("yes", None, True):
        with pytest.raises(SettingsError, match="hide_thoughts="):
            wire.responder(base_url="http://h", hide_thoughts=value)  # type: ignore[arg-type]


# Apart from the text


def thinking(wire: Wire, thought: str) -> bytes:
    """The usual frame of a thought."""
    if wire is OPENAI:
        return frame({"choices": [{"index": 0, "delta": {"reasoning_content": thought}}]})
    delta = {"type": "thinking_delta", "thinking": thought}
    event = {"type": "content_block_delta", "index": 0, "delta": delta}
    return frame(event, "content_block_delta")


def uncounted(items: List[Any]) -> List[Any]:
    return [item for item in items if not isinstance(item, Usage)]


def test_one_read_brings_thoughts_and_text_in_their_order(wire: Wire) -> None:
    """Several frames are ready at once if the client is slow, or a gateway gathers them."""
    a, b, c = (thinking(wire, thought) for thought in ("hm", ", hm", "!"))
    hel, lo = wire.text("Hel"), wire.text("lo")
    whole = b"".join([*wire.opening(), a, b, hel, lo, c, lo, *wire.finish(wire.stop), wire.end()])
    expected = [Thought("hm, hm"), "Hello", Thought("!"), "lo"]
    assert parts_of(wire.reader(), whole) == expected
    assert parts_of(wire.reader(), *wire.opening(), hel + a, b + lo) == [
        *["Hel", Thought("hm"), Thought(", hm"), "lo"]
    ]
    reader = wire.reader()
    assert parts_of(reader, a.rstrip()) == []
    assert (reader.close(), reader.taken()) == ("", [Thought("hm")])


def test_a_thought_and_text_of_one_frame_are_in_this_order() -> None:
    """No format says in which; a model thinks before it speaks."""
    delta = {"content": "Hello", "reasoning_content": "hm"}
    again = {"choices": [{"index": 0, "delta": delta}]}
    reader = OPENAI.reader()
    expected = [Thought("hm"), "Hello"]
    for _ in range(3):
        assert parts_of(reader, frame(again)) == expected
    content = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hello"}]
    message = {"type": "message", "content": content, "stop_reason": "end_turn"}
    assert parts_of(ANTHROPIC.reader(), frame(message)) == expected


def test_a_responder_yields_the_thoughts_of_both_kinds(wire: Wire) -> None:
    """Those in the text are apart from it only if you ask for that."""
    parts = [thinking(wire, "a"), wire.text("<think>"), wire.text("b</think>Hel"), wire.text("lo")]
    frames = [*wire.opening(), *parts, *wire.finish(wire.stop), wire.end()]
    with Provider(streaming(b"".join(frames)), streaming(*frames)) as provider:
        shown = using(wire.make(provider), items_from)
        hidden = using(wire.make(provider, hide_thoughts="on"), items_from)
    end = Finish("stop")
    assert uncounted(shown) == [Thought("a"), "<think>b</think>Hello", end]
    assert uncounted(hidden) == [Thought("a"), Thought("b"), "Hel", "lo", end]


def test_what_is_left_of_a_thought_comes_before_the_end(wire: Wire) -> None:
    """A reply that is all thought ends as any other, and so does one that only might begin one."""

    with Provider(wire.answer("<think>hm</thin"), wire.answer("<thin")) as provider:
        thought = using(wire.make(provider, hide_thoughts="on"), items_from)
        text = using(wire.make(provider, hide_thoughts="on"), items_from)
    end = Finish("stop")
    assert uncounted(thought) == [Thought("hm"), Thought("</thin"), end]
    assert uncounted(text) == ["<thin", end]


def test_a_client_gets_no_thoughts_unless_that_is_switched_on(wire: Wire) -> None:
    """Providers show them to you, and not to everybody."""
    frames = [thinking(wire, "hm"), *wire.reply("Hello")]
    with Provider(streaming(*frames)) as provider:
        assert said(ask(wire.make(provider))) == ["Hello"]
