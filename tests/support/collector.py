"""A collector of OpenTelemetry on a real socket, to which exporters send spans over HTTP."""

from __future__ import annotations

import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Dict, List

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .constants import PATIENCE


class Collector:
    """Gathers spans. One that `hangs` takes requests, and never answers."""

    def __init__(self, *, hangs: bool = False) -> None:
        self._queue: queue.Queue[Dict[str, Any]] = queue.Queue()
        self.asked = threading.Event()
        self._over = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.asked.set()
                if hangs:
                    collector._over.wait()
                    return
                collector._take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def spans(self, count: int) -> List[Dict[str, Any]]:
        """The next spans, which are waited for: their name, trace, process and attributes."""
        return [self._queue.get(timeout=PATIENCE) for _ in range(count)]

    def is_empty(self) -> bool:
        return self._queue.empty()

    def _take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            process = {item.key: _value(item.value) for item in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self._queue.put(
                        {
                            "name": span.name,
                            "trace": span.trace_id.hex(),
                            "process": process,
                            **{item.key: _value(item.value) for item in span.attributes},
                        }
                    )


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
