"""The SSE module, both ways, against WHATWG HTML, section 9.2.6, to the letter."""

from __future__ import annotations

import json
import re
from typing import Iterable, Iterator, List, Optional, Tuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omniforge_chat.core.frames import HEARTBEAT
from omniforge_chat.core.sse import (
    Decoder,
    Frame,
    FrameTooLarge,
    is_encodable,
)
from omniforge_chat.models import Chunk, Done, Error, Event, Turn, Usage

from ..support.constants import CONVERSATION
from ..support.native import encode_chunks, encode_event, native_reply

BOM = b"\xef\xbb\xbf"


def interpret(stream: bytes) -> Tuple[List[Frame], Optional[int]]:
    """The frames of a whole stream, and the reconnection time: section 9.2.6, read aloud."""
    text = stream.decode("utf-8", "replace")
    if stream.startswith(BOM):
        text = text[1:]
    *lines, _unfinished = re.split("\r\n|\r|\n", text)
    frames: List[Frame] = []
    data = event = last_id = ""
    retry: Optional[int] = None
    for line in lines:
        if line == "":
            if data != "":
                frames.append(Frame(event or "message", data[:-1], last_id))
            data = event = ""
            continue
        if line.startswith(":"):
            continue
        field, _, value = line.partition(":")
        if value.startswith(" "):
            value = value[1:]
        if field == "event":
            event = value
        elif field == "data":
            data += value + "\n"
        elif field == "id":
            if "\0" not in value:
                last_id = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return frames, retry


def feed(decoder: Decoder, reads: Iterable[bytes]) -> List[Frame]:
    """What `decoder` makes of `reads`, one after the other."""
    return [frame for read in reads for frame in decoder.feed(read)]


def decode(*reads: bytes) -> List[Frame]:
    """What a new decoder makes of `reads`."""
    return feed(Decoder(), reads)


def every_split(stream: bytes) -> Iterator[List[bytes]]:
    """The stream as one read, as two parted at each place, and byte by byte."""
    yield [stream]
    for place in range(len(stream) + 1):
        yield [stream[:place], stream[place:]]
    yield [stream[place : place + 1] for place in range(len(stream))]


texts = st.text() | st.text(alphabet='\r\n\0\t\x1f\x7f\x85\u2028\u2029\ufeff"\\/:é😀 adtev')
tokens = st.integers(min_value=0, max_value=2**70)
usages = st.builds(
    Usage, tokens, st.none() | tokens, st.none() | tokens, st.sampled_from([None, True])
)
events = st.one_of(
    st.builds(Chunk, texts),
    st.builds(Done, st.just(CONVERSATION), usages, st.none() | texts, st.none() | tokens),
    st.builds(Error, texts, texts, st.none() | usages),
)

pieces = [
    *b"data: one\n\n|data: two\r\n\r\n|data:\r\r|data\n|event: chunk\n|id: 7\n".split(b"|"),
    *b"\n|\r|\r\n|\n\n|:|: | |data|event|id|retry|Data|data: |data:|event:|id:".split(b"|"),
    *b"retry:|retry: 30|1|0|-|x|\0|\x0b|\x1c|\xff|\xe2\x82|\xf0\x9f\x98|\xed\xa0\x80".split(b"|"),
    *"é|😀|\u2028|\x85|\u0663".encode().split(b"|"),
    *(BOM, BOM[:1], BOM[1:2], BOM[2:]),
]
soups = st.lists(st.sampled_from(pieces), max_size=25).map(b"".join) | st.binary(max_size=40)


# The encoder


@pytest.mark.parametrize(
    ("event", "frame"),
    [
        (Chunk("Thank you. "), b'event: chunk\ndata: {"content":"Thank you. "}\n\n'),
        (
            Done(CONVERSATION, Usage(42)),
            b'event: done\ndata: {"conversation_id":"%b","usage":{"tokens":42}}\n\n'
            % CONVERSATION.encode(),
        ),
        (
            Done(CONVERSATION, Usage(7, 3, 4, estimated=True), "length"),
            b'event: done\ndata: {"conversation_id":"%b","usage":{"tokens":7,"prompt_tokens":3,'
            b'"completion_tokens":4,"estimated":true},"finish_reason":"length"}\n\n'
            % CONVERSATION.encode(),
        ),
        (
            Done(CONVERSATION, Usage(42), history=0),
            b'event: done\ndata: {"conversation_id":"%b","usage":{"tokens":42},"history":0}\n\n'
            % CONVERSATION.encode(),
        ),
        (
            Error("timeout", "Too slow"),
            b'event: error\ndata: {"code":"timeout","message":"Too slow"}\n\n',
        ),
        (
            Error("timeout", "Too slow", Usage(3)),
            b'event: error\ndata: {"code":"timeout","message":"Too slow","usage":{"tokens":3}}\n\n',
        ),
    ],
)
def test_an_event_becomes_a_frame_of_its_name_and_its_compact_json(
    event: Event, frame: bytes
) -> None:
    """The contract shows these bytes, and an event says nothing of what is not known."""
    assert encode_event(event) == frame


