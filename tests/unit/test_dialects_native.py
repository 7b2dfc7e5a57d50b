"""The service's own format, as bytes. What a body may be is in test_bodies.py."""

from __future__ import annotations

import math
from typing import Optional

import pytest

from omniforge_chat import ChatError, Finish, Settings, Thought, Turn, Usage
from omniforge_chat.dialects.native import FRAMES, Native

from ..support.constants import CONVERSATION
from ..support.golden import check, stream

TURN = Turn("hi", CONVERSATION, "r")


def test_a_reply_is_as_in_the_file() -> None:
    """Clients were written against these bytes, by hand too."""
    items = (Thought("hm\n"), "one ", "zwölf \u2028", Thought("so"), 'an "end"')
    usage = Usage(7, prompt_tokens=3, completion_tokens=4)
    check("native_whole.txt", stream(TURN, FRAMES, *items, usage, Finish("length")))


def test_a_failure_is_as_in_the_file() -> None:
    """With the usage of what came before it."""
    failed = stream(TURN, FRAMES, "half ", error=ChatError("No more", code="own_code"))
    check("native_failed.txt", failed)


@pytest.mark.parametrize(
    ("value", "grace"),
    [
        *((b'"cancel"', 0.0), (b'"continue"', math.inf), (b"null", None)),
        *((b"0", 0.0), (b"-0", 0.0), (b"2", 2.0), (b"0.25", 0.25), (b"1e300", 1e300)),
    ],
)
def test_a_client_says_how_long_its_reply_waits_for_it(
    value: bytes, grace: Optional[float]
) -> None:
    """Two words and a number are one time to whoever waits."""
    request = Native(Settings(), ()).decode(b'{"message":"hi","on_disconnect":%b}' % value, {})
    assert request.grace == grace
    assert Native(Settings(), ()).decode(b'{"message":"hi"}', {}).grace is None
