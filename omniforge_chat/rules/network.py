"""The rules of names, addresses and paths."""

from __future__ import annotations

import contextlib
import ipaddress
import re

from .rule import Rule, list_of


def _is_origin(value: object) -> bool:
    """Whether a browser could send `value` as its Origin (RFC 6454, section 6.1)."""
    if not isinstance(value, str):
        return False
    return value == "*" or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+", value) is not None


def is_path(value: object) -> bool:
    """Whether `value` can be the prefix of a path: `/api`, `/a/b`, or nothing."""
    return (
        isinstance(value, str)
        and len(value) <= 256
        and re.fullmatch(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~@+-]+)*", value) is not None
    )


def _are_proxies(value: object) -> bool:
    return isinstance(value, str) and (
        value in ("*", "") or all(_is_network(part.strip()) for part in value.split(","))
    )


def _is_network(text: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_network(text)
        return True
    return False


def _is_header(value: object) -> bool:
    """Whether `value` is the name of a header (RFC 9110, section 5.1), or `*`."""
    return (
        isinstance(value, str) and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value) is not None
    )


def is_host(value: object) -> bool:
    """Whether a Host without its port could be `value`, or be meant by it: `*.` and a name."""
    pattern = r"(\*\.)?[0-9A-Za-z_][0-9A-Za-z_.-]*|\[[0-9A-Fa-f:.]+\]|\*"
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_url(value: object, *schemes: str) -> bool:
    return (
        isinstance(value, str)
        and value.partition("://")[0] in schemes
        and re.fullmatch(r"[a-z]+://[!-~]+", value) is not None
    )


def _is_listener(value: object) -> bool:
    if value in ("off", "on"):
        return True
    if not isinstance(value, str):
        return False
    host, colon, port = value.rpartition(":")
    return (
        bool(colon)
        and is_host(host)
        and re.fullmatch(r"\d{1,5}", port) is not None
        and int(port) <= 65535
    )


PATH = Rule("a path such as /api", is_path, lambda text: text.rstrip("/"))
PROXIES = Rule("*, or addresses and networks such as 10.0.0.0/8 with commas between", _are_proxies)
ORIGINS = list_of(
    "*, or origins such as https://example.com with commas between",
    _is_origin,
)
HEADERS = list_of("*, or names of headers with commas between", _is_header)
HOSTS = list_of(
    "*, or names such as example.com, *.example.com and [::1], without ports and with commas "
    "between",
    is_host,
)
METRICS = Rule(
    "on, off, or HOST:PORT",
    _is_listener,
    lambda text: text.lower() if text.lower() in ("on", "off") else text,
)
HTTP_URL = Rule(
    "an address that begins with https:// or http://, or nothing",
    lambda value: value == "" or is_url(value, "https", "http"),
    has_password=True,
)
REDIS_URL = Rule(
    "redis://HOST:PORT/NUMBER, rediss://... for TLS, or unix://PATH",
    lambda value: is_url(value, "redis", "rediss", "unix"),
    has_password=True,
)
