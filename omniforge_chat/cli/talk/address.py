"""The address of the chat that is talked to."""

from __future__ import annotations

from typing import Mapping
from urllib.parse import urlsplit, urlunsplit

from ...settings import read

_CHAT = "/api/v1/chat"
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that a service listens on, and the one to ask it at."""


def chat_url(text: str) -> str:
    """The chat's address, for a service's address or the chat's own.

    `http://` and the path of the chat are added if they are missing; a prefix and a query stay.
    Raises ValueError for no address of HTTP.
    """
    parts = urlsplit(text if "://" in text else f"http://{text}")
    host, _ = parts.hostname, parts.port  # the latter raises ValueError
    if parts.scheme not in ("http", "https") or not host or not text.isprintable() or " " in text:
        raise ValueError("no address of HTTP")
    path = parts.path.rstrip("/")
    if not path.endswith(_CHAT):
        path += _CHAT
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def own_url(environ: Mapping[str, str]) -> str:
    """The address of a service that was started on this machine with the same variables.

    Raises SettingsError if HOST or PORT could not start one.
    """
    host, port = read("host", environ), read("port", environ)
    host = _ANY.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
