"""A responder: it asks several sources at once and sends each answer as it comes.

    omniforge-chat --responder responder:respond

The sources stand for whatever you ask: a database, a search, a model.
"""

from __future__ import annotations

import asyncio
from typing import AsyncIterator

from omniforge_chat import ChatError, Item, Turn, Usage

CITIES = {"Paris": "France", "Rome": "Italy"}
RIVERS = {"Paris": "Seine", "Rome": "Tiber"}


async def country(city: str) -> str:
    await asyncio.sleep(0.1)  # here you would wait for a network
    return f"{city} is in {CITIES[city]}."


async def river(city: str) -> str:
    await asyncio.sleep(0.2)
    return f"It lies on the {RIVERS[city]}."


async def respond(turn: Turn) -> AsyncIterator[Item]:
    city = turn.message.strip()
    if city not in CITIES:
        # The client sees this message and this code. Any other exception stays in your log.
        raise ChatError(f"I know nothing of {city!r}", code="unknown_city")
    tasks = [asyncio.create_task(source(city)) for source in (country, river)]
    try:
        for answer in asyncio.as_completed(tasks):
            yield await answer + "\n"
        yield Usage(tokens=12)
    finally:
        # If the client leaves or a limit ends the reply, you are cancelled at `await` or closed at
        # `yield`.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
