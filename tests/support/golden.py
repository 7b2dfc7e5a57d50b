"""Streams as bytes, and files that hold how they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from omniforge_chat import Turn
from omniforge_chat.core.frames import Frames
from omniforge_chat.core.reply import Reply
from omniforge_chat.core.responder import Item

GOLDEN = Path(__file__).parents[1] / "unit" / "golden"


def stream(turn: Turn, frames: Frames, *items: Item, error: Optional[Exception] = None) -> bytes:
    """The whole stream of a reply of these items, each sent alone, and how it ended."""
    reply = Reply(turn, frames, thoughts=True)
    body = b""
    for item in items:
        piece = reply.note(item)
        if piece:
            reply.ready.append(piece)
            body += reply.frames(last=False)
            reply.sent()
    if error is None:
        reply.complete = True
    else:
        reply.fail(error)
    return body + reply.frames(last=True)


def check(name: str, found: bytes) -> None:
    """Compare `found` with the golden file of this name."""
    path = GOLDEN / name
    if not path.exists():
        path.write_bytes(found)
        raise AssertionError(f"{path} was not there, and is now: look at it, and run this again")
    assert found.decode() == path.read_bytes().decode(), f"If it is right, delete {path}"
