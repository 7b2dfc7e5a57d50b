"""The fronts of docs/deploy: each proxy with its configuration for the workers of compose.yaml."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from pathlib import Path
from typing import Iterator

from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.docs import DOCS
from .proxies import PROXIES, Proxy

DEPLOY = DOCS / "deploy"
WORKERS = ("chat-1", "chat-2")
_proxies = {proxy.title: proxy for proxy in PROXIES}


@dataclasses.dataclass(frozen=True)
class Front:
    """A proxy, and the name of its configuration.

    `lost` is its status if a worker takes a request and does not answer. `asks` tells whether it
    asks the workers for /ready, and `early` whether it listens before it knows all of them: then it
    answers 503 at first.
    """

    proxy: Proxy
    file: str
    lost: int = 502
    asks: bool = True
    early: bool = False

    @contextlib.contextmanager
    def running(self, directory: Path, *ports: int) -> Iterator[int]:
        """The front of two workers on these ports: its own port."""
        self.proxy.subject()  # it skips the test if there is none
        config = (DEPLOY / self.file).read_text("utf-8")
        for name, port in zip(WORKERS, ports):
            address = rf"\b{name}(:|, port_value: )8000\b"
            config, found = re.subn(address, rf"127.0.0.1\g<1>{port}", config)
            assert found == 1
        with self.proxy.running(directory, 0, config) as process:
            if self.early:
                _wait_for_worker(process.port)
            yield process.port


def _wait_for_worker(port: int) -> None:
    """Wait until the front reaches a worker."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with Client(port) as client:
            client.ask("/ready")
            if client.head()[0] == 200:
                return
        assert time.monotonic() < deadline, "it reaches no worker"
        time.sleep(0.01)


FRONTS = [
    Front(_proxies["nginx"], "nginx.conf", asks=False),
    Front(_proxies["HAProxy"], "haproxy.cfg"),
    Front(_proxies["Caddy"], "Caddyfile"),
    Front(_proxies["Envoy"], "envoy.yaml", lost=503, early=True),
]
