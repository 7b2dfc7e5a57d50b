"""An ASGI app that is driven by hand, without a server."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Dict, List, Mapping, Optional, Tuple

from starlette.types import ASGIApp, Message

from omniforge_chat.core.sse import Decoder, Frame


class HandDrivenRequest:
    """One request to an ASGI app that is driven by hand: what it was sent and what it received.

    `scope` are fields that the scope of the request has beside the usual ones, or in their place.
    """

    def __init__(
        self,
        body: object = None,
        *,
        path: str = "/api/v1/chat",
        method: str = "POST",
        headers: Optional[Mapping[str, str]] = None,
        parts: Optional[List[Message]] = None,
        **scope: Any,
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body or {"message": "hi"}).encode()
        fields = {"content-type": "application/json", **(headers or {})}
        self.scope: Dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in fields.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            **scope,
        }
        self._incoming = parts or [{"type": "http.request", "body": data, "more_body": False}]
        self.received = 0
        self.sent: List[Message] = []
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        if self.received < len(self._incoming):
            self.received += 1
            return self._incoming[self.received - 1]
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, app: ASGIApp) -> None:
        await app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> Dict[str, str]:
        """The headers, of which none is there twice."""
        headers = {k.decode(): v.decode("latin-1") for k, v in self.sent[0]["headers"]}
        assert len(headers) == len(self.sent[0]["headers"]), self.sent[0]["headers"]
        return headers

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent[1:])

    @property
    def frames(self) -> List[Frame]:
        return Decoder().feed(self.body)

    def json(self) -> Tuple[int, Dict[str, str], Any]:
        """The whole response, which is not a stream."""
        return self.status, self.headers, json.loads(self.body)


def call(app: ASGIApp, body: object = None, **request: Any) -> HandDrivenRequest:
    """One request to `app`, in an event loop of its own."""

    async def run() -> HandDrivenRequest:
        made = HandDrivenRequest(body, **request)
        await made.run(app)
        return made

    return asyncio.run(run())
