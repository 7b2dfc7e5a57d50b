"""A body becomes a value, or an error that tells why it is no JSON object."""

from __future__ import annotations

import re
from typing import Any, Callable, Dict, TypeVar

import msgspec

from ..errors import InvalidBody

T = TypeVar("T")

# One escape after the other: a surrogate pair, half of one (the group), or any other.
_escapes = re.compile(
    rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)", re.DOTALL
).finditer

_decode_object = msgspec.json.Decoder(Dict[str, Any]).decode


def load(body: bytes, decode: Callable[[bytes], T]) -> T:
    """What `decode` makes of `body`. Raises InvalidBody if that is no JSON object in UTF-8."""
    try:
        # msgspec skips unknown fields without a look at their encoding.
        body.decode("utf-8")
        return decode(body)
    except UnicodeDecodeError as error:
        raise InvalidBody(f"body: not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise InvalidBody("body: nested too deeply") from None
    except msgspec.ValidationError as error:
        raise InvalidBody(f"body: {_no_object(error)}") from None
    except msgspec.DecodeError as error:
        raise InvalidBody(f"body: {_not_json(body, error)}") from None


def load_object(body: bytes) -> Dict[str, Any]:
    """The fields of the JSON object in `body`. Raises InvalidBody as `load` does."""
    return load(body, _decode_object)


_KINDS = {str: "a string", dict: "an object", list: "an array", bool: "a boolean"}


def kind_of(value: object) -> str:
    """The kind of a decoded JSON value, in words."""
    return "null" if value is None else _KINDS.get(type(value), "a number")


def _no_object(error: msgspec.ValidationError) -> str:
    """The reason why a decoder of objects refuses JSON."""
    if str(error).startswith("Expected `object`"):
        return "must be a JSON object"
    return "a number is too large"  # 1e999, which is JSON


def _not_json(body: bytes, error: msgspec.DecodeError) -> str:
    """The reason why `body` is no JSON, in better words than the decoder's if we have some."""
    if not body:
        return "is empty; a JSON object is expected"
    if body.startswith(b"\xef\xbb\xbf"):
        return "begins with a byte order mark; send JSON without it (RFC 8259, section 8.1)"
    if any(escape[1] for escape in _escapes(body)):
        return "a \\u escape stands for half a character (a lone surrogate)"
    text = str(error)
    return text if text.startswith("JSON") else text[0].lower() + text[1:]
