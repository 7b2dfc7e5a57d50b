"""An app that plays to a client what may happen to it, and counts what the client asks for."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, AsyncIterator, Callable, Dict, List, Mapping, Optional

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniforge_chat import ChatError, Finish, Settings, Thought, Turn, Usage, create_app
from omniforge_chat.core.responder import Item
from omniforge_chat.rules import DIALECTS

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

PARTS = ["one ", "two " * 100, "three"]
"""The reply to "parts": each comes when the client has asked once more."""

CUTS = [110, 200]
"""How much of the first two answers to "parts" passes that are cut: all of the first part, and half
of the second one."""

THOUGHTS = ["first ", "second"]
COUNTED = Usage(7, prompt_tokens=3, completion_tokens=4)

FAILURE = {"code": "own_code", "message": "No more"}
"""How the reply to "fail" ends, after the text "half "."""

_HALF = b'event: chunk\ndata: {"content":"half "}\n\n'
_DONE = f'id: 2\nevent: done\ndata: {{"conversation_id":"{CONVERSATION}"}}\n\n'.encode()


class Scenes:
    """The chat, in each wire format at its own path. Its reply depends on the message:

    | message | reply |
    |---|---|
    | whole | PIECES |
    | many | MANY |
    | parts | PARTS |
    | pause | "before ", two heartbeats, "after" |
    | think | THOUGHTS as thoughts, and "so" |
    | short | "cut", the usage COUNTED, the reason `length` |
    | wait | "half ", and nothing more |
    | fail | "half ", then the error FAILURE |
    | other | "you said: " and the message |

    And answers that are not the chat's: `/broken` and `/ended` are a stream that is cut, by a crash
    and by a proxy; `/proxy` is a proxy's page of 502; at `/identified` frames have ids, and a
    request with Last-Event-ID goes to the chat. If `cuts` is set, streams break behind "half ".

    `turns` are those that the responder was called with, `generations` their messages, and `asked`
    the paths of all requests. `options` are settings of the chat.
    """

    def __init__(self, **options: Any) -> None:
        options = {"heartbeat_interval": 0.05, "dialects": DIALECTS, "thoughts": True, **options}
        settings = Settings(**options)
        self.app = create_app(self._respond, settings=settings)
        self.turns: List[Turn] = []
        self.asked: List[str] = []
        self.cuts = False
        self._beats: Optional[asyncio.Queue[None]] = None
        self._once_more: Optional[asyncio.Event] = None
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
        if self._once_more is not None:
            self._once_more.set()
        app = self._cut if self.cuts else self._others.get(scope["path"], self.app)
        await app(scope, receive, noticing)

    async def _cut(self, scope: Scope, receive: Receive, send: Send) -> None:
        half = asyncio.Event()

        async def until_half(message: Message) -> None:
            if not half.is_set():
                await send(message)
            if b"half" in message.get("body", b""):
                half.set()

        reply = asyncio.ensure_future(self.app(scope, receive, until_half))
        await half.wait()
        reply.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reply

    def _respond(self, turn: Turn) -> AsyncIterator[Item]:
        self.turns.append(turn)
        return self._plays.get(turn.message, Scenes._other)(self)

    async def _whole(self) -> AsyncIterator[Item]:
        for piece in PIECES:
            yield piece

    async def _many(self) -> AsyncIterator[Item]:
        for piece in MANY:
            yield piece
            await asyncio.sleep(0)

    async def _parts(self) -> AsyncIterator[Item]:
        for number, part in enumerate(PARTS, 1):
            while len(self.asked) < number:
                self._once_more = asyncio.Event()
                await self._once_more.wait()
            yield part

    async def _pause(self) -> AsyncIterator[Item]:
        self._beats = asyncio.Queue()
        yield "before "
        await self._beats.get()
        await self._beats.get()
        yield "after"

    async def _think(self) -> AsyncIterator[Item]:
        for piece in THOUGHTS:
            yield Thought(piece)
        yield "so"

    async def _short(self) -> AsyncIterator[Item]:
        yield "cut"
        yield COUNTED
        yield Finish("length")

    async def _wait(self) -> AsyncIterator[Item]:
        yield "half "
        await asyncio.Event().wait()

    async def _fail(self) -> AsyncIterator[Item]:
        yield "half "
        raise ChatError(FAILURE["message"], code=FAILURE["code"])

    async def _other(self) -> AsyncIterator[Item]:
        yield f"you said: {self.turns[-1].message}"

    _plays: Mapping[str, Callable[[Scenes], AsyncIterator[Item]]] = {
        "whole": _whole,
        "many": _many,
        "parts": _parts,
        "pause": _pause,
        "think": _think,
        "short": _short,
        "wait": _wait,
        "fail": _fail,
    }

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
        await send({"type": "http.response.body", "body": b"id: 1\nretry: 10\n" + _HALF + _DONE})


async def _start(send: Send, status: int, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
