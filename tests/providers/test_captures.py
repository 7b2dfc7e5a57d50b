"""What a real server sent, read by the readers: whole, and byte by byte.

tests/llm/capture.py made the files in data. If you make them anew, bring this up to date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional, Tuple

import pytest

from omniforge_chat import Usage
from omniforge_chat.responders.providers.errors import refused, reported

from ..support.relay import read
from ..support.wires import WIRES

DATA = Path(__file__).parent / "data"

PARIS = "The capital of France is Paris."
LLAMAS = "\U0001f999\U0001f999"
ONES = "One" + 18 * " one"
FAILED = "The model provider failed"
TOO_LONG = (
    "The model provider refused the request: request (621 tokens) exceeds the available context "
    "size (512 tokens), try increasing it"
)

STREAMS: Dict[str, Tuple[str, Optional[Usage], str]] = {
    "openai-reply.sse": (PARIS, Usage(35, 27, 8), "stop"),
    "openai-cut.sse": ("In the 1", Usage(29, 25, 4), "length"),
    "openai-parts-of-characters.sse": (LLAMAS, Usage(40, 32, 8), "length"),
    "openai-context-exceeded.sse": (ONES, None, FAILED),
    "anthropic-reply.sse": (PARIS, Usage(35, 27, 8), "stop"),
    # Of its prompt, the larger part came out of the server's cache.
    "anthropic-cut.sse": ("In the 1", Usage(29, 25, 4), "length"),
    # The server lost the first event, and with it the count of the prompt.
    "anthropic-parts-of-characters.sse": (LLAMAS, Usage(8, completion_tokens=8), "length"),
    # The prompt was counted before anything failed.
    "anthropic-context-exceeded.sse": (ONES, Usage(110, 110), FAILED),
}
"""The text, the usage, and the reason for the end or the failure, by the name of the file."""

REFUSALS = ("openai-too-long.json", "anthropic-too-long.json")
WIRE = {wire.name: wire for wire in WIRES}


def test_every_capture_is_tried() -> None:
    """One that nobody reads would only look like proof."""
    assert {path.name for path in DATA.iterdir()} == {*STREAMS, *REFUSALS}


@pytest.mark.parametrize("by_bytes", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("name", sorted(STREAMS))
def test_a_captured_stream_is_read_as_it_was_meant(name: str, by_bytes: bool) -> None:
    """Documentation says what servers should send; these are what one did send."""
    data = (DATA / name).read_bytes()
    parts = [data[i : i + 1] for i in range(len(data))] if by_bytes else [data]
    reader = WIRE[name.partition("-")[0]].reader()
    text, usage, end = STREAMS[name]
    assert "".join(read(reader, *parts)) == text
    assert (reader.usage, reader.ended, reader.unreadable) == (usage, True, "")
    if reader.problem is not None:
        assert reported(reader.problem, str).message == end
    else:
        assert reader.finish_reason == end


@pytest.mark.parametrize("name", REFUSALS)
def test_a_captured_refusal_is_read_as_it_was_meant(name: str) -> None:
    """Its words are those that the client needs."""
    assert refused(400, {}, (DATA / name).read_bytes(), str).message == TOO_LONG
