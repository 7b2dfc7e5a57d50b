"""Reading the frames of one reply; each wire format has its own reader.

A reason for the end of the text is not always one. Some servers send it with every frame, some with
the first. So a reader tells apart:

- A frame with a reason and nothing else. The text is complete, and the rest comes soon or never.
- A frame with a reason and text. The text is complete if no more comes.
- A frame with text and no reason after one with a reason. That reason is taken back.
- A second one with a reason and text: this server's reasons are not to be trusted, except one that
  comes alone, or with the end of the body.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Union

import msgspec

from ...core.sse import Decoder, Frame, FrameTooLarge
from ...models import Thought, Usage
from .documents import gave_up, loads
from .errors import describe

MAX_FRAME_BYTES = 1024 * 1024
"""The largest frame that is read. Frames of text have some hundred bytes."""

NOTHING = "the stream ended before the model had begun"


class _Decoder(Decoder):
    """Knows a field of its own, `error`, in which llama.cpp reported errors until 2025."""

    def unknown_field(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"error":
            self._field(b"event:error")
            self._field(b"data:" + value)


class _Halves:
    """Joins the halves of surrogate pairs that frames tear apart. The last one waits in `left`."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = ""

    def joined(self, text: str, *, last: bool) -> str:
        """The text up to a half that waits for what follows; nothing waits behind the `last`."""
        text = self.left + text
        waits = not last and "\ud800" <= text[-1:] <= "\udbff"
        self.left = text[-1:] if waits else ""
        units = text[: len(text) - len(self.left)].encode("utf-16-le", "surrogatepass")
        return units.decode("utf-16-le", "replace")


