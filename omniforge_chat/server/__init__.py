"""Running the service: one process, or several that share a socket."""

from .server import Server, listen, make_server, serve
from .workers import serve_workers

__all__ = ["Server", "listen", "make_server", "serve", "serve_workers"]
