"""A rule: the values that a setting may have, in words, as a test, and how text is read."""

from __future__ import annotations

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
    return re.sub(r"\S+", lambda word: _without_password(word[0]), text)


def _without_password(url: str) -> str:
    before, scheme, behind = url.partition("://")
    # A password may have an @ in it, and a / or a quotation mark that should have been escaped.
    _, at, host = behind.rpartition("@")
    return f"{before}{scheme}***@{host}" if at else url


def masked(value: str) -> str:
    """The value of a setting, with `***` in place of the passwords in an address."""
    return re.sub(r"(?i)(pass\w{0,60}=)[^&\s]*", r"\1***", _without_password(value))


def shown(value: object) -> str:
    """The value of a setting as code has it, without passwords."""
    return repr(masked(value)) if isinstance(value, str) else without_passwords(repr(value))


class Rule(NamedTuple):
    """The values that a setting may have: in words, as a test, and how text becomes one of them.

    `read` gets the text without white space around it, and raises ValueError for a useless one. If
    there may be a password in a value, `has_password` is set; if all of it is one, `is_secret`.
    """

    expected: str
    holds: Callable[[Any], bool]
    read: Callable[[str], Any] = str
    has_password: bool = False
    is_secret: bool = False

    def refusal(self, name: str, value: object) -> SettingsError:
        """The error for a value that is none of these."""
        if self.is_secret and isinstance(value, str):
            value = "***"
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


def is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf


def split(text: str) -> Tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def list_of(expected: str, holds: Callable[[object], bool]) -> Rule:
    return Rule(
        expected,
        lambda value: isinstance(value, tuple) and all(map(holds, value)),
        split,
    )


def off_or(rule: Rule) -> Rule:
    return Rule(
        f"{rule.expected}, or off",
        lambda value: value is None or rule.holds(value),
        lambda text: None if text.lower() == "off" else rule.read(text),
    )


def is_identifier(value: object) -> bool:
    """Whether `value` is 1 to 128 visible ASCII characters: an id that any header can carry."""
    return isinstance(value, str) and re.fullmatch(r"[!-~]{1,128}", value) is not None


AT_LEAST_ONE = whole(1)
AT_LEAST_1_KIB = whole(1024)
AT_LEAST_ONE_OR_OFF = off_or(AT_LEAST_ONE)
SECONDS = Rule("a number of seconds above 0", lambda v: is_time(v) and v > 0, float)
SECONDS_OR_OFF = Rule(
    f"{SECONDS.expected}, or off",
    lambda value: value is None or SECONDS.holds(value),
    lambda text: None if text.lower() == "off" else float(text),
)
SECONDS_OR_ZERO = Rule("a number of seconds of at least 0", is_time, float)
SWITCH = Rule(
    "on or off",
    lambda value: type(value) is bool,
    lambda text: {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}[
        text.lower()
    ],
)
ANY_TEXT = Rule("text", lambda value: isinstance(value, str))
SECRET = Rule("text", lambda value: isinstance(value, str), is_secret=True)
FILE = Rule("the path of a file", lambda value: isinstance(value, str) and "\0" not in value)
