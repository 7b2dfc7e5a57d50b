"""A reply that is sent when it has ended, as one document.

It runs as a stream does, with the same limits and the same watch. Only its sends are held back, and
its pieces are kept.
"""

from __future__ import annotations

from math import ceil, inf
from typing import List, Optional

from starlette.types import Message, Send

from ..core.frames import Document, Frames, Part
from ..core.reply import Reply, unencodable
from ..errors import ReplyTooLong
from ..models import Done, Error, Thought, Turn

MAX_CHARACTERS = 4 * 1024 * 1024
"""The longest reply that is kept, thoughts included. A stream keeps none."""

_HEADERS = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
_OF_A_STREAM = (b"content-type", b"cache-control", b"x-accel-buffering")


class _NoFrames(Frames):
    """Nothing goes out before the end."""

    _part = Part(b"", b"", b"", b"")

    def start(self) -> bytes:
        return b""

    def text(self, number: int) -> Part:
        return self._part

    def thought(self, number: int) -> Part:
        return self._part

    def done(self, done: Done) -> bytes:
        return b""

    def error(self, error: Error) -> bytes:
        return b""


_NO_FRAMES = _NoFrames()


class WholeReply(Reply):
    """The reply to one turn, all of whose text is kept for its `document`."""

    __slots__ = ("_text", "_thought", "document")

    def __init__(self, turn: Turn, document: Document, *, thoughts: bool = False) -> None:
        super().__init__(turn, _NO_FRAMES, thoughts=thoughts)
        self.document = document
        self._text: List[str] = []
        self._thought: List[str] = []

    @property
    def status(self) -> int:
        """The HTTP status of the document."""
        if self.error is None:
            return 200
        status, _ = self.cause
        return status if isinstance(status, int) and 400 <= status < 600 else 500

    @property
    def retry_after(self) -> Optional[int]:
        """The seconds after which the client may try again, if somebody has told."""
        _, seconds = self.cause  # a host's error may have anything
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < inf:
            return None
        return max(1, ceil(seconds))

    def sent(self) -> None:
        """Keep the pieces of `ready`, as nothing was sent but is to be."""
        for piece in self.ready:
            if isinstance(piece, Thought):
                self._thought.append(piece.text)
            else:
                self._text.append(piece)
        super().sent()

    def frames(self, *, last: bool) -> bytes:
        """The document if it is the `last`, or else nothing."""
        too_long = self.characters + sum(map(len, self.ready)) > MAX_CHARACTERS
        if too_long and not self.ended:
            self.fail(ReplyTooLong("The reply is too long for one document; ask for a stream"))
            self.ready.clear()
        super().frames(last=last)
        if not last:
            return b""
        self.sent()
        try:
            return self._whole()
        except (TypeError, ValueError) as error:
            self.fail(unencodable("the end", error))
            self.reported = None
            self.last = self.terminal()
            return self._whole()

    def _whole(self) -> bytes:
        if isinstance(self.last, Done):
            return self.document.done(self.last, "".join(self._text), "".join(self._thought))
        assert self.last is not None
        return self.document.error(self.last, self.status)


class HeldBack:
    """A `send` that waits for the end of `reply`, and then sends its document."""

    def __init__(self, send: Send, reply: WholeReply) -> None:
        self._send = send
        self._reply = reply
        self._start: Optional[Message] = None

    async def __call__(self, message: Message) -> None:
        """Send the last body, behind the start; keep the start, and drop heartbeats."""
        if message["type"] == "http.response.start":
            self._start = message
        elif not message["more_body"]:
            if self._start is not None:
                await self._send(self._headed(self._start, len(message["body"])))
                self._start = None  # only now: a send that was cancelled is made again
            await self._send(message)

    def _headed(self, start: Message, size: int) -> Message:
        status, retry_after = self._reply.status, self._reply.retry_after
        headers = [pair for pair in start["headers"] if pair[0] not in _OF_A_STREAM]
        headers += [*_HEADERS, *self._reply.document.headers(status)]
        headers.append((b"content-length", b"%d" % size))
        if retry_after is not None:
            headers.append((b"retry-after", b"%d" % retry_after))
        return {**start, "status": status, "headers": headers}
