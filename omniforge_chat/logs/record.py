"""The record of a chat that has ended."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, ClassVar, Dict, Optional, Tuple

logger = logging.getLogger("omniforge_chat")

CHAT_FIELDS = (
    "request_id",
    "conversation_id",
    "outcome",
    "chunks",
    "tokens",
    "first_chunk_ms",
    "total_ms",
)
"""The fields of the line when a chat ends."""

KEPT_FIELDS = (*CHAT_FIELDS, "reply_id", "followers", "away_ms")
"""Those of a chat whose reply is kept."""

TEXT, KEPT_TEXT = (
    "chat ended " + " ".join([f"{name}=%s" for name in fields])
    for fields in (CHAT_FIELDS, KEPT_FIELDS)
)


def fields_of(values: Tuple[Any, ...]) -> Dict[str, Any]:
    """The values of an ended chat by their names."""
    return dict(zip(KEPT_FIELDS, values))


class ChatEnded(logging.LogRecord):
    """A record as `logger.info` makes it, at a fraction of the price.

    The parts that never change (line of the source, name of the process) are looked up once. Its
    text is made when the line is written.
    """

    constant: ClassVar[Dict[str, Any]] = {}

    def __init__(self, created: float, values: Tuple[Any, ...]) -> None:
        constant = self.constant
        if not constant:
            plain = logging.LogRecord(logger.name, logging.INFO, __file__, 0, TEXT, (), None)
            plain.funcName = "chat_ended"
            constant.update(plain.__dict__)
        self.__dict__ = record = constant.copy()
        thread = threading.current_thread()
        record["created"] = created
        record["msecs"] = created % 1 * 1000
        record["relativeCreated"] += (created - constant["created"]) * 1000
        record["args"] = values
        record["chat"] = fields_of(values)
        if len(values) > len(CHAT_FIELDS):
            record["msg"] = KEPT_TEXT
        record["thread"] = thread.ident
        record["threadName"] = thread.name
        if "taskName" in record:  # Python 3.12 and newer
            record["taskName"] = _task_name()


def _task_name() -> Optional[str]:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else task.get_name()
