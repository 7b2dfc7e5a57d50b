"""One subject, served by a process of its own on a core of its own."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import threading
from typing import Optional, Tuple

import uvicorn

from omniforge_chat.logs import log_config

from .subjects import BEFORE, load

_PATIENCE = 20.0
"""Seconds for a process to start, with others that start beside it."""

_TICK = os.sysconf("SC_CLK_TCK")


class Server:
    """A subject that does one workload, from `with` to the end of it, and what it costs so far."""

    def __init__(self, subject: str, workload: str, core: int) -> None:
        self._directory = os.environ[BEFORE] if subject == "before" else "."
        subject = "omniforge" if subject == "before" else subject
        self._arguments = [subject, workload, str(core)]
        self._process: Optional[subprocess.Popen[bytes]] = None
        self.port = 0

    def __enter__(self) -> Server:
        # TCP by name, or asyncio would not set TCP_NODELAY. What connects before the app is there
        # waits in the backlog, and is cut off if the process ends instead.
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(2048)
            self.port = listener.getsockname()[1]
            descriptor = listener.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, *self._arguments, str(descriptor)],
                pass_fds=[descriptor],
                cwd=self._directory,
                env={**os.environ, "PYTHONPATH": self._directory},
                stdin=subprocess.PIPE,  # which ends when we do, however that comes
            )
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill it: there may be open streams, and nobody waits for them."""
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def ask(self, request: bytes) -> Tuple[int, bytes]:
        """The status and the body of one reply. It waits for the app to start.

        Raises OSError or HTTPException where there is none, or it is not whole.
        """
        with socket.create_connection(("127.0.0.1", self.port), _PATIENCE) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, response.read()

    def _proc(self, name: str) -> str:
        assert self._process is not None
        with open(f"/proc/{self._process.pid}/{name}", encoding="ascii") as file:
            return file.read()

    def cpu_seconds(self) -> float:
        """User and system time of the process (proc_pid_stat(5)), in ticks of 10 ms."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def waited_seconds(self) -> float:
        """How long the process could have run, but its core had other work."""
        assert self._process is not None
        return waited_seconds(str(self._process.pid))

    def resident_kib(self) -> int:
        """Resident memory, counted page by page: what `statm` says lags behind."""
        return int(self._proc("smaps_rollup").partition("\nRss:")[2].split(maxsplit=1)[0])


def waited_seconds(process: str) -> float:
    """How long `process`, or "self", was on the run queue (sched-stats.rst in Linux)."""
    with open(f"/proc/{process}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[1]) / 1e9


def main(subject: str, workload: str, core: str, descriptor: str) -> None:
    """Serve, all subjects alike, until killed."""
    os.sched_setaffinity(0, {int(core)})
    threading.Thread(target=_end_with_parent, daemon=True).start()
    app = load(subject, workload)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        log_config=log_config("INFO", "text"),
        access_log=False,
        server_header=False,
        timeout_keep_alive=60,  # connections wait while other subjects have their turns
    )
    # An app that does not load says why; from here on there are only log lines.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
