"""The text of a reply that grows, and places in it.

Text and thoughts that follow each other are runs. A Run knows the next one, and a Cursor its run
and its offset there. So whoever reads takes what is new without looking at what it has; and what a
slow reader still has to read stays, whatever else has been let go of meanwhile.

A run is UTF-8 in a bytearray: Python takes four bytes for each character of a text with one emoji
in it, and a string that grows is copied each time.
"""

from __future__ import annotations

from typing import Optional, Type

from ..models import Thought
from .protocol import Piece

RUN_BYTES = 200
"""The memory that a run takes besides its text, rounded up."""

TAKEN_BYTES = 64 * 1024
"""The largest piece that a reader gets. It holds that, and its frames, until its client reads."""


class Run:
    """Text, or thoughts, without the other between. `start` is its position in the reply."""

    __slots__ = ("characters", "data", "kind", "next", "start")

    def __init__(self, kind: Type[Piece], start: int) -> None:
        self.kind = kind
        self.start = start
        self.characters = 0
        self.data = bytearray()
        self.next: Optional[Run] = None

    def offset(self, position: int) -> int:
        """The offset in `data` of a position in the reply."""
        wanted = position - self.start
        if self.characters == len(self.data):
            return wanted
        return len(self.data.decode()[:wanted].encode())


class Cursor:
    """A place in a reply, from which its text is taken as it comes."""

    __slots__ = ("_offset", "_run", "position")

    def __init__(self, run: Run, position: int) -> None:
        """`position` is in `run`, or in one behind it."""
        while run.next is not None and position >= run.next.start:
            run = run.next
        self._run = run
        self._offset = run.offset(position)
        self.position = position

    def take(self) -> Optional[Piece]:
        """The rest of a run, or a large part of it; None if there is no more."""
        run = self._run
        while len(run.data) == self._offset:
            if run.next is None:
                return None
            self._run = run = run.next
            self._offset = 0
        end = len(run.data)
        if end - self._offset > TAKEN_BYTES:
            end = self._offset + TAKEN_BYTES
            while run.data[end] & 0xC0 == 0x80:  # within a character
                end -= 1
        text = run.data[self._offset : end].decode()
        self._offset = end
        self.position += len(text)
        return text if run.kind is str else Thought(text)
