"""A refusal that a gateway has compressed with Brotli, although nobody asked for that."""

from __future__ import annotations

import json

import pytest

from ..support.provider import Provider, refusing
from ..support.relay import ask, failed
from ..support.wires import OPENAI
from .table import module

brotli = module("brotli")


@pytest.mark.parametrize("size", [10, 10_000_000])
def test_a_reason_in_brotli_is_read(size: int, caplog: pytest.LogCaptureFixture) -> None:
    """The package that httpx uses for it does that, as far as the text is wanted."""
    document = json.dumps({"error": {"message": "x" * size}}).encode()
    script = refusing(500, brotli.compress(document), content_encoding="br")
    with Provider(script) as provider:
        assert failed(ask(OPENAI.make(provider))).message == "The model provider failed"
    assert ("reason='xxxxxxxxxx'" if size == 10 else '{"error": {"message": "xxxx') in caplog.text
