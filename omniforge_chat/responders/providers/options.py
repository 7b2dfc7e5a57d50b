"""The options of a responder that relays a model, checked before its first request."""

from __future__ import annotations

import inspect
import math
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ClassVar,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    Type,
    TypeVar,
)
from urllib.parse import urlsplit

import httpx
import msgspec

from ... import rules, settings
from ...rules import SettingsError
from ...settings import Settings
from . import extras
from .address import check_url, host_of, is_loopback, is_within
from .credentials import bare, check_key, fault_of, is_placeholder
from .extras import secrets_in
from .parameters import RULES, check_names

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")

MAX_CONNECTIONS = 1000
CLIENT_CONNECTIONS = 100
"""How many replies are read at once; the latter with a client of your own, as httpx has it."""

_Options = TypeVar("_Options", bound="ProviderOptions")


class ProviderOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of the responders for all providers. Each is a keyword.

    - `base_url`: the address up to the part that names the API; default: the provider's own.
    - `api_key`: needed at the provider's own address only.
    - `model`: needed unless the server has a default.
    - `system_prompt`: sent before the conversation.
    - `temperature`, `max_tokens`: sent if you give them.
    - `hide_thoughts`: "on" takes `<think>...</think>` at the start of a reply out of its text, and
      yields it as a Thought; "implied" is for models that send only the `</think>`.
    - `allow_parameters`: the names of fields of a client's request that are sent, too.
    - `model_name`: the name by which clients know `model`. They may send it if `model` is allowed.
    - `extra_body`: other fields of the request, but not `messages` and `stream`.
    - `extra_headers`, `extra_query`: sent with each request. Their values count as secrets.
    - `first_chunk_timeout`: seconds until the first frame, with all waits and tries; None is off.
    - `idle_timeout`: seconds from one frame to the next; None is off. Comments and pings are no
      frames. Keep both below the limits of Settings: then a client is told that the provider was
      silent.
    - `connect_timeout`: seconds for one connection.
    - `max_connections`: how many replies are read at once, 1,000, or 100 with a `client`. The next
      one waits, within `first_chunk_timeout`.
    - `client`: an httpx.AsyncClient of your own. It is used as it is and never closed. Its limit of
      connections (100 unless you set it) must not be below `max_connections`. Over HTTP/2 the
      provider goes on with a reply that nobody reads any more: httpcore does not tell it.

    Raises SettingsError, which quotes no secret, for a value that cannot be used.
    """

    default_url: ClassVar[str]
    default_model: ClassVar[str]
    prefix: ClassVar[str]
    """The names of the provider's own environment variables begin with it."""
    credentials: ClassVar[Tuple[str, ...]] = ("api_key",)
    """The options that hold a key."""
    domains: ClassVar[Tuple[str, ...]] = ()
    """Others that serve the provider's own models, in its own words."""
    parameters: ClassVar[Tuple[str, ...]] = tuple(RULES)
    """The parameters of a client that this format has."""
    own_rules: ClassVar[Mapping[str, rules.Rule]] = MappingProxyType({})
    """The options that only this provider has; each has a variable too."""

    base_url: Optional[str] = None
    api_key: Optional[str] = None
    model: Optional[str] = None
    system_prompt: Optional[str] = None
    temperature: Optional[float] = None
    max_tokens: Optional[int] = None
    hide_thoughts: str = "off"
    allow_parameters: Tuple[str, ...] = ()
    model_name: str = Settings().model_name
    extra_body: Optional[Mapping[str, Any]] = None
    extra_headers: Optional[Mapping[str, str]] = None
    extra_query: Optional[Mapping[str, str]] = None
    first_chunk_timeout: Optional[float] = 50.0
    idle_timeout: Optional[float] = 50.0
    connect_timeout: float = 5.0
    max_connections: Optional[int] = None
    client: Optional[httpx.AsyncClient] = None

    def __post_init__(self) -> None:
        for name in ("base_url", "model", "system_prompt", *self.credentials):
            _check_text(name, getattr(self, name))
        if not (self.client is None or isinstance(self.client, httpx.AsyncClient)):
            raise SettingsError("client", self.client, "an httpx.AsyncClient")
        check_url(self.base_url or self.default_url)
        self._check_path()
        for name in self.credentials:
            if getattr(self, name):
                check_key(name, getattr(self, name))
        if self.is_known_host:
            for name, expected in self._faults():
                raise SettingsError(name, "***", expected)
        has_key = any(getattr(self, name) for name in self.credentials)
        if self.is_own_host and not (has_key or self.client or self.extra_headers):
            raise SettingsError("api_key", self.api_key, f"a key, as {self.url} asks for one")
        for name, rule in {**_RULES, **self.own_rules}.items():
            value = getattr(self, name)
            if value is not None or name in _NEVER_NONE:
                rules.check(name, value, rule)
        check_names(self.allow_parameters, self.parameters)
        extras.check_body(self.extra_body or {})
        extras.check_headers(self.extra_headers or {})
        extras.check_query(self.extra_query or {})

    def _check_path(self) -> None:
        path = urlsplit(self.default_url).path
        if self.is_own_host and path and self.has_no_path:
            expected = f"an address with {path} at its end"
            raise SettingsError("base_url", self.base_url, expected)

    def _faults(self) -> Iterator[Tuple[str, str]]:
        """The credentials that look like a mistake, and the expected ones in words."""
        for name in self.credentials:
            key = getattr(self, name)
            # A server of your own may ask for no key, and its clients demand some.
            if key and not (is_placeholder(key) and is_loopback(self.url)):
                fault = fault_of(key)
                if fault:
                    yield name, fault

    @property
    def doubts(self) -> List[str]:
        """The mistakes that a server of your own might nevertheless take."""
        return [
            f"{self.prefix}_{name.upper()}='***': expected {fault}"
            for name, fault in self._faults()
        ]

    @property
    def has_no_path(self) -> bool:
        """Whether the address is only a host."""
        return not urlsplit(self.url).path

    @property
    def url(self) -> str:
        """The address that is asked, without a slash at its end."""
        return (self.base_url or self.default_url).rstrip("/")

    @property
    def is_own_host(self) -> bool:
        """Whether the provider itself is asked."""
        return is_within(self.url, [host_of(self.default_url)])

    @property
    def is_known_host(self) -> bool:
        """Whether the provider is asked, or another that serves its models."""
        return self.is_own_host or is_within(self.url, self.domains)

    @property
    def connections(self) -> int:
        """How many replies are read at once."""
        default = MAX_CONNECTIONS if self.client is None else CLIENT_CONNECTIONS
        return self.max_connections or default

    @property
    def known_model(self) -> Optional[str]:
        """The model to ask for. Another server may have only one, which needs no name."""
        return self.model or (self.default_model if self.is_own_host else None)

    @property
    def secrets(self) -> Tuple[str, ...]:
        """The texts to redact, the longer first, as one may contain another.

        A key of a few letters, as a server of your own may have, is none: many texts contain it.
        """
        found = []
        for name in self.credentials:
            key = getattr(self, name) or ""
            found += [key, bare(key)]
        if self.client is not None:  # nobody knows its headers; short values are versions and flags
            found += secrets_in({**self.client.params, **self.client.headers}, 16)
        found += secrets_in({**(self.extra_headers or {}), **(self.extra_query or {})}, 8)
        secrets = {text for text in found if len(text) >= 8}
        return tuple(sorted(secrets, key=lambda text: (-len(text), text)))

    def shown_as(self, name: str) -> str:
        """A repr with this name, of the options that are no secret."""
        return f"{name}({', '.join(f'{option}={value!r}' for option, value in self._shown())})"

    def __repr__(self) -> str:
        return self.shown_as(type(self).__name__)

    def _shown(self) -> List[Tuple[str, object]]:
        keys = [(name, "***") for name in self.credentials if getattr(self, name)]
        return [("base_url", self.url), ("model", self.known_model), *keys]

    __rich_repr__ = _shown  # msgspec's own shows every field

    @classmethod
    def from_env(
        cls: Type[_Options], environ: Mapping[str, str], limits: Optional[Settings] = None
    ) -> _Options:
        """Read the options from `environ`; an empty variable counts as absent.

        Each variable is the provider's prefix and the name of the option, or one of
        CHAT_SYSTEM_PROMPT, CHAT_TEMPERATURE and CHAT_MAX_TOKENS. The settings of the service are
        those of `limits`, or those that Settings reads from `environ`; the time limits are a little
        shorter. Raises SettingsError, which names the variable.
        """
        values: Dict[str, Any] = {
            name: getattr(limits, name) if limits else settings.read(name, environ)
            for name in (*_OF_THE_SERVICE, *_TIME_LIMITS)
        }
        for name in _TIME_LIMITS:
            limit = values[name]
            # It ends before the service's own, so that the client is told who was silent.
            values[name] = None if limit is None else limit - min(10.0, limit / 6)
        own = (*cls.credentials, *_OWN, *cls.own_rules)
        names = {**{name: f"{cls.prefix}_{name.upper()}" for name in own}, **_SHARED}
        try:
            for name, variable in names.items():
                text = environ.get(variable, "").strip()
                if text:
                    values[name] = cls._read(name, text)
            return cls(**values)
        except SettingsError as error:
            shared = {name: settings.variable(name) for name in _OF_THE_SERVICE}
            name = {**shared, **names}.get(error.name, error.name)
            raise SettingsError(name, error.value, error.expected) from None

    @classmethod
    def _read(cls, name: str, text: str) -> object:
        """Read one option from the text of its variable."""
        rule = {**_RULES, **cls.own_rules}.get(name)
        if rule is not None:
            try:
                return rule.read(text)
            except ValueError:
                raise SettingsError(name, text, rule.expected) from None
        return extras.READERS[name](text) if name in extras.READERS else text


