"""The limits and rules for requests of HTTP/1.1, the same for both parsers.

A new rule is one function here and its entry in HEAD_RULES, and its cases in the table of
`tests/support/http_cases.py`. Each case is tried on both parsers, cut at every byte.

The parsers keep many rules by themselves, and the modules around them those that need the bytes:
`httptools_protocol.py` and `h11_protocol.py`. The answer to HTTP/1.0 is in `http10.py`.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import msgspec

from ..errors import BadRequest, HeadersTooLarge, RequestError

HEAD_BYTES = 64 * 1024
"""How large a head may be, and likewise the trailers and the head of a chunk."""

HEAD_FIELDS = 100
"""How many fields a head may have, and likewise the trailers."""

READ_AHEAD_BYTES = 4096
"""How much of the next requests is read while one is answered."""

LINGER_SECONDS = 2.0
"""How long a refused client may go on sending, so that it gets to read why it is refused."""

LINGER_BYTES = 128 * 1024 * 1024
"""How much it may send meanwhile."""

Fields = Sequence[Tuple[bytes, bytes]]


class Head(msgspec.Struct, frozen=True, gc=False):
    """The head of a request, or its trailers, which have fields alone."""

    fields: Fields
    """Names are in lower case."""

    size: int
    """In bytes. A parser may give an upper bound, if that is within HEAD_BYTES."""

    method: bytes = b""
    target: bytes = b""
    version: str = ""
    """`1.1`, say."""

    named: Dict[bytes, bytes] = {}
    """The last value of each field."""

    def count(self, name: bytes) -> int:
        """How many fields have this name."""
        return sum(known == name for known, _ in self.fields)


def size_of(target: bytes, fields: Fields) -> int:
    """The bytes of a head without what its lines have in common."""
    return len(target) + sum(len(name) + len(value) + 4 for name, value in fields)


def too_large() -> HeadersTooLarge:
    """The error for a head beyond the limits, also for one that has not ended yet."""
    return HeadersTooLarge(
        f"The head of a request is limited to {HEAD_BYTES} bytes and {HEAD_FIELDS} fields"
    )


def _within_limits(head: Head) -> Optional[RequestError]:
    if head.size > HEAD_BYTES or len(head.fields) > HEAD_FIELDS:
        return too_large()
    return None


def _known_version(head: Head) -> Optional[RequestError]:
    if head.version == "1.1" or head.version == "1.0":
        return None
    return BadRequest("The version of HTTP has to be 1.1 or 1.0")


_MOST_AUTHORITY = 300  # a name of the DNS has at most 253 characters
_AUTHORITY = re.compile(
    rb"""
    (?: [\w.~!$&'()*+,;=-]* (?: %[0-9A-Fa-f]{2} [\w.~!$&'()*+,;=-]* )*  # a name, an IPv4 address
      | \[ (?: ([0-9A-Fa-f:.]+) (?: %[\w.~%-]+ )? | v[0-9A-Fa-f]+\.[\w.~!$&'()*+,;=:-]+ ) \] )
    (?: :[0-9]{0,5} )?
    """,
    re.VERBOSE,
).fullmatch


@lru_cache(maxsize=64)
def _is_authority(value: bytes) -> bool:
    """Whether this is a host with or without a port (RFC 3986, section 3.2).

    An IPv6 address may have a zone. A client should leave that out (RFC 6874, section 4), and httpx
    and urllib don't.
    """
    found = len(value) <= _MOST_AUTHORITY and _AUTHORITY(value)
    if found and found[1]:
        try:
            ipaddress.IPv6Address(found[1].decode())
        except ValueError:
            return False
    return bool(found)


def _one_valid_host(head: Head) -> Optional[RequestError]:
    """RFC 9112, section 3.2."""
    host = head.named.get(b"host")
    if host is None:
        return BadRequest("host: is missing") if head.version == "1.1" else None
    if len(head.named) != len(head.fields) and head.count(b"host") > 1:
        return BadRequest("host: more than one")
    if _is_authority(host) or _is_authority(host.strip(b" \t")):  # httptools leaves those behind it
        return None
    return BadRequest("host: is no host")


_MOST_DIGITS = 19  # those of the largest number of 63 bits


def _clear_length(head: Head) -> Optional[RequestError]:
    """RFC 9112, sections 6.1 and 6.3: what could be read in two ways is smuggling."""
    coding = head.named.get(b"transfer-encoding")
    length = head.named.get(b"content-length")
    if coding is not None:
        if head.version == "1.0":
            return BadRequest("transfer-encoding: there is none in HTTP/1.0")
        if length is not None:
            return BadRequest("content-length: excludes transfer-encoding")
        if coding.rstrip(b" ").lower() != b"chunked" or head.count(b"transfer-encoding") > 1:
            return BadRequest("transfer-encoding: has to be chunked")
    elif length is not None and len(length) > _MOST_DIGITS:
        return BadRequest("content-length: is too large")
    return None


def _no_transfer_encoding(trailers: Head) -> Optional[RequestError]:
    if b"transfer-encoding" in trailers.named:
        return BadRequest("transfer-encoding: is no trailer")
    return None


_ABSOLUTE_FORM = re.compile(rb"(?i:https?)://([^/?]+)(/[^?]*)?(\?.*)?").fullmatch


def _valid_target(head: Head) -> Optional[RequestError]:
    """RFC 9112, section 3.2. It has no fragment."""
    target = head.target
    if target[:1] == b"/" and 0x23 not in target and head.method != b"CONNECT":
        return None
    if head.method == b"CONNECT":
        return BadRequest("CONNECT is for proxies")
    if target == b"*" and head.method == b"OPTIONS":
        return None
    found = _ABSOLUTE_FORM(target)
    if found is None or b"#" in target or not _is_authority(found[1]) or found[1][:1] == b":":
        return BadRequest("The target of the request is not valid")
    return None


def origin_form(target: bytes, fields: Fields) -> Tuple[bytes, List[Tuple[bytes, bytes]]]:
    """The target and fields of a request for a valid `target` in absolute form.

    Its host replaces that of the fields (RFC 9112, section 3.2.2).
    """
    found = _ABSOLUTE_FORM(target)
    assert found is not None
    others = [field for field in fields if field[0] != b"host"]
    return (found[2] or b"/") + (found[3] or b""), [(b"host", found[1]), *others]


Rule = Callable[[Head], Optional[RequestError]]

HEAD_RULES: Tuple[Rule, ...] = (
    _within_limits,
    _known_version,
    _one_valid_host,
    _clear_length,
    _valid_target,
)
"""Each returns the error that answers the request, or None if the head keeps the rule."""

TRAILER_RULES: Tuple[Rule, ...] = (_within_limits, _no_transfer_encoding)
"""Trailers that keep them are dropped (RFC 9110, section 6.5.1)."""


def refusal_of(head: Head, rules: Tuple[Rule, ...]) -> Optional[RequestError]:
    """The error of the first rule that `head` breaks; None if it keeps them all."""
    for rule in rules:
        error = rule(head)
        if error is not None:
            return error
    return None
