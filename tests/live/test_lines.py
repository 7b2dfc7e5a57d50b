"""Clients that read a stream line by line, each by its own idea of a line and of its length."""

from __future__ import annotations

import asyncio
import json
from typing import AsyncIterator, Callable, Iterator, List, Union

import httpx
import pytest

from omniforge_chat import ChatError, Settings, Turn, Usage, create_app

from ..support.client import request
from ..support.servers import UvicornThread

LINE_ENDS = "\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e\r\n"
TEXTS = {
    "line ends": f"a{'b'.join(LINE_ENDS)}c",
    "long": "x" * 140_000,
    "long in JSON": "\0\u2028" * 70_000,
}


async def repeat(turn: Turn) -> AsyncIterator[Union[str, Usage]]:
    """Says the text that the message names, and fails with it."""
    text = TEXTS[turn.message]
    yield text
    await asyncio.sleep(0.03)  # a heartbeat comes
    yield Usage(7)
    raise ChatError(text)


@pytest.fixture(scope="module")
def server() -> Iterator[UvicornThread]:
    app = create_app(repeat, settings=Settings(heartbeat_interval=0.01))
    with UvicornThread(app) as server:
        yield server


def by_httpx(server: UvicornThread, message: str) -> List[str]:
    with httpx.stream("POST", f"{server.url}/api/v1/chat", json={"message": message}) as response:
        return list(response.iter_lines())


def by_readline(server: UvicornThread, message: str) -> List[str]:
    """asyncio's, which fails if a line has more than 64 KiB."""

    async def read() -> List[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request({"message": message}, headers={"Connection": "close"}))
        lines = [line async for line in reader]  # some are sizes of HTTP's own chunks
        writer.close()
        return [line.decode().rstrip("\n") for line in lines]

    return asyncio.run(read())


@pytest.mark.parametrize("lines_of", [by_httpx, by_readline])
@pytest.mark.parametrize("message", TEXTS)
def test_a_client_that_reads_by_lines_gets_whole_events(
    lines_of: Callable[[UvicornThread, str], List[str]], message: str, server: UvicornThread
) -> None:
    """Its JSON would be cut in two, or its reader would fail; and the text is the same to all."""
    lines = lines_of(server, message)
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert "".join(event["content"] for event in data[:-1]) == TEXTS[message]
    assert (data[-1]["code"], data[-1]["usage"]) == ("processing_error", {"tokens": 7})
    assert TEXTS[message].startswith(data[-1]["message"].removesuffix("..."))
    assert ":" in lines
