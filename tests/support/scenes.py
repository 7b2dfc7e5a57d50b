"""An app that plays to a client what may happen to it, and counts what the client asks for."""

from __future__ import annotations

import asyncio
from typing import AsyncIterator, Dict, List, Optional

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniforge_chat import ChatError, Settings, Turn, create_app
from omniforge_chat.settings import DIALECTS

from .constants import CONVERSATION

CHAT = "/api/v1/chat"

_BREAKS = "b".join("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
_FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
_RIGHT_TO_LEFT = "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u200f!"
PIECES = [
    "one ",
    f"zwölf é😀{_FAMILY}{_RIGHT_TO_LEFT}{_BREAKS}",
    "\n\nevent: done\r\n",
    " ",
    f"x{_BREAKS}" * 5_000,
    "end",
]
"""The reply to the message "whole": emoji, text from right to left, and all at which Python or
another language ends a line."""

MANY = [f"{number} " for number in range(2_000)]
"""The reply to "many": each piece is sent alone."""

FAILURE = {"code": "own_code", "message": "No more"}
"""How the reply to "fail" ends, after the text "half "."""

_HALF = b'id: 1\nretry: 10\nevent: chunk\ndata: {"content":"half "}\n\n'
_DONE = f'id: 2\nevent: done\ndata: {{"conversation_id":"{CONVERSATION}"}}\n\n'.encode()


class Scenes:
    """The chat, in each wire format at its own path. Its reply depends on the message:

    | message | reply |
    |---|---|
    | whole | PIECES |
    | many | MANY |
    | pause | "before ", two heartbeats, "after" |
    | wait | "half ", and nothing more |
    | fail, and others | "half ", then the error FAILURE |

    And answers that are not the chat's: `/broken` and `/ended` are a stream that is cut, by a crash
    and by a proxy; `/proxy` is a proxy's page of 502; at `/identified` frames have ids, and a
    request with Last-Event-ID goes to the chat.

    `turns` are those that the responder was called with, `generations` their messages, and `asked`
    the paths of all requests.
    """

    def __init__(self) -> None:
        settings = Settings(heartbeat_interval=0.05, dialects=DIALECTS)
        self.app = create_app(self._respond, settings=settings)
        self.turns: List[Turn] = []
        self.asked: List[str] = []
        self._beats: Optional[asyncio.Queue[None]] = None
        self._others: Dict[str, ASGIApp] = {
            "/broken": self._broken,
            "/ended": self._ended,
            "/proxy": self._proxy,
            "/identified": self._identified,
        }

    @property
    def generations(self) -> List[str]:
        return [turn.message for turn in self.turns]

    def forget(self) -> None:
        """Begin `turns` and `asked` anew."""
        self.turns.clear()
        self.asked.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noticing(message: Message) -> None:
            await send(message)
            if self._beats is not None and message.get("body", b"").startswith(b":"):
                self._beats.put_nowait(None)

        self.asked.append(scope["path"])
        await self._others.get(scope["path"], self.app)(scope, receive, noticing)

    async def _respond(self, turn: Turn) -> AsyncIterator[str]:
        self.turns.append(turn)
        if turn.message == "whole":
            for piece in PIECES:
                yield piece
        elif turn.message == "many":
            for piece in MANY:
                yield piece
                await asyncio.sleep(0)
        elif turn.message == "pause":
            self._beats = asyncio.Queue()
            yield "before "
            await self._beats.get()
            await self._beats.get()
            yield "after"
        else:
            yield "half "
            if turn.message == "wait":
                await asyncio.Event().wait()
            raise ChatError(FAILURE["message"], code=FAILURE["code"])

    async def _broken(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _start(send, 200, b"text/event-stream")
        await send({"type": "http.response.body", "body": _HALF, "more_body": True})

    async def _ended(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _start(send, 200, b"text/event-stream")
        await send({"type": "http.response.body", "body": _HALF})

    async def _proxy(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _start(send, 502, b"text/html")
        await send({"type": "http.response.body", "body": b"<h1>Bad Gateway</h1>"})

    async def _identified(self, scope: Scope, receive: Receive, send: Send) -> None:
        if b"last-event-id" in dict(scope["headers"]):
            await self.app({**scope, "path": CHAT, "raw_path": CHAT.encode()}, receive, send)
            return
        await _start(send, 200, b"text/event-stream")
        await send({"type": "http.response.body", "body": _HALF + _DONE})


async def _start(send: Send, status: int, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
