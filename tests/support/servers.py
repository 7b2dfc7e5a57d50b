"""A real server on a free port, in a thread: plain uvicorn, or our own."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, Callable, Dict

import pytest
import uvicorn
from starlette.types import ASGIApp

from omniforge_chat import Settings
from omniforge_chat.app import ChatApp
from omniforge_chat.server import listen, make_server

from .client import Client
from .constants import PATIENCE

WIRES = [
    pytest.param(
        {"http": http, "loop": loop},
        id=f"{http}-{loop}",
        marks=[
            pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"no {name} here")
            for name in (http, loop)
        ],
    )
    for http in ("h11", "httptools")
    for loop in ("asyncio", "uvloop")
]
"""What uvicorn can be made of: the options of a UvicornThread for each."""


class UvicornThread:
    """A uvicorn that serves one app on 127.0.0.1, in a thread of its own."""

    def __init__(self, app: ASGIApp, **options: Any) -> None:
        options = {"log_config": None, "access_log": False, **options}
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        self._prepare(uvicorn.Server(uvicorn.Config(app, **options)), listener)

    def _prepare(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self._server = server
        self._socket = listener
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()
        self.loop: asyncio.AbstractEventLoop
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        startup = self._server.startup

        async def startup_and_tell(sockets: Any = None) -> None:
            self.loop = asyncio.get_running_loop()
            await startup(sockets=sockets)
            self._started.set()

        self._server.startup = startup_and_tell  # type: ignore[method-assign]
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> UvicornThread:
        self._thread.start()
        assert self._started.wait(PATIENCE), "the server did not start"
        return self

    def stop(self) -> None:
        """End the server as a signal would: open connections may finish, then the lifespan ends."""
        self._server.should_exit = True
        self._thread.join(PATIENCE)

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()
        assert not self._thread.is_alive(), "the server did not end"

    def call(self, function: Callable[[], Any]) -> Any:
        """What `function` returns when it is called in the server's event loop."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE)

    def until(self, condition: Callable[[], bool]) -> None:
        """Go round and round the server's event loop until `condition` holds there."""
        deadline = time.monotonic() + PATIENCE
        while not self.call(condition):
            assert time.monotonic() < deadline, "it never came to that"

    def connect(self) -> Client:
        return Client(self.port)

    def chat(self, message: str = "hi", **fields: Any) -> Client:
        """A connection on which a chat has been asked for."""
        client = self.connect()
        client.post({"message": message, **fields})
        return client


class ServiceThread(UvicornThread):
    """Our own server, as the command line runs it, in a thread: it drains, and can cut a client."""

    def __init__(self, app: ChatApp, settings: Settings, **options: Any) -> None:
        server = make_server(app, settings, log_config=None, **options)
        # Only a main thread may handle signals; `terminate` stands for them.
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        self.app = app
        self._prepare(server, listen("127.0.0.1", 0, send_timeout=settings.send_timeout))
        self._at_rest: Dict[str, int] = {}

    def __enter__(self) -> ServiceThread:
        super().__enter__()
        self._at_rest = self.call(self._held)
        return self

    def terminate(self) -> None:
        """Do what SIGTERM does."""
        self._server.handle_exit(signal.SIGTERM, None)

    def join(self) -> None:
        """Wait until the server has ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not end"

    @property
    def connections(self) -> int:
        """How many there are, to the server."""
        return len(self._server.server_state.connections)

    def _held(self) -> Dict[str, int]:
        return {
            "streams": self.app.open_streams,
            "waiting": len(self.app._lifecycle._waiting),
            "connections": self.connections,
            "tasks": len(asyncio.all_tasks()),
            "descriptors": len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0,
        }

    def _too_much(self) -> Dict[str, int]:
        # Fewer descriptors than before: something of an earlier test has been collected.
        return {name: n for name, n in self._held().items() if n > self._at_rest[name]}

    def rest(self) -> None:
        """Wait until nothing is left of any request: the clients have closed their connections."""
        with contextlib.suppress(AssertionError):
            self.until(lambda: not self._too_much())
        left = self.call(self._too_much)
        assert not left, f"{left} are held, and at rest {self._at_rest}"
