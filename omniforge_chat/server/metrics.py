"""The metrics of a service at an address of their own, for networks in which Prometheus lives."""

from __future__ import annotations

import socket
from typing import Any, Optional

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from ..app import ChatApp
from ..http import metrics_page
from ..settings import Settings
from ..stream.refusals import Refusals
from .listener import listen

_EVERYWHERE = ("0.0.0.0", "::", "")


def open_metrics_listener(settings: Settings) -> Optional[socket.socket]:
    """The socket that the setting `metrics` wants, if it is an address. Raises OSError."""
    if settings.metrics in ("off", "on"):
        return None
    host, _, port = settings.metrics.rpartition(":")
    return listen(host.strip("[]"), int(port), send_timeout=settings.send_timeout)


class OwnAddress:
    """Answers what comes to the address of `listener` with the metrics, and passes the rest on.

    Nobody is asked for a key there: the network decides who may read them. On a loopback address
    it answers to local names alone, as the service does.
    """

    _asgi_single_callable = True  # it is no app of ASGI 2, see RequestIDMiddleware

    def __init__(
        self,
        app: ASGIApp,
        chat: ChatApp,
        settings: Settings,
        listener: socket.socket,
        refusals: Refusals,
    ) -> None:
        assert chat.exposition is not None
        address = listener.getsockname()
        settings = msgspec.structs.replace(settings, allowed_hosts=()).listening_on(address)
        self._app = app
        self._page = metrics_page(chat.exposition, settings.allowed_hosts, refusals)
        self._host, self._port = address[:2]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        if scope["type"] == "http" and self._is_here(scope.get("server")):
            return self._page(scope, receive, send)
        return self._app(scope, receive, send)

    def _is_here(self, server: Any) -> bool:
        # Nobody else has the port of an address that means all.
        return (
            server is not None
            and server[1] == self._port
            and (self._host in _EVERYWHERE or server[0] == self._host)
        )
