"""Any headers, any bytes: a ChatRequest, or an error that says everything that is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any, Dict, List, Optional, Set, Tuple, Type

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message

from omniforge_chat import Settings
from omniforge_chat.dialects.native import parse
from omniforge_chat.errors import (
    InvalidBody,
    InvalidFields,
    MessageTooLong,
    PayloadTooLarge,
    RequestError,
    RequestTimeout,
    UnsupportedMediaType,
)
from omniforge_chat.http.body import check_headers, late_body, read_body
from omniforge_chat.models import ChatRequest
from omniforge_chat.stream.deadline import Deadline

from ..support.constants import CONVERSATION
from ..support.requests import judge, messages, objects, values

LIMIT = Settings().max_body_bytes
TOO_LONG = "message: Message exceeds maximum length of 10000 characters"
MESSAGE_IS = "message: must be a string, not {}"
ID_IS = "conversation_id: must be a string, not {}"
SWITCH_IS = "regenerate: must be a boolean, not {}"
GRACE_IS = "on_disconnect: must be cancel, continue, or a number of seconds of at least 0"
REQUIRED = "message: Message is required"
BLANK = "message: Message must not be only white space"
NOT_A_UUID = "conversation_id: must be a UUID of version 4 in canonical form (lower case)"
LONE_SURROGATE = "body: a \\u escape stands for half a character (a lone surrogate)"


def refused(body: bytes) -> Tuple[type, str]:
    """The error that `body` is refused with: its class and its text."""
    error = judge(body)
    assert isinstance(error, RequestError)
    return type(error), error.message


def as_json(fields: object, *, ascii_only: bool) -> bytes:
    return json.dumps(fields, ensure_ascii=ascii_only).encode("utf-8")


pieces = [
    *b'{|}|[|]|"|:|,|{}| |\n|message|"message"|"message":"hi"|"conversation_id":|null|true'.split(
        b"|"
    ),
    *(b'"regenerate":', b'"on_disconnect":', b'"cancel"'),
    *b"1|-|1e9|0.|NaN|\\|\\u|d83d|\\ud83d|\\ude00|\\u0000|\\n|\xff|\xed\xa0\x80|\xe2|\x00".split(
        b"|"
    ),
    *(b'{"message":', b'{"message":"a"', b"\xef\xbb\xbf", "😀".encode(), CONVERSATION.encode()),
]
soups = st.lists(st.sampled_from(pieces), max_size=20).map(b"".join) | st.binary()


# The body's text


def assert_judged_well(body: bytes) -> None:
    """`body` is refused in words, or it is what another JSON parser reads as well."""
    result = judge(body)
    if isinstance(result, RequestError):
        assert result.status in (400, 422)
        assert result.message.startswith(
            ("body: ", *(f"{name}: " for name in ChatRequest.__struct_fields__))
        )
        assert result.message.encode("utf-8")
    else:
        sent = json.loads(body.decode("utf-8"), parse_constant=pytest.fail)
        expected = [sent.get(name) for name in ChatRequest.__struct_fields__]
        assert result == ChatRequest(*expected)


@given(soups)
@example(b'{"message":"a",}')
@example(b'{"message":"a","x":01}')
@example(b'{"message":"a"}\0')
@example(b'{"message":"a"}}')
def test_any_bytes_are_a_request_or_an_error_that_helps(body: bytes) -> None:
    """Whatever a client sends is never a fault of ours, and never taken for what it is not."""
    assert_judged_well(body)


@given(objects, soups, st.integers(min_value=0), st.booleans())
def test_json_with_a_fault_inside_is_a_request_or_an_error_that_helps(
    fields: Any, soup: bytes, place: int, ascii_only: bool
) -> None:
    """A fault in the middle of good JSON reaches further into a decoder than noise does."""
    body = as_json(fields, ascii_only=ascii_only)
    place %= len(body)
    assert_judged_well(body[:place] + soup + body[place:])


def wrong_fields(fields: Any) -> Set[str]:
    """The fields that the contract finds fault with, in the words of the contract."""
    wrong = set()
    message = fields.get("message")
    if not isinstance(message, str) or not 1 <= len(message) <= 10_000 or message.isspace():
        wrong.add("message")
    conversation_id = fields.get("conversation_id")
    if conversation_id is not None:
        try:
            parsed = uuid.UUID(conversation_id)
        except (AttributeError, TypeError, ValueError):
            wrong.add("conversation_id")
        else:
            if parsed.version != 4 or str(parsed) != conversation_id:
                wrong.add("conversation_id")
    if not isinstance(fields.get("regenerate"), (bool, type(None))):
        wrong.add("regenerate")
    if not isinstance(fields.get("edits"), (str, type(None))):
        wrong.add("edits")
    grace = fields.get("on_disconnect")
    if not (grace in (None, "cancel", "continue") or (type(grace) in (int, float) and grace >= 0)):
        wrong.add("on_disconnect")
    return wrong


@given(objects, st.booleans())
@example({"message": CONVERSATION, "conversation_id": CONVERSATION}, True)
def test_an_object_is_refused_for_exactly_its_wrong_fields(fields: Any, ascii_only: bool) -> None:
    """All at once: nobody likes to hear of a second mistake after mending the first."""
    body = as_json(fields, ascii_only=ascii_only)
    expected = wrong_fields(fields)
    if expected:
        error, text = refused(body)
        assert issubclass(error, InvalidFields)
        assert [problem.partition(": ")[0] for problem in text.split("; ")] == [
            name for name in ChatRequest.__struct_fields__ if name in expected
        ]
    else:
        fields.pop("stream", None)
        assert parse(body) == ChatRequest(**fields)


@given(values.filter(lambda value: not isinstance(value, dict)))
def test_json_that_is_no_object_is_refused(value: Any) -> None:
    """It has no field to name, so it is the body that is wrong."""
    assert refused(as_json(value, ascii_only=True)) == (InvalidBody, "body: must be a JSON object")


@given(messages, st.booleans())
@example("\ufeff", True)
@example("\u200b", True)
@example("\\ud800", True)
def test_a_message_passes_exactly_as_sent(message: str, ascii_only: bool) -> None:
    """What is trimmed or normalised here cannot be put back by a responder."""
    body = as_json({"message": message}, ascii_only=ascii_only)
    assert parse(body) == ChatRequest(message)


BAD_UTF8 = "body: not UTF-8 (byte {})"
MALFORMED = "body: JSON is malformed: invalid character (byte {})"
TRUNCATED = "body: input data was truncated"
BOM = "body: begins with a byte order mark; send JSON without it (RFC 8259, section 8.1)"
NO_JSON: Dict[str, Tuple[bytes, str]] = {
    "empty": (b"", "body: is empty; a JSON object is expected"),
    "only white space": (b" \n", TRUNCATED),
    "BOM": (b'\xef\xbb\xbf{"message":"a"}', BOM),
    "no UTF-8": (b'{"message":"\xff"}', BAD_UTF8.format(12)),
    "unknown field": (b'{"message":"a","x":"\xff"}', BAD_UTF8.format(20)),
    "surrogate": (b'{"message":"\xed\xa0\x80"}', BAD_UTF8.format(12)),
    "UTF-16": ('{"message":"a"}'.encode("utf-16"), BAD_UTF8.format(0)),
    "high surrogate": (b'{"message":"\\ud800"}', LONE_SURROGATE),
    "low surrogate": (b'{"message":"\\uDFFF"}', LONE_SURROGATE),
    "pair the wrong way": (b'{"message":"\\ude00\\ud83d"}', LONE_SURROGATE),
    "half a pair": (b'{"message":"\\ud83d\\u0041"}', LONE_SURROGATE),
    "after a backslash": (b'{"message":"\\\\\\ud83d"}', LONE_SURROGATE),
    "behind a wrong field": (b'{"message":1,"x":"\\ud83d"}', LONE_SURROGATE),
    "NaN": (b'{"message":NaN}', MALFORMED.format(11)),
    "raw line break": (b'{"message":"a\nb"}', MALFORMED.format(13)),
    "cut off": (b'{"message":"a"', TRUNCATED),
    "form": (b"message=hello", MALFORMED.format(0)),
}


@pytest.mark.parametrize(("body", "problem"), NO_JSON.values(), ids=NO_JSON)
def test_a_body_that_is_no_json_is_refused_in_words_that_help(body: bytes, problem: str) -> None:
    """Each of these is a mistake that people make, and look for in the wrong place."""
    assert refused(body) == (InvalidBody, problem)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"message":"a"}', id="arrays"),
        pytest.param(b'{"x":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001, id="objects"),
        pytest.param(b'{"message":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="in the message"),
        pytest.param(b'{"message":' + b"[" * 100_000, id="never closed"),
    ],
)
def test_a_body_nested_too_deeply_is_refused(body: bytes) -> None:
    """Also in a field that nobody asked for: depth is what breaks decoders that recurse."""
    assert refused(body) == (InvalidBody, "body: nested too deeply")


def test_an_array_is_refused_however_deep() -> None:
    """It is no object, and nobody has to look inside to see that."""
    for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000):
        assert refused(body) == (InvalidBody, "body: must be a JSON object")


# The fields


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        (b"{}", REQUIRED),
        (b'{"Message":"a"}', REQUIRED),
        (b'{"message":null}', MESSAGE_IS.format("null")),
        (b'{"message":0,"conversation_id":null}', MESSAGE_IS.format("a number")),
        (b'{"message":-1.5e300}', MESSAGE_IS.format("a number")),
        (b'{"message":1e999999}', MESSAGE_IS.format("a number")),
        (b'{"message":"a","message":1}', MESSAGE_IS.format("a number")),
        (b'{"message":true}', MESSAGE_IS.format("a boolean")),
        (b'{"message":[]}', MESSAGE_IS.format("an array")),
        (b'{"message": \n\t{} }', MESSAGE_IS.format("an object")),
        (b'{"message":""}', "message: Message must not be empty"),
        (b'{"message":"a","conversation_id":""}', NOT_A_UUID),
        (b'{"message":"a","conversation_id":1}', ID_IS.format("a number")),
        (b'{"conversation_id":{}}', f"{REQUIRED}; {ID_IS.format('an object')}"),
        (b'{"message":" ","conversation_id":"x"}', f"{BLANK}; {NOT_A_UUID}"),
        (
            b'{"conversation_id":[],"message":false,"extra":[1]}',
            f"{MESSAGE_IS.format('a boolean')}; {ID_IS.format('an array')}",
        ),
        (
            b'{"message":1,"conversation_id":"x"}',
            f"{MESSAGE_IS.format('a number')}; {NOT_A_UUID}",
        ),
        (b'{"message":" ","conversation_id":1}', f"{BLANK}; {ID_IS.format('a number')}"),
        *(
            (b'{"message":"a","regenerate":%b}' % value, SWITCH_IS.format(kind))
            for value, kind in {
                b'"true"': "a string",
                b"0": "a number",
                b"1": "a number",
                b"[true]": "an array",
                b"{}": "an object",
            }.items()
        ),
        *(
            (b'{"message":"a","on_disconnect":%b}' % value, GRACE_IS)
            for value in (b'""', b'"Cancel"', b'"5"', b"-1", b"-0.5", b"1e999", b"-1" + b"0" * 400)
        ),
        *(
            (
                b'{"message":"a","on_disconnect":%b}' % value,
                f"on_disconnect: must be a string or a number, not {kind}",
            )
            for value, kind in ((b"true", "a boolean"), (b"[5]", "an array"), (b"{}", "an object"))
        ),
        (
            b'{"on_disconnect":-1,"regenerate":1,"conversation_id":"x","message":2}',
            f"{MESSAGE_IS.format('a number')}; {NOT_A_UUID}; {SWITCH_IS.format('a number')}; "
            f"{GRACE_IS}",
        ),
    ],
)
def test_every_wrong_field_is_named_with_what_is_wrong(body: bytes, problems: str) -> None:
    """The text goes to a developer, who mends all of it in one go."""
    assert refused(body) == (InvalidFields, problems)


@pytest.mark.parametrize(
    "space", [*" \t\n\r\v\f\x1c\x1f\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000", " \u3000\n"]
)
def test_a_message_of_only_white_space_is_refused(space: str) -> None:
    """Of all the kinds that Unicode has; around other text each of them stays."""
    assert refused(as_json({"message": space}, ascii_only=True)) == (InvalidFields, BLANK)
    around = f"{space}a{space}"
    assert parse(as_json({"message": around}, ascii_only=False)).message == around


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("character", ["x", "é", "\0", "😀", '"', "\u202e"])
def test_a_message_may_have_ten_thousand_characters_and_no_more(
    character: str, ascii_only: bool
) -> None:
    """Characters are code points, whatever they take in bytes, and the largest fit in the limit."""
    longest = character * 10_000
    body = as_json({"message": longest, "conversation_id": CONVERSATION}, ascii_only=ascii_only)
    assert len(body) <= LIMIT
    assert parse(body) == ChatRequest(longest, CONVERSATION)
    body = as_json({"message": longest + character}, ascii_only=ascii_only)
    assert refused(body) == (MessageTooLong, TOO_LONG)


@pytest.mark.parametrize("character", ["x", " "])
def test_a_message_too_long_is_told_with_the_other_wrong_fields(character: str) -> None:
    """Its own code does not keep the rest from being named."""
    message = character * 10_001
    body = as_json({"message": message, "conversation_id": "x"}, ascii_only=True)
    assert refused(body) == (MessageTooLong, f"{TOO_LONG}; {NOT_A_UUID}")
    body = as_json({"message": message, "conversation_id": []}, ascii_only=True)
    assert refused(body) == (MessageTooLong, f"{TOO_LONG}; {ID_IS.format('an array')}")


@pytest.mark.parametrize(
    "conversation_id",
    [
        pytest.param(CONVERSATION.upper(), id="upper case"),
        pytest.param(CONVERSATION.replace("-", ""), id="no hyphens"),
        pytest.param(f"{{{CONVERSATION}}}", id="braces"),
        pytest.param(f"urn:uuid:{CONVERSATION}", id="urn"),
        pytest.param(f" {CONVERSATION}", id="space before"),
        pytest.param(f"{CONVERSATION}\n", id="line feed behind"),
        pytest.param("\u0665" + CONVERSATION[1:], id="a digit of another script"),
        pytest.param("550e8400-e29b-41d4-c716-446655440000", id="another variant"),
        pytest.param("00000000-0000-0000-0000-000000000000", id="nil"),
        pytest.param("ffffffff-ffff-ffff-ffff-ffffffffffff", id="max"),
        *(
            pytest.param(f"550e8400-e29b-{version}1d4-a716-446655440000", id=f"version {version}")
            for version in "123567"
        ),
    ],
)
def test_a_conversation_id_has_one_form(conversation_id: str) -> None:
    """Two spellings of one id would be two conversations to whoever stores them."""
    fields = {"message": "a", "conversation_id": conversation_id}
    assert refused(as_json(fields, ascii_only=False)) == (InvalidFields, NOT_A_UUID)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param(b'{"message":"\\ud83d\\ude00"}', "😀", id="a pair of escapes"),
        pytest.param(b'{"message":"\\uD83D\\uDE00\\u0000"}', "😀\0", id="in upper case, and NUL"),
        pytest.param(b'{"message":"\\\\ud800"}', "\\ud800", id="a backslash, and no escape"),
        pytest.param(b'{"message":"\\u005cud800"}', "\\ud800", id="an escaped backslash"),
        pytest.param(b'{"message":"a","message":"b"}', "b", id="the last of two counts"),
        pytest.param(b'{"message":1,"message":"b"}', "b", id="also where the first is wrong"),
        pytest.param(b'{"m\\u0065ssage":"b"}', "b", id="a name with an escape"),
        pytest.param(b' \r\n\t{ "message" : "b" }\n', "b", id="white space between"),
        pytest.param(b'{"message":"b","conversation_id":null}', "b", id="null is absent"),
        pytest.param(b'{"message":"b","regenerate":null}', "b", id="here, too"),
        pytest.param(b'{"x":[{"message":1}],"message":"b"}', "b", id="unknown field"),
        pytest.param(b'{"x":' + b"9" * 5000 + b',"message":"b"}', "b", id="unknown large number"),
        pytest.param(b'{"":0,"x":1e999,"message":"b"}', "b", id="unknown infinite number"),
    ],
)
def test_what_json_allows_is_understood(body: bytes, message: str) -> None:
    """Clients write JSON in many ways, and may be newer than the server."""
    assert parse(body) == ChatRequest(message)


# The headers


def problem_of(*headers: Tuple[bytes, bytes]) -> Optional[Type[RequestError]]:
    """The error that a request with these headers is refused with before its body is read."""
    try:
        check_headers(dict(headers), max_body_bytes=LIMIT)
    except RequestError as error:
        return type(error)
    return None


JSON = (b"content-type", b"application/json")


JSON_TYPES = [
    b"application/json",
    b"Application/JSON",
    b"application/json; charset=utf-8",
    b"application/json;charset=UTF-8;x=y",
    b" application/json ; charset=utf-8",
    b"application/vnd.api+json",
    b"application/ld+JSON; profile=x",
    b"model/gltf+json",
]
OTHER_TYPES = [
    *(b"", b"json", b"text/json", b"text/plain", b"text/plain; application/json"),
    *(b"application/x-www-form-urlencoded", b"multipart/form-data; boundary=x"),
    *(b"application/json, text/plain", b"application/jsonp", b"application/json+xml"),
    *(b"application/+json", b"application/x+json+x", b"\xff\x00"),
]


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        *(([(b"content-type", json_type)], None) for json_type in JSON_TYPES),
        *(([(b"content-type", other)], UnsupportedMediaType) for other in OTHER_TYPES),
        ([], UnsupportedMediaType),
        ([(b"accept", b"application/json")], UnsupportedMediaType),
    ],
)
def test_a_body_has_to_be_declared_as_json(
    headers: List[Tuple[bytes, bytes]], problem: Optional[Type[RequestError]]
) -> None:
    """What a page of another site can send without asking first (CORS) is never declared so."""
    assert problem_of(*headers) is problem


def test_a_refused_media_type_is_named_with_the_one_to_send() -> None:
    """The client learns both: what it sent, and what it should send."""
    with pytest.raises(UnsupportedMediaType, match="must be application/json, not 'text/plain'"):
        check_headers({b"content-type": b"text/plain"}, max_body_bytes=LIMIT)
    with pytest.raises(UnsupportedMediaType, match="must be application/json, and there is none"):
        check_headers({}, max_body_bytes=LIMIT)
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding: send the body uncompressed"):
        check_headers({b"content-encoding": b"br"}, max_body_bytes=LIMIT)


@pytest.mark.parametrize(
    ("length", "problem"),
    [
        *((b"0", None), (b"%d" % LIMIT, None), (b"000%d" % LIMIT, None)),
        *((b"%d" % (LIMIT + 1), PayloadTooLarge), (b"9" * 10_000, PayloadTooLarge)),
        *((b"", None), (b"-1", None), (b"1e9", None), (b"abc", None), (b"\xb2", None)),
    ],
)
def test_an_announced_length_beyond_the_limit_is_refused(
    length: bytes, problem: Optional[Type[RequestError]]
) -> None:
    """Before the body is read. What is no length is not ours to judge: servers refuse it."""
    assert problem_of(JSON, (b"content-length", length)) is problem


@pytest.mark.parametrize(
    ("encoding", "problem"),
    [(b"identity", None), (b"Identity", None), (b"gzip", UnsupportedMediaType)],
)
def test_a_compressed_body_is_refused(
    encoding: bytes, problem: Optional[Type[RequestError]]
) -> None:
    """It would be read as JSON and found wanting; the client should learn what is really wrong."""
    assert problem_of(JSON, (b"content-encoding", encoding)) is problem


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"content-type", b"content-length", b"content-encoding", b"x"]),
            st.binary() | st.sampled_from([b"application/json", b"gzip", b"99999999", b"12"]),
        )
    )
)
def test_any_headers_pass_or_are_refused(headers: List[Tuple[bytes, bytes]]) -> None:
    """Odd bytes in a header are never a fault of ours."""
    assert problem_of(*headers) in (None, UnsupportedMediaType, PayloadTooLarge)


# Reading


class Body:
    """An ASGI receive channel that gives `parts`, then nothing, ever."""

    def __init__(self, *parts: Message) -> None:
        self.parts = list(parts)

    async def __call__(self) -> Message:
        if not self.parts:
            await asyncio.Event().wait()
        return self.parts.pop(0)

    def read(self, *, max_bytes: int = 10, seconds: float = 60.0) -> bytes:
        return asyncio.run(Deadline(seconds, late_body).run(read_body(self, max_bytes=max_bytes)))


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([part(b"0123456789", more=False)], id="one part, as large as the limit"),
        pytest.param([part(b"01234"), part(b"56789", more=False)], id="two"),
        pytest.param([part(b""), part(b"0123456789"), part(b"", more=False)], id="empty ones"),
        pytest.param(
            [part(b"0123456789"), {"type": "http.request"}], id="keys that ASGI lets a server omit"
        ),
    ],
)
def test_a_body_is_the_sum_of_its_parts(parts: List[Message]) -> None:
    """Servers part a body as the network did."""
    assert Body(*parts).read() == b"0123456789"


def test_reading_stops_at_the_limit() -> None:
    """A body without an announced length may have no end."""
    body = Body(part(b"01234"), part(b"56789"), part(b"x"), part(b"unread"))
    with pytest.raises(PayloadTooLarge, match="larger than 10 bytes"):
        body.read()
    assert body.parts == [part(b"unread")]


@pytest.mark.parametrize("parts", [[], [part(b"01"), part(b"23")]])
def test_a_body_that_does_not_end_in_time_is_cut_off(parts: List[Message]) -> None:
    """Otherwise clients that send nothing could hold every place there is."""
    with pytest.raises(RequestTimeout, match=r"did not arrive within 0\.01 seconds"):
        Body(*parts).read(seconds=0.01)


def test_the_time_is_for_the_whole_body_not_for_each_part() -> None:
    """One byte now and then would keep a connection for days."""

    async def trickle() -> Message:
        await asyncio.sleep(0)
        return part(b"")

    async def read() -> bytes:
        return await Deadline(0.01, late_body).run(read_body(trickle, max_bytes=10))

    with pytest.raises(RequestTimeout):
        asyncio.run(read())


def test_a_client_that_leaves_before_its_body_has_arrived_is_told_apart() -> None:
    """There is nobody to answer any more."""
    with pytest.raises(ClientDisconnect):
        Body(part(b"01"), {"type": "http.disconnect"}).read()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count there")
def test_a_server_that_ends_in_the_moment_of_the_time_out_is_heeded() -> None:
    """Two cancellations come as one; the request is answered with neither's error then."""

    async def main() -> None:
        deadline = Deadline(60.0, late_body)
        reading = asyncio.ensure_future(deadline.run(read_body(Body(), max_bytes=10)))
        await asyncio.sleep(0)
        deadline.shut_down()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

    asyncio.run(main())
