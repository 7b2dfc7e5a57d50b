"""A terminal with a program in it, which a test types into and reads."""

from __future__ import annotations

import codecs
import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, List, Optional

from .constants import PATIENCE
from .process import environment

# httpx has a command line of its own. Our users have none of its packages, and to import them takes
# as long as all else.
_MAIN = """
import sys
sys.modules["click"] = None
from omniforge_chat.cli import main
sys.exit(main())
"""
_IN_ITS_TERMINAL = f"""
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
{_MAIN}
"""

COMMAND = [sys.executable, "-c", _MAIN]
"""`omniforge-chat` for an interpreter."""

_switches = re.compile(r"\x1b\[\?2004[hl]\r?")
"""What readline says to the terminal about text that is pasted."""


class Terminal:
    """`omniforge-chat` in a terminal of its own; ends with the block.

    Its standard output is `stdout`, or else the terminal, too.
    """

    def __init__(self, *arguments: str, stdout: Optional[int] = None, **variables: str) -> None:
        self._master, self._slave = pty.openpty()
        self._unread = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.before: List[Any] = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _IN_ITS_TERMINAL, *arguments],
            env=environment(**{"TERM": "xterm", **variables}),
            stdin=self._slave,
            stdout=self._slave if stdout is None else stdout,
            stderr=self._slave,
            start_new_session=True,
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    @property
    def settings(self) -> List[Any]:
        """Those that a program may change, and must put back."""
        return termios.tcgetattr(self._slave)

    def type(self, keys: str) -> None:
        if "\x03" in keys:
            self._until_it_sleeps()
        os.write(self._master, keys.encode("utf-8", "surrogateescape"))

    def _until_it_sleeps(self) -> None:
        """A signal right before a wait is handled behind that wait, which may be a minute.

        https://docs.python.org/3/library/signal.html#execution-of-python-signal-handlers
        """
        state = Path(f"/proc/{self.process.pid}/stat")
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):  # it has ended, or there is no /proc
            while state.read_text().rpartition(")")[2].split()[0] in "RD":
                assert time.monotonic() < deadline, "it does not wait"
                time.sleep(0.001)

    def until(self, text: str) -> str:
        """All that is shown up to `text`, which is shown, too."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._master], [], [], left)
            assert readable, f"{text!r} was not shown: {self._unread!r}"
            self._unread += self._decode(os.read(self._master, 65536))
            self._unread = _switches.sub("", self._unread)
        shown, _, self._unread = self._unread.partition(text)
        return shown + text

    def prompt(self) -> str:
        """All that is shown up to the prompt; the program waits for a key then.

        CPython does not hear a Ctrl-C between the two. A person is not as fast.
        """
        shown = self.until("> ")
        state = Path(f"/proc/{self.process.pid}/stat")
        while sys.platform == "linux" and state.read_text().rpartition(")")[2].split()[0] != "S":
            pass
        return shown

    def status(self) -> int:
        """The exit status."""
        return self.process.wait(PATIENCE)
