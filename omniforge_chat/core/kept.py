"""A reply that is kept while it is sent: its pieces go to a recorder, its frames have ids.

An id is the reply's own id and a position: the number of characters so far. A client that comes
back names the last id it has seen (WHATWG HTML, section 9.2.4), and gets what comes behind it.

The id is the last line of a frame. By the standard it counts when the whole frame is there; but
there are clients for which it counts when its line is, so a frame that was cut behind that would
be lost to them (@microsoft/fetch-event-source).
"""

from __future__ import annotations

import re
from secrets import token_urlsafe
from typing import List, NamedTuple, Optional, Protocol, Sequence, Union

from ..errors import ReplayUnavailable
from ..models import Done, Error, Thought, Turn
from .frames import Frames
from .reply import Reply
from .sse import encode_texts

RETRY = b"retry: 1000\n"
"""The milliseconds after which a client whose connection broke asks for the rest."""


class Recorder(Protocol):
    """Where a reply is kept. Neither method waits, or raises."""

    def add(self, pieces: Sequence[Union[str, Thought]]) -> None:
        """The next pieces of the reply. The sequence is changed later: copy what you keep."""

    def end(self, event: Union[Done, Error]) -> None:
        """The event that ends the reply. A second call does nothing."""


def new_reply_id() -> str:
    """An id that nobody can guess: base64url of 16 random bytes, 22 characters."""
    return token_urlsafe(16)


OVER = 2**53 - 1
"""The position behind the event that ends a reply. It is the largest that JavaScript can count."""


class Position(NamedTuple):
    """The value of a frame's `id`: a reply, and how much of it a client has, in characters."""

    reply_id: str
    characters: int

    def __str__(self) -> str:
        return f"{self.reply_id}.{self.characters}"


_is_id = re.compile(r"[A-Za-z0-9_-]{22}").fullmatch
_match = re.compile(r"([A-Za-z0-9_-]{22})\.(0|[1-9][0-9]{0,15})").fullmatch


def is_reply_id(text: str) -> bool:
    """Whether `text` could be the id of a reply. Anything else need not be looked for."""
    return _is_id(text) is not None


def read_position(text: str) -> Optional[Position]:
    """The position that `text` is, or None if it is none."""
    found = _match(text)
    if found is None or int(found[2]) > OVER:
        return None
    return Position(found[1], int(found[2]))


class KeptReply(Reply):
    """A reply that is kept, or one that is read from where it is kept.

    Its pieces and its end go to `recorder`, if there is one, before they are sent: a client may
    come back with the id of a frame while the send of that is still under way. Its frames have ids
    if their format allows it. `after` is the position at which it begins for this client.
    """

    __slots__ = ("_at", "_kept", "_numbered", "_recorder", "_reply_id")

    def __init__(
        self,
        turn: Turn,
        frames: Frames,
        reply_id: str,
        recorder: Optional[Recorder] = None,
        *,
        after: int = 0,
        thoughts: bool = False,
    ) -> None:
        super().__init__(turn, frames, thoughts=thoughts)
        self._recorder = recorder
        self._reply_id = reply_id.encode("ascii")
        self._numbered = frames.numbered
        self._at = self._kept = self.characters = after

    def frames(self, *, last: bool) -> bytes:
        """The frames of the start and of `ready`, which is kept from now on."""
        ready = self.ready
        if self._numbered:
            if len(ready) == 1 and not last and self._open.kind is type(ready[0]) is str:
                frame = self._frame()
                if frame:
                    return frame
            self._thinks = True  # so that `_run` makes the frames
        frames = super().frames(last=last)
        if self._recorder is not None:
            number, known = 0, self._kept - self.characters
            while known > 0:  # these frames are made anew, as a send was cancelled
                known -= len(ready[number])
                number += 1
            if ready[number:]:
                self._recorder.add(ready[number:])
                self._kept = self.characters + sum(map(len, ready))
            if self.last is not None:
                self._recorder.end(self.last)
        return frames

    def _frame(self) -> bytes:
        """The frame of the one text of `ready`; nothing if that needs more, or has no encoding.

        That is the usual case, and takes half the time of the other way (`make bench`, kept).
        """
        texts: List[str] = self.ready  # type: ignore[assignment] # there is no thought
        part = self._open.part
        end = self.characters + len(texts[0])
        after = b"%bid: %b.%d\n\n" % (part.after[:-1], self._reply_id, end)
        try:
            before = part.before if self.chunks else RETRY + part.before
            frame = encode_texts(texts, before, after)
        except (TypeError, ValueError):
            return b""
        if len(texts) > 1:  # it was too long for one
            return b""
        self._next = self._open
        self._at = end
        if self._recorder is not None and self._kept < end:
            self._recorder.add(texts)
            self._kept = end
        return frame

    def _frames(self) -> bytes:
        self._at = self.characters
        frames = super()._frames()
        self._at = self.characters + sum(map(len, self.ready))
        return frames

    @property
    def _lead(self) -> bytes:
        """What the first frame has before it."""
        return b"" if self.chunks else RETRY

    def _run(self, kind: type, texts: List[str]) -> bytes:
        if not self._numbered:
            return super()._run(kind, texts)
        lead = self._lead if self._at == self.characters else b""
        frames = [lead, super()._run(kind, [])]
        _, before, after, _ = self._next.part
        after = after[:-1]  # the blank line comes with the id
        lines = encode_texts(texts, b"", b"\n")  # it parts the long ones of `texts`
        for text, line in zip(texts, lines.split(b"\n")):
            self._at += len(text)
            frames += (before, line, after, self._id(self._at))
        return b"".join(frames)

    def _end(self) -> bytes:
        frames = super()._end()
        if not self._numbered:
            return frames
        lead = b"" if self.ready else self._lead
        return lead + frames[:-1] + self._id(self._at if self._goes_on else OVER)

    @property
    def _goes_on(self) -> bool:
        """Whether only this client's stream has ended, and the reply is to be had elsewhere."""
        if self._recorder is not None:
            return False
        return self.last is not self.given or self._is_unavailable

    @property
    def _is_unavailable(self) -> bool:
        return isinstance(self.last, Error) and self.last.code == ReplayUnavailable.code

    def _id(self, position: int) -> bytes:
        """The last line of a frame, and the blank line behind it."""
        return b"id: %b.%d\n\n" % (self._reply_id, position)