@pytest.mark.parametrize(
    ("content", "escaped"),
    [
        ("a\nb\rc\r\nd", '"a\\nb\\rc\\r\\nd"'),
        ("\n\nevent: done\ndata: {}\n\n", '"\\n\\nevent: done\\ndata: {}\\n\\n"'),
        ("\0\x1f", '"\\u0000\\u001f"'),
        ('"\\', '"\\"\\\\"'),
        (
            "/\x7f\x84\x86\xa0\u2027\u202a\ufeff\uffff",
            '"/\x7f\x84\x86\xa0\u2027\u202a\ufeff\uffff"',
        ),
        ("é שלום 👩‍👩‍👧", '"é שלום 👩‍👩‍👧"'),
    ],
)
def test_only_what_json_cannot_hold_is_escaped(content: str, escaped: str) -> None:
    """Non-Latin text should not triple in size."""
    assert (
        encode_event(Chunk(content)) == f'event: chunk\ndata: {{"content":{escaped}}}\n\n'.encode()
    )


LINE_ENDS = "".join(c for c in map(chr, range(0xD800)) if len(f"a{c}b".splitlines()) > 1)
"""All at which Python ends a line, and many clients with it; SSE does at two of them."""


@pytest.mark.parametrize("character", LINE_ENDS, ids=ascii)
def test_a_line_of_a_frame_is_a_line_to_everybody(character: str) -> None:
    """`str.splitlines`, by which httpx, requests and others read, would cut the JSON in two."""
    text = f"a{character}b"
    events: List[Event] = [
        Chunk(text),
        Done(CONVERSATION, Usage(1), text),
        Error("a_code", text),
        Error(text, "a message"),
    ]
    frames = [*map(encode_event, events), encode_chunks([text]), encode_chunks(["a", text, "é"])]
    for frame in frames:
        whole = frame.decode()
        assert whole.splitlines() == whole.split("\n")[:-1]
    for event, frame in zip(events, frames):
        assert msgspec.json.decode(decode(frame)[0].data, type=type(event)) == event


@given(st.lists(texts, max_size=5))
@example(["\x85", "ab"])
@example(["\u2028é\x85", "\u2029"])
def test_chunks_are_encoded_together_as_each_is_alone(contents: List[str]) -> None:
    """A burst of tokens goes through the encoder at once, which the client must not see."""
    assert encode_chunks(contents) == b"".join(encode_event(Chunk(content)) for content in contents)
    with pytest.raises(UnicodeEncodeError):
        encode_chunks([*contents, "\ud83d"])
    assert all(map(is_encodable, contents))
    assert not is_encodable("a\ud83d")


# A long text


KIB = 1024
WORST = '"\\\0\n\x85\u2028é你😀x'


@pytest.mark.parametrize("character", WORST, ids=ascii)
@pytest.mark.parametrize("neighbours", [[], ["a"] * 3], ids=["alone", "among others"])
def test_a_long_text_becomes_chunks_whose_lines_are_short(
    character: str, neighbours: List[str]
) -> None:
    """asyncio's `readline` fails at 64 KiB, in any JSON escaping; the text stays the same."""
    content = f"{character * 70 * KIB}.{character * 70 * KIB}"
    contents = [*neighbours, content, *neighbours]
    frame = encode_chunks(contents)
    assert max(map(len, frame.split(b"\n"))) <= 16 * KIB + len(b'data: {"content":""}')
    assert encode_chunks(list(contents)) == frame  # the parts are a chunk each
    parts = [json.loads(each.data)["content"] for each in decode(frame)]
    assert parts == contents
    assert "".join(parts) == "".join([*neighbours, content, *neighbours])
    size = len(encode_event(Chunk(content)))
    assert len(parts) <= size / (16 * KIB - 6) + 2 + 2 * len(neighbours)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("x" * 16 * KIB, [16 * KIB]),
        ("x" * (16 * KIB + 1), [16 * KIB, 1]),
        ("é" * 8 * KIB, [8 * KIB]),
        ("\0" * 2730, [2730]),
        ("\0" * 2731, [2730, 1]),
        ("\u2028" * 2731, [2730, 1]),
    ],
)
def test_a_text_is_parted_only_where_it_must_be(content: str, parts: List[int]) -> None:
    """16 KiB of JSON are one chunk, and each part has as much as fits."""
    contents = [content]
    encode_chunks(contents)
    assert list(map(len, contents)) == parts


