"""The reference of a request: the client's own where it is usable, and else a new one."""

from __future__ import annotations

import random
import re
from typing import Any, Dict

import pytest

from omniforge_chat.request_id import request_id


@pytest.mark.parametrize("sent", [b"7", b"a" * 128, b"req_01:ab/cd-ef~!#$%&'*+", b'"quoted,\\{}"'])
def test_a_usable_request_id_of_the_client_is_kept(sent: bytes) -> None:
    """The client's own log and ours then speak of the same request."""
    headers = [(b"host", b"test"), (b"x-request-id", sent)]
    assert request_id({"headers": headers}) == sent.decode()


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a" * 129, id="too long"),
        pytest.param(b"two words", id="a space"),
        pytest.param(b"tab\tbed", id="a tab"),
        pytest.param(b"caf\xe9", id="latin-1"),
        pytest.param(b"\x80\xff\xfe", id="odd bytes"),
        pytest.param("Grüße".encode(), id="UTF-8"),
        pytest.param(b"ends\n", id="a line feed"),
    ],
)
def test_an_unusable_request_id_is_replaced(sent: bytes) -> None:
    """What a log line or a header of ours cannot carry safely goes no further."""
    made = request_id({"headers": [(b"x-request-id", sent)]})
    assert re.fullmatch(r"[0-9a-f]{32}", made)


def test_a_request_without_an_id_gets_one_and_keeps_it() -> None:
    """Whoever asks later in the same request is told the same."""
    scope: Dict[str, Any] = {"headers": []}
    assert request_id(scope) == request_id(scope)


def test_a_responder_that_seeds_random_numbers_makes_no_two_requests_one() -> None:
    """A reply that is to come out the same each time is no reason for the same reference."""
    made = set()
    for _ in range(4):
        random.seed(1)
        made.add(request_id({"headers": []}))
    assert len(made) == 4
