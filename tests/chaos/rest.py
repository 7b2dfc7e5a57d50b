"""What is left when all is over, in workers and in Redis: nothing, but what was there before."""

from __future__ import annotations

import asyncio
import json
import uuid
from http.client import HTTPConnection
from time import monotonic
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .client import CONVERSATIONS
from .judge import Judge
from .requests import NEVER, Answer, ask, post
from .responder import CENSUS
from .run import World
from .store import Store
from .worker import Worker

PATIENCE = 15.0
"""Seconds in which all comes to rest."""

MEMORY = 24 * 1024 * 1024
"""How many more bytes than at rest a worker may have that has done its work: the system's allocator
does not give all back."""

STORE_MEMORY = 1024 * 1024

CLAIM_SECONDS = 2.0
"""In which a conversation is free whose worker has died. It is one if nobody is in the way."""


async def tell(port: int, data: bytes) -> Tuple[int, Any]:
    """The status of an answer, and its JSON; that of a stream is the text of its reply."""
    async with Answer(NEVER) as answer:
        await answer.ask(port, data)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            frames = [frame async for frame in answer.frames()]
            pieces = [frame.data for frame in frames if frame.event == "chunk"]
            return answer.status, "".join(json.loads(piece)["content"] for piece in pieces)
        return answer.status, await answer.json()


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes to that in time."""
    deadline = monotonic() + seconds
    while True:
        if condition():
            return True
        if monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)


def _answers(port: int, method: str, paths: Sequence[str]) -> List[Tuple[int, Any]]:
    """The answers to requests that follow each other over one connection."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    answers: List[Tuple[int, Any]] = []
    try:
        for path in paths:
            connection.request(method, path)
            response = connection.getresponse()
            data = response.read()
            answers.append((response.status, json.loads(data) if data else None))
    finally:
        connection.close()
    return answers


def _is_sign(store: Store, key: str) -> bool:
    """Whether it only says that something was deleted, to a worker that may still write it."""
    if key.endswith(":gone"):
        return True
    newest: Any = store.client.xrevrange(key, count=1) if ":r:{" in key else []
    return any("f" in fields for _, fields in newest)


class Holdings(NamedTuple):
    """What a worker holds: counts of its things, and bytes."""

    things: Dict[str, int]
    memory: int


async def census(worker: Worker) -> Holdings:
    """What it holds now."""
    conversation_id = str(uuid.uuid4())
    body = {"message": CENSUS, "conversation_id": conversation_id}
    status, text = await tell(worker.port, post(body, {}))
    assert status == 200, text
    path = f"{CONVERSATIONS}/{conversation_id}"
    status, answer = await tell(worker.port, ask(path, method="DELETE"))
    assert status == 204, answer
    return Holdings(json.loads(text), worker.memory())


class Rest:
    """Compares the end with a time at which nothing had happened yet, which is when it is made."""

    def __init__(self, world: World, workers: Sequence[Worker], store: Optional[Store]) -> None:
        self._world = world
        self._workers = workers
        self._store = store
        self._before: List[Holdings] = []
        self._memory = self._clients = 0

    async def measure(self) -> None:
        """Note what there is before: each worker has answered something."""
        self._before = [await census(worker) for worker in self._workers]
        if self._store is not None:
            self._memory, self._clients = self._store.memory(), self._store.clients()

    async def check(self, judge: Judge) -> None:
        """Tell the world what is not as it was."""
        known = judge.conversations
        for conversation_id, (status, body) in zip(known, await self._all("GET", known)):
            if status not in (200, 404):
                self._world.trouble(f"GET of {conversation_id}: {status} {body}")
            judge.remembered(conversation_id, body["messages"] if status == 200 else [])
        if self._store is not None:
            self._lives(self._store)
            await self._claims(self._store)
        for conversation_id, (status, body) in zip(known, await self._all("DELETE", known)):
            if status not in (204, 404):
                self._world.trouble(f"DELETE of {conversation_id}: {status} {body}")
        for number, worker in enumerate(self._workers):
            await self._holdings(worker, self._before[number])
        if self._store is not None:
            await self._keys(self._store)

    async def _all(self, method: str, conversations: Sequence[str]) -> List[Tuple[int, Any]]:
        """The answers to a request for each conversation, to all workers in turn."""
        paths = [f"{CONVERSATIONS}/{conversation_id}" for conversation_id in conversations]
        count = len(self._workers)
        parts = await asyncio.gather(
            *(
                asyncio.to_thread(_answers, worker.port, method, paths[number::count])
                for number, worker in enumerate(self._workers)
            )
        )
        return [parts[number % count][number // count] for number in range(len(paths))]

    async def _holdings(self, worker: Worker, before: Holdings) -> None:
        deadline = monotonic() + PATIENCE
        more: Dict[str, int] = {}
        while True:
            now = await census(worker)
            more = {name: n for name, n in now.things.items() if n > before.things[name]}
            if not more or monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        print(f"{worker.name}: {now.memory / 2**20:.1f} MiB, before {before.memory / 2**20:.1f}")
        if more:
            self._world.trouble(f"{worker.name} holds {more}, before {before.things}")
        if now.memory > before.memory + MEMORY:
            self._world.trouble(f"{worker.name} has {now.memory} bytes, before {before.memory}")

    async def _claims(self, store: Store) -> None:
        """Each conversation is free, or free to be taken over from a worker that has died."""
        for key in [key for key in store.all_keys() if key.endswith(":turn")]:
            conversation_id = key[key.index("{") + 1 : key.index("}")]
            began, status = monotonic(), 409
            while status == 409 and monotonic() - began < CLAIM_SECONDS:
                body = {"message": CENSUS, "conversation_id": conversation_id}
                status, _ = await tell(self._workers[0].port, post(body, {}))
            self._world.counts["claims of the dead"] += 1
            if status != 200:
                self._world.trouble(f"{conversation_id} is claimed: {status}")

    def _lives(self, store: Store) -> None:
        """Each key ends by itself."""
        keys = store.all_keys()
        with store.client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.ttl(key)
            lives = pipeline.execute()
        immortal = [key for key, life in zip(keys, lives) if life == -1]
        print(f"redis: {len(keys)} keys")
        if immortal:
            self._world.trouble(f"{len(immortal)} keys have no end: {immortal[:20]}")

    async def _keys(self, store: Store) -> None:
        prefix = "omniforge:"
        keys = store.all_keys()
        known = [key for key in keys if key.startswith((f"{prefix}i:", f"{prefix}w:"))]
        others = [key for key in keys if key not in known and not _is_sign(store, key)]
        if others:
            self._world.trouble(f"{len(others)} keys are left: {others[:20]}")
        if len([key for key in keys if key.startswith(f"{prefix}w:")]) > len(self._workers):
            self._world.trouble("workers that have ended seem to live")
        if known:
            store.client.delete(*known)
        await until(lambda: store.clients() <= self._clients, PATIENCE)
        memory, clients = store.memory(), store.clients()
        print(f"redis: {memory} bytes, before {self._memory}; {clients} clients")
        if memory > self._memory + STORE_MEMORY:
            self._world.trouble(f"Redis has {memory} bytes, before {self._memory}")
        if clients > self._clients:
            self._world.trouble(f"Redis has {clients} clients, before {self._clients}")
