"""Our own server: uvicorn with a drain, limits for a request's head, and several workers.

`cli` serves with it, and so may you. Nothing below knows it: the app runs under any ASGI server.
The modules:

- `server`: Server, which drains its app before it ends, and `serve`, in this process.
- `workers`: `serve_workers`, in several processes.
- `signals`: who handles SIGINT and SIGTERM meanwhile.
- `rules`: the limits and rules for the head of a request.
- `protocol`: what a connection does beyond uvicorn's, whichever parser it has.
- `h11_protocol`, `httptools_protocol`: that, with each parser.

Only this room imports uvicorn. `protocol.UVICORN` lists the attributes of uvicorn's classes that it
relies on.
"""

from .server import Server, listen, make_server, serve
from .workers import serve_workers

__all__ = ["Server", "listen", "make_server", "serve", "serve_workers"]
