"""A chat whose reply is kept, in a timeless event loop, and those who come back for it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Dict, List, Optional, Tuple

from omniforge_chat.app import ChatApp
from omniforge_chat.core.frames import HEARTBEAT
from omniforge_chat.core.responder import Responder
from omniforge_chat.models import Done, Error, Thought
from omniforge_chat.replay import Replay

from .app import HandDrivenRequest
from .conducted import said
from .line import OFF, Line
from .replays import whole
from .timeless import now, settle

REPLIES = "/api/v1/chat/replies"


class Follower(HandDrivenRequest):
    """Somebody who reads the reply of another request, from behind its frame `last_id`."""

    def __init__(self, app: ChatApp, reply_id: str, last_id: Optional[str] = None) -> None:
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        super().__init__(b"", method="GET", path=f"{REPLIES}/{reply_id}", headers=headers)
        self.task = asyncio.ensure_future(self.run(app))

    @property
    def said(self) -> str:
        """What they were told, thoughts included."""
        return said(self.frames)

    async def end(self) -> Tuple[str, Any]:
        """The event that ended it, for them."""
        await self.task
        return self.frames[-1].event, json.loads(self.frames[-1].data)

    async def leave(self) -> None:
        """Be gone."""
        self.gone.set()
        await self.task


class KeptLine(Line):
    """A Line whose reply is kept; without limits, unless they are given."""

    def __init__(self, responder: Responder, **options: Any) -> None:
        super().__init__(responder, **{**OFF, "replay": "memory", **options})
        self._others: List[asyncio.Task[Any]] = []

    @property
    def reply_id(self) -> str:
        return str(self.headers["x-reply-id"] if self.sent else self.ended["reply_id"])

    def follow(self, last_id: Optional[str] = None) -> Follower:
        """Somebody comes back for the reply."""
        follower = Follower(self.app, self.reply_id, last_id)
        self._others.append(follower.task)
        return follower

    async def stop(self) -> int:
        """Ask for the reply to be stopped: the status of the answer."""
        path = f"{REPLIES}/{self.reply_id}"
        request = HandDrivenRequest(b"", method="DELETE", path=path)
        await request.run(self.app)
        return request.status

    async def kept(self) -> Tuple[str, str]:
        """The text that is kept, and its end: "done", its finish_reason, or the code of an error.

        The reply has ended.
        """
        replay: Replay = self.app._parts[2]  # type: ignore[assignment] # it is
        *pieces, end = await whole(replay, self.reply_id)
        text = "".join(piece.text if isinstance(piece, Thought) else str(piece) for piece in pieces)
        assert isinstance(end, (Done, Error))
        return text, end.code if isinstance(end, Error) else end.finish_reason or "done"

    @property
    def ended(self) -> Dict[str, Any]:
        """The fields of the line in the log."""
        [fields] = [vars(r)["chat"] for r in self.records.all if "chat" in vars(r)]
        return dict(fields)

    async def until_away(self, seconds: float = 10) -> None:
        """Let so many seconds pass since the beginning; then its client leaves."""
        await self.at(seconds)
        self.leave()
        await settle()

    def since(self) -> float:
        """The seconds since the beginning."""
        return round(now() - self._began, 3)

    def _check_messages(self) -> None:
        for body in self.bodies:
            assert body in (b"", HEARTBEAT) or body.endswith(b"\n\n")
