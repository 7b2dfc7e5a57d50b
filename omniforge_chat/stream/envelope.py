"""What stands around the reply in a stream: the head of the response, and how it ended."""

from __future__ import annotations

from typing import Sequence, Tuple

from starlette.types import Message as ASGIMessage

from .. import request_id
from ..core.reply import Reply
from ..models import Done
from ..observer import ChatEnd
from .state import StreamState

Headers = Sequence[Tuple[bytes, bytes]]

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


def start_of(reply: Reply, further: Headers) -> ASGIMessage:
    """The start of the response that streams `reply`, with `further` headers."""
    headers = [
        *_HEADERS,
        *reply.format.headers,
        (b"x-conversation-id", reply.turn.conversation_id.encode("ascii")),
        (request_id.HEADER, reply.turn.request_id.encode("ascii")),
        *further,
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}


def chat_end(
    reply: Reply, state: StreamState, now: float, outcome: str, sent_bytes: int, heartbeats: int
) -> ChatEnd:
    """How a chat has ended at the time `now`. If neither client nor reply tell, `outcome` does."""
    if reply.error is not None:
        outcome = reply.error.code
    first = reply.first_at if reply.chunks else None
    return ChatEnd(
        reply.turn,
        state.gone or outcome,
        reply.status,
        reply.chunks,
        # A complete reply has cost something, if it had no text.
        reply.last.usage if isinstance(reply.last, Done) else reply.usage(),
        reply.finish_reason,
        None if first is None else first - state.started,
        now - state.started,
        sent_bytes,
        heartbeats,
    )
