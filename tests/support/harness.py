"""What the tests stand on: a real server on a free port, raw sockets, and an app driven by hand."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import json
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from typing import Any, AsyncIterator, Callable, Dict, List, Mapping, Optional, Tuple

import pytest
import uvicorn
from starlette.types import ASGIApp, Message

from omniforge_chat import Settings, Turn
from omniforge_chat.app import ChatApp
from omniforge_chat.core.reply import Reply, Responder, converse
from omniforge_chat.core.sse import Decoder, Frame
from omniforge_chat.models import Chunk, Event
from omniforge_chat.server import listen, make_server

PATIENCE = 20.0
"""Seconds that a test waits for what should come at once, before it fails."""

CONVERSATION = "550e8400-e29b-41d4-a716-446655440000"

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
"""What uvicorn can be made of: the options of a LiveServer for each."""


class LiveServer:
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

    def __enter__(self) -> LiveServer:
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


class LiveService(LiveServer):
    """Our own server, as the command line runs it, in a thread: it drains, and can cut a client."""

    def __init__(self, app: ChatApp, settings: Settings, **options: Any) -> None:
        server = make_server(app, settings, log_config=None, **options)
        # Only a main thread may handle signals; `terminate` stands for them.
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]
        self.app = app
        self._prepare(server, listen("127.0.0.1", 0, send_timeout=settings.send_timeout))
        self._at_rest: Dict[str, int] = {}

    def __enter__(self) -> LiveService:
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


class Client:
    """One TCP connection and what came over it, without an HTTP library that hides the pieces."""

    def __init__(self, port: int, *, receive_bytes: Optional[int] = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.connect(("127.0.0.1", port))
        except OSError:
            self.socket.close()
            raise
        self._received = bytearray()
        self._chunked = False
        self._frames: List[Frame] = []
        self._decoder = Decoder()
        self.ended = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection with FIN."""
        self.socket.close()

    def reset(self) -> None:
        """End the connection with RST."""
        self.socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00"
        )
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def post(
        self,
        body: object,
        *,
        path: str = "/api/v1/chat",
        headers: Optional[Mapping[str, str]] = None,
    ) -> None:
        """Send a whole request; `body` is bytes, or is encoded as JSON."""
        self.send(request(body, path=path, headers=headers))

    def ask(
        self, path: str, *, method: str = "GET", headers: Optional[Mapping[str, str]] = None
    ) -> None:
        """Send a whole request that has no body."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.send(f"{method} {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode("latin-1"))

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the connection ended after {bytes(self._received)!r}")
        self._received += data

    def _take(self, count: int) -> bytes:
        while len(self._received) < count:
            self._more()
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def _take_line(self) -> bytes:
        while b"\r\n" not in self._received:
            self._more()
        return self._take(self._received.index(b"\r\n") + 2)[:-2]

    def head(self) -> Tuple[int, Dict[str, str]]:
        """The status and the headers of the next response; names in lower case."""
        status = int(self._take_line().split()[1])
        headers: Dict[str, str] = {}
        while True:
            line = self._take_line().decode("latin-1")
            if not line:
                break
            name, _, value = line.partition(":")
            assert name.lower() not in headers, f"{name} came twice"
            headers[name.lower()] = value.strip()
        self._chunked = headers.get("transfer-encoding") == "chunked"
        self.ended = False
        self._decoder = Decoder()
        return status, headers

    def json(self) -> Tuple[int, Dict[str, str], Any]:
        """A whole response that is not a stream."""
        status, headers = self.head()
        return status, headers, json.loads(self.content(headers))

    def content(self, headers: Mapping[str, str]) -> bytes:
        """The body of a response that is not a stream and has these headers."""
        return self._take(int(headers["content-length"]))

    def wait_closed(self) -> None:
        """Read until the server has ended the connection."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self._more()

    def piece(self) -> bytes:
        """The next piece of a stream, as the server sent it; empty where the stream has ended."""
        assert self._chunked
        data = self._take(int(self._take_line(), 16))
        assert self._take(2) == b"\r\n"
        self.ended = not data
        return data

    def frame(self) -> Frame:
        """The next event of the stream."""
        while not self._frames:
            data = self.piece()
            if not data:
                raise EOFError("the stream ended")
            self._frames = self._decoder.feed(data)
        return self._frames.pop(0)

    def frames(self) -> List[Frame]:
        """All events up to the proper end of the stream."""
        found: List[Frame] = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(self.frame())
        assert self.ended, "the connection broke before the stream ended"
        return found