_OF_THE_SERVICE = ("hide_thoughts", "allow_parameters", "model_name")
_TIME_LIMITS = ("first_chunk_timeout", "idle_timeout")
"""The options that are settings of the service."""

_OWN = ("base_url", "model", *extras.READERS)
_SHARED = {
    "system_prompt": "CHAT_SYSTEM_PROMPT",
    "temperature": "CHAT_TEMPERATURE",
    "max_tokens": "CHAT_MAX_TOKENS",
}
"""The options that have a variable: with the provider's prefix, or for all providers."""

_RULES = {
    "temperature": rules.Rule(
        "a number of at least 0",
        lambda value: type(value) in (int, float) and 0 <= value < math.inf,
        float,
    ),
    "max_tokens": rules.AT_LEAST_ONE,
    "hide_thoughts": rules.THOUGHTS,
    "model_name": rules.MODEL_NAME,
    "max_connections": rules.AT_LEAST_ONE,
    "connect_timeout": rules.SECONDS,
    "first_chunk_timeout": rules.SECONDS,
    "idle_timeout": rules.SECONDS,
}

_NEVER_NONE = ("connect_timeout", "hide_thoughts", "model_name")


def _check_text(name: str, value: Optional[str]) -> None:
    """Refuse, say, the bytes of a variable that are not UTF-8."""
    shown = value if name in ("model", "system_prompt") else "***"  # there may be a password in it
    if not (value is None or isinstance(value, str)):
        raise SettingsError(name, shown, "text, which is a str")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise SettingsError(name, shown, "text, in UTF-8") from None


def takes(
    options: Callable[P, ProviderOptions],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give an `__init__` the keywords of `options`, for type checkers and for `help`."""

    def typed(init: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        signature = inspect.signature(options)
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        parameters = [own, *signature.parameters.values()]
        init.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return init

    return typed
