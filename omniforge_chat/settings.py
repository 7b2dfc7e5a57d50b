"""The settings of a service: a value that is made once and passed in. Nothing here is global."""

from __future__ import annotations

import contextlib
import ipaddress
from typing import Annotated, Any, Dict, Mapping, Optional, Tuple, get_type_hints

import msgspec

from . import rules
from .models import Allowance, Rate
from .rules import DIALECTS, SettingsError, check, shown


def is_reachable(address: object) -> bool:
    """Whether other machines can reach `address`, as `getsockname` of a socket has it."""
    return isinstance(address, tuple) and not _is_loopback(address)


def _is_loopback(address: object) -> bool:
    if not isinstance(address, tuple):
        return False  # a Unix socket, which no web page can reach
    given = ipaddress.ip_address(address[0].partition("%")[0])
    return (getattr(given, "ipv4_mapped", None) or given).is_loopback


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The behaviour of one service, or of one mounted app.

    Times are in seconds and sizes in bytes. None switches a limit off, if it may be off. A setting
    that you do not pass has its default: only `from_env` reads the environment. Raises
    SettingsError for a value that makes no sense.
    """

    # Field, type, rule, variable (if it is not CHAT_ and the field's name), default.
    host: Annotated[str, rules.text("a host name or an address"), "HOST"] = "127.0.0.1"
    port: Annotated[int, rules.whole(0, 65535), "PORT"] = 8000
    uds: Annotated[str, rules.FILE, "UDS"] = ""
    # WEB_CONCURRENCY is the name that uvicorn, gunicorn and hosting platforms use.
    workers: Annotated[int, rules.AT_LEAST_ONE, "WEB_CONCURRENCY"] = 1
    root_path: Annotated[str, rules.PATH, "ROOT_PATH"] = ""
    forwarded_allow_ips: Annotated[str, rules.PROXIES, "FORWARDED_ALLOW_IPS"] = "127.0.0.1,::1"
    keep_alive: Annotated[float, rules.SECONDS, "KEEP_ALIVE"] = 75.0
    ssl_certfile: Annotated[str, rules.FILE, "SSL_CERTFILE"] = ""
    ssl_keyfile: Annotated[str, rules.FILE, "SSL_KEYFILE"] = ""
    ssl_keyfile_password: Annotated[str, rules.SECRET, "SSL_KEYFILE_PASSWORD"] = ""
    ssl_ca_certs: Annotated[str, rules.FILE, "SSL_CA_CERTS"] = ""
    ssl_cert_reqs: Annotated[int, rules.whole(0, 2), "SSL_CERT_REQS"] = 0
    ssl_ciphers: Annotated[str, rules.ANY_TEXT, "SSL_CIPHERS"] = ""
    log_level: Annotated[str, rules.LEVEL, "LOG_LEVEL"] = "INFO"
    log_format: Annotated[str, rules.one_of("text", "json"), "LOG_FORMAT"] = "text"
    access_log: Annotated[bool, rules.SWITCH, "ACCESS_LOG"] = False
    allowed_hosts: Annotated[Tuple[str, ...], rules.HOSTS, "ALLOWED_HOSTS"] = ()
    cors_origins: Annotated[Tuple[str, ...], rules.ORIGINS, "CORS_ORIGINS"] = ()
    cors_headers: Annotated[Tuple[str, ...], rules.HEADERS, "CORS_HEADERS"] = ("*",)
    responder: Annotated[str, rules.text("a name")] = "placeholder"
    dialects: Annotated[Tuple[str, ...], rules.FORMATS] = ("native",)
    page: Annotated[bool, rules.SWITCH] = False
    model_name: Annotated[str, rules.MODEL_NAME] = "omniforge"
    allow_parameters: Annotated[Tuple[str, ...], rules.PARAMETERS] = ()
    thoughts: Annotated[bool, rules.SWITCH] = False
    hide_thoughts: Annotated[str, rules.THOUGHTS] = "off"
    max_streams: Annotated[int, rules.AT_LEAST_ONE] = 10_000
    max_body_bytes: Annotated[int, rules.AT_LEAST_ONE] = 128 * 1024
    max_history_body_bytes: Annotated[int, rules.AT_LEAST_ONE] = 1024 * 1024
    body_timeout: Annotated[float, rules.SECONDS] = 15.0
    heartbeat_interval: Annotated[Optional[float], rules.SECONDS_OR_OFF] = 15.0
    first_chunk_timeout: Annotated[Optional[float], rules.SECONDS_OR_OFF] = 60.0
    idle_timeout: Annotated[Optional[float], rules.SECONDS_OR_OFF] = 60.0
    total_timeout: Annotated[Optional[float], rules.SECONDS_OR_OFF] = 900.0
    send_timeout: Annotated[Optional[float], rules.SECONDS_OR_OFF] = 30.0
    cleanup_timeout: Annotated[float, rules.SECONDS] = 5.0
    drain_timeout: Annotated[float, rules.SECONDS_OR_ZERO] = 30.0
    history: Annotated[str, rules.HISTORY] = "off"
    history_required: Annotated[bool, rules.SWITCH] = True
    context_chars: Annotated[int, rules.whole(0)] = 24_000
    history_conversations: Annotated[int, rules.AT_LEAST_ONE] = 1_000
    history_messages: Annotated[int, rules.AT_LEAST_ONE] = 100
    history_bytes: Annotated[int, rules.AT_LEAST_1_KIB] = 128 * 1024
    history_total_bytes: Annotated[int, rules.AT_LEAST_1_KIB] = 64 * 1024 * 1024
    history_ttl: Annotated[float, rules.SECONDS] = 86_400.0
    replay: Annotated[str, rules.one_of("off", "memory", "redis")] = "off"
    replay_grace: Annotated[float, rules.SECONDS_OR_ZERO] = 30.0
    replay_keep: Annotated[float, rules.SECONDS] = 300.0
    replay_total_bytes: Annotated[int, rules.AT_LEAST_1_KIB] = 64 * 1024 * 1024
    redis_url: Annotated[str, rules.REDIS_URL, "REDIS_URL"] = "redis://127.0.0.1:6379/0"
    redis_prefix: Annotated[str, rules.KEY_PREFIX, "REDIS_PREFIX"] = "omniforge:"

    api_keys_file: Annotated[str, rules.FILE] = ""
    api_keys: Annotated[str, rules.API_KEYS] = ""
    jwt_issuer: Annotated[str, rules.ANY_TEXT] = ""
    jwt_audience: Annotated[str, rules.ANY_TEXT] = ""
    jwt_jwks: Annotated[str, rules.HTTP_URL] = ""
    jwt_secret: Annotated[str, rules.SECRET] = ""
    jwt_scope: Annotated[str, rules.ANY_TEXT] = ""
    rate_limit: Annotated[Optional[Rate], rules.RATE] = None
    caller_streams: Annotated[Optional[int], rules.AT_LEAST_ONE_OR_OFF] = None
    tokens_per_day: Annotated[Optional[int], rules.AT_LEAST_ONE_OR_OFF] = None
    limits: Annotated[str, rules.one_of("memory", "redis")] = "memory"
    limits_required: Annotated[bool, rules.SWITCH] = False
    metrics: Annotated[str, rules.METRICS] = "off"
    tracing: Annotated[bool, rules.SWITCH] = False
    trace_content: Annotated[bool, rules.SWITCH] = False
    gen_ai_names: Annotated[str, rules.one_of("older", "latest")] = "older"

    def __post_init__(self) -> None:
        for field, (rule, *_) in _TABLE.items():
            check(field, getattr(self, field), rule)

    def __repr__(self) -> str:
        values = {field: getattr(self, field) for field in self.__struct_fields__}
        values.update((field, "***") for field in values if is_secret(field))
        return f"Settings({', '.join(f'{name}={shown(value)}' for name, value in values.items())})"

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

    @property
    def allowance(self) -> Allowance:
        """How much a caller may have who has no allowance of their own."""
        return Allowance(self.rate_limit, self.caller_streams, self.tokens_per_day)

    def listening_on(self, address: object) -> Settings:
        """The settings of a service that listens on `address`, as `getsockname` of a socket has it.

        On a loopback address it answers to local names alone, unless `allowed_hosts` has others:
        no page of the internet can then reach it under a name of its own (DNS rebinding).
        """
        if self.allowed_hosts or not _is_loopback(address):
            return self
        names: Tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
        own = f"[{self.host}]" if ":" in self.host else self.host
        if own not in names and rules.is_host(own):
            names = (*names, own)
        return msgspec.structs.replace(self, allowed_hosts=names)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """The settings in `environ`, and the defaults of those that are not in it.

        They are those of a service. So without `CORS_ORIGINS` pages of every origin may call it,
        without credentials; without `CHAT_DIALECTS` it speaks all of them; it has its page; and it
        traces, by the names that they choose, if the variables of OpenTelemetry say so.
        Raises SettingsError with the variable, its value and the values that it may have.
        """
        values: Dict[str, Any] = {"cors_origins": ("*",), "dialects": DIALECTS, "page": True}
        values["tracing"] = _exports_traces(environ)
        if _LATEST_NAMES in environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(","):
            values["gen_ai_names"] = "latest"
        for field in cls.__struct_fields__:
            if variable(field) in environ:
                values[field] = read(field, environ)
        return cls(**values)


_TABLE: Dict[str, Tuple[Any, ...]] = {
    field: hint.__metadata__
    for field, hint in get_type_hints(Settings, include_extras=True).items()
}
"""For each field its Rule and, for some, the name of its variable."""


def is_secret(field: str) -> bool:
    """Whether nobody may see the value of `field` of Settings."""
    rule: rules.Rule = _TABLE[field][0]
    return rule.is_secret


_LATEST_NAMES = "gen_ai_latest_experimental"


def _exports_traces(environ: Mapping[str, str]) -> bool:
    """Whether the variables of OpenTelemetry ask for traces.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if exporter:
        return exporter != "none"
    names = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(environ.get(name, "").strip() for name in names)


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
    refusal: SettingsError = rule.refusal(name, text)
    raise refusal
