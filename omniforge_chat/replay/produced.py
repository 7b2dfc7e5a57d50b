"""A reply that is produced here, on its way to Redis."""

from __future__ import annotations

import math
from typing import List, Union

from .live import Home, LiveReply
from .stored import entry_of


class Produced(LiveReply):
    """A reply that is produced here, and how much of it is stored."""

    __slots__ = ("_cursor", "begun", "closed", "ended_at", "key", "stored")

    def __init__(
        self, home: Home, reply_id: str, key: str, conversation_id: str, owner: str
    ) -> None:
        super().__init__(home, reply_id, conversation_id, owner)
        self.key = key
        self.stored = 0
        self.begun = False  # it is in the store
        self.closed = False  # nothing more of it is stored
        self.ended_at = math.inf
        self._cursor = self.cursor_at(0)

    def take(self, end: int) -> List[Union[int, str]]:
        """The entries up to `end`, its length. They are taken once, unless `go_to` goes back."""
        entries: List[Union[int, str]] = []
        cursor = self._cursor
        while cursor.position < end:
            entries += entry_of(cursor.take(), cursor.position)
        return entries

    def go_to(self, position: int) -> bool:
        """The store has it up to `position`: go on there. False if that is not held here."""
        if not self.base <= position <= self.length:
            return False
        self.stored = position
        self._cursor = self.cursor_at(position)
        return True
