"""Settings: a value that is made once and passed in. Nothing here is global."""

from __future__ import annotations

import math
import re
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

import msgspec

from .errors import SettingsError

_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
_FORMATS = ("text", "json")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How one service, or one mounted app, behaves.

    Times are in seconds, sizes in bytes; a limit that may be off is off with None. In code nothing
    is read from anywhere else; a service calls `from_env`. Raises SettingsError for a value that is
    of no use.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    log_level: str = "INFO"
    log_format: str = "text"
    cors_origins: Tuple[str, ...] = ()
    responder: str = "placeholder"
    max_streams: int = 10_000
    max_body_bytes: int = 128 * 1024
    body_timeout: float = 15.0
    heartbeat_interval: Optional[float] = 15.0
    first_chunk_timeout: Optional[float] = 60.0
    idle_timeout: Optional[float] = 60.0
    total_timeout: Optional[float] = 900.0
    send_timeout: Optional[float] = 30.0
    cleanup_timeout: float = 5.0
    drain_timeout: float = 30.0
    history: str = "off"
    context_chars: int = 24_000
    history_conversations: int = 1_000
    history_messages: int = 100
    history_chars: int = 100_000
    history_ttl: float = 86_400.0

    def __post_init__(self) -> None:
        for field, rule in _RULES.items():
            check(field, getattr(self, field), rule)

    @property
    def shortest_limit(self) -> float:
        """The shortest time, in seconds, after which anything in a stream can be due.

        What a client takes is looked at four times within `send_timeout`.
        """
        limits = (
            self.heartbeat_interval,
            self.first_chunk_timeout,
            self.idle_timeout,
            self.total_timeout,
            None if self.send_timeout is None else self.send_timeout / 4,
            self.cleanup_timeout,
        )
        return min(limit for limit in limits if limit is not None)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """The settings that `environ` names; what it does not name has its default.

        A service that says nothing of CORS serves every origin (`CORS_ORIGINS=*`), without
        credentials. Raises SettingsError, which names the variable, the value and what was
        expected.
        """
        values: Dict[str, Any] = {"cors_origins": ("*",)}
        for field in cls.__struct_fields__:
            if variable(field) in environ:
                values[field] = read(field, environ)
        return cls(**values)


class Rule(NamedTuple):
    """What a value must be, in words and as a test."""

    expected: str
    holds: Callable[[Any], bool]


def check(name: str, value: object, rule: Rule) -> None:
    """Raises SettingsError for a value that `rule` does not hold for."""
    if not rule.holds(value):
        raise SettingsError(name, value, rule.expected)


def read(field: str, environ: Mapping[str, str]) -> Any:
    """The value of one field of Settings alone: the one that `environ` names, or the default.

    Raises SettingsError as `from_env` does.
    """
    text = environ.get(variable(field))
    if text is None:
        return getattr(Settings(), field)
    rule = _RULES[field]
    try:
        value = _READERS[field](text.strip())
    except ValueError:
        raise SettingsError(variable(field), text, rule.expected) from None
    if not rule.holds(value):
        raise SettingsError(variable(field), text, rule.expected)
    return value


_UNPREFIXED = {"host", "port", "log_level", "log_format", "cors_origins"}


def variable(field: str) -> str:
    """The environment variable that `field` of Settings is read from."""
    if field == "workers":
        return "WEB_CONCURRENCY"  # the name that uvicorn, gunicorn and hosting platforms use
    return field.upper() if field in _UNPREFIXED else f"CHAT_{field.upper()}"


def _list(text: str) -> Tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _seconds_or_off(text: str) -> Optional[float]:
    return None if text.lower() == "off" else float(text)


def _is_origin(value: object) -> bool:
    """Whether a browser could send `value` as its Origin (RFC 6454, section 6.1)."""
    if not isinstance(value, str):
        return False
    return value == "*" or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+", value) is not None


def _between(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    # bool is an int to Python, but never what somebody means by a number.
    return lambda value: type(value) in (int, float) and low <= value <= high


def _whole(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


AT_LEAST_ONE = Rule("a whole number of at least 1", _whole(1))
SECONDS = Rule("a number of seconds above 0", _seconds)
_SECONDS_OR_OFF = Rule("a number of seconds above 0, or off", lambda v: v is None or _seconds(v))

_RULES: Dict[str, Rule] = {
    "host": Rule("a host name or an address", lambda value: isinstance(value, str) and value != ""),
    "port": Rule("a whole number from 0 to 65535", _whole(0, 65535)),
    "workers": AT_LEAST_ONE,
    "log_level": Rule(f"one of {', '.join(_LEVELS)}", lambda value: value in _LEVELS),
    "log_format": Rule("text or json", lambda value: value in _FORMATS),
    "cors_origins": Rule(
        "*, or origins such as https://example.com with commas between",
        lambda value: isinstance(value, tuple) and all(map(_is_origin, value)),
    ),
    "responder": Rule("a name", lambda value: isinstance(value, str) and value != ""),
    "max_streams": AT_LEAST_ONE,
    "max_body_bytes": AT_LEAST_ONE,
    "body_timeout": SECONDS,
    "heartbeat_interval": _SECONDS_OR_OFF,
    "first_chunk_timeout": _SECONDS_OR_OFF,
    "idle_timeout": _SECONDS_OR_OFF,
    "total_timeout": _SECONDS_OR_OFF,
    "send_timeout": _SECONDS_OR_OFF,
    "cleanup_timeout": SECONDS,
    "drain_timeout": Rule("a number of seconds of at least 0", _between(0)),
    "history": Rule("off or memory", lambda value: value in ("off", "memory")),
    "context_chars": Rule("a whole number of at least 0", _whole(0)),
    "history_conversations": AT_LEAST_ONE,
    "history_messages": AT_LEAST_ONE,
    "history_chars": AT_LEAST_ONE,
    "history_ttl": SECONDS,
}

_READERS: Dict[str, Callable[[str], Any]] = {
    "host": str,
    "port": int,
    "workers": int,
    "log_level": str.upper,
    "log_format": str.lower,
    "cors_origins": _list,
    "responder": str,
    "max_streams": int,
    "max_body_bytes": int,
    "body_timeout": float,
    "heartbeat_interval": _seconds_or_off,
    "first_chunk_timeout": _seconds_or_off,
    "idle_timeout": _seconds_or_off,
    "total_timeout": _seconds_or_off,
    "send_timeout": _seconds_or_off,
    "cleanup_timeout": float,
    "drain_timeout": float,
    "history": str.lower,
    "context_chars": int,
    "history_conversations": int,
    "history_messages": int,
    "history_chars": int,
    "history_ttl": float,
}
