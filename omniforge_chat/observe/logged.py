"""The lines of the log when a chat, or the reader of a kept reply, has ended."""

from __future__ import annotations

from typing import Optional

from ..logs import chat_ended
from ..observer import ChatEnd, Observer, ReadEnd


class ChatLog(Observer):
    """Writes them. `logs/record.py` has the fields."""

    def chat_ended(self, end: ChatEnd) -> None:
        """See Observer."""
        turn, usage = end.turn, end.usage
        values = (
            turn.request_id,
            turn.conversation_id,
            end.outcome,
            end.chunks,
            0 if usage is None else usage.tokens,
            _milliseconds(end.first_chunk),
            _milliseconds(end.seconds),
        )
        if end.reply_id:
            chat_ended(*values, end.reply_id, end.followers, _milliseconds(end.away))
        else:
            chat_ended(*values)

    def reply_read(self, end: ReadEnd) -> None:
        """See Observer."""
        milliseconds = _milliseconds(end.seconds)
        chat_ended(
            *(end.request_id, end.conversation_id, end.reply_id, end.outcome),
            *(end.after, milliseconds),
        )


def _milliseconds(seconds: Optional[float]) -> Optional[float]:
    """Those, with one decimal; round() takes longer (tests.bench.tricks)."""
    return None if seconds is None else int(10_000 * seconds + 0.5) / 10
