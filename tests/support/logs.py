"""What the package logs."""

from __future__ import annotations

import logging
import queue
from typing import Any, Dict, List

from .constants import PATIENCE


class Records(logging.Handler):
    """What the package logs while this is entered, from every thread and level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue()
        self.all: List[logging.LogRecord] = []

    def __enter__(self) -> Records:
        logger = logging.getLogger("omniforge_chat")
        self._level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logger = logging.getLogger("omniforge_chat")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record)
        self._queue.put(record)

    def about(self, reference: str, level: int = logging.INFO) -> logging.LogRecord:
        """The next record of this level about the request with this id; it is waited for."""
        while True:
            record = self._queue.get(timeout=PATIENCE)
            if record.levelno == level and reference in record.getMessage():
                return record

    def chat(self, reference: str) -> Dict[str, Any]:
        """The fields of the line that tells how the chat with this request id ended."""
        fields: Dict[str, Any] = vars(self.about(reference))["chat"]
        return fields

    @property
    def troubles(self) -> List[str]:
        """The texts of what was logged so far as a warning or worse."""
        return [r.getMessage() for r in self.all if r.levelno >= logging.WARNING]
