"""Capture what llama.cpp sends, byte for byte: `python -m tests.llm.capture`.

It fills tests/providers/data.
A body of status 200 becomes `<wire>-<what>.sse`, any other one `<wire>-<what>.json`. Prompts and
limits are such that each stays small. tests/providers/test_captures.py says what is to be read
from them.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Tuple

from .llama import Llama, missing

DATA = Path(__file__).parents[1] / "providers" / "data"
SECONDS = 60.0

PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}

REQUESTS: Dict[str, Tuple[str, int]] = {
    "reply": ("What is the capital of France?", 40),
    "cut": ("Tell me a story.", 4),
    # The model answers in kind, and no token of its own is a whole character.
    "parts-of-characters": ("\U0001f999\U0001f999\U0001f999\U0001f999", 8),
    "too-long": ("word " * 600, 4),
}
"""The message and the most tokens of a reply, by the name of what comes of it."""


def body(wire: str, message: str, max_tokens: int) -> Dict[str, Any]:
    """A request as our responders make it."""
    messages = [{"role": "user", "content": message}]
    fields = {"messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True}
    brief = "Answer in one short sentence."
    if wire == "openai":
        messages.insert(0, {"role": "system", "content": brief})
        return {**fields, "stream_options": {"include_usage": True}}
    return {**fields, "system": brief}


def send(url: str, wire: str, message: str, max_tokens: int) -> Tuple[int, bytes]:
    """The status and the body of the answer."""
    data = json.dumps(body(wire, message, max_tokens)).encode()
    request = urllib.request.Request(url + PATHS[wire], data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def keep(wire: str, what: str, status: int, data: bytes) -> None:
    path = DATA / f"{wire}-{what}.{'sse' if status == 200 else 'json'}"
    path.write_bytes(data)
    print(f"{path.name}: {len(data)} bytes")


def main() -> int:
    problem = missing()
    if problem is not None:
        print(f"capture: {problem}", file=sys.stderr)
        return 2
    DATA.mkdir(exist_ok=True)
    for wire in PATHS:
        with Llama(slots=1, context=512) as llama:
            for what, (message, max_tokens) in REQUESTS.items():
                keep(wire, what, *send(llama.url, wire, message, max_tokens))
        # Two prompts that all but fill the context that they share.
        with Llama(slots=2, context=128, shared=True, endless=True) as llama:
            with ThreadPoolExecutor(2) as pool:
                asked: List[Any] = [
                    pool.submit(send, llama.url, wire, word * 90, 200) for word in (" one", " two")
                ]
            keep(wire, "context-exceeded", *asked[0].result())
    return 0


if __name__ == "__main__":
    sys.exit(main())
