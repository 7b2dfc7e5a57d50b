"""A connection of our own server that is driven by hand: bytes in, bytes out, no socket."""

from __future__ import annotations

import asyncio
from typing import Any, List, Optional, Tuple, cast

import pytest
from starlette.types import ASGIApp, Receive

from omniforge_chat import Settings
from omniforge_chat.app import ChatApp
from omniforge_chat.observer import Observers
from omniforge_chat.server import Server, make_server

from .constants import PATIENCE


class Wire(asyncio.Transport):
    """A connection without a socket, which takes all that is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = self.ended = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def body_of(receive: Receive) -> Optional[bytes]:
    """The body of a request, for an app; None if the client leaves meanwhile."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body, more = body + message["body"], message["more_body"]
    return body


async def conversation(server: Server, pieces: List[bytes]) -> Tuple[bytes, bool]:
    """What answers `pieces`, each of which is one read, and whether that is all for good."""
    state, wire = server.server_state, Wire()
    protocol = server.config.http_protocol_class(  # type: ignore[call-arg]
        config=server.config, server_state=state, app_state={}
    )
    protocol.connection_made(wire)
    for piece in pieces:
        if not wire.closed:
            protocol.data_received(piece)
            await asyncio.sleep(0)  # a request begins
    while state.tasks:
        assert (await asyncio.wait(state.tasks, timeout=PATIENCE))[0]
    protocol.connection_lost(None)
    return wire.written, wire.closed or wire.ended


def echoes(written: bytes) -> List[str]:
    answers = written.split(b"HTTP/1.1 ")[1:]
    assert all(answer.startswith(b"200 ") for answer in answers), written
    return [answer.partition(b"\r\n\r\n")[2].decode() for answer in answers]


def cut(data: bytes, size: int) -> List[bytes]:
    """`data` in pieces of this size."""
    return [data[i : i + size] for i in range(0, len(data), size)]


def serving(app: ASGIApp, http: str) -> Server:
    """A server of `app`, which is driven by hand."""
    pytest.importorskip(http)
    chat: Any = app
    chat.observers = Observers()  # as a ChatApp has them
    return make_server(cast(ChatApp, chat), Settings(), log_config=None, http=http)
