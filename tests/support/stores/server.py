"""A server of somebody else's as a process, which a test can stop, kill, pause and start again."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, TypeVar

from ..constants import PATIENCE
from ..process import environment

# A shell becomes the server, so that the server has the shell's process id. Before that, it leaves
# a watcher in its process group, which reads from a pipe that only this process can write to. A
# line lets the watcher end. If the pipe ends without one, this process was killed: then the watcher
# kills the server and removes its directory. As long as the watcher is of the group, no other
# process gets this id.
_WATCHED = (
    'exec 3<&0; (read -r _ <&3 || { kill -9 $$; rm -rf "$0"; }) >/dev/null 2>&1 &'
    ' exec 3<&-; exec "$@" </dev/null'
)

_Server = TypeVar("_Server", bound="Server")


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and that stays free while its server is down.

    The system gives ports from 32768 up to clients. Had the server one of those, another client
    could get it meanwhile, or a client that calls in vain could be connected to itself.
    """
    while True:
        # hypothesis seeds the usual generator, and then all processes of the tests try the same.
        port = random.SystemRandom().randrange(15000, 32768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


class Server(ABC):
    """A context manager: it starts the server, and at the end nothing is left of it."""

    end = signal.SIGTERM
    """The signal after which it ends in good order."""

    last = signal.SIGKILL
    """The one after which it ends at once, and leaves nothing but its directory."""

    def __init__(self) -> None:
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="store-"))
        self._process: Optional[subprocess.Popen[bytes]] = None
        self._stopped: Set[int] = set()

    @abstractmethod
    def _command(self) -> List[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    def _identity(self) -> Dict[str, Any]:
        """The options of a process that say who it is."""
        return {}

    def _is_held_up(self) -> bool:
        """Whether it ended at its start for a reason that passes by itself."""
        return False

    def __enter__(self: _Server) -> _Server:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is down"
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it said since its last start."""
        return (self.directory / "log").read_text("utf-8", "replace")

    def _spawn(self) -> None:
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", _WATCHED, str(self.directory), *self._command()],
                cwd=self.directory,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._identity(),
            )

    def _forget(self) -> None:
        """It has ended; let the watcher end too."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate(b"\n", PATIENCE)
            self._process = None

    def start(self) -> None:
        """Start it on its port, with the data that are left, and wait until it answers."""
        assert self._process is None, "it is up"
        deadline = time.monotonic() + PATIENCE
        self._spawn()
        while not self._answers():
            assert time.monotonic() < deadline, f"it does not answer: {self.log}"
            if self._process is None or self._process.poll() is not None:
                self._forget()
                assert self._is_held_up(), f"it has ended: {self.log}"
                self._spawn()
            time.sleep(0.005)

    def stop(self, number: Optional[int] = None) -> None:
        """End it by a signal, if not in good order, and wait for that. It keeps its port."""
        assert self._process is not None, "it is down"
        self._process.send_signal(self.end if number is None else number)
        self.resume()
        self._process.wait(PATIENCE)
        self._forget()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self.stop(signal.SIGKILL)

    def restart(self, number: Optional[int] = None) -> None:
        """End it by a signal, if not in good order, and start it again."""
        self.stop(number)
        self.start()

    def pause(self) -> None:
        """Let it do nothing: connections stay, and no answer comes."""
        while True:  # the first one may have begun another in this moment
            running = [pid for pid in self._processes() if pid not in self._stopped]
            if not running:
                return
            for pid in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
                self._stopped.add(pid)

    def resume(self) -> None:
        """Let it go on, if it was paused."""
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._stopped.clear()

    def _processes(self) -> List[int]:
        return [self.pid]

    def heal(self) -> None:
        """Whatever a test did to it: it is up and answers."""
        self.resume()
        if self._process is not None and self._process.poll() is not None:
            self._forget()
        if self._process is None:
            self.start()

    def close(self) -> None:
        """End it, and remove its data."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(self.last)
        self._forget()
        shutil.rmtree(self.directory, ignore_errors=True)
