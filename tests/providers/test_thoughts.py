"""Thoughts in a model's text, in whatever pieces they come: without a socket."""

from __future__ import annotations

import time
from typing import Any, Dict, List

import pytest

from omniforge_chat import Message, Settings, SettingsError, Turn
from omniforge_chat.responders.providers import thoughts
from omniforge_chat.responders.providers.thoughts import ThoughtFilter, without_thoughts

from ..support.constants import CONVERSATION
from ..support.wires import KEY, Wire


def hidden(pieces: List[str], *, implied: bool = False) -> str:
    found = ThoughtFilter(implied=implied)
    return "".join(map(found.feed, pieces)) + found.close()


REPLIES = [
    ("Hello", "Hello"),
    ("", ""),
    (" \n", " \n"),
    ("\n Hello", "\n Hello"),
    ("<think>hm</think>Hello", "Hello"),
    ("<think></think>Hello", "Hello"),
    ("\n<think>\nhm\n</think>\n\nHello\n", "Hello\n"),
    ("<think>a</think> <think>b</think> Hello", "Hello"),
    ("<think>a < b </think </ </thin <think> </think>Hello", "Hello"),
    ("[THINK]hm[/THINK]Hello [THINK]", "Hello [THINK]"),
    ("<thought>hm</thought>Hello", "Hello"),
    ("<thinking>hm</think></thinking>Hello", "Hello"),
    ("<think>hm", ""),
    ("<think>hm</thin", ""),
    ("<think>hm</think>\n ", ""),
    ("<thin", "<thin"),
    ("<thinker>hm</thinker>", "<thinker>hm</thinker>"),
    ("Say <think>hm</think>", "Say <think>hm</think>"),
    ("<b>Hello</b>", "<b>Hello</b>"),
]


@pytest.mark.parametrize(("text", "shown"), REPLIES)
def test_thoughts_at_the_start_are_left_out_wherever_the_text_is_cut(text: str, shown: str) -> None:
    """A tag may come letter by letter, and its neighbours with it."""
    assert hidden(list(text)) == shown
    for i in range(len(text) + 1):
        assert hidden([text[:i], "", text[i:]]) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hm</think>\n\nHello", "Hello"),
        ("</think>Hello", "Hello"),
        ("<think>hm</think>Hello", "Hello"),
        ("hm</think><think>b</think>Hello", "Hello"),
        ("hm</think>Hello </think>", "Hello </think>"),
        ("Hello", "Hello"),
        ("<think>hm", ""),
        ("", ""),
    ],
)
def test_implied_thoughts_end_at_the_first_closing_tag(text: str, shown: str) -> None:
    """If there is none, all of it is the reply, which must not be lost."""
    for i in range(len(text) + 1):
        assert hidden([text[:i], text[i:]], implied=True) == shown


def test_text_is_held_back_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded, whatever the provider does."""
    monkeypatch.setattr(thoughts, "MAX_HELD_CHARACTERS", 10)
    found = ThoughtFilter(implied=True)
    assert [found.feed("Hello ") for _ in range(3)] == ["", "Hello Hello ", "Hello "]
    assert found.over
    thinking = ThoughtFilter()
    assert "".join(thinking.feed(text) for text in ["<think>", *["hm"] * 1000]) == ""
    assert len(thinking._tail) < 10


def test_long_thoughts_cost_next_to_nothing() -> None:
    """They are not searched anew with each piece."""
    found = ThoughtFilter(implied=True)
    began = time.process_time()
    for _ in range(60_000):
        found.feed("hm, ")
    assert time.process_time() - began < 1.0


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
