"""The address of a provider."""

from __future__ import annotations

import re
from typing import Iterable
from urllib.parse import urlsplit

import httpx

from ...errors import SettingsError

_is_visible = re.compile(r"[\x21-\x7e]+").fullmatch


def check_url(text: str) -> None:
    """Refuse an address that cannot be asked, or that shows a secret to every log that names it."""
    expected = "an address such as http://127.0.0.1:8080/v1"
    shown = text
    if "://" not in text:
        shown = "***"  # it may be a key that got into the wrong variable
    elif "@" in text:
        expected, shown = f"{expected}, without credentials", "***"
    elif "?" in text or "#" in text:
        expected, shown = f"{expected}, without a query", re.split("[?#]", text)[0] + "?***"
    if not (_is_address(text) and _is_visible(text)):
        raise SettingsError("base_url", shown, expected)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
        # httpx itself would tell only with the first request.
        usable = parts.scheme in ("http", "https") and host and httpx.URL(text).host
    except (httpx.InvalidURL, ValueError):  # the latter also for a name that IDNA does not allow
        return False
    return bool(usable) and "@" not in parts.netloc and not set(" ?#") & set(text)


def host_of(url: str) -> str:
    """The host in lower case, without the dot that ends a full name; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def is_within(url: str, domains: Iterable[str]) -> bool:
    """Whether the host is one of `domains`, or below one."""
    host = f".{host_of(url)}"
    return any(host.endswith(f".{domain}") for domain in domains)


def without_secrets(url: str) -> str:
    """Return an address with stars in place of credentials, of a query and of a fragment."""
    address, *rest = re.split("[?#]", url, maxsplit=1)
    # A password may contain any character, if nobody has escaped it.
    shown = re.sub("//.*@", "//***@", address, flags=re.DOTALL)
    return f"{shown}?***" if rest else shown
