"""Commands for Redis, and scripts, which are called by their digest."""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Sequence, Tuple, Union

Word = Union[str, bytes, int, float]


class Command(NamedTuple):
    """One command. If it calls a script, `source` is that, for a server that does not know it."""

    words: Tuple[Word, ...]
    source: str = ""

    def packed(self) -> bytes:
        """What is sent (the Redis serialization protocol): redis-py takes five times as long."""
        parts = [b"*%d\r\n" % len(self.words)]
        for word in self.words:
            data = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
        return b"".join(parts)

    def in_full(self) -> Command:
        """The same call, with the script itself in place of its digest."""
        return Command(("EVAL", self.source, *self.words[2:]))


def command(*words: Word) -> Command:
    """A plain command: `command("GET", key)`."""
    return Command(words)


class Script:
    """A script in Lua. Calling it makes a Command."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, keys: Sequence[str], *arguments: Word) -> Command:
        """The command that runs the script on `keys`."""
        words = ("EVALSHA", self._digest, len(keys), *keys, *arguments)
        return Command(words, self._source)
