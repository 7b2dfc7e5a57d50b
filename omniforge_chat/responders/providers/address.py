"""The address of a provider."""

from __future__ import annotations

import ipaddress
import re
from typing import Iterable
from urllib.parse import urlsplit

import httpx

from ...rules import SettingsError

_is_visible = re.compile(r"[\x21-\x7e]+").fullmatch
_endpoint = re.compile(
    r"/(chat/completions|completions|embeddings|messages|models|responses)/*$"
).search
_is_this_machine = re.compile(r"127(\.\d{1,3}){1,3}|0(\.0){0,3}|(.*\.)?localhost").fullmatch


def check_url(text: str) -> None:
    """Refuse an address that cannot be asked, or that shows a secret to every log that names it."""
    expected, shown = "an address such as http://127.0.0.1:8080/v1", text
    endpoint = _endpoint(text)
    quoted = bool({text[:1], text[-1:]} & set("\"'`"))
    if quoted:
        expected, shown = f"{expected}, without quotes", "***"
    elif "://" not in text:  # it may be a key that got into the wrong variable
        expected, shown = f"{expected}, with http:// or https:// before it", "***"
    elif "@" in text:
        expected, shown = f"{expected}, without credentials", "***"
    elif "?" in text or "#" in text:
        expected = f"{expected}, without a query, for which there is extra_query"
        shown = re.split("[?#]", text)[0] + "?***"
    elif endpoint is not None:
        expected = f"{expected}, without {endpoint[0]}, which is added"
    if quoted or endpoint is not None or not (_is_address(text) and _is_visible(text)):
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


def is_loopback(url: str) -> bool:
    """Whether the address is on this machine, which no proxy elsewhere can reach."""
    host = host_of(url)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _is_this_machine(host) is not None
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified


def without_secrets(url: str) -> str:
    """Return an address with stars in place of credentials, of a query and of a fragment."""
    address, *rest = re.split("[?#]", url, maxsplit=1)
    before, slashes, behind = address.partition("//")
    # A password may contain any character, if nobody has escaped it.
    _, at, host = behind.rpartition("@")
    shown = f"{before}{slashes}***@{host}" if at else address
    return f"{shown}?***" if rest else shown
