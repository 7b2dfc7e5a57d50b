"""The settings of a service: a value that is made once and passed in. Nothing here is global."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import re
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    get_type_hints,
)

import msgspec

from .errors import SettingsError


class Rule(NamedTuple):
    """The values that a setting may have: in words, as a test, and how text becomes one of them.

    `read` gets the text without white space around it, and raises ValueError for a useless one.
    """

    expected: str
    holds: Callable[[Any], bool]
    read: Callable[[str], Any] = str


def check(name: str, value: object, rule: Rule) -> None:
    """Raises SettingsError if `rule` does not hold for `value`."""
    if not rule.holds(value):
        raise SettingsError(name, value, rule.expected)


def _text(expected: str) -> Rule:
    return Rule(expected, lambda value: isinstance(value, str) and value != "")


def _one_of(*choices: str, read: Callable[[str], str] = str.lower) -> Rule:
    words = " or ".join(choices) if len(choices) == 2 else f"one of {', '.join(choices)}"
    return Rule(words, lambda value: value in choices, read)


def _whole(low: int, high: float = math.inf) -> Rule:
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


def _is_host(value: object) -> bool:
    """Whether a Host without its port could be `value`, or be meant by it: `*.` and a name."""
    pattern = r"(\*\.)?[0-9A-Za-z_][0-9A-Za-z_.-]*|\[[0-9A-Fa-f:.]+\]|\*"
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_loopback(address: object) -> bool:
    if not isinstance(address, tuple):
        return False  # a Unix socket, which no web page can reach
    given = ipaddress.ip_address(address[0].partition("%")[0])
    return (getattr(given, "ipv4_mapped", None) or given).is_loopback


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


AT_LEAST_ONE = _whole(1)
AT_LEAST_1_KIB = _whole(1024)
SECONDS = Rule("a number of seconds above 0", lambda v: _is_time(v) and v > 0, float)
_SECONDS_OR_OFF = Rule(
    f"{SECONDS.expected}, or off",
    lambda value: value is None or SECONDS.holds(value),
    lambda text: None if text.lower() == "off" else float(text),
)
_SECONDS_OR_ZERO = Rule("a number of seconds of at least 0", _is_time, float)
_SWITCH = Rule(
    "on or off",
    lambda value: type(value) is bool,
    lambda text: {"on": True, "true": True, "1": True, "off": False, "false": False, "0": False}[
        text.lower()
    ],
)
_ANY_TEXT = Rule("text", lambda value: isinstance(value, str))
_FILE = Rule("the path of a file", lambda value: isinstance(value, str) and "\0" not in value)
_PATH = Rule("a path such as /api", is_path, lambda text: text.rstrip("/"))
_PROXIES = Rule("*, or addresses and networks such as 10.0.0.0/8 with commas between", _are_proxies)
_LEVEL = _one_of("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", read=str.upper)
THOUGHTS = _one_of("off", "on", "implied")
_ORIGINS = _list_of(
    "*, or origins such as https://example.com with commas between",
    _is_origin,
)
_HEADERS = _list_of("*, or names of headers with commas between", _is_header)
_HOSTS = _list_of(
    "*, or names such as example.com, *.example.com and [::1], without ports and with commas "
    "between",
    _is_host,
)


DIALECTS = ("native", "openai", "ai_sdk", "ag_ui")
"""The names of the wire formats; `dialects` has a module for each."""

_DIALECTS = Rule(
    f"one or more of {', '.join(DIALECTS)}, with commas between",
    lambda value: (
        isinstance(value, tuple) and 0 < len(value) == sum(name in value for name in DIALECTS)
    ),
    _split,
)
MODEL_NAME = Rule("1 to 128 visible ASCII characters", is_identifier)
_PARAMETERS = _list_of("names of fields with commas between", is_identifier)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The behaviour of one service, or of one mounted app.

    Times are in seconds and sizes in bytes. None switches a limit off, if it may be off. A setting
    that you do not pass has its default: only `from_env` reads the environment. Raises
    SettingsError for a value that makes no sense.
    """

    # Field, type, rule, variable (if it is not CHAT_ and the field's name), default.
    host: Annotated[str, _text("a host name or an address"), "HOST"] = "127.0.0.1"
    port: Annotated[int, _whole(0, 65535), "PORT"] = 8000
    uds: Annotated[str, _FILE, "UDS"] = ""
    # WEB_CONCURRENCY is the name that uvicorn, gunicorn and hosting platforms use.
    workers: Annotated[int, AT_LEAST_ONE, "WEB_CONCURRENCY"] = 1
    root_path: Annotated[str, _PATH, "ROOT_PATH"] = ""
    forwarded_allow_ips: Annotated[str, _PROXIES, "FORWARDED_ALLOW_IPS"] = "127.0.0.1,::1"
    keep_alive: Annotated[float, SECONDS, "KEEP_ALIVE"] = 75.0
    ssl_certfile: Annotated[str, _FILE, "SSL_CERTFILE"] = ""
    ssl_keyfile: Annotated[str, _FILE, "SSL_KEYFILE"] = ""
    ssl_keyfile_password: Annotated[str, _ANY_TEXT, "SSL_KEYFILE_PASSWORD"] = ""
    ssl_ca_certs: Annotated[str, _FILE, "SSL_CA_CERTS"] = ""
    ssl_cert_reqs: Annotated[int, _whole(0, 2), "SSL_CERT_REQS"] = 0
    ssl_ciphers: Annotated[str, _ANY_TEXT, "SSL_CIPHERS"] = ""
    log_level: Annotated[str, _LEVEL, "LOG_LEVEL"] = "INFO"
    log_format: Annotated[str, _one_of("text", "json"), "LOG_FORMAT"] = "text"
    access_log: Annotated[bool, _SWITCH, "ACCESS_LOG"] = False
    allowed_hosts: Annotated[Tuple[str, ...], _HOSTS, "ALLOWED_HOSTS"] = ()
    cors_origins: Annotated[Tuple[str, ...], _ORIGINS, "CORS_ORIGINS"] = ()
    cors_headers: Annotated[Tuple[str, ...], _HEADERS, "CORS_HEADERS"] = ("*",)
    responder: Annotated[str, _text("a name")] = "placeholder"
    dialects: Annotated[Tuple[str, ...], _DIALECTS] = ("native",)
    page: Annotated[bool, _SWITCH] = False
    model_name: Annotated[str, MODEL_NAME] = "omniforge"
    allow_parameters: Annotated[Tuple[str, ...], _PARAMETERS] = ()
    thoughts: Annotated[bool, _SWITCH] = False
    hide_thoughts: Annotated[str, THOUGHTS] = "off"
    max_streams: Annotated[int, AT_LEAST_ONE] = 10_000
    max_body_bytes: Annotated[int, AT_LEAST_ONE] = 128 * 1024
    max_history_body_bytes: Annotated[int, AT_LEAST_ONE] = 1024 * 1024
    body_timeout: Annotated[float, SECONDS] = 15.0
    heartbeat_interval: Annotated[Optional[float], _SECONDS_OR_OFF] = 15.0
    first_chunk_timeout: Annotated[Optional[float], _SECONDS_OR_OFF] = 60.0
    idle_timeout: Annotated[Optional[float], _SECONDS_OR_OFF] = 60.0
    total_timeout: Annotated[Optional[float], _SECONDS_OR_OFF] = 900.0
    send_timeout: Annotated[Optional[float], _SECONDS_OR_OFF] = 30.0
    cleanup_timeout: Annotated[float, SECONDS] = 5.0
    drain_timeout: Annotated[float, _SECONDS_OR_ZERO] = 30.0
    history: Annotated[str, _one_of("off", "memory")] = "off"
    context_chars: Annotated[int, _whole(0)] = 24_000
    history_conversations: Annotated[int, AT_LEAST_ONE] = 1_000
    history_messages: Annotated[int, AT_LEAST_ONE] = 100
    history_bytes: Annotated[int, AT_LEAST_1_KIB] = 128 * 1024
    history_total_bytes: Annotated[int, AT_LEAST_1_KIB] = 64 * 1024 * 1024
    history_ttl: Annotated[float, SECONDS] = 86_400.0

    def __post_init__(self) -> None:
        for field, (rule, *_) in _TABLE.items():
            check(field, getattr(self, field), rule)

    def __repr__(self) -> str:
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        values["ssl_keyfile_password"] = "***"
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in values.items())})"

    @property
    def shortest_limit(self) -> float:
        """The shortest time, in seconds, after which something in a stream can be due.

        Within `send_timeout` a stream looks four times at how much its client has taken.
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

    def listening_on(self, address: object) -> Settings:
        """The settings of a service that listens on `address`, as `getsockname` of a socket has it.

        On a loopback address it answers to local names alone, unless `allowed_hosts` has others:
        no page of the internet can then reach it under a name of its own (DNS rebinding).
        """
        if self.allowed_hosts or not _is_loopback(address):
            return self
        names: Tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
        own = f"[{self.host}]" if ":" in self.host else self.host
        if own not in names and _is_host(own):
            names = (*names, own)
        return msgspec.structs.replace(self, allowed_hosts=names)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """The settings in `environ`, and the defaults of those that are not in it.

        They are those of a service. So without `CORS_ORIGINS` pages of every origin may call it,
        without credentials; without `CHAT_DIALECTS` it speaks all of them; and it has its page.
        Raises SettingsError with the variable, its value and the values that it may have.
        """
        values: Dict[str, Any] = {"cors_origins": ("*",), "dialects": DIALECTS, "page": True}
        for field in cls.__struct_fields__:
            if variable(field) in environ:
                values[field] = read(field, environ)
        return cls(**values)


_TABLE: Dict[str, Tuple[Any, ...]] = {
    field: hint.__metadata__
    for field, hint in get_type_hints(Settings, include_extras=True).items()
}
"""For each field its Rule and, for some, the name of its variable."""


def variable(field: str) -> str:
    """The environment variable that holds `field` of Settings."""
    _, *name = _TABLE[field]
    return name[0] if name else f"CHAT_{field.upper()}"


def read(field: str, environ: Mapping[str, str]) -> Any:
    """One field of Settings: its value in `environ`, or its default.

    Raises SettingsError as `from_env` does.
    """
    name, rule = variable(field), _TABLE[field][0]
    text = environ.get(name)
    if text is None:
        return getattr(Settings(), field)
    with contextlib.suppress(ValueError, KeyError):
        value = rule.read(text.strip())
        if rule.holds(value):
            return value
    raise SettingsError(name, text, rule.expected)
