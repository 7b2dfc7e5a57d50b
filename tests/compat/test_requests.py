"""`requests`, which reads lines of text at every character at which Python ends one."""

from __future__ import annotations

import json
from typing import AsyncIterator

import pytest

from omniforge_chat import Settings, Turn, create_app

from ..support.servers import UvicornThread
from .table import Recorder, package

requests = pytest.importorskip("requests", reason="it is not installed: make test-compat")

TEXT = "b".join("a\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1ec")


async def respond(turn: Turn) -> AsyncIterator[str]:
    yield TEXT
    yield TEXT * 10_000


def test_requests_reads_whole_lines_of_text(record: Recorder) -> None:
    """With `decode_unicode` it would get JSON that is cut in two."""
    with UvicornThread(create_app(respond, settings=Settings())) as server:
        response = requests.post(
            f"{server.url}/api/v1/chat", json={"message": "hi"}, stream=True, timeout=20
        )
        lines = list(response.iter_lines(decode_unicode=True))
    data = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert "".join(event["content"] for event in data[:-1]) == TEXT * 10_001
    record(package("client", "requests"), "text")
