"""The rules that values of settings follow: in words, as a test, and how text is read.

They serve whoever takes a setting: `Settings` itself, a store, and the options of a provider.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
from typing import Any, Callable, NamedTuple, Tuple


class SettingsError(ValueError):
    """A setting with a value that makes no sense. Its text names setting, value and expectation.

    It is no ChatError: it comes when the service starts, and no client is there yet.
    """

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(name, value, expected)  # what pickle calls it with
        self.name = name
        self.value = value
        self.expected = expected

    def __str__(self) -> str:
        return f"{self.name}={shown(self.value)}: expected {self.expected}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


def without_passwords(text: str) -> str:
    """`text`, whose URLs have `***` in place of user name and password."""
    # A password may have an @ in it, and a / or a quotation mark that should have been escaped.
    return re.sub(r"://\S*@", "://***@", text)


def masked(value: str) -> str:
    """The value of a setting, with `***` in place of the passwords in an address."""
    value = re.sub(r"(?s)://.*@", "://***@", value)
    return re.sub(r"(?i)(pass\w*=)[^&\s]*", r"\1***", value)


def shown(value: object) -> str:
    """The value of a setting as code has it, without passwords."""
    return repr(masked(value)) if isinstance(value, str) else without_passwords(repr(value))


class Rule(NamedTuple):
    """The values that a setting may have: in words, as a test, and how text becomes one of them.

    `read` gets the text without white space around it, and raises ValueError for a useless one. If
    there may be a password in a value, `has_password` is set.
    """

    expected: str
    holds: Callable[[Any], bool]
    read: Callable[[str], Any] = str
    has_password: bool = False

    def refusal(self, name: str, value: object) -> SettingsError:
        """The error for a value that is none of these."""
        if self.has_password and isinstance(value, str) and "://" not in value:
            # An address that lacks its scheme. A file may have an @ in its name.
            value = re.sub(r"(?s)^(?!sqlite:).*@", "***@", value)
        return SettingsError(name, value, self.expected)


def check(name: str, value: object, rule: Rule) -> None:
    """Raises SettingsError if `rule` does not hold for `value`."""
    if not rule.holds(value):
        raise rule.refusal(name, value)


def text(expected: str) -> Rule:
    return Rule(expected, lambda value: isinstance(value, str) and value != "")


def one_of(*choices: str, read: Callable[[str], str] = str.lower) -> Rule:
    words = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
    return Rule(words, lambda value: value in choices, read)


def whole(low: int, high: float = math.inf) -> Rule:
    words = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    # bool is an int to Python, but nobody means one by a number.
    return Rule(
        f"a whole number {words}", lambda value: type(value) is int and low <= value <= high, int
    )


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def _is_origin(value: object) -> bool:
    """Whether a browser could send `value` as its Origin (RFC 6454, section 6.1)."""
    if not isinstance(value, str):
        return False
    return value == "*" or re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+", value) is not None


def is_path(value: object) -> bool:
    """Whether `value` can be the prefix of a path: `/api`, `/a/b`, or nothing."""
    return (
        isinstance(value, str)
        and len(value) <= 256
        and re.fullmatch(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~@+-]+)*", value) is not None
    )


def _are_proxies(value: object) -> bool:
    return isinstance(value, str) and (
        value in ("*", "") or all(_is_network(part.strip()) for part in value.split(","))
    )


def _is_network(text: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_network(text)
        return True
    return False


def _is_header(value: object) -> bool:
    """Whether `value` is the name of a header (RFC 9110, section 5.1), or `*`."""
    return (
        isinstance(value, str) and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value) is not None
    )


def is_host(value: object) -> bool:
    """Whether a Host without its port could be `value`, or be meant by it: `*.` and a name."""
    pattern = r"(\*\.)?[0-9A-Za-z_][0-9A-Za-z_.-]*|\[[0-9A-Fa-f:.]+\]|\*"
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def is_identifier(value: object) -> bool:
    """Whether `value` is 1 to 128 visible ASCII characters: an id that any header can carry."""
    return isinstance(value, str) and re.fullmatch(r"[!-~]{1,128}", value) is not None


def _split(text: str) -> Tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _list_of(expected: str, holds: Callable[[object], bool]) -> Rule:
    return Rule(
        expected,
        lambda value: isinstance(value, tuple) and all(map(holds, value)),
        _split,
    )


AT_LEAST_ONE = whole(1)
AT_LEAST_1_KIB = whole(1024)
SECONDS = Rule("a number of seconds above 0", lambda v: _is_time(v) and v > 0, float)
SECONDS_OR_OFF = Rule(
    f"{SECONDS.expected}, or off",
    lambda value: value is None or SECONDS.holds(value),
    lambda text: None if text.lower() == "off" else float(text),
)
SECONDS_OR_ZERO = Rule("a number of seconds of at least 0", _is_time, float)
SWITCH = Rule(
    "on or off",
    lambda value: type(value) is bool,
    lambda text: {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}[
        text.lower()
    ],
)
ANY_TEXT = Rule("text", lambda value: isinstance(value, str))
FILE = Rule("the path of a file", lambda value: isinstance(value, str) and "\0" not in value)
PATH = Rule("a path such as /api", is_path, lambda text: text.rstrip("/"))
PROXIES = Rule("*, or addresses and networks such as 10.0.0.0/8 with commas between", _are_proxies)
LEVEL = one_of("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", read=str.upper)
THOUGHTS = one_of("off", "on", "implied")
ORIGINS = _list_of(
    "*, or origins such as https://example.com with commas between",
    _is_origin,
)
HEADERS = _list_of("*, or names of headers with commas between", _is_header)
HOSTS = _list_of(
    "*, or names such as example.com, *.example.com and [::1], without ports and with commas "
    "between",
    is_host,
)


DIALECTS = ("native", "openai", "ai_sdk", "ag_ui")
"""The names of the wire formats; `dialects` has a module for each."""

FORMATS = Rule(
    f"one or more of {', '.join(DIALECTS)}, with commas between",
    lambda value: (
        isinstance(value, tuple) and 0 < len(value) == sum(name in value for name in DIALECTS)
    ),
    _split,
)


def _is_history(value: object) -> bool:
    if not isinstance(value, str):
        return False
    kind, colon, rest = value.partition(":")
    if kind == "sqlite":
        return bool(colon and rest) and "\0" not in rest
    return value in ("off", "memory", "redis") or _is_url(value, "postgresql", "postgres")


def _read_history(text: str) -> str:
    if text.lower() in ("off", "memory", "redis"):
        return text.lower()
    return "sqlite:conversations.db" if text.lower() == "sqlite" else text


def _is_url(value: object, *schemes: str) -> bool:
    return (
        isinstance(value, str)
        and value.partition("://")[0] in schemes
        and re.fullmatch(r"[a-z]+://[!-~]+", value) is not None
    )


HISTORY = Rule(
    "off, memory, redis, sqlite:PATH or postgresql://...",
    _is_history,
    _read_history,
    has_password=True,
)
REDIS_URL = Rule(
    "redis://HOST:PORT/NUMBER, rediss://... for TLS, or unix://PATH",
    lambda value: _is_url(value, "redis", "rediss", "unix"),
    has_password=True,
)
KEY_PREFIX = Rule(
    "1 to 64 visible ASCII characters without braces",
    lambda value: isinstance(value, str) and re.fullmatch(r"[!-z|~]{1,64}", value) is not None,
)
MODEL_NAME = Rule("1 to 128 visible ASCII characters", is_identifier)
PARAMETERS = _list_of("names of fields with commas between", is_identifier)
