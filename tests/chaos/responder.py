"""The responder of the workers: CHAT_RESPONDER=tests.chaos.responder:respond."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from typing import AsyncGenerator, Dict, Union

from omniforge_chat import Thought, Turn
from omniforge_chat.replay.live import LiveReply
from omniforge_chat.stream.response import EventStream

from .journal import CUT, WHOLE, Writer
from .script import Script

CENSUS = "census"
"""The message whose reply tells what the worker holds, as JSON."""

BEGUN = "begun"

_writer = Writer(os.environ.get("CHAOS_JOURNAL", os.devnull))


async def respond(turn: Turn) -> AsyncGenerator[Union[str, Thought], None]:
    """Say what the message asks for, and tell the journal."""
    if turn.message == CENSUS:
        yield json.dumps(_census())
        return
    _writer.write(BEGUN, turn)
    how = CUT
    try:
        for pause, piece in Script(turn.message).steps:
            if pause:
                await asyncio.sleep(pause)
            yield piece
        how = WHOLE
    finally:
        _writer.write(how, turn)


def _census() -> Dict[str, int]:
    """What there is in this process, the stream that asks included."""
    gc.collect()
    things = gc.get_objects()
    return {
        "streams": sum(isinstance(thing, EventStream) for thing in things),
        "replies": sum(isinstance(thing, LiveReply) for thing in things),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }
