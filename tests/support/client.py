"""A client on a raw socket, which sees each piece as it comes."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

from omniforge_chat.core.sse import Decoder, Frame

from .answers import last
from .constants import PATIENCE


class Client:
    """One connection and what came over it, without an HTTP library that hides the pieces.

    It leads to a port of this machine, or to a Unix socket at a path.
    """

    def __init__(self, address: Union[int, Path], *, receive_bytes: Optional[int] = None) -> None:
        local = isinstance(address, Path)
        self.socket = socket.socket(socket.AF_UNIX if local else socket.AF_INET)
        self.socket.settimeout(PATIENCE)
        if receive_bytes is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self.socket.connect(str(address) if local else ("127.0.0.1", address))
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
        self,
        path: str,
        *,
        method: str = "GET",
        headers: Optional[Mapping[str, str]] = None,
        host: str = "localhost",
    ) -> None:
        """Send a whole request that has no body."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self.send(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode("latin-1"))

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
        if self._chunked:
            return b"".join(iter(self.piece, b""))
        return self._take(int(headers["content-length"]))

    def some(self) -> bytes:
        """The next bytes, whatever they are; empty where the connection has ended."""
        taken = bytes(self._received)
        self._received.clear()
        return taken or self.socket.recv(65536)

    def wait_closed(self) -> None:
        """Read until the server has ended the connection."""
        with contextlib.suppress(EOFError, ConnectionResetError):
            while True:
                self._more()

    def rest(self) -> bytes:
        """All that comes until the server ends the connection."""
        self.wait_closed()
        return bytes(self._received)

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
        "Host": "localhost",
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **(headers or {}),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + data


def assert_next_request_works(client: Client) -> None:
    """Whatever came before it on the connection, a chat is answered as ever."""
    client.post({"message": "Are you still there?"})
    status, _ = client.head()
    assert status == 200
    assert last(client.frames())[0] == "done"


def hesitant(port: int) -> Client:
    """A client whose kernel takes in as little as it may."""
    return Client(port, receive_bytes=4096)
