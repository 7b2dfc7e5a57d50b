"""The record of something that has ended: a chat, the reading of a reply, a request."""

from __future__ import annotations

import asyncio
import logging
import threading
from functools import cached_property
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

READ_FIELDS = ("request_id", "conversation_id", "reply_id", "outcome", "after", "total_ms")
"""Those of the line when somebody has read a kept reply, from the position `after` on."""


MESSAGES = {"chat": "chat ended", "reading": "reply read", "access": "request"}
"""The dicts that a record of ours may have, and its message as JSON has it."""


class Form:
    """A line: its text, for `%`, and the fields there, which its record has as a dict `name`."""

    def __init__(self, name: str, fields: Tuple[str, ...]) -> None:
        self.text = " ".join([MESSAGES[name], *(f"{field}=%s" for field in fields)])
        self.name = name
        self.fields = fields

    @cached_property
    def traced(self) -> Form:
        """The same with one more field, the `trace_id`."""
        return Form(self.name, (*self.fields, "trace_id"))

    def extra(self, values: Tuple[Any, ...]) -> Dict[str, Dict[str, Any]]:
        """What its record has besides."""
        return {self.name: dict(zip(self.fields, values))}


CHAT = Form("chat", CHAT_FIELDS)
KEPT = Form("chat", KEPT_FIELDS)
READ = Form("reading", READ_FIELDS)


def name_of_end(record: logging.LogRecord) -> str:
    """The name of its dict, if `record` tells that something has ended, or else ""."""
    if record.name == logger.name:
        for name in MESSAGES:
            if name in vars(record):
                return name
    return ""


class Ended(logging.LogRecord):
    """A record as `logger.info` makes it, at a fraction of the price.

    The parts that never change (line of the source, name of the process) are looked up once. Its
    text is made when the line is written.
    """

    constant: ClassVar[Dict[str, Any]] = {}

    def __init__(self, created: float, form: Form, values: Tuple[Any, ...]) -> None:
        constant = self.constant
        if not constant:
            plain = logging.LogRecord(logger.name, logging.INFO, __file__, 0, "", (), None)
            plain.funcName = "log_end"
            constant.update(plain.__dict__)
        self.__dict__ = record = constant.copy()
        thread = threading.current_thread()
        record["created"] = created
        record["msecs"] = created % 1 * 1000
        record["relativeCreated"] += (created - constant["created"]) * 1000
        record["args"] = values
        record["msg"] = form.text
        record.update(form.extra(values))
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