def test_a_long_text_that_cannot_be_encoded_is_refused_whole() -> None:
    """No part of it is sent: the reply ends before the piece, as with a short one."""
    with pytest.raises(UnicodeEncodeError):
        encode_chunks(["x" * 100 * KIB + "\ud83d"])
    reply = native_reply(Turn("hi", CONVERSATION, "r"))
    reply.ready += ["é" * 9 * KIB, "x" * 100 * KIB + "\ud83d"]
    assert len(decode(reply.frames(last=False))) == 2
    assert list(map(len, reply.ready)) == [8 * KIB, KIB]
    assert reply.error is not None


@given(events)
def test_whatever_an_event_holds_its_frame_is_two_lines_and_a_blank_one(event: Event) -> None:
    """Content that could end a line could also forge an event."""
    frame = encode_event(event)
    assert b"\r" not in frame
    name, data, *blank = frame.decode("utf-8").split("\n")
    assert blank == ["", ""]
    assert name == f"event: {type(event).__name__.lower()}"
    fields = msgspec.to_builtins(event)
    plain = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
    for character in "\x85\u2028\u2029":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    assert data == f"data: {plain}"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ude00\ud83d"])
@pytest.mark.parametrize(
    "event", [Chunk, lambda text: Error("code", text), lambda text: Error(text, "message")]
)
def test_text_that_has_no_utf8_is_refused(event: type[Chunk], text: str) -> None:
    """A stream with bytes that are not UTF-8 would reach the client as something else."""
    with pytest.raises(UnicodeEncodeError):
        encode_event(event(text))


# Both ends together


@given(events, events)
def test_what_is_encoded_decodes_to_the_same_at_every_split(event: Event, other: Event) -> None:
    """A network parts a stream where it likes, and puts a frame's neighbour into the same read."""
    first, second = encode_event(event), encode_event(other)
    expected = [
        Frame(type(e).__name__.lower(), frame.split(b"data: ", 1)[1].decode()[:-2], "")
        for e, frame in ((event, first), (other, second))
    ]
    for reads in every_split(first):
        assert decode(*reads) == expected[:1]
        assert decode(*reads, second) == expected
        assert decode(*reads[:-1], reads[-1] + HEARTBEAT + second) == expected
    assert msgspec.json.decode(expected[0].data, type=type(event)) == event


def test_heartbeats_decode_to_nothing() -> None:
    """They only tell proxies and clients that somebody is still there."""
    assert decode(HEARTBEAT) == []
    chunk = encode_event(Chunk("hi"))
    assert decode(HEARTBEAT + chunk + HEARTBEAT * 2 + chunk + HEARTBEAT) == decode(chunk) * 2


def test_a_heartbeat_has_no_blank_line() -> None:
    """Some clients hand an empty message to their users then, who send their request again."""
    assert HEARTBEAT == b":\n"


# The decoder


@given(soups, st.lists(st.integers(min_value=0, max_value=100)))
@example(b"data: a\r\rdata: b\r\n\r\n", [])
@example(BOM + BOM + b"data: a\n\ndata: b\n\n", [])
@example(b"id: 1\ndata: a\n\nid: \0\ndata: b\n\nid\ndata: c\n\n", [])
@example(b"\xe2\x82\ndata: \xe2\x82:\xff\n\n", [])
def test_any_bytes_in_any_split_are_what_the_standard_says(soup: bytes, places: List[int]) -> None:
    """Clients and model upstreams meet streams of all kinds; one interpretation is right."""
    expected, retry = interpret(soup)
    cuts = sorted({place for place in places if place < len(soup)})
    parted = [soup[a:b] for a, b in zip([0, *cuts], [*cuts, len(soup)])]
    for reads in [*every_split(soup), parted]:
        decoder = Decoder()
        assert feed(decoder, reads) == expected
        assert decoder.retry == retry