class FrameReader:
    """The frames of a provider, as far as they have come.

    - `earlier`: the thoughts that have come, and the text before and between them.
    - `progressed`: a frame has shown the model at work, be it on a thought or a tool. Pings do not.
    - `finish_reason`: why the text ended, if it has.
    - `complete`: it has, and only an error that the provider reports can make the reply fail.
    - `settled`: no more text is expected.
    - `usage`: the provider's count of tokens, a new object with each new count.
    - `ended`: no frame after this one counts.
    - `problem`: an error that the provider reported, in its own form.
    - `response_id`, `response_model`: the provider's names for the reply and its model, or "".
    - `unreadable`: why a frame could not be read, for the log.
    """

    __slots__ = (
        "_began",
        "_doubted",
        "_feed",
        "_halves",
        "_noted",
        "_split",
        "_thought",
        "_thought_halves",
        "complete",
        "earlier",
        "ended",
        "finish_reason",
        "problem",
        "progressed",
        "response_id",
        "response_model",
        "settled",
        "unreadable",
        "usage",
    )

    def __init__(self) -> None:
        self._feed = _Decoder(max_frame_bytes=MAX_FRAME_BYTES).feed
        self._began = False  # the model has begun, perhaps with a thought
        self._doubted = False  # text came after a reason
        self._split = False  # there may be halves of surrogate pairs
        self._halves, self._thought_halves = _Halves(), _Halves()
        self._thought = ""  # of the frame that is being read
        self._noted = False  # it has a thought, or is the last one: one look for both
        self.earlier: List[Union[str, Thought]] = []
        self.ended = False
        self.progressed = False
        self.finish_reason: Optional[str] = None
        self.complete = False
        self.settled = False
        self.usage: Optional[Usage] = None
        self.problem: object = None
        self.unreadable = ""
        self.response_id = self.response_model = ""

    def feed(self, data: bytes) -> str:
        """Read the next bytes of the body; return the text that they add, behind `earlier`."""
        text = ""
        try:
            for frame in self._feed(data):
                piece = self.read(frame)
                if self._noted:
                    text = self._put_before(text) if self._thought else text
                    if self.ended:
                        text += piece
                        break
                    self._noted = False
                text += piece
        except (msgspec.DecodeError, FrameTooLarge, RecursionError) as error:
            self.unreadable = describe(error)
        return self._halves.joined(text, last=self.ended) if self._split else text

    def _put_before(self, text: str) -> str:
        """Move this text, and the thought behind it, to those that came earlier; none is left."""
        thought, self._thought = self._thought, ""
        if self._split:
            text = self._halves.joined(text, last=False)
            thought = self._thought_halves.joined(thought, last=False)
        before = self.earlier[-1] if self.earlier and not text else None
        if text:
            self.earlier.append(text)
        if isinstance(before, Thought):
            self.earlier[-1] = Thought(before.text + thought)
        elif thought:
            self.earlier.append(Thought(thought))
        return ""

    def taken(self) -> List[Union[str, Thought]]:
        """Return what is in `earlier`, and forget it."""
        taken, self.earlier = self.earlier, []
        return taken

    def close(self) -> str:
        """Return the text that is left at the end of the body, behind `earlier`.

        Some servers forget the blank line after their last frame.
        """
        text = ""
        if not (self.ended or self.unreadable):
            text = self.feed(b"\n\n")
            self.unreadable = ""  # only half of that frame had come
        if self._halves.left:
            self._halves.left = ""
            text += "\ufffd"
        return text

    def read(self, frame: Frame) -> str:
        """Return the text that `frame` adds; `think` takes its thought, which stands before it.

        Raises msgspec.DecodeError for data that are no JSON, or not as the format has them.
        """
        raise NotImplementedError

    def think(self, thought: str) -> None:
        """Note the thought of the frame that is being read."""
        self._thought = thought
        self._noted = True

    def fail(self, problem: object) -> None:
        """Note an error that the provider reported."""
        self.problem = problem or "no reason was given"
        self.ended = self._noted = True

    def report(self, data: str) -> None:
        """Note an event that is an error, whose data may be a document, a text, or nothing."""
        try:
            self.fail(loads(data))
        except msgspec.DecodeError:
            self.fail(data)

    def end(self) -> None:
        """Note the mark that ends the stream."""
        if self._began or self.finish_reason is not None:
            self.ended = self._noted = True
        else:
            self.fail(NOTHING)

    def name(self, document: Mapping[str, Any]) -> None:
        """Note the names in a document that is the reply, or a part of it."""
        self.response_id = self.response_id or _name(document.get("id"))
        self.response_model = self.response_model or _name(document.get("model"))

    def work(self, *, busy: bool, reason: Optional[str] = None) -> None:
        """Note a frame of the model's work.

        It is `busy` if something is in it: text, a thought, a tool's call. It may also bring the
        `reason` for the end of the text.
        """
        if busy or not self.settled:
            self.progressed = True
        if busy and self.finish_reason is not None:
            self._doubted = True
            self.finish_reason = None
            self.complete = self.settled = False
        if reason is not None and gave_up(reason):
            self.fail(f"finish_reason is {reason}")
        elif reason is not None:
            self.finish_reason = reason
            # Before the model has begun, it is one of those that come with the first frame.
            self.settled = self._began and not busy
            self.complete = (self._began or busy) and not (busy and self._doubted)
        if busy or reason is None:
            self._began = True

    def count(self, prompt: object, completion: object, total: object = None) -> bool:
        """Note counts of tokens, if they make sense; return whether they do.

        Zero is a placeholder: no prompt is empty, and a text has tokens.
        """
        known, made, both = as_count(prompt), as_count(completion), as_count(total)
        if (known or 0) < 0 or (made or 0) < 0 or (both or 0) < 0:
            return False
        if known and not made and both:
            made = max(0, both - known)
        both = max(both or 0, (known or 0) + (made or 0))
        if both:
            usage = Usage(both, known or None, made or None)
            if usage != self.usage:
                self.usage = usage
        return bool(both)

    def mended(self, text: str) -> str:
        """Return the text of a document, after a look for halves of surrogate pairs in it."""
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            self._split = True
        return text


def _name(value: object) -> str:
    """Return `value` if it is fit to be a name; empty if it is not."""
    return value if isinstance(value, str) and len(value) <= 256 and value.isprintable() else ""


def as_count(value: object) -> Optional[int]:
    """Return a count of tokens as a whole number; None if it is none. It never fails a reply."""
    if type(value) is not int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        elif isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:16])
        else:
            return None
    return value if value < 2**53 else None
