"""The default responder: it shows that the way from request to stream works."""

from __future__ import annotations

from typing import AsyncIterator

from ..models import Turn

SHOWN_CHARACTERS = 100
"""How much of the message is said back."""


async def placeholder(turn: Turn) -> AsyncIterator[str]:
    """Thank for the message, repeat its beginning, and tell how to connect a model."""
    shown = turn.message[:SHOWN_CHARACTERS]
    more = "..." if len(turn.message) > SHOWN_CHARACTERS else ""
    yield "Thank you for your message. "
    yield "You said: "
    yield f'"{shown}{more}". '
    yield "This is a placeholder response. "
    yield "Set CHAT_RESPONDER=openai or anthropic to connect a model."
