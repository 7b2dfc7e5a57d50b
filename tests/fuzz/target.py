"""A target: bytes go in, and an exception comes out if something is wrong."""

from __future__ import annotations

from typing import Any, Callable, List, NamedTuple, Sequence

MAX_BYTES = 64 * 1024
"""The longest input. Whatever takes quadratic time takes long enough with it to be noticed."""


class Target(NamedTuple):
    """Something to try, by its name.

    `run` raises if the package does not do with the bytes as it should. `seeds` are inputs with
    which it does, and `words` are further pieces of which inputs are made.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    words: Sequence[bytes] = ()


def splits(data: bytes) -> List[List[bytes]]:
    """`data` as one read, byte by byte, and in two at some places.

    If it is long, it is parted into more than single bytes.
    """
    size = 1 if len(data) < 2000 else 97
    single = [data[i : i + size] for i in range(0, len(data), size)]
    step = len(data) // 3 + 1
    return [[data], single, *([data[:i], data[i:]] for i in range(1, len(data), step))]


def same(outcomes: Sequence[Any]) -> Any:
    """The one outcome that all of these are."""
    first = outcomes[0]
    for other in outcomes[1:]:
        assert other == first, f"{other!r} is not {first!r}"
    return first


def check_line(text: str) -> None:
    """A text for a client or for the log: one line, with nothing that a terminal obeys."""
    assert text, "it says nothing"
    assert text.isprintable(), f"it is not one line: {text!r}"
