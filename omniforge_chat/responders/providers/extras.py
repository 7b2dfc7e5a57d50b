"""Your own part of each request: fields of the body, headers, and a query."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple
from urllib.parse import parse_qsl

import msgspec

from ...rules import SettingsError

OUR_FIELDS = ("messages", "stream")
"""Fields of the body that make a chat of it."""

OUR_HEADERS = (
    "Connection",
    "Content-Encoding",
    "Content-Length",
    "Expect",
    "Host",
    "HTTP2-Settings",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
)
"""Headers that frame a request, or belong to one connection (RFC 9110, section 7.6.1)."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
is_value = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?").fullmatch
"""Whether a header can have this value, in ASCII (RFC 9110, section 5.5)."""
_is_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110, section 5.1
_tells_of_a_secret = re.compile("auth|key|token|secret|cookie", re.IGNORECASE).search
_is_version = re.compile(r"v?\d[\d.-]*(-?(alpha|beta|preview|latest))?", re.IGNORECASE).fullmatch


def check_body(fields: Mapping[str, Any]) -> None:
    """Raises SettingsError for fields that JSON cannot have, and for ours."""
    try:
        _encode(dict(fields))
    except (TypeError, ValueError, RecursionError) as error:
        expected = f"fields and values that JSON can have; {error}"
        raise SettingsError("extra_body", "***", expected) from None
    ours = [name for name in OUR_FIELDS if name in fields]
    if ours:
        expected = f"fields other than {' and '.join(ours)}, which the service sets itself"
        raise SettingsError("extra_body", "***", expected)


def check_headers(values: Mapping[str, str]) -> None:
    """Raises SettingsError for headers that cannot be sent, or that would break the request."""
    expected = "names and values of visible ASCII"
    names = {name.lower(): name for name in OUR_HEADERS}
    for number, (name, value) in enumerate(_pairs("extra_headers", values, expected), 1):
        if not _is_name(name) or not is_value(value):
            raise SettingsError("extra_headers", "***", f"{expected}, also in number {number}")
        if name.lower() in names:
            ours = f"headers other than {names[name.lower()]}, which the connection sets itself"
            raise SettingsError("extra_headers", "***", ours)


def check_query(values: Mapping[str, str]) -> None:
    """Raises SettingsError for names and values that no address can have."""
    for name, value in _pairs("extra_query", values, "names and values"):
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:
            raise SettingsError("extra_query", "***", "text, in UTF-8") from None


def _pairs(option: str, values: object, expected: str) -> List[Tuple[str, str]]:
    if not isinstance(values, Mapping):
        raise SettingsError(option, "***", f"a mapping of {expected}")
    for number, (name, value) in enumerate(values.items(), 1):
        if not isinstance(name, str) or not isinstance(value, str):
            raise SettingsError(
                option, "***", f"{expected}, which are str, also in number {number}"
            )
    return list(values.items())


def _object_reader(option: str, example: str) -> Callable[[str], Dict[str, Any]]:
    def read(text: str) -> Dict[str, Any]:
        expected = f"a JSON object such as {example}"
        try:
            found = _decode(text.encode())
        except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
            why = error if isinstance(error, msgspec.DecodeError) else type(error).__name__
            raise SettingsError(option, "***", f"{expected}; {why}") from None
        if not isinstance(found, dict):
            raise SettingsError(option, "***", expected)
        return found

    return read


def _read_query(text: str) -> Dict[str, str]:
    expected = "a query such as api-version=2024-10-21, with each name once"
    try:
        pairs = parse_qsl(text.lstrip("?"), keep_blank_values=True, strict_parsing=True)
    except ValueError:  # its text has the field
        raise SettingsError("extra_query", "***", expected) from None
    found = dict(pairs)
    if len(found) < len(pairs) or text.startswith("{"):
        raise SettingsError("extra_query", "***", expected)
    return found


READERS: Mapping[str, Callable[[str], Dict[str, Any]]] = {
    "extra_body": _object_reader("extra_body", '{"top_p": 0.9}'),
    "extra_headers": _object_reader("extra_headers", '{"X-Team": "red"}'),
    "extra_query": _read_query,
}
"""How each becomes of the text of a variable. They raise SettingsError, which quotes nothing."""


def secrets_in(values: Mapping[str, str], shortest: int) -> Iterator[str]:
    """The values that may be secrets: by their name, or with at least `shortest` characters.

    Versions and dates are none.
    """
    for name, value in values.items():
        if _tells_of_a_secret(name):
            yield value
            yield value.partition(" ")[2]  # after the scheme, such as Bearer
        elif len(value) >= shortest and not _is_version(value):
            yield value
