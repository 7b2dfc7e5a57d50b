"""One open stream: events become frames, and frames go straight to the ASGI send channel."""

from __future__ import annotations

import time
from typing import Optional

import anyio
from starlette.types import Receive, Send

from . import logs, sse
from .chat import Responder, Tally, converse, describe
from .errors import StreamError
from .models import Chunk, Turn


class EventStream:
    """The response to one chat: an ASGI response that answers `turn` with `responder`.

    It ends with exactly one terminal frame, unless the client has left; then the responder is
    cancelled and closed, and nothing more is sent.
    """

    def __init__(self, turn: Turn, responder: Responder) -> None:
        self.turn = turn
        self.responder = responder
        self._tally = Tally()
        self._outcome = "cancelled"
        self._started = time.perf_counter()
        self._first_chunk: Optional[float] = None

    async def respond(self, receive: Receive, send: Send) -> None:
        """Send the whole response, and log how it ended."""
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream; charset=utf-8"),
                        (b"cache-control", b"no-cache, no-transform"),
                        (b"x-accel-buffering", b"no"),
                        (b"x-conversation-id", self.turn.conversation_id.encode("ascii")),
                    ],
                }
            )
            # Some servers hold the headers back until there is a body.
            await self._send_body(send, b"")
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch, receive, group.cancel_scope)
                await self._pump(send)
                group.cancel_scope.cancel()
        finally:
            self._log()

    async def _pump(self, send: Send) -> None:
        events = converse(self.turn, self.responder, self._tally)
        try:
            async for event in events:
                if self._first_chunk is None:
                    self._first_chunk = time.perf_counter()
                try:
                    frame = sse.encode(event)
                except UnicodeEncodeError as error:
                    event = describe(StreamError(str(error)), self.turn, self._tally)
                    frame = sse.encode(event)
                last = not isinstance(event, Chunk)
                await self._send_body(send, frame, more=not last)
                if last:
                    failed = self._tally.error
                    self._outcome = "done" if failed is None else failed.code
                    break
        finally:
            await events.aclose()

    async def _send_body(self, send: Send, body: bytes, *, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": more})

    async def _watch(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._outcome = "disconnected"
        scope.cancel()

    def _log(self) -> None:
        now = time.perf_counter()
        first = self._first_chunk
        logs.chat_ended(
            {
                "request_id": self.turn.request_id,
                "conversation_id": self.turn.conversation_id,
                "outcome": self._outcome,
                "chunks": self._tally.chunks,
                "tokens": self._tally.usage().tokens if self._tally.chunks else 0,
                "first_chunk_ms": None
                if first is None
                else round(1000 * (first - self._started), 1),
                "total_ms": round(1000 * (now - self._started), 1),
            }
        )
