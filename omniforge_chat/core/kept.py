"""A reply that is kept while it is sent: its pieces go to a recorder, its frames have ids.

An id is the reply's own id and a position: the number of characters so far. A client that comes
back names the last id it has seen (WHATWG HTML, section 9.2.4), and gets what comes behind it.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Protocol, Sequence, Union

from ..models import Done, Error, Thought


class Recorder(Protocol):
    """Where a reply is kept. Neither method waits, or raises."""

    def add(self, pieces: Sequence[Union[str, Thought]]) -> None:
        """The next pieces of the reply. The sequence is changed later: copy what you keep."""

    def end(self, event: Union[Done, Error]) -> None:
        """The event that ends the reply. A second call does nothing."""


OVER = 2**53 - 1
"""The position behind the event that ends a reply. It is the largest that JavaScript can count."""


class Position(NamedTuple):
    """The value of a frame's `id`: a reply, and how much of it a client has, in characters."""

    reply_id: str
    characters: int

    def __str__(self) -> str:
        return f"{self.reply_id}.{self.characters}"


_match = re.compile(r"([A-Za-z0-9_-]{22})\.(0|[1-9][0-9]{0,15})").fullmatch


def read_position(text: str) -> Optional[Position]:
    """The position that `text` is, or None if it is none."""
    found = _match(text)
    if found is None or int(found[2]) > OVER:
        return None
    return Position(found[1], int(found[2]))
