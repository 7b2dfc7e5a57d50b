"""Where the texts go: the reply to standard output, all else to standard error."""

from __future__ import annotations

import contextlib
import getpass
import io
import sys
from importlib import import_module
from typing import List, Mapping, TextIO

from ...models import MAX_MESSAGE_CHARACTERS
from ..printable import complain, printable

_DIM, _NOT_DIM = "\x1b[2m", "\x1b[22m"
_MOST_BYTES = 4 * MAX_MESSAGE_CHARACTERS + len(b"\xef\xbb\xbf\r\n")  # in UTF-8


class Trouble(Exception):
    """A failure, in words for the user."""


class Terminal:
    """The standard streams of a talk.

    A character that a stream's encoding lacks becomes "?". Raises OSError if nobody reads any more.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        self.is_dialog = sys.stdin.isatty()
        plain = environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or sys.platform == "win32"
        self._dim = sys.stderr.isatty() and not plain
        self._edits = sys.stdin.isatty() and sys.stdout.isatty()
        self._share_lines = sys.stderr.isatty() and sys.stdout.isatty()
        self._begun: List[TextIO] = []  # the streams whose last line is not ended
        if self._edits:
            _load_editor()

    def text(self, piece: str) -> None:
        """Show a piece of a reply."""
        self._show(piece, sys.stdout)

    def thought(self, piece: str) -> None:
        """Show a piece of the model's thoughts to somebody, and to no file."""
        if sys.stderr.isatty():
            begins = sys.stderr not in self._begun and not self._dim
            self._show(f"Thoughts: {piece}" if begins else piece, sys.stderr)

    def note(self, line: str) -> None:
        """Show a line about the talk."""
        self.end_line()
        self._show(line, sys.stderr)
        self.end_line()

    def aside(self, line: str) -> None:
        """The same in the middle of a reply, whose text goes on behind it."""
        self._show(f"{line}\n", sys.stderr)

    def complain(self, trouble: Trouble) -> None:
        """Show a failure, as one line."""
        self.end_line()
        complain(str(trouble))

    def end_line(self) -> None:
        """Begin a new line, if the last one is not ended."""
        while self._begun:
            print(file=self._begun.pop(), flush=True)

    def _show(self, piece: str, stream: TextIO) -> None:
        piece = printable(piece)
        if not piece:
            return
        if self._share_lines and stream not in self._begun:
            self.end_line()
        if stream is sys.stderr and self._dim:
            stream.write(f"{_DIM}{piece}{_NOT_DIM}")  # whenever it ends, no more is dim
        else:
            stream.write(piece)
        stream.flush()
        self._begun = [other for other in self._begun if other is not stream]
        if not piece.endswith("\n"):
            self._begun.append(stream)

    def ask(self) -> str:
        """The next line of the user's. Raises EOFError at the end of them."""
        self.end_line()
        if self._edits:
            return input("> ")
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")

    def ask_secret(self, prompt: str) -> str:
        """A line that is not shown. It is "" if there is none."""
        self.end_line()
        try:
            return getpass.getpass(prompt)
        except EOFError:
            return ""

    def read_all(self) -> str:
        """All of standard input, without the line ends behind it.

        Raises Trouble for more than a message can have.
        """
        data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise Trouble(f"standard input has more than {MAX_MESSAGE_CHARACTERS} characters")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode(sys.stdin.encoding, "replace")
        return text.rstrip("\r\n")


def _load_editor() -> None:
    """Let `input` have the keys and the history of readline, where there is one."""
    with contextlib.suppress(ImportError):
        readline = import_module("readline")
        # So several lines that are pasted are one message (Python has it off: bpo-42819).
        readline.parse_and_bind("set enable-bracketed-paste on")
