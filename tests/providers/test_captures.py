"""What a real server sent, read by the responders: whole, and byte by byte.

tests/llm/capture.py made the files in data; who makes them anew brings this up to date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from omniforge_chat import Usage
from omniforge_chat.models import Done, Error, Event

from ..support.harness import CONVERSATION
from ..support.provider import WIRES, Call, Provider
from ..support.relay import ask, said

DATA = Path(__file__).parent / "data"

PARIS = "The capital of France is Paris."
LLAMAS = "\U0001f999\U0001f999"
ONES = "One" + 18 * " one"
FAILED = "The model provider failed"
TOO_LONG = (
    "The model provider rejected the request: request (621 tokens) exceeds the available context "
    "size (512 tokens), try increasing it"
)

EXPECTED: Dict[str, Tuple[str, Event]] = {
    "openai-reply.sse": (PARIS, Done(CONVERSATION, Usage(35, 27, 8), "stop")),
    "openai-cut.sse": ("In the 1", Done(CONVERSATION, Usage(29, 25, 4), "length")),
    "openai-parts-of-characters.sse": (LLAMAS, Done(CONVERSATION, Usage(40, 32, 8), "length")),
    "openai-too-long.json": ("", Error("upstream_error", TOO_LONG)),
    "openai-context-exceeded.sse": (
        ONES,
        Error("upstream_error", FAILED, Usage(18, estimated=True)),
    ),
    "anthropic-reply.sse": (PARIS, Done(CONVERSATION, Usage(35, 27, 8), "stop")),
    # Of its prompt, the larger part came out of the server's cache.
    "anthropic-cut.sse": ("In the 1", Done(CONVERSATION, Usage(29, 25, 4), "length")),
    # The server lost the first event, and with it the count of the prompt.
    "anthropic-parts-of-characters.sse": (
        LLAMAS,
        Done(CONVERSATION, Usage(8, completion_tokens=8), "length"),
    ),
    "anthropic-too-long.json": ("", Error("upstream_error", TOO_LONG)),
    # The prompt was counted before anything failed.
    "anthropic-context-exceeded.sse": (
        ONES,
        Error("upstream_error", FAILED, Usage(128, 110, 18, estimated=True)),
    ),
}
"""The text and the terminal event, by the name of the file."""

WIRE = {wire.name: wire for wire in WIRES}


def replayed(name: str, *, by_bytes: bool) -> List[Event]:
    """The events that come of the captured answer."""
    data = (DATA / name).read_bytes()

    async def script(call: Call) -> None:
        if name.endswith(".json"):
            await call.refuse(400, data)
        elif by_bytes:
            await call.stream(*(data[i : i + 1] for i in range(len(data))))
        else:
            await call.stream(data)

    with Provider(script) as provider:
        return ask(WIRE[name.partition("-")[0]].make(provider))


def test_every_capture_is_tried() -> None:
    """One that nobody reads would only look like proof."""
    assert {path.name for path in DATA.iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("by_bytes", [False, True], ids=["whole", "bytes"])
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_captured_answer_is_read_as_it_was_meant(name: str, by_bytes: bool) -> None:
    """Documentation says what servers should send; these are what one did send."""
    events = replayed(name, by_bytes=by_bytes)
    text, terminal = EXPECTED[name]
    assert "".join(said(events)) == text
    assert events[-1] == terminal
