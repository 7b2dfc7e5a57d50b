"""A chat that keeps its replies, as a client sees it: a test says each answer."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from typing import Dict, List, NamedTuple, Union

from starlette.types import Receive, Scope, Send

from omniforge_chat.core.kept import OVER

from .constants import CONVERSATION, PATIENCE

REPLY = "AAAAAAAAAAAAAAAAAAAA_-"
"""An id of a reply."""

BROKEN = object()
"""What a connection that breaks ends with."""

STOPPED = object()
"""A place at which a stream waits for the DELETE."""

SILENT = object()
"""A place at which a stream waits for its client to leave."""


def frame(event: str, data: object, end: int, before: str = "retry: 0\n") -> bytes:
    """A frame behind which a client has `end` characters."""
    return f"{before}event: {event}\ndata: {json.dumps(data)}\nid: {REPLY}.{end}\n\n".encode()


def chunk(text: str, end: int) -> bytes:
    return frame("chunk", {"content": text}, end)


def error(code: str, end: int = OVER) -> bytes:
    return frame("error", {"code": code, "message": "No"}, end)


def done(reason: str = "stop") -> bytes:
    data = {"conversation_id": CONVERSATION, "usage": {"tokens": 1}, "finish_reason": reason}
    return frame("done", data, OVER)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The parts of a body are bytes, BROKEN, STOPPED and SILENT. The status 0 is no head at all."""

    parts: List[Union[bytes, object]] = dataclasses.field(default_factory=list)
    status: int = 200
    headers: Dict[str, str] = dataclasses.field(default_factory=dict)


def stream(*parts: Union[bytes, object]) -> Answer:
    """A stream of a reply that is kept."""
    return Answer([*parts], 200, {"Content-Type": "text/event-stream", "X-Reply-ID": REPLY})


def refusal(status: int, code: str, **headers: str) -> Answer:
    body = json.dumps({"code": code, "message": "No"}).encode()
    return Answer([body], status, {"Content-Type": "application/json", **headers})


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    headers: Dict[str, str]


class Scripted:
    """An app that gives `answers` in turn, and to each DELETE `stopping`.

    `asked` are the requests. A request for which there is no answer meets a connection that breaks.
    """

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.stopping = Answer([], 202)
        self.asked: List[Asked] = []
        self._stopped: asyncio.Event
        self._asked_to_stop = threading.Event()

    def until_stopped(self) -> None:
        """Wait for a DELETE."""
        assert self._asked_to_stop.wait(PATIENCE), "nothing is to be stopped"

    @property
    def requests(self) -> List[str]:
        """The method of each, and the id with which it came."""
        return [f"{a.method} {a.headers.get('last-event-id', '')}".strip() for a in self.asked]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        path = scope["raw_path"].decode() + "?" * bool(scope["query_string"])
        path += scope["query_string"].decode()
        self.asked.append(Asked(scope["method"], path, headers))
        if scope["method"] == "POST":
            self._stopped = asyncio.Event()
        if scope["method"] == "DELETE":
            self._asked_to_stop.set()
            self._stopped.set()
            await self._answer(self.stopping, receive, send)
        elif self.answers:
            await self._answer(self.answers.pop(0), receive, send)

    async def _answer(self, answer: Answer, receive: Receive, send: Send) -> None:
        headers = [(name.encode(), value.encode()) for name, value in answer.headers.items()]
        if answer.status:
            start = {"type": "http.response.start", "status": answer.status, "headers": headers}
            await send(start)
        for part in answer.parts:
            if part is BROKEN:
                return  # the server breaks the connection, as the body has no end
            if part is STOPPED:
                await self._stopped.wait()
            elif part is SILENT:
                while (await receive())["type"] != "http.disconnect":
                    pass
                return
            else:
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
