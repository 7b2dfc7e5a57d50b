"""The service as a process."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Match, Optional, Sequence

from .answers import last, text
from .client import Client
from .constants import PATIENCE

MODULE = [sys.executable, "-m", "omniforge_chat"]

_WITHOUT_EXTRA = """
import sys
sys.modules["uvloop"] = sys.modules["httptools"] = None
from omniforge_chat.cli import main
sys.exit(main())
"""
COMMANDS = {"fast": MODULE, "plain": [sys.executable, "-c", _WITHOUT_EXTRA]}
"""The service with the extra `fast`, and without it."""


def limited(command: List[str], descriptors: int) -> List[str]:
    """The command under a limit of open files that it cannot raise."""
    return ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]


def environment(**variables: str) -> Dict[str, str]:
    """The environment of a child process: nothing of a chat's but `variables`."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    kept.update({k: v for k, v in os.environ.items() if k.startswith("COVERAGE")})
    return {**kept, **variables}


class ServiceProcess:
    """A service in a process group of its own, and what it says on standard error."""

    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        variables: Dict[str, str],
        patience: float,
        **options: Any,
    ) -> None:
        self.log: List[str] = []
        self._unread = b""
        self._patience = patience
        self.process = subprocess.Popen(
            command,
            cwd=directory,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            **options,
        )
        assert self.process.stderr is not None
        self._stderr = self.process.stderr
        self._port = int(variables["PORT"]) if variables["PORT"].isdigit() else 0

    def line(self) -> Optional[str]:
        """The next line of the log; None when every process that could write one has ended."""
        deadline = time.monotonic() + self._patience
        while b"\n" not in self._unread:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._stderr], [], [], left)
            assert readable, f"nothing more came in time after {self.log}"
            data = os.read(self._stderr.fileno(), 65536)
            if not data:
                assert not self._unread
                return None
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        self.log.append(line.decode())
        return self.log[-1]

    def wait_for(self, pattern: str) -> Match[str]:
        """The next line of the log in which `pattern` is found."""
        while True:
            line = self.line()
            assert line is not None, f"it ended before it said {pattern!r}: {self.log}"
            found = re.search(pattern, line)
            if found:
                return found

    @property
    def port(self) -> int:
        """The port that it was given, or else the one that it tells when it serves."""
        if not self._port:
            self._port = int(self.wait_for(r" on http://[^ ]+:(\d+)")[1])
        return self._port

    def connect(self) -> Client:
        return Client(self.port)

    def resident(self, which: str) -> float:
        """MiB: VmRSS is now, VmHWM the most so far (proc(5))."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:")) / 1024

    def reply(self, message: str = "hi", **fields: str) -> str:
        """The whole reply to a message, over a connection of its own."""
        with self.connect() as client:
            client.post({"message": message, **fields})
            status, _ = client.head()
            assert status == 200
            frames = client.frames()
            assert last(frames)[0] == "done"
            return text(frames)

    def end(self, number: int = signal.SIGTERM) -> int:
        """The exit status after this signal, when all that it wrote has been read."""
        self.process.send_signal(number)
        return self.status()

    def kill(self) -> None:
        """End whatever is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)
        self._stderr.close()

    def status(self) -> int:
        """The exit status; every process that could write to its log has ended too."""
        while self.line() is not None:
            pass
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def running(directory: Path, *arguments: str, **options: Any) -> Iterator[ServiceProcess]:
    """A service in `directory`; `command` replaces the usual one, the rest is its environment.

    `patience` replaces the seconds that a line of its log may take, and `pass_fds` are descriptors
    that it gets. Whatever is left of it at the end is killed.
    """
    command = [*options.pop("command", MODULE), *arguments]
    patience = options.pop("patience", PATIENCE)
    given = {"pass_fds": options.pop("pass_fds", ())}
    service = ServiceProcess(command, directory, {"PORT": "0", **options}, patience, **given)
    try:
        yield service
    finally:
        service.kill()
