"""Reading the frames of a reply, in whatever pieces they come: without a socket."""

from __future__ import annotations

import pytest

from ..support.relay import COUNTED, read
from ..support.wires import Wire


def test_frames_may_come_byte_by_byte(wire: Wire) -> None:
    """A read may end within a frame, and within a character."""
    stream = b": hello\n\n" + b"".join(wire.reply("Gr\u00fc\u00dfe ", "\U0001f600"))
    reader = wire.reader()
    assert read(reader, *(stream[i : i + 1] for i in range(len(stream)))) == [
        "Gr\u00fc\u00dfe ",
        "\U0001f600",
    ]
    assert (reader.ended, reader.finish_reason, reader.usage) == (True, "stop", COUNTED)


def test_one_read_adds_one_text_and_nothing_counts_after_the_end(wire: Wire) -> None:
    """Fewer events for the same text; the end may come with it, and be no end to the bytes."""
    reader = wire.reader()
    assert read(reader, b"".join([*wire.reply("a", "b", "c"), wire.text("d")])) == ["abc"]
    assert (reader.ended, reader.finish_reason, reader.usage) == (True, "stop", COUNTED)


@pytest.mark.parametrize(
    "garbage",
    [b"data: {oops\n\n", b"data: [1]\n\n", b"data: " + b"[" * 3000 + b"\n\n"],
    ids=["no JSON", "no object", "deep"],
)
def test_a_frame_that_cannot_be_read_ends_the_reply(wire: Wire, garbage: bytes) -> None:
    """The text before it still goes out."""
    reader = wire.reader()
    opening = b"".join([*wire.opening(), wire.text("Hel")])
    assert read(reader, opening + garbage + wire.text("lo"), wire.text("!")) == ["Hel"]
    assert reader.unreadable
    assert "\n" not in reader.unreadable


def test_a_frame_without_end_is_not_collected(wire: Wire) -> None:
    """Memory is bounded, whatever the provider does."""
    reader = wire.reader()
    assert read(reader, wire.text("Hel"), *(b"x" * 65536 for _ in range(40))) == ["Hel"]
    assert reader.unreadable.startswith("FrameTooLarge")
