"""POST /api/v1/chat on a real server: the contract, as a client sees it."""

from __future__ import annotations

from typing import Iterator

import pytest

from omniforge_chat import Settings, create_app

from .harness import CONVERSATION, LiveServer, last, text


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with LiveServer(create_app(settings=Settings())) as live:
        yield live


def test_a_message_is_answered_with_chunks_and_done(server: LiveServer) -> None:
    """The README's first example."""
    with server.chat("Hello", conversation_id=CONVERSATION) as client:
        status, headers = client.head()
        assert status == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-cache, no-transform"
        assert headers["x-accel-buffering"] == "no"
        assert headers["x-conversation-id"] == CONVERSATION
        assert "connection" not in headers
        frames = client.frames()
        assert len(frames) == 6
        assert text(frames).startswith('Thank you for your message. You said: "Hello". ')
        event, data = last(frames)
        assert event == "done"
        assert data == {
            "conversation_id": CONVERSATION,
            "usage": {"tokens": len(text(frames)) // 4, "estimated": True},
        }
