"""A turn and a responder in, a reply out. No transport, no framework, no clock of its own.

`stream` runs a responder with what is here, `responders.providers` reads frames and drives its
reads with it, and `conversations` stores what passes through. The modules:

- `responder`: `converse`, which runs a responder into a Reply.
- `reply`: Reply.
- `frames`: Frames and Document, the wire format of a reply.
- `sse`: data to frames, and bytes to frames.
- `driver`: drives a coroutine by hand, to act at the moment when it is about to wait.
- `cancellation`: cancels a task, and tells that from the cancellations of others.
"""

from .frames import Document, Frames, Part
from .reply import Reply
from .responder import Item, Responder, converse
from .sse import Decoder, Frame

__all__ = [
    "Decoder",
    "Document",
    "Frame",
    "Frames",
    "Item",
    "Part",
    "Reply",
    "Responder",
    "converse",
]
