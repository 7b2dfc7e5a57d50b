"""Settings: a value, made in code or read from an environment; nothing in between."""

from __future__ import annotations

import math
import pickle
from functools import partial
from typing import Any, Callable, Dict, Union

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import Settings
from omniforge_chat.models import Rate
from omniforge_chat.rules import DIALECTS, SettingsError, masked, without_passwords
from omniforge_chat.settings import variable

from ..support.growth import LINEAR, growth

FIELDS = Settings.__struct_fields__
DEFAULTS: Dict[str, Any] = {field: getattr(Settings(), field) for field in FIELDS}
OF_A_SERVICE: Dict[str, Any] = {"cors_origins": ("*",), "dialects": DIALECTS, "page": True}
TEXTS = [field for field in FIELDS if isinstance(DEFAULTS[field], str)]
MAY_BE_EMPTY = [field for field in TEXTS if DEFAULTS[field] == "" or "allow_ips" in field]
SWITCHES = [field for field in FIELDS if isinstance(DEFAULTS[field], bool)]
WHOLE = [field for field in FIELDS if type(DEFAULTS[field]) is int]
TIMES = [field for field in FIELDS if isinstance(DEFAULTS[field], float)]


def outcome(make: Callable[[], Settings]) -> Union[Settings, SettingsError]:
    """What comes of it; nothing else may."""
    try:
        return make()
    except SettingsError as error:
        return error


def is_optional(field: str) -> bool:
    """Whether code may switch the setting off."""
    off: Dict[str, Any] = {field: None}
    return isinstance(outcome(partial(Settings, **off)), Settings)


def value_of(field: str) -> st.SearchStrategy[Any]:
    """Values that `field` may have."""
    special: Dict[str, st.SearchStrategy[Any]] = {
        "cors_origins": st.lists(
            st.sampled_from(["*", "https://example.com", "http://[::1]:8000", "app://x"])
        ).map(tuple),
        "allowed_hosts": st.lists(
            st.sampled_from(["*", "a.example", "*.example.com", "[::1]", "10.0.0.1", "my_host"])
        ).map(tuple),
        "dialects": st.lists(st.sampled_from(DIALECTS), min_size=1, unique=True).map(tuple),
        "allow_parameters": st.lists(st.sampled_from(["temperature", "x.y"])).map(tuple),
        "model_name": st.sampled_from(["omniforge", "acme/large:8b"]),
        "cors_headers": st.lists(st.sampled_from(["*", "Authorization", "x-a_b.c!"])).map(tuple),
        "log_level": st.sampled_from(["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"]),
        "log_format": st.sampled_from(["text", "json"]),
        "gen_ai_names": st.sampled_from(["older", "latest"]),
        "history": st.sampled_from(
            ["off", "memory", "redis", "sqlite:a/B c.db", "postgresql://u:p@h:1/d?x=y"]
        ),
        "replay": st.sampled_from(["off", "memory", "redis"]),
        "redis_url": st.sampled_from(["redis://h:1/0", "rediss://:p@h", "unix:///run/r.sock"]),
        "redis_prefix": st.sampled_from(["omniforge:", "a", "~" * 64]),
        "hide_thoughts": st.sampled_from(["off", "on", "implied"]),
        "root_path": st.sampled_from(["", "/api", "/a/b-c_d.e~f", "/..."]),
        "forwarded_allow_ips": st.sampled_from(["", "*", "127.0.0.1,::1", "10.0.0.0/8, fe80::/10"]),
        "ssl_cert_reqs": st.sampled_from([0, 1, 2]),
        "history_bytes": st.integers(1024, 2**40),
        "history_total_bytes": st.integers(1024, 2**40),
        "replay_total_bytes": st.integers(1024, 2**40),
        "api_keys": st.sampled_from(["", "a:0123456789abcdef,b@c.d:fedcba9876543210"]),
        "jwt_jwks": st.sampled_from(["", "https://issuer.example/keys", "http://[::1]:8000/k"]),
        "rate_limit": st.sampled_from([None, Rate(60, 60), Rate(1, 1), Rate(100, 30)]),
        "caller_streams": st.sampled_from([None, 1, 50]),
        "tokens_per_day": st.sampled_from([None, 1, 10**9]),
        "limits": st.sampled_from(["memory", "redis"]),
        "metrics": st.sampled_from(["on", "off", "127.0.0.1:9464", "[::1]:9464"]),
    }
    if field in special:
        return special[field]
    if field in SWITCHES:
        return st.booleans()
    if field in TEXTS:
        return st.text(min_size=1).filter(lambda text: text == text.strip() and "\0" not in text)
    if field in WHOLE:
        return st.integers(min_value=1, max_value=65535)
    assert field in TIMES, f"{field} is of a kind that this test does not know"
    times = st.floats(min_value=0.001, max_value=1e9)
    return st.none() | times if is_optional(field) else times


