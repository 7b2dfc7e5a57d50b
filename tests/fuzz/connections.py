"""What comes on a connection: requests to our own server, on both of its parsers."""

from __future__ import annotations

import asyncio
import re
from ast import literal_eval
from functools import partial
from importlib.util import find_spec
from typing import Any, List, Sequence, Tuple

from starlette.types import Receive, Scope, Send

from omniforge_chat.server import Server

from ..support.driven import Wire, body_of, serving
from ..support.http_cases import REFUSED, TAKEN
from ..support.timeless import timeless
from .target import Target, same, splits

_heads = re.compile(rb"HTTP/1\.1 (\d\d\d) [A-Z][\w -]*\r\n").split
_own = re.compile(rb"(?i)(?:x-request-id|date): [^\r]*\r\n")


async def _hear(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with what was heard, in ASCII."""
    body = await body_of(receive)
    if body is None:
        return
    fields = (scope["method"], scope["raw_path"], scope["query_string"], scope["headers"], body)
    heard = repr(fields).encode("ascii")
    headers = [(b"content-length", b"%d" % len(heard))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": heard})


def _answers(written: bytes) -> List[Tuple[int, bytes]]:
    """The status of each answer, and the rest of it."""
    before, *rest = _heads(_own.sub(b"", written))
    assert not before, before
    answers = [(int(status), answer) for status, answer in zip(rest[::2], rest[1::2])]
    for status, answer in answers:
        assert status in (100, 200, 400, 431), status
        assert status == 100 or b"\r\n\r\n" in answer
    return answers


async def _written(server: Server, reads: List[bytes]) -> bytes:
    """All that answers these reads, before the client leaves."""
    tasks, wire = server.server_state.tasks, Wire()
    protocol = server.config.http_protocol_class(  # type: ignore[call-arg]
        config=server.config, server_state=server.server_state, app_state={}
    )
    protocol.connection_made(wire)
    for read in filter(None, reads):
        if not wire.closed:
            protocol.data_received(read)
            await asyncio.sleep(0)  # a request begins
    while tasks and (await asyncio.wait(tasks, timeout=1e-3))[0]:
        pass
    written = wire.written
    protocol.connection_lost(None)
    while tasks:
        assert (await asyncio.wait(tasks, timeout=1e-3))[0], "it goes on without its client"
    return written


@timeless
async def _converse(server: Server, data: bytes) -> None:
    same([_answers(await _written(server, reads)) for reads in splits(data)])


def _heard(answers: List[Tuple[int, bytes]]) -> List[Any]:
    """The requests that were taken, up to the first one that was not; None for one without body."""
    found: List[Any] = []
    for status, answer in answers:
        if status == 200:
            _, _, heard = answer.partition(b"\r\n\r\n")
            method, path, query, _, body = literal_eval(heard.decode()) if heard else [None] * 5
            found.append((method, path, query, body))
        elif status != 100:
            break
    return found


@timeless
async def _compare(servers: Sequence[Server], data: bytes) -> None:
    """One parser may refuse what another one takes. But what all take has to be one request."""
    heard = [_heard(_answers(await _written(server, [data]))) for server in servers]
    for requests in zip(*heard):
        same(requests)


_SERVERS = {http: serving(_hear, http) for http in ("h11", "httptools") if find_spec(http)}
_REQUESTS = [data for cases in REFUSED.values() for data in cases.values()]
_REQUESTS += [data for data, _ in TAKEN.values()]
_SEEDS = [data for data in _REQUESTS if len(data) < 1000]

TARGETS = (
    *(
        Target(f"{http}-connections", partial(_converse, server), _SEEDS)
        for http, server in _SERVERS.items()
    ),
    Target("both-connections", partial(_compare, [*_SERVERS.values()]), _SEEDS),
)
