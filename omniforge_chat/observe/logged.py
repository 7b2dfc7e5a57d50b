"""The lines of the log when a chat, or the reader of a kept reply, has ended."""

from __future__ import annotations

from ..logs import CHAT, KEPT, READ, log_end
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
            log_end(KEPT, (*values, end.reply_id, end.followers, away))
        else:
            log_end(CHAT, values)

    def reply_read(self, end: ReadEnd) -> None:
        """See Observer."""
        milliseconds = int(10_000 * end.seconds + 0.5) / 10
        ids = end.request_id, end.conversation_id, end.reply_id
        log_end(READ, (*ids, end.outcome, end.after, milliseconds))
