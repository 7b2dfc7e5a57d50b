"""The rules of what a service speaks, keeps and logs."""

from __future__ import annotations

import re

from .network import is_url
from .rule import Rule, is_identifier, list_of, one_of, split

DIALECTS = ("native", "openai", "ai_sdk", "ag_ui")
"""The names of the wire formats; `dialects` has a module for each."""
FORMATS = Rule(
    f"one or more of {', '.join(DIALECTS)}, with commas between",
    lambda value: (
        isinstance(value, tuple) and 0 < len(value) == sum(name in value for name in DIALECTS)
    ),
    split,
)


def _is_history(value: object) -> bool:
    if not isinstance(value, str):
        return False
    kind, colon, rest = value.partition(":")
    if kind == "sqlite":
        return bool(colon and rest) and "\0" not in rest
    return value in ("off", "memory", "redis") or is_url(value, "postgresql", "postgres")


def _read_history(text: str) -> str:
    if text.lower() in ("off", "memory", "redis"):
        return text.lower()
    return "sqlite:conversations.db" if text.lower() == "sqlite" else text


LEVEL = one_of("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", read=str.upper)
THOUGHTS = one_of("off", "on", "implied")
HISTORY = Rule(
    "off, memory, redis, sqlite:PATH or postgresql://...",
    _is_history,
    _read_history,
    has_password=True,
)
KEY_PREFIX = Rule(
    "1 to 64 visible ASCII characters without braces",
    lambda value: isinstance(value, str) and re.fullmatch(r"[!-z|~]{1,64}", value) is not None,
)
MODEL_NAME = Rule("1 to 128 visible ASCII characters", is_identifier)
PARAMETERS = list_of("names of fields with commas between", is_identifier)
