"""The wire format of one reply, as the core sees it: text goes in, bytes come out.

The rooms above choose the format. All methods are pure: they may be called again with the same
arguments, because a send may be cancelled, and then its frames are made anew.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Protocol, Sequence, Tuple

from ..models import Done, Error

HEARTBEAT = b":\n"
"""A comment: it keeps proxies and clients from taking silence for the end.

A blank line behind it would end an event: one without data, which the standard drops (9.2.6) and
some clients hand to their users.
"""

Headers = Sequence[Tuple[bytes, bytes]]


class Part(NamedTuple):
    """Pieces of one kind that follow each other, as bytes.

    `before` and `after` stand around the JSON string of each piece, and make a frame of it.
    `opening` and `closing` stand around them all.
    """

    opening: bytes
    before: bytes
    after: bytes
    closing: bytes


class Opened(NamedTuple):
    """The part that a client has open: its kind (None for no part), its number, its bytes."""

    kind: Optional[type]
    number: int
    part: Part


UNOPENED = Opened(None, 0, Part(b"", b"", b"", b""))
"""A stream before its start."""

STARTED = Opened(None, 0, Part(b"", b"", b"", b""))
"""A stream behind its start, with no part."""


class Frames(Protocol):
    """A reply as a stream of server-sent events."""

    opened: Opened = UNOPENED
    """Or an open part of text, if the format has no start and no parts. That is faster
    (`make bench`, short)."""

    headers: Headers = ()
    """The response headers that only this format has."""

    heartbeat: bytes = HEARTBEAT
    """It may stand between any two frames, and before the first piece."""

    numbered: bool = False
    """Whether a frame of a kept reply may have an `id`. Each piece is one frame then."""

    def start(self) -> bytes:
        """The frames before the first piece. They are sent at once."""

    def text(self, number: int) -> Part:
        """Pieces of the reply: the part with this number, counted from 1, of the whole reply."""

    def thought(self, number: int) -> Part:
        """Pieces of thoughts; parts are counted together with those of text."""

    def done(self, done: Done) -> bytes:
        """The frames at the end of a complete reply, behind the closing of its last part."""

    def error(self, error: Error) -> bytes:
        """The frames at the end of a reply that failed; its last part is not closed."""


class Document(Protocol):
    """A reply as one JSON document, which is sent when the reply has ended."""

    def headers(self, status: int) -> Headers:
        """The response headers that only this format has, for this HTTP status."""
        return ()

    def done(self, done: Done, text: str, thoughts: str) -> bytes:
        """The document of a complete reply."""

    def error(self, error: Error, status: int) -> bytes:
        """The document of a reply that failed. It is sent with this HTTP status."""
