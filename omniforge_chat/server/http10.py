"""The answer to a request of HTTP/1.0, which knows no transfer coding (RFC 9112, section 6.1)."""

from __future__ import annotations

import math
from typing import Any

from starlette.types import Message, Receive, Send


class Http10Send:
    """`send` for such a request: if the length is not known, the connection's end is the body's.

    h11 sends it so by itself. On httptools uvicorn would send chunks. It closes either connection
    after the answer, also if the client asks for keep-alive.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._request: Any = getattr(receive, "__self__", None)  # uvicorn's
        self._send = send
        self._counted = not hasattr(self._request, "chunked_encoding")  # as h11's is

    async def __call__(self, message: Message) -> None:
        if self._counted:
            pass
        elif message["type"] == "http.response.start":
            left_out = (b"transfer-encoding", b"connection")
            headers = [f for f in message.get("headers", ()) if f[0].lower() not in left_out]
            message = {**message, "headers": [*headers, (b"connection", b"close")]}
            self._counted = any(name.lower() == b"content-length" for name, _ in headers)
            if not self._counted:
                self._request.chunked_encoding = False
        else:  # uvicorn takes any number of bytes now, and at the end of the body none is left
            more = message.get("more_body", False)
            left = math.inf if more else len(message.get("body", b""))
            self._request.expected_content_length = left
        await self._send(message)
