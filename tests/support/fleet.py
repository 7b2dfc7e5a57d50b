"""Several workers of the service on one Redis, and clients that read what they keep."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from omniforge_chat.core.sse import Frame

from .client import Client
from .constants import PATIENCE
from .process import ServiceProcess, running
from .stores import RedisServer

RESPONDER = """
import asyncio
from pathlib import Path

async def respond(turn):
    # Say the words of the message. At a "?" wait for the file that is named after the conversation.
    told = Path(turn.conversation_id)
    try:
        for word in turn.message.split():
            while word == "?" and not told.exists():
                await asyncio.sleep(0.005)
            if word != "?":
                yield word + " "
    finally:
        told.with_suffix(".over").touch()
"""


class Fleet:
    """So many workers, which have their own processes, and one Redis.

    Their responder says the words of a message. At a `?` it waits until the test says `go`.
    """

    def __init__(self, directory: Path, redis: RedisServer, workers: List[ServiceProcess]) -> None:
        self._directory = directory
        self.redis = redis
        self.workers = workers
        self._clients: List[Client] = []

    def connect(self, worker: ServiceProcess) -> Client:
        """A connection to a worker, which is closed at the end."""
        self._clients.append(worker.connect())
        return self._clients[-1]

    def close(self) -> None:
        """Close all connections."""
        for client in self._clients:
            client.close()

    def chat(self, worker: ServiceProcess, message: str, **fields: Any) -> Chat:
        """Ask, and read the head of the answer."""
        conversation_id = fields.pop("conversation_id", None) or str(uuid.uuid4())
        client = self.connect(worker)
        client.post({"message": message, "conversation_id": conversation_id, **fields})
        return Chat(client, conversation_id)

    def go(self, chat: Chat) -> None:
        """Let the reply go on."""
        (self._directory / chat.conversation_id).touch()

    def wait_over(self, chat: Chat) -> None:
        """Wait until its responder is closed."""
        path = (self._directory / chat.conversation_id).with_suffix(".over")
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            assert time.monotonic() < deadline, "the responder goes on"
            time.sleep(0.005)

    def resume(self, worker: ServiceProcess, chat: Chat, *, whole: bool = False) -> Chat:
        """Ask a worker for the rest of a reply, or for all of it."""
        client = self.connect(worker)
        headers = {} if whole or not chat.last_id else {"Last-Event-ID": chat.last_id}
        client.ask(f"/api/v1/chat/replies/{chat.reply_id}", headers=headers)
        return Chat(client, chat.conversation_id)

    def messages(self, worker: ServiceProcess, chat: Chat) -> List[Tuple[str, bool]]:
        """The texts of its conversation, and whether they are complete."""
        status, body = ask(worker, f"/api/v1/conversations/{chat.conversation_id}")
        assert status in (200, 404), body
        messages = body["messages"] if status == 200 else []
        return [(message["content"].strip(), message["complete"]) for message in messages]

    def until_messages(
        self, worker: ServiceProcess, chat: Chat, expected: List[Tuple[str, bool]]
    ) -> None:
        """Wait until its conversation has these."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.messages(worker, chat)) != expected:
            assert time.monotonic() < deadline, found
            time.sleep(0.01)


class Chat:
    """One answer: the text and the ids so far."""

    def __init__(self, client: Client, conversation_id: str) -> None:
        self.client = client
        self.conversation_id = conversation_id
        self.status, self.headers = client.head()
        self.reply_id: Optional[str] = self.headers.get("x-reply-id")
        self.last_id = ""
        self.text = ""

    def refusal(self) -> Tuple[int, str]:
        """The status and the code of an answer that is no stream."""
        return self.status, json.loads(self.client.content(self.headers))["code"]

    def _take(self, frame: Frame) -> Frame:
        if frame.event == "chunk":
            self.text += json.loads(frame.data)["content"]
        self.last_id = frame.id
        return frame

    def until(self, text: str) -> Chat:
        """Read until exactly this text has come."""
        while len(self.text) < len(text):
            self._take(self.client.frame())
        assert self.text == text
        return self

    def end(self) -> str:
        """Read to the end: `done`, its reason if it has one, or the code of the error."""
        frames = [*map(self._take, self.client.frames())]
        assert [frame.event for frame in frames[:-1]] == ["chunk"] * (len(frames) - 1)
        data: Dict[str, str] = json.loads(frames[-1].data)
        return data.get("finish_reason", frames[-1].event) if "code" not in data else data["code"]


def ask(worker: ServiceProcess, path: str, method: str = "GET") -> Tuple[int, Any]:
    """The status and the JSON of a request."""
    with worker.connect() as client:
        client.ask(path, method=method)
        status, headers = client.head()
        content = client.content(headers) if status != 204 else b""
        return status, json.loads(content) if content else None


@contextlib.contextmanager
def fleet(
    directory: Path, redis: RedisServer, *, workers: int = 2, **variables: str
) -> Iterator[Fleet]:
    """So many workers, which have started; `variables` are further ones of their environment."""
    (directory / "steered.py").write_text(RESPONDER)
    environment = {
        "CHAT_RESPONDER": "steered:respond",
        "CHAT_REPLAY": "redis",
        "CHAT_HISTORY": "redis",
        "CHAT_HEARTBEAT_INTERVAL": "0.2",
        "REDIS_URL": redis.url,
        **variables,
    }
    with contextlib.ExitStack() as stack:
        services = [stack.enter_context(running(directory, **environment)) for _ in range(workers)]
        for service in services:
            assert service.port
        started = Fleet(directory, redis, services)
        stack.callback(started.close)
        yield started
        for service in services:
            if service.process.poll() is None:
                service.end()
            assert "Traceback" not in "\n".join(service.log)
