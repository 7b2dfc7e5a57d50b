"""Running the service in this process."""

from __future__ import annotations

import asyncio
import contextlib
import logging.config
import math
import socket
import time
from functools import partial
from types import FrameType
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Type

import anyio.lowlevel
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..app import ChatApp
from ..logs import log_config, logger
from ..observe import start_export
from ..observe.fleet import Member
from ..settings import Settings
from ..stdio import flush_standard_streams
from .descriptors import ACCEPTED_AT_ONCE, Crowd, descriptor_limit
from .forwarded import ForwardedPrefix
from .h11_protocol import CheckedH11Protocol
from .listener import BACKLOG, url_of
from .metrics import OwnAddress
from .protocol import CheckedProtocol
from .signals import ExitTimer, end_process, handle_signals
from .tls import check_tls, tls_options

try:
    from .httptools_protocol import CheckedHttptoolsProtocol
except ModuleNotFoundError as missing:
    if missing.name != "httptools":  # which the extra `fast` brings
        raise


class Server(uvicorn.Server):
    """uvicorn, except for its end: it drains its app first, and a stop by signal is a success.

    The first of the STOP_SIGNALS starts the drain. A second one ends the drain now: each open
    stream still gets its last frame.
    """

    member: Optional[Member] = None
    """Its place among other workers, if it has one: they share their metrics."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: ChatApp,
        settings: Settings,
        crowd: Crowd,
        metrics: Optional[socket.socket] = None,
    ) -> None:
        super().__init__(config)
        self._metrics = metrics
        self._crowd = crowd
        self._app = app
        self._settings = settings
        self._exit_timer: Optional[ExitTimer] = None
        self._drained_at = 0.0
        self._drains: List[asyncio.Task[None]] = []
        self._loop: Optional[asyncio.AbstractEventLoop] = None
        self._stops: Dict[str, int] = {}
        self._closed = False

    async def startup(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Begin to serve, and log the address."""
        # anyio imports itself at its first use, which would be the drain. By then a deploy may have
        # replaced the installed packages.
        await anyio.lowlevel.checkpoint()
        await super().startup(sockets=sockets)
        if not self.started:
            return
        loop = asyncio.get_running_loop()
        others = loop.get_exception_handler() or type(loop).default_exception_handler
        loop.set_exception_handler(partial(self._on_loop_error, sockets or (), others))
        for listener in sockets or ():
            listener.listen(BACKLOG)  # uvicorn's `backlog` is also what asyncio accepts at once
            if listener is self._metrics:
                url = url_of(listener, secure=self.config.is_ssl)
                logger.info("metrics on %smetrics", url)
            else:
                url = url_of(listener, self._settings.root_path, secure=self.config.is_ssl)
                logger.info("serving on %s", url)
        if self.member is not None:
            await self.member.open()
        self._loop = loop
        self._start_drains()

    async def shutdown(self, sockets: Optional[List[socket.socket]] = None) -> None:
        """Close everything."""
        await super().shutdown(sockets)
        self._crowd.close()
        if self.member is not None:
            self.member.close()
        self._closed = True
        if self._exit_timer is not None:  # what is left are threads
            self._exit_timer.end_within(max(0.5, self._time_left()))

    def _time_left(self) -> float:
        """Seconds: of the time to clean up after the drain."""
        return self._drained_at + self._settings.cleanup_timeout - time.monotonic()

    def _on_loop_error(
        self,
        listeners: Sequence[socket.socket],
        others: Callable[[Any, Dict[str, Any]], object],
        loop: Any,
        context: Dict[str, Any],
    ) -> None:
        if context.get("message") != "socket.accept() out of system resource":
            others(loop, context)
            return
        # asyncio tells of it for each connection that waits, with a traceback, and listens again
        # after a second, with a short backlog (python/cpython#151615).
        self._crowd.run_out()
        for listener in listeners:
            loop.call_later(1.1, _listen_again, listener)

    def run_process(self, listener: socket.socket) -> bool:
        """Serve on `listener` until a stop, in a process that is there for nothing else.

        A stop ends the process in time, whatever runs in it. False if the server cannot start.
        """
        self._exit_timer = ExitTimer()
        export = start_export(self._settings)
        try:
            self.run(sockets=[listener] if self._metrics is None else [listener, self._metrics])
        finally:
            if export is not None:
                export.close(max(0.2, self._time_left() - 0.3))
            flush_standard_streams()
        return self.started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals that stop a process while serving, unless it ignores them."""
        with handle_signals(self.handle_exit, lambda: "signal" in self._stops):
            yield

    def handle_exit(self, sig: int, frame: Optional[FrameType]) -> None:
        """Begin the drain, or hurry it; or end the process, if all is closed already."""
        if self._closed:
            end_process(sig, frame)
        self.stop("signal")

    def stop(self, source: str) -> None:
        """Begin the drain, or hurry it if this `source` asks again. You may call it in any thread.

        If a signal goes to all processes of a service, as systemd and a terminal send it, a worker
        hears of the same stop from two sources. That is no second stop.
        """
        count = self._stops[source] = self._stops.get(source, 0) + 1
        if self._exit_timer is not None:
            drain = self._settings.drain_timeout if count == 1 else 0.0
            # The stream, the server and the app's lifespan each have a time to clean up.
            self._exit_timer.end_within(drain + 3 * self._settings.cleanup_timeout + 1.0)
        # uvicorn 0.39 leaves at once and closes nothing if it is told during its startup. So
        # `startup` looks at the stops that came until then.
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_drains)

    def _start_drains(self) -> None:
        wanted = min(2, max(self._stops.values(), default=0))
        while len(self._drains) < wanted:
            hurry = bool(self._drains)
            logger.info("draining: %s streams are open%s", self._app.open_streams, " (now)" * hurry)
            drain = self._drain(0.0 if hurry else None)
            self._drains.append(asyncio.get_running_loop().create_task(drain))

    async def _drain(self, seconds: Optional[float]) -> None:
        try:
            await self._app.drain(seconds)
        except Exception:
            logger.exception("the drain failed")  # the process has to end all the same
        self._drained_at = time.monotonic()
        self.should_exit = True


def _listen_again(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed
        listener.listen(BACKLOG)


def service_log(settings: Settings) -> Dict[str, Any]:
    """The configuration of the log of a service."""
    return log_config(settings.log_level, settings.log_format)


def configure_log(settings: Settings) -> None:
    """Set up the log of a service."""
    logging.config.dictConfig(service_log(settings))


def serve(
    app: ChatApp,
    listener: socket.socket,
    settings: Settings,
    metrics: Optional[socket.socket] = None,
) -> bool:
    """Serve `app` on `listener` until a signal stops it; False if it cannot start.

    On `metrics` it tells its metrics. `configure_log` goes before.
    """
    server = make_server(app, settings, metrics, log_config=None)
    return server.run_process(listener)


def make_server(
    app: ChatApp,
    settings: Settings,
    metrics: Optional[socket.socket] = None,
    **options: Any,
) -> Server:
    """A server for `app`, which tells its metrics on `metrics`. `options` go to `uvicorn.Config`.

    Raises SettingsError if there can be no TLS as the settings want it.
    """
    check_tls(settings)
    crowd = Crowd(descriptor_limit(), app.observers)
    config = uvicorn.Config(
        app,
        backlog=ACCEPTED_AT_ONCE,
        workers=1,  # or it reads WEB_CONCURRENCY
        root_path=settings.root_path,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # it takes any number
        # After the drain only the last bytes are left to be taken.
        timeout_graceful_shutdown=math.ceil(settings.cleanup_timeout),
        callback_notify=crowd.check,
        timeout_notify=1,
        **tls_options(settings),
        **options,
    )
    config.load()
    config.loaded_app = ForwardedPrefix(config.loaded_app, app, settings.root_path)
    if metrics is not None:
        config.loaded_app = OwnAddress(config.loaded_app, app, settings, metrics, crowd.refusals)
    checked: Any = partial(
        _checked_protocol(config.http_protocol_class),
        head_timeout=settings.body_timeout,
        crowd=crowd,
        logs_access=settings.access_log,
    )
    config.http_protocol_class = checked
    return Server(config, app, settings, crowd, metrics)


def _checked_protocol(protocol: Type[Any]) -> Type[CheckedProtocol]:
    """Our class for one of uvicorn's."""
    if issubclass(protocol, H11Protocol):
        return CheckedH11Protocol
    return CheckedHttptoolsProtocol