def as_text(value: Any) -> str:
    """`value` as somebody writes it in an environment."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(value) if isinstance(value, tuple) else str(value)


settings = st.fixed_dictionaries({}, optional={field: value_of(field) for field in FIELDS})
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple),
)


def test_without_an_environment_the_defaults_hold() -> None:
    """A service that is started with nothing said works, on this machine only."""
    assert Settings.from_env({}) == Settings(**OF_A_SERVICE)
    assert (DEFAULTS["host"], DEFAULTS["port"]) == ("127.0.0.1", 8000)
    assert (DEFAULTS["log_level"], DEFAULTS["log_format"]) == ("INFO", "text")
    assert (DEFAULTS["responder"], DEFAULTS["history"]) == ("placeholder", "off")
    assert DEFAULTS["max_body_bytes"] == 131072


def test_a_secret_is_not_shown() -> None:
    """Settings end up in logs and tracebacks."""
    keys = "a:s3cret-s3cret-s3cret"
    settings = Settings(ssl_keyfile_password="s3cret", jwt_secret="s3cret", api_keys=keys)
    assert "s3cret" not in repr(settings)
    assert "port=1" in repr(Settings(port=1))


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("redis_url", "redis://me:s3cret@host:1/0", "redis://***@host:1/0"),
        ("redis_url", "redis://:s3c@ret?/@host", "redis://***@host"),
        ("redis_url", "redis://host/0?password=s3cret&db=1", "redis://host/0?password=***&db=1"),
        ("history", "postgresql://me:s3cret@host/chat", "postgresql://***@host/chat"),
        ("history", "postgresql://host/chat?sslpassword=s3cret", "host/chat?sslpassword=***"),
        ("history", "sqlite:/data/me@home.db", "sqlite:/data/me@home.db"),
    ],
)
def test_the_password_of_a_store_is_not_shown(field: str, value: str, shown: str) -> None:
    """The rest of its address is, as it tells which store is meant."""
    settings = Settings.from_env({variable(field): value})
    assert shown in repr(settings)
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("REDIS_URL", "redis://:s3c ret@host", "redis://***@host"),
        ("REDIS_URL", "me:s3cret@host:6379", "***@host:6379"),
        ("CHAT_HISTORY", "postgresql:/me:s3cret@host/chat", "***@host/chat"),
        ("CHAT_HISTORY", "host=here password=s3cret", "host=here password=***"),
    ],
)
def test_nor_is_that_of_an_address_which_is_none(name: str, value: str, shown: str) -> None:
    """The line at the start goes where all lines of the log go."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: value})
    for text in (str(caught.value), repr(caught.value)):
        assert f"{name}={shown!r}" in text
        assert "s3c" not in text


@pytest.mark.parametrize("unit", ["://", "@", "pass"])
@pytest.mark.parametrize("show", [masked, without_passwords])
def test_a_long_text_is_soon_shown(show: Callable[[str], str], unit: str) -> None:
    """An error of a store or of an issuer may quote whatever it was sent."""
    assert growth(lambda size: show(unit * size), 5_000) < LINEAR


