"""What a reply cost and why it ended: what a responder says of it, and what the client sees."""

from __future__ import annotations

import asyncio
from typing import Any, List

import pytest

from omniforge_chat import ChatError, Finish, Message, Settings, Turn, Usage
from omniforge_chat.core import sse
from omniforge_chat.dialects import make_dialect
from omniforge_chat.errors import UpstreamError, UpstreamRateLimited, UpstreamTimeout
from omniforge_chat.http.openapi import document
from omniforge_chat.models import Chunk, Done, Error, Event

from ..support import responders
from ..support.constants import CONVERSATION

TURN = Turn("hi", CONVERSATION, "request-1")


def events_of(*items: Any) -> List[Event]:
    """What a responder that yields `items`, and raises what is an exception, comes to."""
    return asyncio.run(responders.events_of(TURN, responders.saying(*items)))


@pytest.mark.parametrize(
    ("items", "data"),
    [
        (["x" * 40], b'"usage":{"tokens":10,"estimated":true}'),
        ([], b'"usage":{"tokens":1,"estimated":true}'),
        (["x", Usage(7)], b'"usage":{"tokens":7}'),
        (["x", Usage(7, 3, 4)], b'"usage":{"tokens":7,"prompt_tokens":3,"completion_tokens":4}'),
        (
            [Usage(3, 3), "x" * 40],
            b'"usage":{"tokens":13,"prompt_tokens":3,"completion_tokens":10,"estimated":true}',
        ),
        ([Usage(3, 3), Usage(7, 3, 4)], b'"usage":{"tokens":7,"prompt_tokens":3,'),
        ([Usage(1), Finish("length"), Finish("stop")], b'},"finish_reason":"stop"}\n\n'),
    ],
)
def test_done_says_what_is_known_and_what_is_estimated(items: List[Any], data: bytes) -> None:
    """A bill is not made of estimates, so a client must be able to tell."""
    assert data in sse.encode(events_of(*items)[-1])


def test_an_error_carries_the_usage_known_so_far() -> None:
    """Also where nothing was said yet, but the prompt was counted."""
    error = UpstreamError("cut")
    assert events_of("x" * 40, error)[-1] == Error(
        "upstream_error", "cut", Usage(10, estimated=True)
    )
    assert events_of(Usage(3, 3), error)[-1] == Error(
        "upstream_error", "cut", Usage(3, 3, 0, estimated=True)
    )
    assert events_of(error)[-1] == Error("upstream_error", "cut")


NOTHING: Any = None


@pytest.mark.parametrize(
    "item", [Usage(-1), Usage(1, -1), Usage(1, 1, True), Usage(NOTHING), Finish(NOTHING)]
)
def test_what_cannot_be_counted_is_a_fault_of_the_responder(item: Any) -> None:
    """It is found here, and not by the client's decoder."""
    assert isinstance(events_of("x", item)[-1], Error)


def test_a_turn_carries_the_earlier_messages() -> None:
    """None, unless somebody keeps them."""
    assert TURN.history == ()
    earlier = Message("assistant", "Hel", complete=False)
    turn = Turn("hi", CONVERSATION, "r", (Message("user", "x"), earlier))
    assert turn.history[0].complete
    assert not turn.history[1].complete


def test_the_failures_of_a_provider_are_shown_as_they_are() -> None:
    """Each is a ChatError, and the document names its code."""
    text = str(document([make_dialect("native", Settings())], ""))
    failures: List[ChatError] = [
        UpstreamError("m"),
        UpstreamTimeout("m"),
        UpstreamRateLimited("m"),
    ]
    for error in failures:
        assert events_of(error) == [Error(error.code, "m")]
        assert f"`{error.code}`" in text
    assert events_of("a", Finish("stop"))[:1] == [Chunk("a")]
    assert isinstance(events_of("a", Finish("stop"))[-1], Done)