@given(soups, soups)
def test_what_follows_a_blank_line_does_not_change_what_came_before(
    soup: bytes, neighbour: bytes
) -> None:
    """A frame is given out as it is complete, whatever shares its read."""
    ended = soup + b"\n\n"
    frames = decode(ended)
    assert decode(ended + neighbour)[: len(frames)] == frames


def messages(*data: str) -> List[Frame]:
    """Frames of these data, of the usual type and without an id."""
    return [Frame("message", each, "") for each in data]


RULES = {
    "the standard's example of comments and ids, unfinished": (
        b": test\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n",
        [Frame("message", "first", "1"), Frame("message", "second", "")],
    ),
    "the standard's example of empty data": (b"data\n\ndata\ndata\n\ndata:", messages("", "\n")),
    "the standard's example of the space": (
        b"data:test\n\ndata: test\n\n",
        messages("test", "test"),
    ),
    "several data lines are joined by LF": (
        b"data: YHOO\ndata: +2\ndata: 10\n\n",
        messages("YHOO\n+2\n10"),
    ),
    "one space only": (b"data:  a\ndata: b \n\n", messages(" a\nb ")),
    "a tab is no space": (b"data:\ta\n\n", messages("\ta")),
    "the first colon parts": (b"data:a:b: c\n\n", messages("a:b: c")),
    "CR": (b"data: a\rdata: b\r\r", messages("a\nb")),
    "CR LF": (b"data: a\r\ndata: b\r\n\r\n", messages("a\nb")),
    "LF CR": (b"data: a\n\rdata: b\r\r", messages("a", "b")),
    "endings of two kinds": (b"data: a\r\n\n", messages("a")),
    "no other line endings": (
        "data: a\x85b\u2028c\u2029d\x0be\x0cf\x1cg\n\n".encode(),
        messages("a\x85b\u2028c\u2029d\x0be\x0cf\x1cg"),
    ),
    "no data resets the type": (b"event: x\n\ndata: a\n\n", messages("a")),
    "the type is for one event": (
        b"event: x\ndata: a\n\ndata: b\n\n",
        [Frame("x", "a", ""), *messages("b")],
    ),
    "the last type counts": (b"event: x\nevent: y\ndata: a\n\n", [Frame("y", "a", "")]),
    "an empty type": (b"event: x\nevent\ndata: a\n\n", messages("a")),
    "an id persists, also from an event without data": (
        b"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\n",
        [Frame("message", "a", "1"), Frame("message", "b", "1"), Frame("message", "c", "2")],
    ),
    "an id with NUL is ignored": (
        b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n",
        [Frame("message", "a", "1"), Frame("message", "b", "1")],
    ),
    "NUL elsewhere is kept": (b"data: a\0b\n\n", messages("a\0b")),
    "unknown fields and comments are ignored": (
        b"Data: a\n data: b\ndata : c\nfoo: d\n: data: e\nx\ndata: f\n\n",
        messages("f"),
    ),
    "a comment between": (b"data: a\n:\ndata: b\n\n", messages("a\nb")),
    "an unfinished line": (b"data: a\n\ndata: b", messages("a")),
    "an unfinished event": (b"data: a\n\ndata: b\n", messages("a")),
    "one BOM": (BOM + b"data: a\n\n", messages("a")),
    "a second BOM is content": (BOM + BOM + b"data: a\n\n", messages()),
    "a BOM on a later line is content": (BOM + b"\n" + BOM + b"data: a\n\n", messages()),
    "a BOM inside": (b"data: a\n\ndata: " + BOM + b"\n\n", messages("a", "\ufeff")),
    "half a BOM": (BOM[:2] + b"data: a\n\ndata: b\n\n", messages("b")),
    "bytes that are not UTF-8": (
        b"event: \xff\nid: \xc3\ndata: a\xe2\x82b\xf0\x9f\x98\ndata: \xed\xa0\x80\n\n",
        [Frame("\ufffd", "a\ufffdb\ufffd\n\ufffd\ufffd\ufffd", "\ufffd")],
    ),
}


@pytest.mark.parametrize(("stream", "frames"), RULES.values(), ids=RULES)
def test_streams_are_interpreted_by_the_rules_of_the_standard(
    stream: bytes, frames: List[Frame]
) -> None:
    """One rule each, whatever the split."""
    for reads in every_split(stream):
        assert decode(*reads) == frames