def request(
    body: object, *, path: str = "/api/v1/chat", headers: Optional[Mapping[str, str]] = None
) -> bytes:
    """The bytes of a POST."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {
        "Host": "test",
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + data


def text(frames: List[Frame]) -> str:
    """The reply that the chunks among `frames` make up."""
    return "".join(json.loads(f.data)["content"] for f in frames if f.event == "chunk")


def last(frames: List[Frame]) -> Tuple[str, Any]:
    """The terminal event, of which there is exactly one and after which nothing comes."""
    assert [f.event for f in frames[:-1]] == ["chunk"] * (len(frames) - 1)
    return frames[-1].event, json.loads(frames[-1].data)


def refusal(status: int, headers: Mapping[str, str], body: Any) -> Tuple[int, str, str]:
    """The status, the code and the message of an error, which has the one shape of all errors."""
    assert headers["content-type"] == "application/json"
    assert headers["x-request-id"]
    assert set(body) == {"code", "message"}
    assert all(isinstance(value, str) and value for value in body.values())
    return status, body["code"], body["message"]


def assert_next_request_works(client: Client) -> None:
    """Whatever came before it on the connection, a chat is answered as ever."""
    client.post({"message": "Are you still there?"})
    status, _ = client.head()
    assert status == 200
    assert last(client.frames())[0] == "done"


class Uncontrolled:
    """The control of `converse` without a stream: nobody stops the reply but the test."""

    stopped = False

    def responder_ended(self, decided: bool) -> None: ...


async def events_of(turn: Turn, responder: Responder) -> List[Event]:
    """What the answer of `responder` comes to, without a transport: chunks and what ended it."""
    reply = Reply(turn)
    await converse(turn, responder, reply, Uncontrolled())
    return [*map(Chunk, reply.ready), reply.terminal()]


class Exchange:
    """One request to an ASGI app that is driven by hand: what it was sent and what it received."""

    def __init__(
        self,
        body: object = None,
        *,
        path: str = "/api/v1/chat",
        method: str = "POST",
        headers: Optional[Mapping[str, str]] = None,
        parts: Optional[List[Message]] = None,
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body or {"message": "hi"}).encode()
        fields = {"content-type": "application/json", **(headers or {})}
        self.scope: Dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in fields.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        self._incoming = parts or [{"type": "http.request", "body": data, "more_body": False}]
        self.received = 0
        self.sent: List[Message] = []
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        if self.received < len(self._incoming):
            self.received += 1
            return self._incoming[self.received - 1]
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self, app: ASGIApp) -> None:
        await app(self.scope, self.receive, self.send)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> Dict[str, str]:
        """The headers, of which none is there twice."""
        headers = {k.decode(): v.decode("latin-1") for k, v in self.sent[0]["headers"]}
        assert len(headers) == len(self.sent[0]["headers"]), self.sent[0]["headers"]
        return headers

    @property
    def body(self) -> bytes:
        return b"".join(m.get("body", b"") for m in self.sent[1:])

    @property
    def frames(self) -> List[Frame]:
        return Decoder().feed(self.body)

    def json(self) -> Tuple[int, Dict[str, str], Any]:
        """The whole response, which is not a stream."""
        return self.status, self.headers, json.loads(self.body)


def exchange(app: ASGIApp, body: object = None, **request: Any) -> Exchange:
    """The exchange of one request with `app`, in an event loop of its own."""

    async def run() -> Exchange:
        made = Exchange(body, **request)
        await made.run(app)
        return made

    return asyncio.run(run())


class PacedResponder:
    """A responder that yields "0 ", "1 " and so on, each when the test has asked for it.

    One turn at a time. `called` is set while a turn is being answered, `closed` when the responder
    has been closed.
    """

    def __init__(self) -> None:
        self.called = threading.Event()
        self.closed = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._asked: asyncio.Queue[bool]

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Queue()  # made in the loop that it serves, as 3.9 needs it
        self.closed.clear()
        self.called.set()
        try:
            for number in itertools.count():
                if not await self._asked.get():
                    return
                yield f"{number} "
        finally:
            self.called.clear()
            self.closed.set()

    def ask(self, *, more: bool = True) -> None:
        """Let the next token come, or with `more=False` the end."""
        assert self.called.wait(PATIENCE), "the responder was not called"
        self._loop.call_soon_threadsafe(self._asked.put_nowait, more)

    def finish(self) -> None:
        """Let the reply end."""
        self.ask(more=False)


class Records(logging.Handler):
    """What the package logs while this is entered, from every thread and level."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self._queue: queue.Queue[logging.LogRecord] = queue.Queue()
        self.all: List[logging.LogRecord] = []

    def __enter__(self) -> Records:
        logger = logging.getLogger("omniforge_chat")
        self._level = logger.level
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self

    def __exit__(self, *error: object) -> None:
        logger = logging.getLogger("omniforge_chat")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        self.all.append(record)
        self._queue.put(record)

    def about(self, reference: str, level: int = logging.INFO) -> logging.LogRecord:
        """The next record of this level about the request with this id; it is waited for."""
        while True:
            record = self._queue.get(timeout=PATIENCE)
            if record.levelno == level and reference in record.getMessage():
                return record

    def chat(self, reference: str) -> Dict[str, Any]:
        """The fields of the line that tells how the chat with this request id ended."""
        fields: Dict[str, Any] = vars(self.about(reference))["chat"]
        return fields

    @property
    def troubles(self) -> List[str]:
        """The texts of what was logged so far as a warning or worse."""
        return [r.getMessage() for r in self.all if r.levelno >= logging.WARNING]


def environment(**variables: str) -> Dict[str, str]:
    """The environment of a child process: nothing of a chat's but `variables`."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG")}
    kept.update({k: v for k, v in os.environ.items() if k.startswith("COVERAGE")})
    return {**kept, **variables}
