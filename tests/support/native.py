"""The frames of the service's own format."""

from __future__ import annotations

from typing import List

from omniforge_chat.core.reply import Reply
from omniforge_chat.core.sse import encode, encode_texts
from omniforge_chat.dialects.native import FRAMES
from omniforge_chat.models import Event, Turn


def encode_event(event: Event) -> bytes:
    """The frame of `event`."""
    return encode(event, type(event).__name__.lower())


def encode_chunks(texts: List[str]) -> bytes:
    """The frames of chunks with these texts."""
    chunk = FRAMES.text(1)
    return encode_texts(texts, chunk.before, chunk.after)


def native_reply(turn: Turn) -> Reply:
    """A reply in this format."""
    return Reply(turn, FRAMES)
