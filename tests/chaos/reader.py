"""A person with a phone: one message after the other, and a connection that breaks."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from time import monotonic
from typing import Awaitable, Callable, List, Optional, Sequence

from .client import CONVERSATIONS, REPLIES, Client, Way
from .requests import NEVER, Answer, Broken, Knife, Silent, ask
from .run import GRACE, Run, World
from .script import SHAPES

LONGEST = 40.0
"""Seconds after which a reply must have come to an end for whoever wants it."""


class Reader:
    """One of many: it asks, reads, loses its connection, comes back, stops, and leaves."""

    def __init__(self, number: int, world: World) -> None:
        self._number = number
        self._world = world
        self._dice = random.Random(f"{world.seed}-{number}")
        self._count = 0
        self._conversation_id: Optional[str] = None
        self._plans: Sequence[Callable[[Run], Awaitable[None]]] = (
            *[self._returns] * 6,
            *[self._stays] * 2,
            *[self._reads_again] * 2,
            *[self._stops] * 2,
            *[self._leaves] * 2,
            self._watches,
            self._crowds,
        )

    async def live(self, until: float) -> None:
        """Do it, until then; what has begun comes to its end."""
        dice = self._dice
        await asyncio.sleep(dice.random() * min(2.0, max(0.0, until - monotonic())))
        while monotonic() < until:
            plan = dice.choice(self._plans)
            run = self._next(plan)
            self._world.runs.append(run)
            self._world.counts["runs"] += 1
            run.note(f"reader {self._number}", plan.__name__)
            await plan(run)
            await asyncio.sleep(dice.random() * 2.0)

    def _next(self, plan: object) -> Run:
        dice = self._dice
        self._count += 1
        shape = dice.choice(list(SHAPES))
        message = f"{shape} {self._world.seed}-{self._number}-{self._count}"
        key = f"key-{message}" if dice.random() < 0.6 or plan == self._crowds else None
        if self._conversation_id is None or dice.random() < 0.6 or plan == self._watches:
            self._conversation_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
        on_disconnect: object = None
        if dice.random() < 0.2 and plan != self._watches:
            on_disconnect = dice.choice(["cancel", "continue", 2.5])
        nameless = key is None and dice.random() < 0.2 and plan != self._watches
        return Run(message, key, None if nameless else self._conversation_id, on_disconnect)

    # Plans

    async def _stays(self, run: Run) -> None:
        """Read it all, if nobody else cuts the connection."""
        await self._read(run, "stays", often=0.0)

    async def _returns(self, run: Run) -> None:
        await self._read(run, "returns")

    async def _reads_again(self, run: Run) -> None:
        """Read it, and open the conversation again a little later."""
        client = Client(self._world, run, self._dice, "reads")
        await self._follow(run, client, client.post(), 0.3)
        if client.reply_id is not None:
            await asyncio.sleep(self._dice.random() * 3)
            client.over = False
            await self._follow(run, client, client.rest(), 0.3)

    async def _leaves(self, run: Run) -> None:
        """Read some, and never come back."""
        client = Client(self._world, run, self._dice, "leaves")
        with contextlib.suppress(Broken):
            await client.read(client.post(), Knife(self._dice, often=1.0))

    async def _stops(self, run: Run) -> None:
        client = Client(self._world, run, self._dice, "stops")
        reading = asyncio.ensure_future(self._follow(run, client, client.post(), 0.5))
        await asyncio.sleep(self._dice.random() * min(3.0, run.script.seconds))
        if client.reply_id is not None and run.conversation_id is not None:
            for each in self._world.runs:
                each.stops = each.stops or each.conversation_id == run.conversation_id
            await self._stop(run, client.reply_id)
        await reading

    async def _watches(self, run: Run) -> None:
        """One asks, and leaves; another one opens the conversation on another machine."""
        leaving = asyncio.ensure_future(self._leaves(run))
        client = Client(self._world, run, self._dice, "watches")
        until = monotonic() + 3.0 + run.script.seconds
        while not client.over and monotonic() < until:
            with contextlib.suppress(Broken):
                await client.read(client.running(), Knife(self._dice, often=0.5))
            await asyncio.sleep(self._dice.random() * 0.3)
        await leaving

    async def _crowds(self, run: Run) -> None:
        """The same request comes three times at once."""
        reads = [self._read(run, f"one of three ({number})") for number in range(3)]
        await asyncio.gather(*reads)

    # What they have in common

    async def _read(self, run: Run, name: str, often: float = 0.7) -> None:
        client = Client(self._world, run, self._dice, name)
        await self._follow(run, client, client.post(), often)

    async def _follow(self, run: Run, client: Client, way: Optional[Way], often: float) -> None:
        """Ask, and ask again until it is over."""
        while not client.over and way is not None:
            if monotonic() - run.began > LONGEST + run.script.seconds:
                self._world.trouble("it does not come to an end", run)
                return
            knife = Knife(self._dice, often=often) if often else NEVER
            try:
                await client.read(way, knife)
            except Broken:
                await asyncio.sleep(self._pause())
                way = client.rest()
            else:
                # Refused for now, or sent elsewhere. An answer of some kind has told its id.
                way = client.rest() or client.post()
        if way is None:
            run.note("reader", "has no way back")

    def _pause(self) -> float:
        dice = self._dice
        pauses: List[float] = [0.0, 0.0, dice.random() * 0.3, dice.random()]
        return GRACE + 2 * dice.random() if dice.random() < 0.03 else dice.choice(pauses)

    async def _stop(self, run: Run, reply_id: str) -> None:
        if self._dice.random() < 0.5:
            data = ask(f"{REPLIES}/{reply_id}", method="DELETE")
        else:
            data = ask(f"{CONVERSATIONS}/{run.conversation_id}/stop", method="POST")
        try:
            async with Answer(NEVER) as answer:
                await answer.ask(self._world.port, data)
                body = await answer.json()
                run.note("stop", f"{answer.status} {body}")
                self._world.counts[f"stop: {answer.status}"] += 1
                if answer.status == 404:
                    run.told("stop of nothing", over=False)
                elif answer.status not in (200, 202, 503):
                    self._world.trouble(f"a stop was answered with {body}", run)
        except Broken:
            run.told("broken", over=False)
        except Silent:
            self._world.trouble("a stop was not answered", run)
