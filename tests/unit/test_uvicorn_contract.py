"""The attributes of uvicorn's that our server relies on, and that no documentation promises."""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import logging
import re
from pathlib import Path
from typing import Any, Dict, Iterator
from unittest.mock import Mock

import h11
import pytest
import uvicorn
from h11._receivebuffer import ReceiveBuffer

import omniforge_chat.server
from omniforge_chat import Settings, create_app
from omniforge_chat.logs import log_config
from omniforge_chat.server import h11_protocol
from omniforge_chat.server.protocol import UVICORN, CheckedProtocol
from omniforge_chat.server.server import make_server

ROOM = Path(omniforge_chat.server.__file__).parent


def instances() -> Iterator[Any]:
    """One of each of uvicorn's classes that a connection with a request brings about."""
    for http in ("h11", "httptools"):
        config = uvicorn.Config(Mock(), http=http, log_config=None)
        config.load()
        server = uvicorn.Server(config)
        state = server.server_state
        protocol: Any = config.http_protocol_class(  # type: ignore[call-arg]
            config=config, server_state=state, app_state={}, _loop=Mock()
        )
        protocol.connection_made(Mock(spec=asyncio.Transport))
        yield from (config, config.loaded_app, server, state, protocol, protocol.flow)
        protocol.loop.create_task = lambda task, **_: task.close() or Mock()
        protocol.data_received(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        yield protocol.cycle


@pytest.fixture
def found() -> Dict[str, Any]:
    pytest.importorskip("httptools")

    async def make() -> Dict[str, Any]:
        return {type(instance).__name__: instance for instance in instances()}

    return asyncio.run(make())


def test_uvicorn_has_each_attribute_that_the_server_relies_on(found: Dict[str, Any]) -> None:
    """A version of uvicorn that moves one is found here, and not by a client."""
    missing = [
        f"{name}.{attribute}"
        for name, attributes in UVICORN.items()
        for attribute in attributes.split()
        if not hasattr(found.get(name), attribute)
    ]
    assert not missing, f"uvicorn {uvicorn.__version__} lacks {', '.join(missing)}"


def test_each_attribute_of_uvicorn_s_that_the_server_uses_is_listed(found: Dict[str, Any]) -> None:
    """Or the test above would not look for it."""
    listed = set(" ".join(UVICORN.values()).split())
    known = {name for instance in found.values() for name in dir(instance)} - set(dir(object()))
    theirs = re.compile(r"(self|super\(\)|request|server|config)(\.[a-z]\w*)*")  # no `_app`
    for path in (ROOM / "server.py", *ROOM.glob("*protocol.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in known - listed:
                used = f"{path.name} uses {ast.unparse(node)}"
                assert not theirs.fullmatch(ast.unparse(node.value)), used


def test_h11_takes_its_lines_from_the_buffer_that_ours_replaces() -> None:
    """In a version of h11 that has another, the rules for lines would be gone without a word."""
    ours = vars(h11_protocol._Parser()._receive_buffer.__class__)
    theirs = dir(ReceiveBuffer())
    replaced = {"_extract", "maybe_extract_lines", "maybe_extract_next_line"}
    assert replaced < {*ours} & {*theirs}
    assert "_data" in theirs
    assert not {"taken", "clear", "skip_empty_lines"} & {*theirs}, "these are our own"
    assert type(h11.Connection(h11.SERVER)._receive_buffer) is ReceiveBuffer
    parser, head = h11_protocol._Parser(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    parser.receive_data(head)
    assert isinstance(parser.next_event(), h11.Request)
    assert parser._receive_buffer.taken == head


@pytest.mark.parametrize("http", ["auto", "h11", "httptools"])
def test_the_server_has_its_own_protocol_for_each_of_uvicorn_s(http: str) -> None:
    """Also for the one that uvicorn chooses by itself."""
    pytest.importorskip("httptools")
    server = make_server(create_app(settings=Settings()), Settings(), log_config=None, http=http)
    factory: Any = server.config.http_protocol_class
    assert issubclass(factory.func, CheckedProtocol)
    config = uvicorn.Config(Mock(), http=http, log_config=None)
    config.load()
    assert issubclass(factory.func, config.http_protocol_class)


@pytest.mark.parametrize("parser", ["h11_impl", "httptools_impl"])
def test_uvicorn_s_line_for_each_request_that_is_not_http_is_left_out(parser: str) -> None:
    """They are counted as other refusals are, or whoever sends garbage fills the disk."""
    text = "Invalid HTTP request received."
    source = inspect.getsource(importlib.import_module(f"uvicorn.protocols.http.{parser}"))
    assert f'msg = "{text}"' in source
    config = log_config("INFO", "text")
    [name] = config["loggers"]["uvicorn.error"]["filters"]
    passes = config["filters"][name]["()"]().filter
    kinds = ("uvicorn.error", logging.WARNING, "", 0)
    assert not passes(logging.LogRecord(*kinds, text, (), None))
    assert passes(logging.LogRecord(*kinds, "Anything else", (), None))
