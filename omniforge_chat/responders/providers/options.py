"""Checking what a model responder is given, before its first request."""

from __future__ import annotations

import math
import re
from typing import List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from ...errors import SettingsError
from ...settings import SECONDS, check
from .client import is_address, is_client

_is_visible = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?").fullmatch
_tells_of_a_secret = re.compile("auth|key|token|secret|cookie", re.IGNORECASE).search
_is_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110, section 5.1


def url(text: str) -> str:
    """`text` without a slash at its end, if it is an address that requests can be sent to.

    Raises SettingsError, which quotes nothing that may be a password or a key.
    """
    expected = "an address such as http://127.0.0.1:8080/v1"
    shown = text
    if "://" not in text:
        shown = "***"  # it may be a key that got into the wrong variable
    elif "@" in text:
        expected, shown = f"{expected}, without credentials", "***"
    elif "?" in text or "#" in text:
        expected, shown = f"{expected}, without a query", re.split("[?#]", text)[0] + "?***"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise SettingsError("base_url", shown, expected) from None
    # Credentials and queries are in every log that names the address.
    plain = "@" not in parts.netloc and not set("?#") & set(text)
    usable = parts.scheme in ("http", "https") and host and " " not in text and is_address(text)
    if not (plain and usable and _is_visible(text)):
        raise SettingsError("base_url", shown, expected)
    return text.rstrip("/")


def text(name: str, value: Optional[str]) -> None:
    """Raises SettingsError for what is no text, such as a variable's bytes that are not UTF-8."""
    shown = "***" if name in ("api_key", "base_url") else value  # there may be a password in it
    if not (value is None or isinstance(value, str)):
        raise SettingsError(name, shown, "text, which is a str")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise SettingsError(name, shown, "text, in UTF-8") from None


def seconds_or_off(name: str, value: Optional[float]) -> float:
    """The time limit, infinite where it is None. Raises SettingsError for what is none."""
    if value is None:
        return math.inf
    check(name, value, SECONDS)
    return value


def temperature(value: object) -> None:
    """Raises SettingsError for what is no temperature."""
    if not (_is_number(value) and value >= 0):  # type: ignore[operator]  # _is_number looked
        raise SettingsError("temperature", value, "a number of at least 0")


def key(value: str) -> None:
    """Raises SettingsError, which does not quote it, for what no header can carry."""
    if not _is_visible(value):
        raise SettingsError("api_key", "***", "visible ASCII characters")


def headers(values: Mapping[str, str]) -> None:
    """Raises SettingsError, which quotes no value, for what cannot be sent."""
    expected = "names and values of visible ASCII"
    for name, value in _pairs("extra_headers", values, expected):
        if not _is_header_name(name) or not _is_visible(value):
            raise SettingsError("extra_headers", name, expected)


def query(values: Mapping[str, str]) -> None:
    """Raises SettingsError, which quotes no value, for what is no query."""
    for name, value in _pairs("extra_query", values, "names and values"):
        text("extra_query", name)
        try:
            value.encode()
        except UnicodeEncodeError:
            raise SettingsError("extra_query", name, "text, in UTF-8") from None


def _pairs(argument: str, values: object, expected: str) -> List[Tuple[str, str]]:
    if not isinstance(values, Mapping):
        raise SettingsError(argument, "***", f"a mapping of {expected}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SettingsError(argument, name, f"{expected}, which are str")
    return list(values.items())


def client(value: object) -> None:
    """Raises SettingsError for what is no client for an event loop."""
    if value is not None and not is_client(value):
        raise SettingsError("client", value, "an httpx.AsyncClient")


def secrets(api_key: Optional[str], headers: Mapping[str, str]) -> Tuple[str, ...]:
    """What is to be struck out of every text: the longer first, as it may have another in it.

    A word of a few letters, such as a server of one's own has for a key, is in many texts.
    """
    found = [api_key or ""]
    for name, value in headers.items():
        if _tells_of_a_secret(name):
            found += [value, value.partition(" ")[2]]  # after the scheme, such as Bearer
        elif len(value) >= 16:  # whose header is not ours to know; a short one is a version, a flag
            found.append(value)
    return tuple(sorted((text for text in found if len(text) >= 8), key=len, reverse=True))


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # it is
