"""Running the service: one process, or several that share a socket."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging.config
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import threading
import time
from array import array
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple, Type

if sys.platform == "linux":
    import fcntl
    import termios

import h11
import uvicorn
from starlette.types import Receive, Scope, Send

from .app import ChatApp, create_app
from .errors import HeadersTooLarge
from .http.routes import error_response
from .logs import log_config, logger
from .request_id import request_id
from .settings import Settings
from .stream.response import ABORT, UNSENT

with contextlib.suppress(ImportError):  # the extra `fast` brings it
    import httptools

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SHORTEST_LIFE = 1.0
"""Seconds: a worker that lived less is not replaced sooner than this after its start."""

BACKLOG = 2048
"""How many connections may wait to be accepted."""

READ_AHEAD_BYTES = 4096
"""How much of the requests that follow is read while one is answered."""

HEAD_BYTES = 64 * 1024
"""How large the head of a request may be, and likewise its trailers and the head of a chunk."""

HEAD_FIELDS = 100
"""How many fields a head may have, and likewise the trailers."""


class Server(uvicorn.Server):
    """uvicorn, except for how it ends: it drains its app first, and a stop by signal is a success.

    The first SIGINT or SIGTERM starts the drain, a second one ends it now, still with the last
    frames of what is open.
    """

    def __init__(self, config: uvicorn.Config, app: ChatApp) -> None:
        super().__init__(config)
        self._app = app
        self._drains: List[asyncio.Task[None]] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._asked: Dict[str, int] = {}
        self._closed = False

    async def startup(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Begin to serve, and tell where."""
        await super().startup(sockets=sockets)
        if not self.started:
            return
        for listener in sockets or ():
            logger.info("serving on %s", _url(listener))
        self._loop = asyncio.get_running_loop()
        self._heed()

    async def shutdown(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Close everything."""
        await super().shutdown(sockets)
        self._closed = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving, and put back what was there before.

        After a stop by signal the process ends, and one more must not make a failure of it.
        """
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        originals = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            if "signal" in self._asked:
                _last_signals(originals)
            else:
                _restore_signals(originals)

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        """Begin the drain, or hurry it; or end the process, where all is closed already."""
        if self._closed:
            _exit(sig, frame)
        self.stop("signal")

    def stop(self, source: str) -> None:
        """Begin the drain, or hurry it if this `source` asks again. From any thread.

        A worker hears of one and the same stop from two sides, where a signal goes to all processes
        of a service (as systemd sends it, or a terminal): that is no second stop.
        """
        self._asked[source] = self._asked.get(source, 0) + 1
        # uvicorn 0.39, told during its startup, leaves at once and closes nothing; so `startup`
        # looks at what has been asked by then.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._heed)

    def _heed(self) -> None:
        wanted = min(2, max(self._asked.values(), default=0))
        while len(self._drains) < wanted:
            hurry = bool(self._drains)
            logger.info("draining: %s streams are open%s", self._app.open_streams, " (now)" * hurry)
            drain = self._drain(0.0 if hurry else None)
            self._drains.append(asyncio.get_running_loop().create_task(drain))

    async def _drain(self, seconds: Optional[float]) -> None:
        await self._app.drain(seconds)
        self.should_exit = True


def _restore_signals(originals: Mapping[signal.Signals, Any]) -> None:
    for number, original in originals.items():
        signal.signal(number, original)


def _last_signals(numbers: Iterable[signal.Signals]) -> None:
    """From here to the end of the process, a signal can only make it come sooner.

    It may still wait for a thread of a responder's, which nobody can end. When it waits for nothing
    any more it is deaf, as at the very end Python does not call handlers.
    """
    for number in numbers:
        signal.signal(number, _exit)
        atexit.register(signal.signal, number, signal.SIG_IGN)


def _exit(number: int, frame: Optional[FrameType]) -> None:
    logging.shutdown()
    os._exit(0)


class _Abortable:
    """An app whose streams can drop their connection, and see what the client takes of it.

    (The extensions `omniforge_chat.abort` and `omniforge_chat.unsent`.) ASGI has no way to say
    either. Without the first, a connection whose client does not read is only closed when the
    client has read what was sent before, which may be never.
    """

    def __init__(self, app: Any, transport: Any) -> None:
        self._app = app
        # No method of the protocol's, nor of this: a scope that holds it would be held by it.
        self._extensions = {ABORT: transport.abort, UNSENT: partial(_unsent, transport)}
        self.receive: Optional[Receive] = None
        """That of the request which is being answered, or was last."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        # A plain function, and a bound method: nothing is added to the way of a frame.
        scope.setdefault("extensions", {}).update(self._extensions)
        self.receive = receive
        return self._app(scope, receive, send)


def _unsent(transport: Any) -> int:
    """How many bytes were handed over that the client has not taken yet."""
    count: int = transport.get_write_buffer_size()
    connection = transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None:
        return count
    in_kernel = array("i", [0])  # SIOCOUTQ, tcp(7)
    with contextlib.suppress(OSError, ValueError):  # it is closed
        fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, in_kernel)
    return count + in_kernel[0]


def _too_large(target: bytes, fields: Any) -> bool:
    size = len(target) + sum(len(name) + len(value) + 4 for name, value in fields)
    return size > HEAD_BYTES or len(fields) > HEAD_FIELDS


class _H11Parser(h11.Connection):
    """h11's parser, with limits also for a head that comes at once."""

    too_large = False

    def __init__(self, protocol: Any) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    def next_event(self) -> Any:
        try:
            event = super().next_event()
            if isinstance(event, (h11.Request, h11.EndOfMessage)) and _too_large(
                getattr(event, "target", b""), event.headers
            ):
                raise h11.RemoteProtocolError("too large", error_status_hint=431)
        except h11.RemoteProtocolError as error:
            self.too_large = error.error_status_hint == 431
            raise
        return event


def _httptools_parser() -> Type[Any]:
    """httptools' parser, with limits, and for a server that takes no upgrade.

    llhttp takes the body of a request with an upgrade for the new protocol. So that head is parsed
    again, without its Upgrade, and the body after it.
    """

    class Parser(httptools.HttpRequestParser):
        too_large = False
        _unparsed = 0  # bytes in the reads since the one with the last step
        _step_read = _read = 0  # bytes of that read, and of this one

        def __init__(self, protocol: Any) -> None:
            self._protocol = protocol
            self._begin()

        def _begin(self) -> None:
            super().__init__(self._protocol)
            with contextlib.suppress(AttributeError):  # httptools < 0.6.3
                self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

        def step(self) -> None:
            """Count anew: a head has ended, or a piece of a body."""
            self._unparsed, self._step_read = 0, self._read

        def check_head(self, target: bytes = b"") -> None:
            """Raise an error for a head, or trailers, beyond the limits."""
            fields = self._protocol.headers
            most = self._step_read + self._unparsed
            if len(fields) > HEAD_FIELDS or (most > HEAD_BYTES and _too_large(target, fields)):
                self.too_large = True
                raise httptools.HttpParserError("too large")

        def feed_data(self, data: Any) -> None:
            self._read = len(data)
            self._unparsed += self._read
            self._feed(data)
            if self._unparsed > HEAD_BYTES or len(self._protocol.headers) > HEAD_FIELDS:
                self.too_large = True
                raise httptools.HttpParserError("too large")

        def _feed(self, data: Any) -> None:
            while data:
                try:
                    super().feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    data = memoryview(data)[upgrade.args[0] :]
                if self.get_method() == b"CONNECT":  # an upgrade by itself
                    raise httptools.HttpParserError("CONNECT")
                head = self._protocol.head_without_upgrade()
                self._begin()
                super().feed_data(head)

    return Parser


def _careful(protocol: Type[Any], head_seconds: float) -> Type[Any]:
    """`protocol`, one of uvicorn's for HTTP, with its app made abortable, and with more cares.

    A connection whose request has not begun after `head_seconds` is closed. That the client leaves
    is noticed also where it has sent its next request already (pipelining, RFC 9112, section
    9.3.2). An upgrade is ignored (RFC 9110, section 7.8), a head that is too large is refused, and
    nothing is answered within another answer.
    """
    parser_class, parser = _H11Parser, "conn"
    if hasattr(protocol, "on_headers_complete"):
        parser_class, parser = _httptools_parser(), "parser"

    class CarefulProtocol(protocol):  # type: ignore[misc]  # a base known at run time only
        app: Any
        _head_timer: Optional[asyncio.TimerHandle] = None
        _answered: Any = None  # the request during which what is `_ahead` has come
        _ahead = 0  # bytes

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.headers: List[Tuple[bytes, bytes]] = []
            setattr(self, parser, parser_class(self))

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.app = _Abortable(self.app, transport)
            self._head_timer = self.loop.call_later(head_seconds, self._no_head)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is None or self.cycle.response_complete:
                if self._head_timer is None:
                    self._head_timer = self.loop.call_later(head_seconds, self._no_head)
            elif self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None
            if self.flow.read_paused:
                self._read_on(len(data))

        def _should_upgrade(self) -> bool:
            return False

        def head_without_upgrade(self) -> bytes:
            """The head that was just read (httptools)."""
            line = b"%s %s HTTP/%s" % (
                self.parser.get_method(),
                self.url,
                self.parser.get_http_version().encode(),
            )
            fields = [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
            return b"\r\n".join([line, *fields, b"", b""])

        def on_headers_complete(self) -> None:
            self.parser.check_head(self.url)
            if not self.parser.should_upgrade():  # or this head comes once more
                super().on_headers_complete()
                self.headers = []  # trailers are no part of the head (RFC 9110, section 6.5.1)
                self.parser.step()

        def on_body(self, body: bytes) -> None:
            self.parser.step()
            super().on_body(body)

        def on_message_complete(self) -> None:
            if not self.parser.should_upgrade():
                self.parser.check_head()
                super().on_message_complete()
                self.parser.step()

        def send_400_response(self, msg: str) -> None:
            """Refuse all that follows on this connection."""
            request = self._request()
            if (
                request is not None
                and request.response_started
                and (request.more_body or not request.response_complete)
            ):
                self.transport.close()  # there is no room for an answer
            elif getattr(self, parser).too_large:
                self._send_431()
            else:
                super().send_400_response(msg)
            self._disconnect()

        def _send_431(self) -> None:
            error = HeadersTooLarge(
                f"The head of a request is limited to {HEAD_BYTES} bytes and {HEAD_FIELDS} fields"
            )
            response = error_response(
                error,
                {
                    "Cache-Control": "no-store",
                    "Connection": "close",
                    "X-Request-ID": request_id({"headers": ()}),
                },
            )
            fields = [*self.server_state.default_headers, *response.raw_headers]
            lines = [b"%s: %s" % field for field in fields]
            status = b"HTTP/1.1 431 Request Header Fields Too Large"
            self.transport.write(b"\r\n".join([status, *lines, b"", response.body]))
            self.transport.close()

        def _request(self) -> Any:
            """The one that is being answered, or was last."""
            return getattr(self.app.receive, "__self__", None)

        def _disconnect(self) -> None:
            # With httptools uvicorn tells only the request that it has read last of this, which may
            # be one that waits for its turn.
            for request in (self._request(), self.cycle):
                if request is not None and not request.response_complete:
                    request.disconnected = True
                    request.message_event.set()

        def _no_head(self) -> None:
            self.transport.close()

        def _read_on(self, size: int) -> None:
            """Go on reading, or the end of the connection would not be seen, but not for ever."""
            request = self._request()
            if request is None or request.response_complete or request.more_body:
                return  # it is its own body that comes faster than it is read
            if request is not self._answered:
                self._answered, self._ahead = request, 0
            self._ahead += size
            if self._ahead <= READ_AHEAD_BYTES:
                self.flow.resume_reading()

        def connection_lost(self, exc: Optional[Exception]) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
            self._disconnect()
            super().connection_lost(exc)
            self._unset_keepalive_if_required()  # uvicorn leaves it where there is an `exc`
            # A request that waits for its turn holds this, and would be held by it. One that is
            # being answered lets go of it at its end.
            self.cycle = self._answered = None
            getattr(self, "pipeline", []).clear()

    return CarefulProtocol


def listen(host: str, port: int, *, send_timeout: Optional[float] = None) -> socket.socket:
    """A listening socket, before anything else starts, so that a taken port is one clear error.

    `send_timeout`, in seconds, also bounds how long the kernel waits for a peer that takes nothing.
    Raises OSError.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if sys.platform == "linux" and send_timeout is not None:
            # Accepted connections inherit it: the kernel drops one whose peer has taken nothing
            # for so long, also when all of a reply was handed over already (RFC 5482).
            # Twice, so that the stream's own limit is the first to act and the log says "stalled".
            milliseconds = min(math.ceil(2 * 1000 * send_timeout), 2**31 - 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        listener.bind(address)
        # From here on nobody else can have the address, and who connects waits for the app.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    app: ChatApp,
    listener: socket.socket,
    settings: Settings,
    *,
    orders: Optional[Connection] = None,
) -> bool:
    """Serve `app` on `listener` until this process is told to stop; False if it cannot start.

    `orders`, in a worker, is where its parent passes on each stop that it hears of.
    """
    logs = log_config(settings.log_level, settings.log_format)
    server = make_server(app, settings, log_config=logs)
    if orders is not None:
        threading.Thread(target=_obey, args=(orders, server), daemon=True).start()
    server.run(sockets=[listener])
    return server.started


def make_server(app: ChatApp, settings: Settings, **options: Any) -> Server:
    """A server for `app`; `options` are further ones of uvicorn."""
    config = uvicorn.Config(
        app,
        backlog=BACKLOG,
        access_log=False,
        server_header=False,
        ws="none",
        # After the drain only the last bytes are left to be taken.
        timeout_graceful_shutdown=math.ceil(settings.cleanup_timeout),
        **options,
    )
    config.load()
    config.http_protocol_class = _careful(config.http_protocol_class, settings.body_timeout)
    return Server(config, app)


def serve_workers(listener: socket.socket, settings: Settings) -> bool:
    """Serve `create_app(settings=settings)` in `settings.workers` processes, all on `listener`.

    A worker that dies is replaced. SIGINT and SIGTERM stop each worker, and this returns when all
    have ended.
    """
    logging.config.dictConfig(log_config(settings.log_level, settings.log_format))
    return _Supervisor(listener, settings).run()


class _Supervisor:
    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        self._listener = listener
        self._settings = settings
        self._workers: Dict[BaseProcess, Connection] = {}
        self._started: Dict[int, float] = {}
        self._stopping = False

    def run(self) -> bool:
        originals = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        try:
            for _ in range(self._settings.workers):
                self._start()
            while self._workers:
                missing = not self._stopping and len(self._workers) < self._settings.workers
                multiprocessing.connection.wait(
                    [worker.sentinel for worker in self._workers],
                    timeout=_SHORTEST_LIFE if missing else None,
                )
                self._replace_dead()
        except BaseException:
            self._stop()  # or they would serve on, and nobody would look after them
            raise
        finally:
            if self._stopping:
                _last_signals(originals)
            else:
                _restore_signals(originals)
        return True

    def _start(self) -> None:
        # Not fork: a worker begins from nothing, on every platform alike.
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(self._listener, self._settings, theirs))
        try:
            with theirs, _sigint_blocked():
                worker.start()
        except OSError:
            ours.close()
            raise
        self._started[worker.pid or 0] = time.monotonic()
        self._workers[worker] = ours
        if self._stopping:
            _order(ours)  # the signal came before this one could be told

    def _replace_dead(self) -> None:
        for worker in [w for w in self._workers if not w.is_alive()]:
            self._workers.pop(worker).close()
            started = self._started.pop(worker.pid or 0)
            if self._stopping:
                continue
            logger.error("worker %s ended with status %s", worker.pid, worker.exitcode)
            time.sleep(max(0.0, started + _SHORTEST_LIFE - time.monotonic()))
        while not self._stopping and len(self._workers) < self._settings.workers:
            try:
                self._start()
            except OSError as error:
                logger.error("a worker cannot be started: %s", error)
                if self._workers:
                    break  # the others go on, and a little later it is tried again
                raise

    def _stop(self, number: int = 0, frame: Optional[FrameType] = None) -> None:
        self._stopping = True
        for orders in list(self._workers.values()):
            _order(orders)


def _order(orders: Connection) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        orders.send_bytes(b"stop")


_CAN_BLOCK = hasattr(signal, "pthread_sigmask")


@contextlib.contextmanager
def _sigint_blocked() -> Iterator[None]:
    """A process that is started meanwhile has it blocked too, until it knows what to do with it."""
    if not _CAN_BLOCK:
        yield
        return
    resource_tracker.ensure_running()  # which takes SIGINT out of the mask as it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(listener: socket.socket, settings: Settings, orders: Connection) -> None:
    # Ctrl-C reaches every process of a terminal; the parent passes on what it hears.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _CAN_BLOCK:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    serve(create_app(settings=settings), listener, settings, orders=orders)


def _obey(orders: Connection, server: Server) -> None:
    """Stop as often as the parent says, and once more where it is gone and cannot say."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            orders.recv_bytes()
            server.stop("parent")
    server.stop("end of the parent")
