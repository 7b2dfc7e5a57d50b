"""A responder whose replies a test conducts, each by its message; and what its clients get."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, AsyncIterator, Dict, List, Mapping, Optional, Tuple

from omniforge_chat import Turn
from omniforge_chat.core.sse import Frame

from .client import Client
from .constants import PATIENCE


class Conducted:
    """One reply, as the test makes it: it says nothing by itself."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.closed = threading.Event()
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._asked: asyncio.Queue[Tuple[Any, ...]] = asyncio.Queue()

    def say(self, *items: Any) -> None:
        """Yield `items`, without a wait between them; an exception among them is raised."""
        self._loop.call_soon_threadsafe(self._asked.put_nowait, items)

    def finish(self) -> None:
        """Let the reply end."""
        self.say(None)

    async def items(self) -> AsyncIterator[Any]:
        try:
            while True:
                for item in await self._asked.get():
                    if item is None:
                        return
                    if isinstance(item, Exception):
                        raise item
                    yield item
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.closed.set()


class Conductor:
    """A responder for any number of turns at once. Each test has messages of its own."""

    def __init__(self) -> None:
        self._replies: Dict[str, List[Conducted]] = {}
        self._news = threading.Condition()

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        reply = Conducted(turn)
        with self._news:
            self._replies.setdefault(turn.message, []).append(reply)
            self._news.notify_all()
        async for item in reply.items():
            yield item

    def reply(self, message: str) -> Conducted:
        """The one reply to this message, which is waited for."""
        with self._news:
            assert self._news.wait_for(lambda: message in self._replies, PATIENCE), "not asked"
        (reply,) = self._replies[message]
        return reply

    def times(self, message: str) -> int:
        """How often it was asked to answer this message."""
        return len(self._replies.get(message, ()))


class Reading:
    """A stream that a client reads, as far as it has come. Entered, it closes the connection."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.status, self.headers = client.head()
        self.frames: List[Frame] = []

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    @property
    def reply_id(self) -> str:
        return self.headers["x-reply-id"]

    @property
    def last_id(self) -> str:
        return self.frames[-1].id

    @property
    def said(self) -> str:
        """The text so far, thoughts included."""
        return said(self.frames)

    def until(self, text: str) -> Reading:
        """Read on, until this is the text so far."""
        while len(self.said) < len(text):
            self.frames.append(self.client.frame())
        assert self.said == text
        return self

    def end(self) -> Tuple[str, Any]:
        """Read to the end: the name and the data of the last event."""
        self.frames += self.client.frames()
        assert [frame.event for frame in self.frames].count("done") <= 1
        return self.frames[-1].event, json.loads(self.frames[-1].data)


def said(frames: List[Frame]) -> str:
    """The text of `frames`, thoughts included."""
    return "".join(json.loads(f.data)["content"] for f in frames if f.event in ("chunk", "thought"))


def spread(frames: List[Frame]) -> List[Tuple[str, str]]:
    """The characters of `frames` with their kinds: it does not matter how they were cut."""
    texts = [f for f in frames if f.event in ("chunk", "thought")]
    return [(f.event, character) for f in texts for character in json.loads(f.data)["content"]]


def chat(
    port: int, message: str, *, headers: Optional[Mapping[str, str]] = None, **fields: Any
) -> Reading:
    """The answer to a message, on a connection of its own."""
    client = Client(port)
    client.post({"message": message, **fields}, headers=headers)
    return Reading(client)


def resume(port: int, reply_id: str, last_id: Optional[str] = None, query: str = "") -> Reading:
    """The rest of a reply."""
    client = Client(port)
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    client.ask(f"/api/v1/chat/replies/{reply_id}{query}", headers=headers)
    return Reading(client)


def ask(
    port: int,
    path: str,
    *,
    method: str = "GET",
    headers: Optional[Mapping[str, str]] = None,
) -> Tuple[int, Dict[str, str], Any]:
    """A whole answer that is no stream; its JSON, or None if it is empty."""
    with Client(port) as client:
        client.ask(path, method=method, headers=headers)
        return answer(client)


def answer(client: Client) -> Tuple[int, Dict[str, str], Any]:
    """The same, to a request that was sent."""
    status, headers = client.head()
    body = b"" if status == 204 else client.content(headers)
    return status, headers, json.loads(body) if body else None
