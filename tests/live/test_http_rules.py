"""The rules for HTTP/1.1: one table, over both parsers, with each request cut at every byte."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Dict, Iterator, List

import pytest
from starlette.types import Receive, Scope, Send

from omniforge_chat.server import Server

from ..support.answers import refusal
from ..support.driven import body_of, conversation, cut, echoes, serving
from ..support.http_cases import REFUSED, TAKEN


async def hear(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with `METHOD target host body`."""
    body = await body_of(receive)
    if body is None:
        return
    query = scope["query_string"] and b"?" + scope["query_string"]
    host: Dict[bytes, bytes] = dict(scope["headers"])
    heard = f"{scope['method']} {scope['raw_path'].decode()}{query.decode()} "
    heard += host[b"host"].decode().strip() if b"host" in host else "None"
    heard += f" {body.decode()}" if body else ""
    assert b"evil" not in b"".join(value for _, value in scope["headers"])
    headers = [(b"content-length", b"%d" % len(heard))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": heard.encode()})


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request: pytest.FixtureRequest) -> Server:
    return serving(hear, request.param)


@pytest.fixture(autouse=True)
def no_log() -> Iterator[None]:
    """There is a line for each refusal, and these are many."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def cuts(data: bytes) -> List[List[bytes]]:
    """`data` whole, in single bytes, and in two at each byte."""
    return [[data], cut(data, 1), *([data[:i], data[i:]] for i in range(1, len(data)))]


@pytest.mark.parametrize("rule", REFUSED)
def test_a_request_that_breaks_a_rule_is_refused(server: Server, rule: str) -> None:
    """The answer is well-formed, and nothing that follows is read as a request."""

    async def run() -> None:
        for name, data in REFUSED[rule].items():
            for pieces in cuts(data):
                written, closed = await conversation(server, pieces)
                head, _, body = written.decode().partition("\r\n\r\n")
                assert head.startswith("HTTP/1.1 400 Bad Request\r\n"), (name, pieces, written)
                fields = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:])
                assert refusal(400, fields, json.loads(body))[1] == "bad_request"
                assert int(fields["content-length"]) == len(body)
                assert (fields["connection"], closed) == ("close", True)

    asyncio.run(run())


@pytest.mark.parametrize("name", TAKEN)
def test_a_request_that_keeps_the_rules_is_heard_as_it_was_meant(server: Server, name: str) -> None:
    """A body is a body, a trailer is no header, and the next request is the next request."""

    async def run() -> None:
        data, expected = TAKEN[name]
        for pieces in cuts(data):
            written, _ = await conversation(server, pieces)
            assert echoes(written) == expected, (pieces, written)

    asyncio.run(run())
