"""The lines of the log when a chat, or the reader of a kept reply, has ended."""

from __future__ import annotations

from ..logs import chat_ended
from ..observer import ChatEnd, Observer, ReadEnd


class ChatLog(Observer):
    """Writes them. `logs/record.py` has the fields."""

    def chat_ended(self, end: ChatEnd) -> None:
        """See Observer."""
        turn, usage, first = end.turn, end.usage, end.first_chunk
        values = (
            turn.request_id,
            turn.conversation_id,
            end.outcome,
            end.chunks,
            0 if usage is None else usage.tokens,
            # Milliseconds, with one decimal; round() takes longer (tests.bench.tricks).
            None if first is None else int(10_000 * first + 0.5) / 10,
            int(10_000 * end.seconds + 0.5) / 10,
        )
        if end.reply_id:
            away = None if end.away is None else int(10_000 * end.away + 0.5) / 10
            chat_ended(*values, end.reply_id, end.followers, away)
        else:
            chat_ended(*values)

    def reply_read(self, end: ReadEnd) -> None:
        """See Observer."""
        milliseconds = int(10_000 * end.seconds + 0.5) / 10
        chat_ended(
            *(end.request_id, end.conversation_id, end.reply_id, end.outcome),
            *(end.after, milliseconds),
        )
