"""The parts of `omniforge-chat talk` that need no service: addresses, signals, and texts."""

from __future__ import annotations

import signal
import unicodedata
from functools import partial
from typing import Callable, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat.cli.printable import printable
from omniforge_chat.cli.talk.address import chat_url, own_url
from omniforge_chat.cli.talk.interrupts import Interrupts
from omniforge_chat.dialects.native import Native
from omniforge_chat.rules import SettingsError

# Addresses


@pytest.mark.parametrize(
    ("given_url", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/api/v1/chat"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/api/v1/chat"),
        ("localhost:8000", "http://localhost:8000/api/v1/chat"),
        ("chat.example", "http://chat.example/api/v1/chat"),
        ("https://chat.example/bots", "https://chat.example/bots/api/v1/chat"),
        ("https://chat.example/bots/", "https://chat.example/bots/api/v1/chat"),
        ("https://chat.example/api", "https://chat.example/api/api/v1/chat"),
        ("chat.example/bots", "http://chat.example/bots/api/v1/chat"),
        ("http://host/api/v1/chat", "http://host/api/v1/chat"),
        ("http://host/bots/api/v1/chat/", "http://host/bots/api/v1/chat"),
        ("HTTP://host", "http://host/api/v1/chat"),
        ("http://[::1]:8000", "http://[::1]:8000/api/v1/chat"),
        ("[::1]:8000", "http://[::1]:8000/api/v1/chat"),
        ("http://host?key=1#top", "http://host/api/v1/chat?key=1"),
        ("http://me:word@host", "http://me:word@host/api/v1/chat"),
    ],
)
def test_the_address_of_a_service_is_enough(given_url: str, expected: str) -> None:
    """Nobody knows the path by heart; whoever copies it is right, too."""
    assert chat_url(given_url) == expected


def test_the_path_is_that_of_the_format_which_the_reader_reads() -> None:
    """A client of it knows it by heart; the service may import no format by name."""
    assert chat_url("http://host") == f"http://host{Native.path}"


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "http://", "http:///path", "ftp://host", "ws://host", "file:///etc/passwd"),
        *("http://host:port", "http://host:70000", "http://[::1", "http://a b", "http://a\nb"),
        *("http://host/\x1b[2J", "://host"),
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match=r"."):
        chat_url(text)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"HOST": "chat.example", "PORT": "80"}, "http://chat.example:80"),
        ({"HOST": "0.0.0.0"}, "http://127.0.0.1:8000"),
        ({"HOST": "::"}, "http://[::1]:8000"),
        ({"HOST": "fe80::1", "PORT": "1"}, "http://[fe80::1]:1"),
    ],
)
def test_without_an_address_the_service_of_the_same_variables_is_meant(
    environ: Dict[str, str], expected: str
) -> None:
    """It was started in the terminal beside this one, most likely."""
    assert own_url(environ) == expected


def test_a_variable_that_could_start_no_service_is_told() -> None:
    """In the words of the service."""
    with pytest.raises(SettingsError, match="PORT='eighty': expected a whole number"):
        own_url({"PORT": "eighty"})


# Signals


def test_ctrl_c_waits_for_a_moment_at_which_it_can_be_handled() -> None:
    """It must neither be lost nor end the talk in the middle of something else; once is enough."""
    interrupts = Interrupts()
    press = partial(signal.raise_signal, signal.SIGINT)

    def interrupted(step: Callable[[], None]) -> bool:
        try:
            step()
        except KeyboardInterrupt:
            return True
        return False

    enter = interrupts.__enter__
    with interrupts.handled():
        found = [interrupted(step) for step in (press, enter, press, enter, enter, press)]
    assert found == [False, True, False, True, False, True]


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    """`nohup omniforge-chat talk --once ... &` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts().handled():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# Control characters


def test_nothing_that_a_terminal_obeys_gets_to_it() -> None:
    """The controls go, but for those that a text needs; all are below U+0100."""
    every = "".join(map(chr, range(0x10000)))
    gone = set(every) - set(printable(every))
    assert gone == {c for c in every if unicodedata.category(c) == "Cc"} - {"\n", "\t"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x1b\\", "[2J]0;title]52;c;ZXZpbA==\\"),
        ("\x9b31mred\x9d0;t\x9c", "31mred0;t"),
        ("over\rwritten\x08\x7f\r\n", "overwritten\n"),
        ("שלום ‏مرحبا 👩‍👩‍👧 你好\u2028\ttab", "שלום ‏مرحبا 👩‍👩‍👧 你好\u2028\ttab"),
    ],
)
def test_a_text_stays_what_it_is_without_them(text: str, shown: str) -> None:
    """Other scripts need more than letters: marks of direction, and joiners."""
    assert printable(text) == shown


@given(st.lists(st.text(st.sampled_from("\x1b\x9b[]0;mA\r\n\x07")), max_size=5))
def test_controls_go_however_a_text_is_cut_into_pieces(pieces: List[str]) -> None:
    """A model yields half of a sequence at a time."""
    assert "".join(map(printable, pieces)) == printable("".join(pieces))
