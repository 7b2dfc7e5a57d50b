"""A worker: `omniforge-chat` as a process of its own."""

from __future__ import annotations

import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Dict, List, Optional

from ..support.stores.server import Server

ROOT = Path(__file__).parents[2]

BAD_WORDS = (
    "Traceback",
    "Exception ignored",
    "never retrieved",
    "was destroyed",
    "never awaited",
    "Warning:",
)
"""Words of Python's own in a log, which are never meant to be there."""


class Worker(Server):
    """One worker; `variables` is its environment.

    `up` tells the balancer that it may be asked. `logs` has what its earlier processes have said,
    and `statuses` how they ended.
    """

    def __init__(self, name: str, variables: Dict[str, str]) -> None:
        super().__init__()
        self.name = name
        self.up = False
        self.logs: List[str] = []
        self.statuses: List[Optional[int]] = []
        self._variables = {**variables, "PORT": str(self.port), "PYTHONPATH": str(ROOT)}

    def _command(self) -> List[str]:
        pairs = [f"{name}={value}" for name, value in self._variables.items()]
        python = [sys.executable, "-W", "always::ResourceWarning"]
        return ["env", *pairs, *python, "-m", "omniforge_chat"]

    def _answers(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def start(self) -> None:
        super().start()
        self.up = True

    def stop(self, number: Optional[int] = None) -> None:
        super().stop(number)
        self.up = False

    def _forget(self) -> None:
        if self._process is not None:
            self.logs.append(self.log)
            self.statuses.append(self._process.poll())
        super()._forget()

    def memory(self) -> int:
        """What it has in memory, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("it has ended")

    def complaints(self) -> List[str]:
        """The lines of its logs that nobody wants to read, and those around them."""
        found: List[str] = []
        for log in [*self.logs, self.log if self._process is not None else ""]:
            lines = log.splitlines()
            for number, line in enumerate(lines):
                if any(word in line for word in BAD_WORDS):
                    around = lines[max(0, number - 2) : number + 40]
                    found.append("\n".join([f"{self.name}:", *around]))
                    break
        return found
