"""The answers that are no stream, in all their forms: the log has the reason, on one line.

One provider answers all, over real sockets. The model that is asked for is the name of the case.
"""

from __future__ import annotations

import gzip
import json
import zlib
from types import MappingProxyType
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional

import pytest

from ..support.provider import Call, Provider
from ..support.relay import ask, failed
from ..support.wires import KEY, OPENAI

REFUSED = "The model provider refused the request"
LIMITED = "The model provider is at its rate limit"
FAILED = "The model provider failed"
UNREADABLE = "The model provider sent something that cannot be read"
JSON = "application/json"
PAGE = """<!DOCTYPE html><html><head><title>502 Bad &amp; Gateway</title>
<style>body { color: red }</style></head><body><!-- a comment <b>more</b> -->
<script>if (1 < 2) { document.write("<p>script</p>") }</script>
<h1>502 Bad &amp; Gateway</h1><hr><center>cloud<b>flare</b></center></body></html>"""
MISSING = {"type": "missing", "loc": ["body", "top_k"], "msg": "Field required", "input": {"a": 1}}
SLOW = {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}


class Case(NamedTuple):
    """An answer; `told` is the client's message, and `logged` the end of the line in the log."""

    body: Any
    logged: str
    told: str = REFUSED
    status: int = 400
    type: str = JSON
    code: str = "upstream_error"
    headers: Mapping[str, str] = MappingProxyType({})


def case(document: Any, reason: str, told: Optional[str] = "", **more: Any) -> Case:
    """A document whose reason is told to the client as well, or not if `told` is None."""
    shown = REFUSED if told is None else f"{REFUSED}: {told or reason}"
    return Case(document, f"reason={reason!r}", more.pop("message", shown), **more)


def plain(text: bytes, reason: str, **more: Any) -> Case:
    """A text that no document holds: it may be that of a proxy."""
    return case(text, reason, None, **{"type": "text/plain", **more})


def compressed(data: bytes, encoding: str) -> Case:
    return case(data, "too deep", headers={"content_encoding": encoding})


DOCUMENT = json.dumps({"error": {"message": "too deep"}}).encode()
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
DEFLATED = RAW.compress(DOCUMENT) + RAW.flush()