@pytest.mark.parametrize("text", ["s3cret", "a:s3cret", "a b:s3cret-s3cret-s3cret"])
def test_nor_is_a_secret_that_is_none(text: str) -> None:
    """Whoever mistypes a key finds it in no log."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"CHAT_API_KEYS": text})
    assert str(caught.value).startswith("CHAT_API_KEYS='***': expected NAME:KEY")
    assert "s3cret" not in repr(caught.value)


def test_in_code_there_is_no_cors() -> None:
    """It belongs to the host app that a chat is mounted in; only a service speaks for itself."""
    assert Settings().cors_origins == ()
    assert Settings.from_env({"CORS_ORIGINS": ""}).cors_origins == ()


def test_in_code_there_is_neither_a_page_nor_another_format() -> None:
    """A host has asked for a chat: it gets no routes that it does not know of."""
    assert (Settings().dialects, Settings().page) == (("native",), False)
    told = Settings.from_env({"CHAT_DIALECTS": "native", "CHAT_PAGE": "off"})
    assert (told.dialects, told.page) == (("native",), False)


def test_nothing_is_read_but_what_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two apps in a process have their own settings, whatever the process was started with."""
    for field in FIELDS:
        monkeypatch.setenv(variable(field), "17")
    assert Settings() == Settings(**DEFAULTS)
    assert Settings.from_env({"PATH": "/bin"}) == Settings.from_env({})


def test_settings_are_a_value() -> None:
    """What one part of an app was given, no other part changes."""
    assert Settings() == Settings()
    assert Settings(port=1) != Settings()
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc] # that is what is tested


@pytest.mark.parametrize(
    ("field", "name"),
    [
        *((name.lower(), name) for name in ("HOST", "PORT", "LOG_LEVEL", "LOG_FORMAT")),
        ("cors_origins", "CORS_ORIGINS"),
        ("workers", "WEB_CONCURRENCY"),
        ("responder", "CHAT_RESPONDER"),
        ("max_streams", "CHAT_MAX_STREAMS"),
        ("body_timeout", "CHAT_BODY_TIMEOUT"),
        ("history", "CHAT_HISTORY"),
        ("history_ttl", "CHAT_HISTORY_TTL"),
        ("context_chars", "CHAT_CONTEXT_CHARS"),
        *((name.lower(), name) for name in ("UDS", "ROOT_PATH", "FORWARDED_ALLOW_IPS")),
        *((name.lower(), name) for name in ("KEEP_ALIVE", "SSL_KEYFILE", "ACCESS_LOG")),
    ],
)
def test_a_variable_is_the_field_in_upper_case_and_prefixed_where_it_is_the_chats(
    field: str, name: str
) -> None:
    """People write these names into files that outlive versions."""
    assert variable(field) == name


def test_every_field_has_a_variable_of_its_own() -> None:
    """What can be said in code can be said to a service."""
    assert len({variable(field) for field in FIELDS}) == len(FIELDS)


@given(settings)
def test_what_is_written_into_an_environment_is_what_code_would_have_said(
    values: Dict[str, Any],
) -> None:
    """Each variable stands for its field, alone and among the others."""
    environ = {variable(field): as_text(value) for field, value in values.items()}
    assert Settings.from_env(environ) == Settings(**{**OF_A_SERVICE, **values})


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("PORT", " 80\n", "port", 80),
        ("PORT", "0", "port", 0),
        ("LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("LOG_FORMAT", "JSON", "log_format", "json"),
        ("CHAT_BODY_TIMEOUT", "2", "body_timeout", 2.0),
        ("CHAT_BODY_TIMEOUT", "1e-1", "body_timeout", 0.1),
        ("CHAT_HISTORY", " Memory", "history", "memory"),
        ("CHAT_HISTORY", "SQLite", "history", "sqlite:conversations.db"),
        ("CORS_ORIGINS", "*", "cors_origins", ("*",)),
        ("ROOT_PATH", "/api/", "root_path", "/api"),
        ("ROOT_PATH", "/", "root_path", ""),
        ("ACCESS_LOG", "1", "access_log", True),
        ("ACCESS_LOG", "False", "access_log", False),
        ("CORS_ORIGINS", "https://a.example,", "cors_origins", ("https://a.example",)),
        ("CORS_HEADERS", "", "cors_headers", ()),
        ("CORS_HEADERS", "Authorization, X-A ,", "cors_headers", ("Authorization", "X-A")),
        ("ALLOWED_HOSTS", "", "allowed_hosts", ()),
        ("ALLOWED_HOSTS", "Chat.example,*.a", "allowed_hosts", ("Chat.example", "*.a")),
        (
            "CORS_ORIGINS",
            " https://a.example:8443 ,, http://localhost",
            "cors_origins",
            ("https://a.example:8443", "http://localhost"),
        ),
    ],
)
def test_values_are_read_as_people_write_them(
    name: str, text: str, field: str, value: object
) -> None:
    """White space, case and a comma too many are no reason not to start."""
    assert getattr(Settings.from_env({name: text}), field) == value


