"""What operators write: the variables of the service and of the providers."""

from __future__ import annotations

from typing import Dict

from omniforge_chat import AnthropicResponder, OpenAIResponder, Settings, SettingsError
from omniforge_chat.settings import variable

from .target import Target, check_line

_VARIABLES = [variable(field) for field in Settings.__struct_fields__]


def _environ(data: bytes) -> Dict[str, str]:
    """Lines of `NAME=VALUE`; `;` is a line feed in a value."""
    pairs = [line.partition(b"=") for line in data.split(b"\n")]
    return {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape").replace(
            ";", "\n"
        )
        for name, _, value in pairs
    }


def _configure(data: bytes) -> None:
    environ = _environ(data)
    for make in (Settings.from_env, OpenAIResponder.from_env, AnthropicResponder.from_env):
        try:
            made = make(environ)
        except SettingsError as error:
            check_line(str(error))
            check_line(repr(error))
        else:
            check_line(repr(made))
            if isinstance(made, Settings):
                assert made.shortest_limit > 0
                for host in ("127.0.0.1", "::1", "10.0.0.1"):
                    made.listening_on((host, 80))


_SEEDS = [
    b"HOST=::1\nPORT=8000\nROOT_PATH=/a/b/\nFORWARDED_ALLOW_IPS=10.0.0.0/8, ::1\nKEEP_ALIVE=1e1",
    b"ALLOWED_HOSTS=*.example.com, [::1]\nCORS_ORIGINS=https://a:1,*\nCORS_HEADERS=x-a, *",
    b"CHAT_DIALECTS=native, openai\nCHAT_PAGE=on\nCHAT_MODEL_NAME=m\nCHAT_THOUGHTS=True",
    b"CHAT_HEARTBEAT_INTERVAL=off\nCHAT_IDLE_TIMEOUT=0.5\nCHAT_DRAIN_TIMEOUT=0\nCHAT_REPLAY=redis",
    b"CHAT_HISTORY=postgresql://user:sekret@h/db\nREDIS_URL=rediss://:sekret@h:1/0\nREDIS_PREFIX=a",
    b"CHAT_HISTORY=sqlite:a@b.db\nCHAT_HISTORY_BYTES=1024\nLOG_LEVEL=debug\nLOG_FORMAT=JSON",
    b"OPENAI_API_KEY=sk-1\nOPENAI_BASE_URL=https://h:8/v1?a=b\nOPENAI_MODEL=m\nOPENAI_TRIES=3",
    b"ANTHROPIC_AUTH_TOKEN=a\nANTHROPIC_BASE_URL=http://[::1]:1\nANTHROPIC_MAX_TOKENS=7",
    b'OPENAI_EXTRA_BODY={"a": [1]}\nOPENAI_EXTRA_HEADERS={"x-a": "b"}\nCHAT_HIDE_THOUGHTS=on',
]

TARGETS = (Target("settings", _configure, _SEEDS, [name.encode() for name in _VARIABLES]),)