CASES: Dict[str, Case] = {
    # Forms of a document
    "OpenAI": case({"error": {"message": "too long", "param": "messages"}}, "too long"),
    "a list of one": case([{"error": {"code": 400, "message": "bad"}}], "bad"),
    "a list of two": case([{"message": "one"}, {"message": "two"}], "one; two"),
    "message an object": case(
        {"object": "error", "message": {"detail": [MISSING]}, "type": "invalid_request_error"},
        "body.top_k: Field required",
    ),
    "message an object with a message": case({"message": {"message": "inner"}}, "inner"),
    "FastAPI": case({"detail": [MISSING]}, "body.top_k: Field required"),
    "FastAPI in words": case({"detail": "Not now"}, "Not now"),
    "FastAPI, an object": case({"detail": {"error": "Not now"}}, "Not now"),
    "errors of texts": case({"errors": ["one", "two"]}, "one; two"),
    "errors of objects": case(
        {"errors": [{"message": "a"}, {"title": "b", "status": "4"}]}, "a; b"
    ),
    "errors beside a message": case({"message": "no", "errors": [{"msg": "why"}]}, "no; why"),
    "an error beside its message": case({"error": "Bad Request", "message": "x"}, "Bad Request; x"),
    "an error that is a text": case({"error": "too odd"}, "too odd"),
    "a problem document": case({"title": "Odd", "type": "about:blank", "status": 400}, "Odd"),
    "XML": plain(
        b'<?xml version="1.0"?><Error><Code>Odd</Code><Message>No</Message></Error>',
        "Odd No",
        type="text/xml",
    ),
    "MiniMax": case({"base_resp": {"status_code": 2013, "status_msg": "bad"}}, "bad"),
    "Apigee": case({"fault": {"faultstring": "Bad", "detail": {"errorcode": "x"}}}, "Bad"),
    "Google": case(
        {"error": {"message": "", "details": [{"description": "field x"}]}},
        "field x",
    ),
    "JSON in a text": case({"message": json.dumps({"error": {"message": "inner"}})}, "inner"),
    "JSON in JSON in a text": case(
        {"error": {"message": json.dumps({"message": json.dumps([{"detail": "core"}])})}}, "core"
    ),
    "a text in JSON": case("too odd", "too odd"),
    "nested for ever": plain(b"[" * 40_000, "[" * 297 + "..."),
    "a frame": case(b'event: error\ndata: {"error": {"message": "odd"}}\n\n', "odd"),
    "two documents": case(b'{"error": "odd"}\n{"more": 1}\n', "odd"),
    "with a byte order mark": case(b'\xef\xbb\xbf{"error": "odd"}', "odd"),
    "no UTF-8": case(b'{"error": "caf\xe9 \xff"}', "caf\ufffd \ufffd"),
    "an unknown form": Case({"oops": 1, "x": 2}, "reason='a document of oops, x'"),
    "no words": Case({"error": {"code": 7}}, "kind=7 reason='a document of error'"),
    "one line": case({"error": "a\r\n\tb\x1b[31m\u2028c\x00d"}, "a b [31m c d"),
    "long": case({"error": "x" * 5000}, "x" * 297 + "..."),
    # Texts
    "a text": plain(b"upstream connect error\nreset", "upstream connect error reset"),
    "half a document": plain(b'{"error": {"message": "cut o', '{"error": {"message": "cut o'),
    "a page": plain(PAGE.encode(), "502 Bad & Gateway cloud flare", type="text/html"),
    "a page with a title": plain(b"<TITLE>Sorry</TITLE><p>Later", "Sorry: Later"),
    "a page with a title alone": plain(b"<html><title>Sorry</title>", "Sorry"),
    "a page that never closes": plain(b"<p>a<script>" * 3000, "a"),
    "a page of marks": plain(b"<!--" * 9000 + b"-->odd", "odd"),
    "a page of brackets": plain(b"<" * 60_000, "<" * 297 + "..."),
    "nothing": Case(b"", "status=400 body=empty kind="),
    "white space": Case(b"\r\n ", "status=400 kind="),
    # Secrets, and troubles of the operator's account
    "a key": case({"error": f"what is {KEY}"}, "what is ***"),
    "a key in half a document": plain(b'{"error": "' + KEY.encode(), '{"error": "***'),
    "a key that is cut": plain(f'"{KEY[:15]}'.encode(), '"***'),
    "a balance": case({"error": {"message": "Insufficient balance"}}, "Insufficient balance", None),
    "a balance in a list": case([{"message": "Your credit is 0"}], "Your credit is 0", None),
    "a balance in Chinese": case({"error": "账户余额不足"}, "账户余额不足", None),
    "a budget": case(
        {"error": {"message": "Max: 0.01", "type": "budget_exceeded"}}, "Max: 0.01", None
    ),
    # Compressed, although nobody asked for that
    "gzip": compressed(gzip.compress(DOCUMENT), "gzip"),
    "x-gzip": compressed(gzip.compress(DOCUMENT), "X-GZip"),
    "deflate": compressed(zlib.compress(DOCUMENT), "deflate"),
    "deflate without a head": compressed(DEFLATED, "deflate"),
    "gzip that is cut": plain(
        gzip.compress(b"x" * 5000)[:-9], "x" * 297 + "...", headers={"content_encoding": "gzip"}
    ),
    "a bomb": plain(
        gzip.compress(b"x" * 10**7), "x" * 297 + "...", headers={"content_encoding": "gzip"}
    ),
    "no gzip at all": Case(
        b"x", "status=400 content_encoding=gzip kind=", headers={"content_encoding": "gzip"}
    ),
    "another compression": Case(
        b"x", "status=400 content_encoding=compress kind=", headers={"content_encoding": "compress"}
    ),
    "no compression": case(DOCUMENT, "too deep", headers={"content_encoding": "none"}),
    # Redirects
    "a redirect": Case(
        b"",
        "status=307 location=https://***@sso.test/login?*** body=empty kind=",
        FAILED,
        307,
        headers={"location": f"https://user:{KEY}@sso.test/login?next={KEY}#x"},
    ),
    "a redirect to a path": Case(
        {"detail": "moved"},
        "status=308 location=/v2?*** kind= reason='moved'",
        FAILED,
        308,
        headers={"location": "/v2?api-version=1"},
    ),
    # Under the status 200
    "200": case(
        {"error": {"message": "odd", "code": 400}},
        "odd",
        status=200,
    ),
    "200 without a code": case({"error": {"message": "odd"}}, "odd", message=FAILED, status=200),
    "200 as a stream": case(
        {"error": {"message": "odd", "type": "invalid_request_error"}},
        "odd",
        status=200,
        type="text/event-stream",
    ),
    "200 after white space": case(b' \r\n\n{"detail": "odd"}', "odd", message=FAILED, status=200),
    "200 and a limit": case(
        {"error": SLOW}, "slow down", message=LIMITED, status=200, code="upstream_rate_limited"
    ),
    "200 and a limit in a list": case(
        [{"error": SLOW}], "slow down", message=LIMITED, status=200, code="upstream_rate_limited"
    ),
    "200 and a limit by name": case(
        {"error": {"type": "rate_limit_exceeded", "message": "slow"}},
        "slow",
        message=LIMITED,
        status=200,
        code="upstream_rate_limited",
    ),
    "200 and a limit without words": Case(
        {"error": {"code": 429}},
        "kind=429 reason='a document of error'",
        LIMITED,
        200,
        code="upstream_rate_limited",
    ),
    "200 and MiniMax": case(
        {"base_resp": {"status_code": 1002, "status_msg": "slow"}},
        "slow",
        message=LIMITED,
        status=200,
        code="upstream_rate_limited",
    ),
    "200 and a wrong key": Case(
        {"error": {"type": "authentication_error", "message": f"what is {KEY}"}},
        "kind=authentication_error",
        "The model provider refused the credentials of this service",
        200,
    ),
    "200 and a page": Case(PAGE.encode(), "cloud flare'", UNREADABLE, 200, "text/html"),
    "200 and gzip": case(
        gzip.compress(DOCUMENT),
        "too deep",
        message=FAILED,
        status=200,
        headers={"content_encoding": "gzip"},
    ),
    "200 and a whole reply": Case(
        {"id": "x", "object": "chat.completion", "choices": [{"message": {"content": "private"}}]},
        "reason='a document of id, object, choices'",
        UNREADABLE,
        200,
    ),
    "200 and a reply in lines": Case(
        b'{"message": {"content": "private"}}\n{"message": {"content": "private"}}\n',
        "reason='a document of message'",
        UNREADABLE,
        200,
    ),
    "200 and half a reply": Case(
        b'{"message": {"content": "private',
        "reason='a document that cannot be read'",
        UNREADABLE,
        200,
    ),
    "200 and half a reply that is compressed": Case(
        gzip.compress(b': hi\n\ndata: {"choices": [{"text": "private"}]}\n\n'),
        "reason='a document of choices'",
        UNREADABLE,
        200,
        headers={"content_encoding": "gzip"},
    ),
    "200 and nothing": Case(
        b"",
        "the stream ended without a finish content_type=application/json body=empty",
        "The model provider's reply was cut off",
        200,
    ),
    "200 and a text": Case(
        f"No room for {KEY}\n".encode(),
        "the stream ended without a finish content_type=text/plain reason='No room for ***'",
        UNREADABLE,
        200,
        type="text/plain",
    ),
    "200 and a text in JSON": Case(
        b'"no room"', "content_type=application/json reason='no room'", UNREADABLE, 200
    ),
    "200 and a header that is long": Case(
        b"data: hm\n\n",
        "DecodeError: no JSON: hm",
        UNREADABLE,
        200,
        type="text/event-stream; " + "x" * 5000,
    ),
    "200, a comment, and a header that is long": Case(
        b":\n\n",
        f"content_type=text/event-stream; {'x' * 78}...",
        "The model provider's reply was cut off",
        200,
        type="text/event-stream; \u2028" + "x" * 5000,
    ),
    "names that are long": Case(
        {"error": {"code": "x" * 5000, "message": "y" * 5000}},
        f"kind={'x' * 97}... reason='{'y' * 297}...'",
        f"{REFUSED}: {'y' * 297}...",
    ),
    "500": case({"error": {"message": "no luck"}}, "no luck", message=FAILED, status=500),
    "407": plain(b"Proxy says no", "Proxy says no", message=FAILED, status=407),
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    async def script(call: Call) -> None:
        found = CASES[call.body["model"]]
        await call.refuse(found.status, found.body, content_type=found.type, **found.headers)

    with Provider(script) as provider:
        yield provider


@pytest.mark.parametrize("name", CASES)
def test_a_refusal_is_told_with_its_reason(
    name: str, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """The operator reads the reason in the log; the client sees only its own business."""
    expected = CASES[name]
    error = failed(ask(OPENAI.make(provider, model=name)))
    assert (error.code, error.message) == (expected.code, expected.told)
    line = [r.getMessage() for r in caplog.records if r.name == "omniforge_chat"][-1]
    assert line.startswith("upstream failed request_id=request-1 ")
    assert line.endswith(expected.logged)
    assert line.isprintable()
    assert not any(text in caplog.text for text in (KEY[:12], "script", "color", "private"))
