"""Somebody who reads one reply, over as many connections as it takes, and counts each character."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Dict, List, NamedTuple, Optional, Tuple

from omniforge_chat.core.kept import OVER
from omniforge_chat.core.sse import Frame

from .requests import Answer, Broken, Knife, Silent, WasCut, ask, post
from .run import DONE, STOPPED, Run, World

REPLIES = "/api/v1/chat/replies"
CONVERSATIONS = "/api/v1/conversations"

END = "GET after the end"
GONE = {404: "reply_not_found", 410: "reply_expired"}
LATER = {"conversation_busy", "history_unavailable", "replay_unavailable", "shutting_down"}


class Way(NamedTuple):
    """A request for the reply, or the rest of it: from which position it is answered."""

    name: str
    data: bytes
    position: int = 0


class Client:
    """One reader of the reply of a run.

    `over` tells that they know how it ended, and `reply_id` its id if they know it.
    """

    def __init__(self, world: World, run: Run, dice: random.Random, name: str) -> None:
        self._world = world
        self._run = run
        self._dice = dice
        self._name = name
        self._position = 0
        self._ids: List[Tuple[int, str]] = []
        self._end_id: Optional[str] = None
        self.reply_id: Optional[str] = None
        self.over = False

    # Ways to ask

    def post(self) -> Way:
        """The request that asks for the reply first; with a key it may come again."""
        run = self._run
        headers = {"Idempotency-Key": run.key} if run.key is not None else {}
        return Way("POST", post(run.body, headers))

    def running(self) -> Way:
        """The one for whatever is said in the conversation."""
        return Way("running", ask(f"{CONVERSATIONS}/{self._run.conversation_id}/stream"))

    def rest(self) -> Optional[Way]:
        """One for the rest of the reply, if there is a way to ask for it."""
        ways: List[Way] = []
        run = self._run
        if self.reply_id is not None:
            path = f"{REPLIES}/{self.reply_id}"
            ways.append(Way("GET", ask(path)))
            if self._end_id is not None:
                ways.append(Way(END, ask(path, {"Last-Event-ID": self._end_id}), self._position))
            if self._ids:
                position, newest = self._ids[-1]
                header = {"Last-Event-ID": newest}
                ways.append(Way("GET after", ask(path, header), position))
                ways.append(Way("GET ?after", ask(f"{path}?after={newest}"), position))
                ways.append(Way("POST after", post(run.body, header), position))
                position, older = self._dice.choice(self._ids)
                ways.append(Way("GET older", ask(path, {"Last-Event-ID": older}), position))
        if run.key is not None:
            ways.append(self.post())
        return self._dice.choice(ways) if ways else None

    # Asking

    async def read(self, way: Way, knife: Knife) -> None:
        """Read until the end, a cut or a refusal.

        Raises Broken if the connection breaks, and WasCut if the knife did it.
        """
        run = self._run
        run.came()
        try:
            async with Answer(knife) as answer:
                await answer.ask(self._world.port, way.data)
                name = f"{way.name} from {answer.port}"
                if answer.status == 200:
                    self._note(f"{name}: 200")
                    await self._read(answer, way)
                elif answer.status == 204:
                    self._note(f"{name}: 204")
                    self._nothing(way)
                else:
                    await self._refused(answer, way, name)
        except WasCut:
            self._note(f"cuts {way.name} at {self._position}")
            raise
        except Broken as error:
            self._note(f"{way.name} broke at {self._position}: {error}")
            run.told("broken", over=False)
            raise
        except Silent:
            self.over = True
            self._trouble(f"{way.name} is silent")
        finally:
            run.went()

    async def _refused(self, answer: Answer, way: Way, name: str) -> None:
        body = await answer.json()
        code = body["code"]
        self._note(f"{name}: {answer.status} {code}")
        self._world.counts[code] += 1
        if GONE.get(answer.status) == code or (way.name == END and answer.status == 400):
            self.over = True
            self._run.told(code)
        elif code in LATER and "retry-after" in answer.headers:
            self._run.told(code, over=False)
            await asyncio.sleep(self._dice.uniform(0.1, 1.0))
        else:
            self.over = True
            self._trouble(f"{name}: {answer.status} {body}")

    def _nothing(self, way: Way) -> None:
        self.over = way.name != "running"
        if way.name not in ("running", END):
            self._trouble(f"{way.name}: nothing more")

    async def _read(self, answer: Answer, way: Way) -> None:
        reply_id = answer.headers.get("x-reply-id")
        if self._run.conversation_id is None:
            self._run.conversation_id = answer.headers.get("x-conversation-id")
        if self.reply_id is not None and reply_id != self.reply_id:
            self._run.told("another reply", over=False)  # it was made twice
            self._end_id = None
        if reply_id is None:
            self._run.told("no ids", over=False)
        self.reply_id = reply_id
        self._position = way.position
        self._ids = [pair for pair in self._ids if pair[0] <= way.position]
        first = True
        async for frame in answer.frames():
            if self.over:
                self._trouble(f"after the end came {frame}")
            if first and reply_id is not None and answer.decoder.retry != 1000:
                self._trouble("no retry")
            first = False
            if frame.event in ("chunk", "thought"):
                self._piece(frame)
            else:
                if self._end(frame):
                    self.over = True
                return
        self._trouble(f"{way.name} ended without an end")

    def _piece(self, frame: Frame) -> None:
        content = json.loads(frame.data)["content"]
        if not self._run.script.has(self._position, frame.event, content):
            self.over = True
            expected = self._run.script.text[self._position : self._position + 40]
            self._trouble(f"at {self._position}: not {frame.event} {content[:40]!r}, {expected!r}")
        self._position += len(content)
        self._check_id(frame, self._position)
        if frame.id:
            self._ids.append((self._position, frame.id))

    def _check_id(self, frame: Frame, position: int) -> None:
        expected = "" if self.reply_id is None else f"{self.reply_id}.{position}"
        if frame.id != expected:
            self._trouble(f"{frame.event} has the id {frame.id}, not {expected}")

    def _end(self, frame: Frame) -> bool:
        """Whether the reply is over, or only this stream of it."""
        data = json.loads(frame.data)
        code = DONE if frame.event == "done" else data["code"]
        total = len(self._run.script.text)
        over = self.reply_id is None or frame.id == f"{self.reply_id}.{OVER}"
        self._note(f"{code} at {self._position} of {total}, {frame.id.partition('.')[2]}")
        self._world.counts[code] += 1
        if over and self.reply_id is not None:
            self._end_id = frame.id
        if over:
            self._check_done(data) if code == DONE else self._run.told(code)
        else:
            self._check_id(frame, self._position)
            self._run.told(code, over=False)
        return over

    def _check_done(self, data: Dict[str, object]) -> None:
        run, at, total = self._run, self._position, len(self._run.script.text)
        if data.get("finish_reason") == STOPPED:
            run.told(STOPPED)
            if not run.stops:
                self._trouble("nobody has stopped it")
        else:
            run.told(DONE)
            if at != total:
                self._trouble(f"it is done at {at} of {total}")
        if data["conversation_id"] != run.conversation_id:
            self._trouble(f"it is of the conversation {data['conversation_id']}")
        expected = {"tokens": max(1, at // 4), "estimated": True}
        if data["usage"] != expected:
            self._trouble(f"its usage is {data['usage']}, not {expected}")

    def _note(self, text: str) -> None:
        self._run.note(self._name, text)

    def _trouble(self, text: str) -> None:
        self._note(f"TROUBLE: {text}")
        self._world.trouble(text, self._run)
