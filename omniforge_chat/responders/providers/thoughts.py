"""A model's thoughts in its text: `<think>...</think>`, and then the reply.

Only thoughts at the start of a text are known for such: further on, the tag may be what the reply
is about. Some models send `</think>` alone, because the template of their prompt has opened the
thoughts. Until it comes, nobody can tell whether the text is thoughts or the reply. So you have to
say that of your model: then its thoughts are `implied`.
"""

from __future__ import annotations

from typing import List, Optional

_TAGS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "[THINK]": "[/THINK]",  # Mistral
}

MAX_HELD_CHARACTERS = 256 * 1024
"""The longest text that is held back for a `</think>`. Longer ones are the reply."""


class ThoughtFilter:
    """Leaves out the thoughts at the start of a text that comes in pieces.

    With `implied`, the text begins within thoughts. If they never end, they are the reply.
    """

    __slots__ = ("_closing", "_held", "_room", "_tail", "_thought", "over")

    def __init__(self, *, implied: bool = False) -> None:
        self.over = False
        """From now on, all text is the reply's."""
        self._closing = "</think>" if implied else ""  # within thoughts, up to there
        self._held: Optional[List[str]] = [] if implied else None
        self._room = MAX_HELD_CHARACTERS
        self._tail = ""  # this may be the beginning of a tag
        self._thought = False  # thoughts have ended

    def feed(self, piece: str) -> str:
        """Return the part of the reply that `piece` adds."""
        if self.over:
            return piece
        if self._held is not None:
            self._held.append(piece)
            self._room -= len(piece)
            if self._room < 0:
                return self.close()
        text = self._tail + piece
        while True:
            if self._closing:
                _, closed, after = text.partition(self._closing)
                if not closed:
                    self._tail = text[1 - len(self._closing) :]
                    return ""
                text, self._closing, self._held, self._thought = after, "", None, True
            start = text.lstrip()
            opening = next((tag for tag in _TAGS if start.startswith(tag)), "")
            if not opening:
                break
            text, self._closing = start[len(opening) :], _TAGS[opening]
        if any(tag.startswith(start) for tag in _TAGS):
            self._tail = text
            return ""
        self.over = True
        return start if self._thought else text

    def close(self) -> str:
        """Return the text that is left at the end of the reply."""
        held, tail = self._held, "" if self._closing or self.over else self._tail
        self.over = True
        if held is not None:
            return without_thoughts("".join(held), implied=False)
        return tail.lstrip() if self._thought else tail


def without_thoughts(text: str, *, implied: Optional[bool] = None) -> str:
    """Return a whole text without the thoughts at its start.

    They are implied if the first tag is a `</think>`, unless you say so yourself.
    """
    if implied is None:
        implied = "</think>" in text.partition("<think>")[0]
    thoughts = ThoughtFilter(implied=implied)
    return thoughts.feed(text) + thoughts.close()