BAD = [
    *((field, text) for field in WHOLE for text in ("", "x", "-1", "1.5", "1e3", "0x10", "inf")),
    *((field, text) for field in TIMES for text in ("", "x", "-1", "nan", "1,5", "15s", "never")),
    *((field, "") for field in TEXTS if field not in MAY_BE_EMPTY),
    *((field, text) for field in SWITCHES for text in ("", "x", "2", "none")),
    *(("root_path", text) for text in ("api", "//api", "/a//b", "/a?b", "/a b", "/../a", "/a/.")),
    *(("root_path", text) for text in ("http://host/a", "/a%20b", "/é", "/" + 256 * "a")),
    *(("forwarded_allow_ips", text) for text in ("host", "10.0.0.1/8", "10.0.0.0/33", "*,::1")),
    *(("uds", "a\0b"), ("ssl_cert_reqs", "3")),
    *((field, "off") for field in (*WHOLE, *TIMES) if not is_optional(field)),
    *(("port", "65536"), ("workers", "0"), ("body_timeout", "0"), ("body_timeout", "inf")),
    *(("log_level", "LOUD"), ("log_level", "20"), ("log_format", "xml"), ("replay", "sqlite")),
    *(("history", text) for text in ("disk", "sqlite:", "postgresql:/h", "mysql://h")),
    *(("redis_url", text) for text in ("redis", "http://h", "redis://", "redis://a b")),
    *(
        ("rate_limit", text)
        for text in ("60", "60/", "/minute", "0/minute", "1/0s", "1/year", "-1/s")
    ),
    *(("rate_limit", text) for text in ("1.5/minute", "60/minute/hour", "1/90000s")),
    *(("caller_streams", text) for text in ("", "0", "x")),
    *(("metrics", text) for text in ("yes", ":9464", "host", "host:x", "::1:9464")),
    *(("jwt_jwks", text) for text in ("host/keys", "ftp://host", "https://a b")),
    *(("limits", text) for text in ("off", "sqlite")),
    *(("redis_prefix", text) for text in ("{a}", "a b", "x" * 65)),
    *(("hide_thoughts", "yes"), ("hide_thoughts", "true")),
    *(("allowed_hosts", text) for text in ("https://a.example", "a.example:80", "::1", "a b")),
    *(
        ("allowed_hosts", text)
        for text in ("*a.example", "a.*", "*.*", "é.example", "/a", "[", ".")
    ),
    *(("cors_headers", text) for text in ("a b", "a:", "a;b", "é", "(a)")),
    *(("cors_origins", "example.com"), ("cors_origins", "https://a.example/path")),
    *(
        ("cors_origins", "https://*.example"),
        ("cors_origins", "https://a.example https://b.example"),
    ),
]


