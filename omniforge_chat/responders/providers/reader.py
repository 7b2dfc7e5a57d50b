"""Reading the frames of one reply; each wire format has its own reader."""

from __future__ import annotations

from typing import Optional

import msgspec

from ...core.sse import Decoder, Frame, FrameTooLarge
from ...models import Usage
from .errors import describe

MAX_FRAME_BYTES = 1024 * 1024
"""The largest frame that is read. Frames of text have some hundred bytes."""


class FrameReader:
    """The frames of a provider, as far as they have come.

    - `progressed`: a frame has shown the model at work, be it on a thought or a tool. Pings do not.
    - `finish_reason`: why the text ended, once it is complete.
    - `usage`: the provider's count of tokens, a new object with each new count.
    - `ended`: no frame after this one counts.
    - `problem`: an error that the provider reported, in its own form.
    - `unreadable`: why a frame could not be read, for the log.
    """

    __slots__ = ("_feed", "ended", "finish_reason", "problem", "progressed", "unreadable", "usage")

    def __init__(self) -> None:
        self._feed = Decoder(max_frame_bytes=MAX_FRAME_BYTES).feed
        self.ended = False
        self.progressed = False
        self.finish_reason: Optional[str] = None
        self.usage: Optional[Usage] = None
        self.problem: object = None
        self.unreadable = ""

    def feed(self, data: bytes) -> str:
        """Read the next bytes of the body; return the text that they add."""
        text = ""
        try:
            for frame in self._feed(data):
                text += self.read(frame)
                if self.ended:
                    break
        except (msgspec.DecodeError, FrameTooLarge, RecursionError) as error:
            self.unreadable = describe(error)
        return text

    def read(self, frame: Frame) -> str:
        """Return the text that `frame` adds.

        Raises msgspec.DecodeError for data that are no JSON, or not as the format has them.
        """
        raise NotImplementedError

    def fail(self, problem: object) -> None:
        """Note an error that the provider reported."""
        self.problem = problem or "no reason was given"
        self.ended = True

    def count(
        self, prompt: Optional[int], completion: Optional[int], total: Optional[int] = None
    ) -> None:
        """Note a count of tokens, if it is new and makes sense."""
        known = [tokens for tokens in (prompt, completion, total) if tokens is not None]
        if known and min(known) >= 0:
            if total is None:
                total = sum(known)
            usage = Usage(total, prompt, completion)
            if usage != self.usage:
                self.usage = usage


def as_count(count: object) -> Optional[int]:
    """Return a count of tokens as a whole number; None if it is none. It never fails a reply."""
    if isinstance(count, float) and count.is_integer():
        return int(count)
    return count if type(count) is int else None
