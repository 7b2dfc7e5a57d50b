"""The parts of an answer that tests compare."""

from __future__ import annotations

import json
from typing import Any, List, Mapping, Tuple

from omniforge_chat.core.sse import Frame


def text(frames: List[Frame]) -> str:
    """The reply that the chunks among `frames` make up."""
    return "".join(json.loads(f.data)["content"] for f in frames if f.event == "chunk")


def last(frames: List[Frame]) -> Tuple[str, Any]:
    """The terminal event, of which there is exactly one and after which nothing comes."""
    assert [f.event for f in frames[:-1]] == ["chunk"] * (len(frames) - 1)
    return frames[-1].event, json.loads(frames[-1].data)


def refusal(status: int, headers: Mapping[str, str], body: Any) -> Tuple[int, str, str]:
    """The status, the code and the message of an error, which has the one shape of all errors."""
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]
    assert headers["cache-control"] == "no-store"
    assert set(body) == {"code", "message"}
    assert all(isinstance(value, str) and value for value in body.values())
    return status, body["code"], body["message"]
