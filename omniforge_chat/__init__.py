"""A chat endpoint that can be trusted: any async generator of text, streamed as events.

These are the public names. All others may change with any version.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as type checkers know it; `typing` takes a tenth of a process's start
if TYPE_CHECKING:
    from typing import List

    from .app import ChatApp, create_app
    from .conversations.memory import MemoryHistory
    from .conversations.postgres import PostgresHistory
    from .conversations.protocol import Claim, History, StoredConversations
    from .conversations.sqlite import SQLiteHistory
    from .core.responder import Item, Responder
    from .errors import (
        ChatError,
        ConversationBusy,
        ConversationNotFound,
        Forbidden,
        HistoryUnavailable,
        InvalidParameter,
        RateLimited,
        Unauthorized,
        UpstreamError,
        UpstreamRateLimited,
        UpstreamTimeout,
    )
    from .http.access import Access
    from .http.routes import chat_routes
    from .models import (
        Allowance,
        Caller,
        Finish,
        Message,
        Rate,
        StoredMessage,
        Thought,
        Turn,
        Usage,
    )
    from .observe.tracing import Tracing as Tracing
    from .observer import ChatEnd, Observer, ReadEnd, Refusal, UpstreamCall, UpstreamEnd
    from .replay.memory import MemoryReplay
    from .replay.protocol import Replay
    from .responders.providers.anthropic import AnthropicResponder as AnthropicResponder
    from .responders.providers.openai import OpenAIResponder as OpenAIResponder
    from .rules import SettingsError
    from .settings import Settings
    from .stream.lifecycle import Lifecycle

__all__ = [
    "Access",
    "Allowance",
    "Caller",
    "ChatApp",
    "ChatEnd",
    "ChatError",
    "Claim",
    "ConversationBusy",
    "ConversationNotFound",
    "Finish",
    "Forbidden",
    "History",
    "HistoryUnavailable",
    "InvalidParameter",
    "Item",
    "Lifecycle",
    "MemoryHistory",
    "MemoryReplay",
    "Message",
    "Observer",
    "PostgresHistory",
    "Rate",
    "RateLimited",
    "ReadEnd",
    "Refusal",
    "Replay",
    "Responder",
    "SQLiteHistory",
    "Settings",
    "SettingsError",
    "StoredConversations",
    "StoredMessage",
    "Thought",
    "Turn",
    "Unauthorized",
    "UpstreamCall",
    "UpstreamEnd",
    "UpstreamError",
    "UpstreamRateLimited",
    "UpstreamTimeout",
    "Usage",
    "chat_routes",
    "create_app",
]

# Each module is imported when a name in it is first asked for: the command line has to hear
# signals before that, and those of _NEEDS need an extra.
_HOMES = {
    "app": "ChatApp create_app",
    "conversations.memory": "MemoryHistory",
    "conversations.postgres": "PostgresHistory",
    "conversations.protocol": "Claim History StoredConversations",
    "conversations.sqlite": "SQLiteHistory",
    "core.responder": "Item Responder",
    "errors": "ChatError ConversationBusy ConversationNotFound Forbidden HistoryUnavailable "
    "InvalidParameter RateLimited Unauthorized UpstreamError UpstreamRateLimited UpstreamTimeout",
    "http.access": "Access",
    "http.routes": "chat_routes",
    "models": "Allowance Caller Finish Message Rate StoredMessage Thought Turn Usage",
    "observe.tracing": "Tracing",
    "observer": "ChatEnd Observer ReadEnd Refusal UpstreamCall UpstreamEnd",
    "replay.memory": "MemoryReplay",
    "replay.protocol": "Replay",
    "responders.providers.anthropic": "AnthropicResponder",
    "responders.providers.openai": "OpenAIResponder",
    "rules": "SettingsError",
    "settings": "Settings",
    "stream.lifecycle": "Lifecycle",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
_NEEDS = {"AnthropicResponder": "httpx", "OpenAIResponder": "httpx", "Tracing": "opentelemetry"}


if not TYPE_CHECKING:  # to a checker it would mean that every name is there

    def __getattr__(name):
        home = _HOME.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
        return value


def __dir__() -> List[str]:
    # Whoever lists the names asks for each, as `help()` does. So without an extra its are left out.
    find = import_module("importlib.util").find_spec
    extra = (name for name, package in _NEEDS.items() if find(package) is not None)
    return sorted({*globals(), *__all__, *extra})