@pytest.mark.parametrize("ending", [b"\r", b"\n"])
def test_an_event_is_given_out_with_the_byte_that_completes_it(ending: bytes) -> None:
    """A decoder that waits for a possible LF after CR shows each token when the next one comes."""
    decoder = Decoder()
    assert decoder.feed(b"data: a" + ending) == []
    assert decoder.feed(ending) == [Frame("message", "a", "")]


def test_an_lf_that_arrives_after_its_cr_ends_no_second_line() -> None:
    """Taken for a blank line, it would end the event in the middle."""
    decoder = Decoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"data: b\r\n\r") == [Frame("message", "a\nb", "")]
    assert decoder.feed(b"\ndata: c\n\n") == [Frame("message", "c", "")]


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        *((b" 3000", 3000), (b"0", 0), (b"0030", 30)),
        *((b"", 5), (b" ", 5), (b"-1", 5), (b"+1", 5), (b"1.5", 5), (b"1 ", 5), (b"  1", 5)),
        *((b"1_000", 5), (b"0x10", 5), ("\u0663".encode(), 5), (b"\xb2", 5)),
    ],
)
def test_retry_takes_ascii_digits_only(value: bytes, retry: int) -> None:
    """What Python's int() takes beyond that is no number to the standard."""
    decoder = Decoder()
    assert decoder.retry is None
    decoder.feed(b"retry: 5\nretry:" + value + b"\n")
    assert decoder.retry == retry


def test_a_retry_of_thousands_of_digits_breaks_nothing() -> None:
    """Python refuses to read such a number, and the stream goes on behind it."""
    assert decode(b"retry: " + b"9" * 10_000 + b"\ndata: a\n\n") == [Frame("message", "a", "")]


# The bound


def test_a_stream_without_a_bound_may_hold_a_frame_of_any_size() -> None:
    """The standard knows no bound, and none holds unless it is asked for."""
    content = "x" * 1_000_000
    frame = encode_event(Chunk(content))
    assert decode(frame[:-1], frame[-1:]) == [Frame("chunk", f'{{"content":"{content}"}}', "")]


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"x" * 33, id="a line that does not end"),
        pytest.param(b":" + b"x" * 32, id="a comment that does not end"),
        pytest.param(b"data: " + b"x" * 27 + b"\n\n", id="a line of data"),
        pytest.param(b"event: " + b"x" * 26 + b"\ndata: a\n\n", id="a name"),
        pytest.param(b"data: x\n" * 20, id="lines of data that together are too much"),
        pytest.param(b"data\n" * 40, id="empty lines of data"),
        pytest.param(b"data: x\n\n" + b"data: " + b"x" * 27, id="a frame after another"),
    ],
)
def test_a_frame_beyond_the_bound_is_refused_at_every_split(stream: bytes) -> None:
    """An upstream that never ends a frame would otherwise fill the memory."""
    for reads in every_split(stream):
        with pytest.raises(FrameTooLarge, match="32 bytes"):
            feed(Decoder(max_frame_bytes=32), reads)


@pytest.mark.parametrize(
    "stream",
    [
        pytest.param(b"data: " + b"x" * 26 + b"\n\n", id="exactly as large as the bound"),
        pytest.param(b"data: x\n\n" * 20, id="many small frames"),
        pytest.param(b": comment\n" * 20 + b"data: x\n\n", id="many comments"),
        pytest.param(b"event: chunk\nid: 12\ndata: x\n\n" * 20, id="many fields"),
    ],
)
def test_what_stays_within_the_bound_passes_however_long_the_stream(stream: bytes) -> None:
    """The bound is for one frame: a stream may go on for days."""
    for reads in every_split(stream):
        assert feed(Decoder(max_frame_bytes=32), reads) == decode(stream)


@given(soups, st.integers(min_value=1, max_value=30))
def test_whether_a_stream_breaks_the_bound_does_not_depend_on_its_split(
    soup: bytes, bound: int
) -> None:
    """A failure that comes and goes with the network could not be found."""

    def breaks(reads: List[bytes]) -> bool:
        try:
            feed(Decoder(max_frame_bytes=bound), reads)
        except FrameTooLarge:
            return True
        return False

    assert len({breaks(reads) for reads in every_split(soup)}) == 1
