"""The responder of the tests here, in the place of the README's: it is told what to say over HTTP.

Tests copy it into the directory of the server that they start.
"""

from __future__ import annotations

import asyncio
from typing import AsyncIterator, Dict

from omniforge_chat import Turn


class _Stream:
    """What one stream is told, and whether its responder is closed."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str] = asyncio.Queue()
        self.said = 0
        self.closed = asyncio.Event()


_streams: Dict[str, _Stream] = {}


async def respond(turn: Turn) -> AsyncIterator[str]:
    """Do what the first word of the message says, with the stream that the second one names.

    `say` says what it is told, until it is told "."; `flood` says 4 KiB 16,384 times; `tell`
    tells a stream a word; `closed` waits until it is closed, and says how often it has yielded.
    """
    verb, name, *word = turn.message.split(" ")
    stream = _streams.setdefault(name, _Stream())
    if verb == "tell":
        stream.words.put_nowait(word[0])
        yield "told"
        return
    if verb == "closed":
        await stream.closed.wait()
        yield str(stream.said)
        return
    try:
        while True:
            said = "x" * 4096 if verb == "flood" else await stream.words.get()
            if said == "." or stream.said == 16384:
                return
            stream.said += 1
            yield said
    finally:
        stream.closed.set()
