"""Our own server: uvicorn with a drain, limits for a request's head, and several workers.

`cli` serves with it, and so may you. Nothing below knows it: the app runs under any ASGI server.
The modules:

- `server`: Server, which drains its app before it ends, and `serve`, in this process.
- `workers`: `serve_workers`, in several processes.
- `reloading`: `serve_reloading`, in a process that is replaced when the code changes.
- `listener`: the socket that they share.
- `metrics`: their metrics at an address of their own.
- `tls`: TLS for it.
- `descriptors`: the limit of open files, and the connections beyond it.
- `access_log`: each request, as its line in the log has it.
- `forwarded`: the path under which a proxy shows the service.
- `signals`: who handles SIGINT, SIGTERM and SIGHUP meanwhile, and the end of the process.
- `rules`: the limits and rules for the head of a request.
- `http10`: the answer to a request of HTTP/1.0.
- `protocol`: what a connection does beyond uvicorn's, whichever parser it has.
- `h11_protocol`, `httptools_protocol`: that, with each parser.

Only this room imports uvicorn. `protocol.UVICORN` lists the attributes of uvicorn's classes that it
relies on.
"""

from .descriptors import fit_streams, raise_descriptor_limit
from .listener import listen, open_listener
from .metrics import open_metrics_listener
from .reloading import serve_reloading
from .server import Server, configure_log, make_server, serve
from .tls import check_tls
from .workers import serve_workers

__all__ = [
    "Server",
    "check_tls",
    "configure_log",
    "fit_streams",
    "listen",
    "make_server",
    "open_listener",
    "open_metrics_listener",
    "raise_descriptor_limit",
    "serve",
    "serve_reloading",
    "serve_workers",
]
