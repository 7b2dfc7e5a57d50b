"""What you add to each request: fields of the body, headers, and a query."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, Tuple

import msgspec

from ...errors import SettingsError

_encode = msgspec.json.Encoder().encode
_is_value = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?").fullmatch
_is_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch  # RFC 9110, section 5.1


def check_body(fields: Mapping[str, Any]) -> None:
    """Raises SettingsError for fields that JSON cannot have."""
    try:
        _encode(dict(fields))
    except (TypeError, ValueError, RecursionError) as error:
        expected = f"fields and values that JSON can have; {error}"
        raise SettingsError("extra_body", "***", expected) from None


def check_headers(values: Mapping[str, str]) -> None:
    expected = "names and values of visible ASCII"
    for name, value in _pairs("extra_headers", values, expected):
        if not _is_name(name) or not _is_value(value):
            raise SettingsError("extra_headers", name, expected)


def check_query(values: Mapping[str, str]) -> None:
    for name, value in _pairs("extra_query", values, "names and values"):
        try:
            f"{name}{value}".encode()
        except UnicodeEncodeError:
            raise SettingsError("extra_query", name, "text, in UTF-8") from None


def _pairs(option: str, values: object, expected: str) -> List[Tuple[str, str]]:
    if not isinstance(values, Mapping):
        raise SettingsError(option, "***", f"a mapping of {expected}")
    for name, value in values.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise SettingsError(option, name, f"{expected}, which are str")
    return list(values.items())
