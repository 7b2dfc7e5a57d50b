"""The limits and rules for the head of a request, the same for both parsers.

A new rule is one function here and its entry in HEAD_RULES.
"""

from __future__ import annotations

from typing import Callable, Optional, Sequence, Tuple

import msgspec

from ..errors import HeadersTooLarge, RequestError

HEAD_BYTES = 64 * 1024
"""How large a head may be, and likewise the trailers and the head of a chunk."""

HEAD_FIELDS = 100
"""How many fields a head may have, and likewise the trailers."""

READ_AHEAD_BYTES = 4096
"""How much of the next requests is read while one is answered."""

LINGER_SECONDS = 2.0
"""How long a refused client may go on sending, so that it gets to read why it is refused."""

Fields = Sequence[Tuple[bytes, bytes]]


class Head(msgspec.Struct, frozen=True):
    """The head of a request, or its trailers, which have fields alone."""

    fields: Fields
    """Names are in lower case."""

    size: int
    """In bytes. A parser may give an upper bound, if that is within HEAD_BYTES."""

    method: bytes = b""
    target: bytes = b""
    version: str = ""
    """`1.1`, say."""


def size_of(target: bytes, fields: Fields) -> int:
    """The bytes of a head without what its lines have in common."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in fields)


def too_large() -> HeadersTooLarge:
    """The error for a head beyond the limits, also for one that has not ended yet."""
    return HeadersTooLarge(
        f"The head of a request is limited to {HEAD_BYTES} bytes and {HEAD_FIELDS} fields"
    )


def _within_limits(head: Head) -> Optional[RequestError]:
    if head.size > HEAD_BYTES or len(head.fields) > HEAD_FIELDS:
        return too_large()
    return None


Rule = Callable[[Head], Optional[RequestError]]

HEAD_RULES: Tuple[Rule, ...] = (_within_limits,)
"""Each returns the error that answers the request, or None if the head keeps the rule."""

TRAILER_RULES: Tuple[Rule, ...] = (_within_limits,)


def refusal_of(head: Head, rules: Tuple[Rule, ...]) -> Optional[RequestError]:
    """The error of the first rule that `head` breaks; None if it keeps them all."""
    for rule in rules:
        error = rule(head)
        if error is not None:
            return error
    return None
