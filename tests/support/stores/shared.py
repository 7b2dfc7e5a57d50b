"""The package's own way to a server, for the length of a test; and another process that goes it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from typing import Any, AsyncIterator, Awaitable, Callable, Iterator, List

from omniforge_chat.stores import SharedRedis, StoreUnavailable

from ..constants import PATIENCE
from ..process import environment

PREFIX = "test:"


@contextlib.asynccontextmanager
async def shared(url: str) -> AsyncIterator[SharedRedis]:
    """The way to the server at `url`."""
    redis = SharedRedis(url, PREFIX)
    try:
        yield redis
    finally:
        await redis.aclose()


async def until(look: Callable[[], Awaitable[Any]]) -> None:
    """Wait until what `look` says is true; an outage of the store is no answer."""

    async def wait() -> None:
        while True:
            with contextlib.suppress(StoreUnavailable):
                if await look():
                    return
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), PATIENCE)


class Process:
    """A process of Python's that a test has started, and that ends when its input does."""

    def __init__(self, code: str, *arguments: str) -> None:
        command: List[str] = [sys.executable, "-c", code, *arguments]
        self._process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def write(self, line: str) -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def send(self, number: int) -> None:
        """Send it a signal. After SIGKILL it is waited for."""
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait(PATIENCE)

    def close(self) -> None:
        with self._process:
            self._process.kill()


@contextlib.contextmanager
def process(code: str, *arguments: str) -> Iterator[Process]:
    """Another process, until the end of a test."""
    started = Process(code, *arguments)
    try:
        yield started
    finally:
        started.close()
