"""A reply in a wire format that has a start, and opens and closes its parts."""

from __future__ import annotations

import asyncio
from typing import Any, List, Tuple

from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import Finish, Thought, Turn
from omniforge_chat.core.frames import Frames, Part
from omniforge_chat.core.reply import Reply
from omniforge_chat.core.responder import converse
from omniforge_chat.models import Done, Error

from ..support.constants import CONVERSATION
from ..support.responders import Uncontrolled, saying

TURN = Turn("hi", CONVERSATION, "r")


class Parted(Frames):
    """`[` and `]` stand around the parts, `<` before all, and `>` or `!` behind."""

    def start(self) -> bytes:
        return b"<"

    def text(self, number: int) -> Part:
        return Part(b"%d[" % number, b"(", b")", b"]")

    def thought(self, number: int) -> Part:
        return Part(b"%d{" % number, b"(", b")", b"}")

    def done(self, done: Done) -> bytes:
        return b">"

    def error(self, error: Error) -> bytes:
        return b"!"


def reply_with(*pieces: Any) -> Reply:
    """A reply that has these pieces ready."""
    reply = Reply(TURN, Parted(), thoughts=True)
    for piece in pieces:
        reply.ready.append(piece if type(piece) is str else reply.note(piece))
    return reply


def test_the_parts_of_a_reply_open_and_close_as_its_kind_changes() -> None:
    """Clients refuse a piece of a part that is not open, and an end while one is."""
    reply = reply_with(Thought("a"), Thought("b"), "c", "d")
    assert reply.frames(last=False) == b'<1{("a")("b")}2[("c")("d")'
    reply.sent()
    reply.ready.append("e")
    assert reply.frames(last=False) == b'("e")'
    reply.sent()
    assert reply.note(Thought("f")) == Thought("f")
    reply.ready.append(Thought("f"))
    reply.complete = True
    assert reply.frames(last=True) == b']3{("f")}>'
    reply.sent()
    assert (reply.chunks, reply.characters) == (6, 6)


def test_the_start_goes_out_before_there_is_a_piece_and_once() -> None:
    """A client sees at once that it is answered."""
    reply = reply_with()
    assert reply.frames(last=False) == b"<"
    reply.sent()
    assert reply.frames(last=False) == b""
    reply.ready.append("a")
    assert reply.frames(last=False) == b'1[("a")'


def test_a_reply_of_nothing_has_a_start_and_an_end() -> None:
    """No part is opened for it."""
    reply = reply_with()
    reply.complete = True
    assert reply.frames(last=True) == b"<>"


def test_a_format_has_a_heartbeat_that_ends_no_event() -> None:
    """Unless it says otherwise: with a blank line some clients would take it for an event."""
    assert reply_with().format.heartbeat == b":\n"


def test_a_failure_leaves_the_part_open() -> None:
    """It is not complete, and a client that looks can tell."""
    reply = reply_with("a")
    reply.fail(ValueError("broken"))
    assert reply.frames(last=True) == b'<1[("a")!'


def test_a_piece_that_cannot_be_encoded_ends_the_reply_before_it() -> None:
    """Of a thought as of text; what came before it is sent."""
    for bad in (Thought("\ud83d"), "\ud83d"):
        reply = reply_with(Thought("a"), "b", bad, "c")
        assert reply.frames(last=False) == b'<1{("a")}2[("b")'
        assert reply.error is not None
        assert reply.error.code == "stream_error"
        assert reply.ready == [Thought("a"), "b"]


def test_a_long_thought_becomes_several() -> None:
    """Its lines are as short as those of text."""
    reply = reply_with("a", Thought("é" * 9 * 1024))
    assert max(map(len, reply.frames(last=False).split(b"("))) < 17 * 1024
    assert list(map(len, reply.ready)) == [1, 8 * 1024, 1024]


def answer(*items: Any, thoughts: bool) -> Reply:
    reply = Reply(TURN, Parted(), thoughts=thoughts)
    asyncio.run(converse(TURN, saying(*items), reply, Uncontrolled()))
    return reply


class Word(str):
    """A str that the encoder would refuse."""


def test_thoughts_are_shown_only_if_they_are_switched_on() -> None:
    """They are a model's notes to itself: an operator may not want them read."""
    items = (Thought("Hm."), Thought(""), Thought(Word("So.")), "Hello", Finish("stop"))
    shown = answer(*items, thoughts=True)
    assert shown.frames(last=True) == b'<1{("Hm.")("So.")}2[("Hello")]>'
    hidden = answer(*items, thoughts=False)
    assert hidden.frames(last=True) == b'<1[("Hello")]>'


def test_a_thought_that_is_no_text_is_a_stream_error() -> None:
    """Whether it is shown or not, as the responder is at fault."""
    text: Any = 17
    for thoughts in (True, False):
        reply = answer("a", Thought(text), thoughts=thoughts)
        assert reply.error is not None
        assert reply.error.code == "stream_error"


pieces = st.lists(st.tuples(st.booleans(), st.text("abc", min_size=1), st.integers(0, 2)))


@given(pieces)
def test_whatever_is_sent_together_the_client_reads_the_same(
    said: List[Tuple[bool, str, int]],
) -> None:
    """A send may bring many pieces or one, and one that was cancelled is made again."""
    reply, sent = reply_with(), b""
    for is_thought, text, sends in said:
        reply.ready.append(reply.note(Thought(text)) if is_thought else text)
        for _ in range(sends):
            frames = reply.frames(last=False)
        if sends:
            sent += frames
            reply.sent()
    reply.complete = True
    sent += reply.frames(last=True)
    whole = reply_with(*(Thought(text) if is_thought else text for is_thought, text, _ in said))
    whole.complete = True
    assert sent == whole.frames(last=True)
