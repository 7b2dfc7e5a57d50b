"""A service that starts anew when its code changes, for development."""

from __future__ import annotations

import signal
import socket
from functools import partial
from typing import Any, List, Optional

import uvicorn
from uvicorn.supervisors import ChangeReload

from ..app import create_app
from ..settings import Settings
from .server import serve, service_log
from .signals import STOP_SIGNALS


def serve_reloading(
    listener: socket.socket, settings: Settings, metrics: Optional[socket.socket] = None
) -> None:
    """Serve `create_app(settings=settings)` in a process that is replaced when a file changes.

    uvicorn watches the Python files below the current directory: with `watchfiles` if that is
    installed, else by their times.
    """
    config = uvicorn.Config(
        "omniforge_chat:create_app", reload=True, workers=1, log_config=service_log(settings)
    )
    target: Any = partial(_serve, settings)
    sockets = [listener] if metrics is None else [listener, metrics]
    supervisor = ChangeReload(config, target=target, sockets=sockets)
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in STOP_SIGNALS:
        signal.signal(number, supervisor.signal_handler)
    try:
        supervisor.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _serve(settings: Settings, sockets: List[socket.socket]) -> None:
    listener, *metrics = sockets
    serve(create_app(settings=settings), listener, settings, *metrics)
