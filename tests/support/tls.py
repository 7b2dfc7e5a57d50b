"""A certificate, and a connection that trusts it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from .client import Client


def make_certificate(directory: Path, *options: str) -> None:
    """Put a certificate for 127.0.0.1 into `cert.pem`, and its key into `key.pem`.

    `options` are those of `openssl req` for the key: `-nodes`, say.
    """
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -out cert.pem -days 2"
    name = "-subj /CN=test -addext subjectAltName=IP:127.0.0.1 -keyout key.pem"
    command = ["openssl", *made.split(), *name.split(), *options]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)


def connect(port: int, directory: Path) -> Client:
    """A client that knows the server by the certificate in `directory`."""
    client = Client(port)
    context = ssl.create_default_context(cafile=str(directory / "cert.pem"))
    client.socket = context.wrap_socket(client.socket, server_hostname="127.0.0.1")
    return client
