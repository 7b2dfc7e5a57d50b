"""The rules of who may ask, and how much."""

from __future__ import annotations

import re
from typing import Optional

from ..models import Rate
from .rule import AT_LEAST_ONE, Rule, is_identifier, whole

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


def _read_rate(text: str) -> Optional[Rate]:
    """`60/minute` or `100/30s`. Raises ValueError."""
    if text.lower() == "off":
        return None
    chats, slash, unit = text.replace(" ", "").lower().partition("/")
    seconds = _UNITS.get(unit) or (int(unit[:-1]) if unit.endswith("s") else 0)
    if not slash:
        raise ValueError(text)
    return Rate(int(chats), seconds)


def _is_rate(value: object) -> bool:
    return value is None or (
        isinstance(value, Rate) and AT_LEAST_ONE.holds(value.chats) and _is_period(value.seconds)
    )


def _is_period(seconds: object) -> bool:
    return whole(1, 86_400).holds(seconds)


def _are_keys(value: object) -> bool:
    if not isinstance(value, str):
        return False
    pairs = [part.strip().partition(":") for part in value.split(",")] if value else []
    names, keys = {name for name, *_ in pairs}, {key for *_, key in pairs}
    return len(names) == len(keys) == len(pairs) and all(
        is_key_name(name) and is_identifier(key) and len(key) >= 16 for name, _, key in pairs
    )


def is_key_name(value: object) -> bool:
    """Whether a key for callers can have this name."""
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._@-]{1,64}", value) is not None


RATE = Rule("a rate such as 60/minute or 100/30s, or off", _is_rate, _read_rate)
API_KEYS = Rule(
    "NAME:KEY with commas between; each name and each key once, keys of at least 16 visible "
    "characters",
    _are_keys,
    is_secret=True,
)
