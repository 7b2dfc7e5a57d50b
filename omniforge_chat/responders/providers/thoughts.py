"""A model's thoughts in its text: `<think>...</think>`, and then the reply.

Only thoughts at the start of a text are known for such: further on, the tag may be what the reply
is about. Some models send `</think>` alone, because the template of their prompt has opened the
thoughts. Until it comes, nobody can tell whether the text is thoughts or the reply. So you have to
say that of your model: then its thoughts are `implied`.
"""

from __future__ import annotations

import re
from typing import List, Optional, Tuple

_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "[THINK]": "[/THINK]",  # Mistral
}
_opening = re.compile("|".join(map(re.escape, _TAGS))).match
_white_space = re.compile(r"\s*").match

MAX_HELD_CHARACTERS = 256 * 1024
"""The longest text that is held back for a `</think>`. Longer ones are the reply."""


MAX_WHITE_CHARACTERS = 4096
"""The longest white space that is held back for a tag. Behind more of it, all is the reply."""


def _begin(text: str, at: int = 0) -> int:
    """The place of the first character from `at` on that is no white space."""
    found = _white_space(text, at)
    return found.end() if found else at


class ThoughtSplitter:
    """Tells the thoughts at the start of a text, which comes in pieces, from the reply behind them.

    With `implied`, the text begins within thoughts. If they never end, they are the reply.
    """

    __slots__ = ("_after", "_closing", "_held", "_room", "_tail", "_thinks", "over")

    def __init__(self, *, implied: bool = False) -> None:
        self.over = False
        """From now on, all text is the reply's."""
        self._closing = "</think>" if implied else ""  # within thoughts, up to there
        self._held: Optional[List[str]] = [] if implied else None
        self._room = MAX_HELD_CHARACTERS
        self._tail = ""  # this may be the beginning of a tag
        self._after = False  # thoughts have ended
        self._thinks = False  # one of them was more than white space

    def feed(self, piece: str) -> Tuple[str, str]:
        """Return what `piece` adds to the thoughts, and to the reply."""
        if self.over:
            return "", piece
        if self._held is not None:
            self._held.append(piece)
            self._room -= len(piece)
            if self._room < 0:
                return self.close()
        text, self._tail = self._tail + piece, ""
        thought, at = "", 0
        while True:
            if self._closing:
                end = text.find(self._closing, at)
                if end < 0:
                    thought += self._unclosed(text[at:])
                    return self._shown(thought), ""
                thought += text[at:end] if self._held is None else self._all_held(text, end)
                at = end + len(self._closing)
                self._closing, self._held, self._after = "", None, True
            begin = _begin(text, at)
            found = _opening(text, begin) if self._bears(begin - at) else None
            if found is None:
                break
            self._closing, at = _TAGS[found[0]], found.end()
        return self._shown(thought), self._said(text[at:])

    def _unclosed(self, text: str) -> str:
        """Return a part of a thought, without the end that may begin the closing tag."""
        start = text.rfind(self._closing[0], max(0, len(text) + 1 - len(self._closing)))
        if start >= 0 and self._closing.startswith(text[start:]):
            self._tail = text[start:]
        return text[: len(text) - len(self._tail)] if self._held is None else ""

    def _all_held(self, text: str, end: int) -> str:
        """Return the thought that was held back, up to `end` of `text`, which is its end."""
        held = "".join(self._held or ())
        thought = held[: len(held) - (len(text) - end)]
        opened = _opening(thought, _begin(thought))
        return thought if opened is None else thought[opened.end() :]

    def _shown(self, thought: str) -> str:
        """Return a thought without the white space that all thoughts begin with."""
        if not self._thinks:
            thought = thought.lstrip()
            self._thinks = bool(thought)
        return thought

    def _said(self, text: str) -> str:
        """Return the beginning of the reply, once it cannot be that of a tag."""
        start = text.lstrip()
        if self._after:
            text = start
        if self._bears(len(text) - len(start)) and any(tag.startswith(start) for tag in _TAGS):
            self._tail = text
            return ""
        self.over = True
        return text

    def _bears(self, white: int) -> bool:
        """Whether a tag may come behind so many characters of white space."""
        return self._after or white <= MAX_WHITE_CHARACTERS

    def close(self) -> Tuple[str, str]:
        """Return the thought and the text that are left at the end of the reply."""
        held, tail = self._held, self._tail
        self.over, self._held, self._tail = True, None, ""
        if held is not None:
            return _split("".join(held))
        if self._closing:
            return self._shown(tail), ""
        return "", tail


def _split(text: str) -> Tuple[str, str]:
    """Return the thoughts at the start of a whole text, and the rest."""
    splitter = ThoughtSplitter()
    parts = splitter.feed(text), splitter.close()
    return parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]


def without_thoughts(text: str) -> str:
    """Return a whole text without the thoughts at its start.

    They are implied if the first tag is a `</think>`.
    """
    head, closed, _ = text.partition("</think>")
    return _split(f"<think>{text}" if closed and "<think>" not in head else text)[1]
