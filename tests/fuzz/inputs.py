"""New inputs for a target: seeds with pieces replaced, put in, taken out and repeated."""

from __future__ import annotations

import re
from typing import List, Sequence, Tuple

from hypothesis import strategies as st

from .target import MAX_BYTES, Target

_ODD = (
    *(b"\0", b"\r", b"\n", b"\r\n", b"\n\n", b" ", b"\t", b"\x7f", b"\x80", b"\xff"),
    *(b"\xef\xbb\xbf", b"\xc2\x85", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80", b"\xf0\x9f"),
    *(b"\xed\xa0\x80", b"\\ud83d", b"\\ude00", b"\\u0000"),
    *(b"null", b"true", b"[]", b"{}", b'""', b"[", b"{", b'"', b"}", b"]", b",", b":", b"\\"),
    *(b"0", b"-1", b"1e999", b"NaN", b"1.5", b"9" * 20),
)
_STRETCHED = (b" ", b"\n", b"9", b"a", b"/", b"://", b"[", b'{"a":', b"<")
_pieces = re.compile(rb"\w+|\W", re.ASCII).findall

_TOGETHER = 20
_FURTHER = 7919  # a prime, so that the places differ

Edit = Tuple[int, int, bytes]
"""Where, how many pieces go, and what comes in their place."""


def _edited(pieces: Sequence[bytes], edits: Sequence[Edit], further: int) -> bytes:
    """A seed with these edits, each `further` on."""
    edited = list(pieces)
    for place, gone, new in edits:
        at = (place + further) % (len(edited) + 1)
        edited[at : at + gone] = [new]
    return b"".join(edited)[:MAX_BYTES]


def inputs(target: Target) -> st.SearchStrategy[List[bytes]]:
    """Inputs for `target`, some at a time, of at most MAX_BYTES each.

    It takes longer to think up an edit than to try it, so each is made to several seeds.
    """
    seeds = [_pieces(seed) for seed in target.seeds]
    known = {*_ODD, *target.words, *(piece for pieces in seeds for piece in pieces)}
    word = st.sampled_from(sorted(known))
    word = word | st.sampled_from([*target.seeds, b""]) | st.binary(max_size=3)
    often = st.sampled_from([1] * 9 + [2, 20, 300])
    new = st.builds(lambda piece, count: (piece * count)[:MAX_BYTES], word, often)
    edit = st.tuples(st.integers(0, 2**16), st.integers(0, 3), new)

    def on_several(first: int, edits: List[Edit]) -> List[bytes]:
        return [
            _edited(seeds[(first + number) % len(seeds)], edits, number * _FURTHER)
            for number in range(_TOGETHER)
        ]

    def stretched(seed: int, place: int, width: int, other: bytes) -> List[bytes]:
        """A seed with a piece of it, or `other`, as often as there is room for it."""
        pieces = seeds[seed]
        at = place % (len(pieces) + 1)
        piece = b"".join(pieces[at : at + width]) or other
        count = (MAX_BYTES - len(target.seeds[seed])) // len(piece)
        return [b"".join([*pieces[:at], piece * count, *pieces[at:]])]

    which, width = st.integers(0, len(seeds) - 1), st.integers(0, 3)
    stretching = st.sampled_from([*_STRETCHED, *target.words])
    long = st.builds(stretched, which, st.integers(0, 2**16), width, stretching)
    edited = st.builds(
        on_several, st.integers(0, len(seeds)), st.lists(edit, min_size=1, max_size=5)
    )
    soup = st.lists(word, max_size=20).map(lambda words: [b"".join(words)[:MAX_BYTES]])
    return edited | edited | long | soup | st.binary(max_size=60).map(lambda data: [data])