@pytest.mark.parametrize(("field", "text"), BAD)
def test_a_variable_that_cannot_be_read_is_named_with_its_value_and_what_was_expected(
    field: str, text: str
) -> None:
    """It is one line for an operator, who has only that line to go by."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable(field): text})
    assert caught.value.name == variable(field)
    assert str(caught.value).startswith(f"{variable(field)}={text!r}: expected ")


def test_an_error_goes_from_one_process_to_another() -> None:
    """A pool of processes breaks if an exception of a worker cannot be read."""
    with pytest.raises(SettingsError) as caught:
        Settings(port=-1)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), vars(error)) == (str(caught.value), vars(caught.value))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, True) for field in (*WHOLE, *TIMES)),
        *((field, str(DEFAULTS[field])) for field in (*WHOLE, *TIMES)),
        *((field, float(DEFAULTS[field])) for field in WHOLE),
        *((field, math.nan) for field in TIMES),
        *((field, None) for field in (*WHOLE, *TEXTS, *SWITCHES)),
        *((field, 17) for field in (*TEXTS, *SWITCHES)),
        *(("log_level", "debug"), ("log_format", "JSON"), ("port", -1), ("body_timeout", 0)),
        *(
            ("history", "Memory"),
            ("history", "sqlite"),
            ("history_ttl", 0.0),
            ("context_chars", -1),
        ),
        *(("cors_origins", ["*"]), ("cors_origins", "*"), ("cors_origins", (17,))),
        ("cors_origins", ("example.com",)),
        *(("cors_headers", ["*"]), ("cors_headers", "*"), ("cors_headers", ("",))),
        *(("dialects", value) for value in ((), ("native", "native"), ("x",), "native")),
        *(("model_name", value) for value in ("", "a b", "ä", "x" * 129)),
        *(("allowed_hosts", ["*"]), ("allowed_hosts", None), ("allowed_hosts", ("a:1",))),
    ],
)
def test_a_field_that_is_of_no_use_is_named_with_its_value_and_what_was_expected(
    field: str, value: object
) -> None:
    """Also in code, where it would otherwise show itself in the middle of a reply."""
    with pytest.raises(SettingsError) as caught:
        Settings(**{field: value})  # type: ignore[arg-type] # that is what is tested
    assert caught.value.name == field
    assert str(caught.value).startswith(f"{field}={value!r}: expected ")


@given(
    st.dictionaries(
        st.sampled_from([variable(field) for field in FIELDS]),
        st.text(st.characters()) | anything.map(str) | st.sampled_from(["off", "*", "0", "1e400"]),
    )
)
def test_any_environment_is_settings_or_a_settings_error(environ: Dict[str, str]) -> None:
    """A service starts, or says in one line why not; there is no traceback to read."""
    result = outcome(partial(Settings.from_env, environ))
    if isinstance(result, SettingsError):
        value = environ[result.name]
        told = f"{result.name}={value!r}: " in str(result)
        hidden = f"{result.name}='***': " in str(result)
        assert told or hidden or "@" in value or "pass" in value.lower()
        assert str(result).encode("utf-8")


@given(st.dictionaries(st.sampled_from(FIELDS), anything))
def test_any_values_are_settings_or_a_settings_error(values: Dict[str, Any]) -> None:
    """What is wrong is told at the start, whatever its type."""
    result = outcome(partial(Settings, **values))
    if isinstance(result, SettingsError):
        assert result.name in values


LOCAL = ("localhost", "127.0.0.1", "[::1]")


@pytest.mark.parametrize(
    ("host", "address", "names"),
    [
        ("127.0.0.1", ("127.0.0.1", 8000), LOCAL),
        ("localhost", ("127.0.0.1", 8000), LOCAL),
        ("::1", ("::1", 8000, 0, 0), LOCAL),
        ("127.0.0.2", ("127.0.0.2", 8000), (*LOCAL, "127.0.0.2")),
        ("mybox", ("127.0.1.1", 8000), (*LOCAL, "mybox")),
        ("::1%lo", ("::1%lo", 8000, 0, 1), LOCAL),
        ("localhost", ("::ffff:127.0.0.1", 8000, 0, 0), LOCAL),
        ("::", ("::ffff:10.0.0.1", 8000, 0, 0), ()),
        ("0.0.0.0", ("0.0.0.0", 8000), ()),
        ("::", ("::", 8000, 0, 0), ()),
        ("127.0.0.1", ("10.0.0.1", 8000), ()),  # a descriptor of somebody else's
        ("127.0.0.1", "/run/chat.sock", ()),
        ("127.0.0.1", b"\0chat", ()),
        ("127.0.0.1", "", ()),
    ],
)
def test_on_the_loopback_a_service_answers_to_local_names(
    host: str, address: object, names: Any
) -> None:
    """By the address that it listens on, whatever that is called; and nobody has to set it."""
    made = Settings(host=host, port=80)
    assert made.listening_on(address) == Settings(host=host, port=80, allowed_hosts=names)
    for chosen in (("*",), ("chat.example",)):
        told = Settings(host=host, allowed_hosts=chosen)
        assert told.listening_on(address) == told
