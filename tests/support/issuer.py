"""An issuer of tokens: its keys, and a real server that shows them, or does something else."""

from __future__ import annotations

import contextlib
import functools
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Dict, List, Optional

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from .constants import PATIENCE

NAME, AUDIENCE = "https://id.example.com/", "chat"

_MAKERS: Dict[str, Callable[[], Any]] = {
    "RS": lambda: rsa.generate_private_key(65537, 2048),
    "PS": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ES256K": lambda: ec.generate_private_key(ec.SECP256K1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}


@functools.cache
def _made(algorithm: str, name: str) -> Any:
    make = _MAKERS.get(algorithm) or _MAKERS[algorithm[:2]]
    return make()


def private_key(algorithm: str, name: str = "one") -> Any:
    """The private key of this name for `algorithm`."""
    return _made(algorithm, name)


def public_entry(algorithm: str, name: str = "one", **fields: Any) -> Dict[str, Any]:
    """The public key as a JWKS has it, under its name."""
    kind = {"Ed448": "EdDSA"}.get(algorithm, algorithm)
    public = private_key(algorithm, name).public_key()
    entry: Dict[str, Any] = jwt.get_algorithm_by_name(kind).to_jwk(public, as_dict=True)
    entry.pop("key_ops", None)
    return {**entry, "kid": name, **fields}


def claims(**fields: Any) -> Dict[str, Any]:
    """The claims of a good token; a field that is None is left out."""
    now = int(time.time())
    good = {"iss": NAME, "aud": AUDIENCE, "sub": "alice", "exp": now + 600, "iat": now}
    return {name: value for name, value in {**good, **fields}.items() if value is not None}


def token(
    algorithm: str = "ES256",
    name: str = "one",
    head: Optional[Dict[str, Any]] = None,
    **fields: Any,
) -> str:
    """A token that the issuer has signed with the key of this name."""
    kind = {"Ed448": "EdDSA"}.get(algorithm, algorithm)
    key = private_key(algorithm, name)
    return jwt.encode(claims(**fields), key, kind, {"kid": name} if head is None else head)


class IssuerServer:
    """A server on 127.0.0.1. `answer` writes what it answers; `requests` are those it has got."""

    def __init__(self) -> None:
        self.requests: List[str] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] = lambda _: None
        self._released = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # http.server calls it so
                server.requests.append(self.path)
                server.answer(self)

            def log_message(self, *_: object) -> None:
                """Nothing: standard error is the test's."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def __enter__(self) -> IssuerServer:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Nobody answers there from now on."""
        self._released.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(PATIENCE)
        self._server.server_close()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def shows(self, *entries: Dict[str, Any]) -> None:
        """Answer with these keys."""
        self.says(json.dumps({"keys": entries}).encode())

    def says(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Answer with this body."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            with contextlib.suppress(ConnectionError):  # it had enough
                handler.wfile.write(body)

        self.answer = answer

    def hangs(self) -> None:
        """Take requests, and answer none, until the server is stopped."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            self._released.wait(PATIENCE)

        self.answer = answer

    def drips(self) -> None:
        """Send a byte of a head now and then, for ever: no time limit of a read comes."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            with contextlib.suppress(ConnectionError):
                while not self._released.wait(0.02):
                    handler.wfile.write(b"H")

        self.answer = answer
