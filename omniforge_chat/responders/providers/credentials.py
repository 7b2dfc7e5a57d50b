"""The key of a provider, and the mistakes that people make with one."""

from __future__ import annotations

import re

from ...rules import SettingsError
from .extras import is_value

_QUOTES = "\"'`"
_name_before = re.compile(
    r"((export\s+)?([A-Z_]*(KEY|TOKEN)|bearer|basic|authorization|(x-)?api[-_ ]?key)[\s:=]+)+"
    r"(?=\S)",
    re.IGNORECASE,
).match
_prefix = re.compile(r"(sk|pk|key|api)-([a-z]+-)?", re.IGNORECASE).match
_is_filler = re.compile(
    r"[.\u2026x*_0-]*|123(4567890?)?|abc(def)?|key|here", re.IGNORECASE
).fullmatch
_is_placeholder = re.compile(
    r"[<{\[$%].*|(.*[^a-z0-9])?(your[a-z]*|insert|replace|change|changeme|placeholder|example|todo)"
    r"([^a-z0-9].*)?|(my|openai|anthropic|the)?[-_ ]?(api|secret)?[-_ ]?(key|token)",
    re.IGNORECASE | re.DOTALL,
).fullmatch


def check_key(name: str, key: str) -> None:
    """Raises SettingsError for a key that no header can have."""
    if re.search(r"[\x00-\x1f\x7f\x85\u2028\u2029]", key):
        raise SettingsError(name, "***", "a key on one line, without line ends or tabs in it")
    if not key.isascii():
        expected = "a key of visible ASCII characters; a quote or a dash may be a typographic one"
        raise SettingsError(name, "***", expected)
    if not is_value(key):
        raise SettingsError(name, "***", "a key of visible ASCII characters, without white space")


def fault_of(key: str) -> str:
    """The key that was expected, in words, if no provider has given out this one; else empty."""
    if key[0] in _QUOTES or key[-1] in _QUOTES:
        return "a key without quotes around it"
    found = _name_before(key)
    if found is not None:
        return f"a key alone, without {found[0].strip()!r} before it"
    if is_placeholder(key):
        return "a key of your own, as this is a placeholder"
    return "a key without white space in it" if " " in key else ""


def is_placeholder(key: str) -> bool:
    """Whether `key` stands in the docs of somebody, in place of a key."""
    prefix = _prefix(key)
    body = key[prefix.end() :] if prefix else key
    return _is_filler(body) is not None or _is_placeholder(key) is not None


def bare(key: str) -> str:
    """The part of `key` that is one, without the quotes and names around it."""
    inner = key.strip(_QUOTES + " ")
    found = _name_before(inner)
    return inner[found.end() :].strip(_QUOTES + " ") if found else inner
