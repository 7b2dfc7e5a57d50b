"""What the responders of all workers have done: a file to which each of them adds lines.

A line is written at once, so that a process that is killed a moment later has told all the same.
All processes of a machine have the same monotonic clock.
"""

from __future__ import annotations

import json
import os
from math import inf
from pathlib import Path
from time import monotonic
from typing import Dict, List, NamedTuple

from omniforge_chat import Turn

WHOLE, CUT = "whole", "cut"


class Writer:
    """The one of a worker."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, turn: Turn) -> None:
        """Note that a reply has begun, or has ended."""
        about = [turn.conversation_id, turn.message, turn.request_id]
        entry = [monotonic(), os.getpid(), what, *about]
        os.write(self._file, json.dumps(entry).encode() + b"\n")


class Generation(NamedTuple):
    """One reply that was made: by whom, from when to when, and whether it came to its own end.

    `ended` is infinite if it was never told: it goes on, or its process was killed.
    """

    message: str
    conversation_id: str
    pid: int
    began: float
    ended: float
    whole: bool


class Journal:
    """The file, as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> List[Generation]:
        """All generations so far, in the order in which they began."""
        found: List[Generation] = []
        open_ones: Dict[str, int] = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for line in lines:
            when, pid, what, conversation_id, message, request_id = json.loads(line)
            if what in (WHOLE, CUT):
                place = open_ones.pop(request_id)
                found[place] = found[place]._replace(ended=when, whole=what == WHOLE)
            else:
                open_ones[request_id] = len(found)
                found.append(Generation(message, conversation_id, pid, when, inf, False))
        return found
