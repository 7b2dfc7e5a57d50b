"""The Redis of the workers, which can lose what it has."""

from __future__ import annotations

import shutil
import signal
import time
from typing import Any, Dict, List

from ..support.stores import RedisServer
from ..support.stores.redis import program

# What it has answered is with the kernel by then, so that no signal can take it away again.
_OPTIONS = ("--appendonly", "yes", "--appendfsync", "no", "--auto-aof-rewrite-percentage", "0")


class Store(RedisServer):
    """A Redis or Valkey that has its data when it starts again, all, some, or none."""

    def __init__(self, name: str) -> None:
        super().__init__(program(name), *_OPTIONS)

    def come_back(self, seconds: float, number: signal.Signals) -> None:
        """End by a signal, and start again after some seconds with all data."""
        self.stop(number)
        time.sleep(seconds)
        self.start()

    def lose_all(self, seconds: float) -> None:
        """The same without any."""
        self.stop(signal.SIGKILL)
        shutil.rmtree(self.directory / "appendonlydir")
        time.sleep(seconds)
        self.start()

    def forget_scripts(self) -> None:
        """Know no script any more."""
        self.client.script_flush()

    def disconnect(self) -> None:
        """End the connections of all clients."""
        for kind in ("pubsub", "normal"):
            self.client.client_kill_filter(_type=kind, skipme=True)

    def memory(self) -> int:
        """What its data take, and its clients, in bytes."""
        info: Dict[str, Any] = self.client.info("memory")
        return int(info["used_memory"])

    def clients(self) -> int:
        """How many connections there are."""
        info: Dict[str, Any] = self.client.info("clients")
        return int(info["connected_clients"])

    def all_keys(self) -> List[str]:
        """The names of all keys."""
        return sorted(self.client.scan_iter(count=1000))
