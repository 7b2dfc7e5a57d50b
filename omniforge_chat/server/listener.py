"""The socket that the service listens on: an address, a Unix socket, or one that is there already.

It is made before anything else, so that a taken address is one clear error.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import math
import os
import socket
import stat
import sys
from typing import Optional

from ..settings import Settings

BACKLOG = 2048
"""How many connections may wait to be accepted."""


def open_listener(settings: Settings, fd: Optional[int] = None) -> socket.socket:
    """The listening socket that `settings` want, or that `fd` is. Raises OSError."""
    if fd is not None:
        return listen_on_fd(fd, send_timeout=settings.send_timeout)
    if settings.uds:
        return listen_on_path(settings.uds)
    return listen(settings.host, settings.port, send_timeout=settings.send_timeout)


def listen(host: str, port: int, *, send_timeout: Optional[float] = None) -> socket.socket:
    """A socket that listens on an address.

    If you pass `send_timeout`, in seconds, the kernel drops a client that takes nothing for twice
    as long. Raises OSError, and UnicodeError for what cannot be a host name.
    """
    family, _, _, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol named: asyncio sets TCP_NODELAY only on sockets that say they are TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _limit_sends(listener, send_timeout)
        listener.bind(address)
        # From here on nobody else can have the address, and a client that connects waits.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def listen_on_path(path: str) -> socket.socket:
    """A Unix socket at `path`, which every user may write to, as uvicorn makes it.

    The file is removed when the process ends. A socket that nobody listens on any more is replaced,
    and its permissions stay. Raises OSError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mode = _remove_unused(path)
        listener.bind(path)
        os.chmod(path, mode)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    atexit.register(_remove, path, os.stat(path).st_ino)
    return listener


def listen_on_fd(fd: int, *, send_timeout: Optional[float] = None) -> socket.socket:
    """The socket that another program, systemd say, has opened as the descriptor `fd`.

    `send_timeout` is that of `listen`. Raises OSError if it is none that can be listened on.
    """
    if not 0 <= fd < 2**31:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    listener = socket.socket(fileno=fd)
    try:
        if listener.family != getattr(socket, "AF_UNIX", None):
            _limit_sends(listener, send_timeout)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def url_of(listener: socket.socket, root_path: str = "", *, secure: bool = False) -> str:
    """The address of `listener`, as people open it; that of a Unix socket has no path."""
    address = listener.getsockname()
    if not isinstance(address, tuple):
        return f"unix:{os.fsdecode(address)}"
    scheme, (host, port) = "https" if secure else "http", address[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{root_path}/"


def _limit_sends(listener: socket.socket, seconds: Optional[float]) -> None:
    if sys.platform == "linux" and seconds is not None:
        # Accepted connections inherit it. It also holds when all of a reply was handed over
        # (RFC 5482). Twice, so that the stream's own limit acts first and the log says "stalled".
        milliseconds = min(math.ceil(2 * 1000 * seconds), 2**31 - 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _remove_unused(path: str) -> int:
    """Remove a socket that nobody listens on, and return the permissions of the next one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return 0o666
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one whose backlog is full is used, too
        with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(BlockingIOError):
                probe.connect(path)
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return stat.S_IMODE(mode)


def _remove(path: str, inode: int) -> None:
    with contextlib.suppress(OSError):
        if os.stat(path).st_ino == inode:  # else another service has its socket there by now
            os.unlink(path)
