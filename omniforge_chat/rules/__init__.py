"""The rules that values of settings follow: in words, as a test, and how text is read.

They serve whoever takes a setting: `Settings` itself, a store, and the options of a provider.

- `rule`: Rule, SettingsError, and the rules of numbers, times and switches.
- `network`: those of names, addresses and paths.
- `access`: those of who may ask, and how much.
- `service`: those of what a service speaks, keeps and logs.
"""

from .access import API_KEYS, RATE, is_key_name
from .network import (
    HEADERS,
    HOSTS,
    HTTP_URL,
    METRICS,
    ORIGINS,
    PATH,
    PROXIES,
    REDIS_URL,
    is_host,
    is_path,
)
from .rule import (
    ANY_TEXT,
    AT_LEAST_1_KIB,
    AT_LEAST_ONE,
    AT_LEAST_ONE_OR_OFF,
    FILE,
    SECONDS,
    SECONDS_OR_OFF,
    SECONDS_OR_ZERO,
    SECRET,
    SWITCH,
    Rule,
    SettingsError,
    check,
    is_identifier,
    masked,
    one_of,
    shown,
    text,
    whole,
    without_passwords,
)
from .service import (
    DIALECTS,
    FORMATS,
    HISTORY,
    KEY_PREFIX,
    LEVEL,
    MODEL_NAME,
    PARAMETERS,
    THOUGHTS,
)

__all__ = [
    "ANY_TEXT",
    "API_KEYS",
    "AT_LEAST_1_KIB",
    "AT_LEAST_ONE",
    "AT_LEAST_ONE_OR_OFF",
    "DIALECTS",
    "FILE",
    "FORMATS",
    "HEADERS",
    "HISTORY",
    "HOSTS",
    "HTTP_URL",
    "KEY_PREFIX",
    "LEVEL",
    "METRICS",
    "MODEL_NAME",
    "ORIGINS",
    "PARAMETERS",
    "PATH",
    "PROXIES",
    "RATE",
    "REDIS_URL",
    "SECONDS",
    "SECONDS_OR_OFF",
    "SECONDS_OR_ZERO",
    "SECRET",
    "SWITCH",
    "THOUGHTS",
    "Rule",
    "SettingsError",
    "check",
    "is_host",
    "is_identifier",
    "is_key_name",
    "is_path",
    "masked",
    "one_of",
    "shown",
    "text",
    "whole",
    "without_passwords",
]
