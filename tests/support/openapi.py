"""Services whose OpenAPI document is put to the test."""

from __future__ import annotations

import json
from typing import Any, AsyncIterator

from starlette.applications import Starlette

from omniforge_chat import ChatError, Finish, Settings, Turn, Usage
from omniforge_chat.core.responder import Item
from omniforge_chat.models import Rate

from .app import call

CHAT = "/api/v1/chat"
REPLIES = f"{CHAT}/replies/{{reply_id}}"

KEEPING = Settings(history="memory", replay="memory", dialects=("native", "ai_sdk"))
"""A service that keeps replies and conversations."""

KEY = "ofk_0123456789abcdef"
AS_ME = {"Authorization": f"Bearer {KEY}"}
GUARDED = Settings(
    api_keys=f"me:{KEY}",
    rate_limit=Rate(100_000, 60),
    history="memory",
    replay="memory",
    dialects=("native", "openai", "ai_sdk"),
    metrics="on",
)
"""A service that asks who a caller is, and limits what they may have."""


async def answer_even_messages(turn: Turn) -> AsyncIterator[Item]:
    """Replies that end in either way, with what was sent in them."""
    yield turn.message
    if len(turn.message) % 2:
        raise ChatError("The message has an odd number of characters")
    if len(turn.message) % 4:
        yield Usage(7, prompt_tokens=3, completion_tokens=4)
        yield Finish("stop")


def document_of(app: Starlette, path: str = "/openapi.json", query: str = "") -> Any:
    """The document as the service gives it out."""
    answer = call(app, method="GET", path=path, query_string=query.encode())
    assert answer.headers["content-type"] == "application/json"
    return json.loads(answer.body)
