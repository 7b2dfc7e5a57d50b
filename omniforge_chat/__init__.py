"""A chat endpoint that can be trusted: any async generator of text, streamed as events.

These are the public names. All others may change with any version.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from .app import ChatApp, create_app
from .conversations.memory import MemoryHistory
from .conversations.protocol import History
from .core.reply import Item, Responder
from .errors import (
    ChatError,
    ConversationBusy,
    SettingsError,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
)
from .http.routes import chat_routes
from .models import Finish, Message, Turn, Usage
from .settings import Settings
from .stream.lifecycle import Lifecycle

__all__ = [
    "ChatApp",
    "ChatError",
    "ConversationBusy",
    "Finish",
    "History",
    "Item",
    "Lifecycle",
    "MemoryHistory",
    "Message",
    "Responder",
    "Settings",
    "SettingsError",
    "Turn",
    "UpstreamError",
    "UpstreamRateLimited",
    "UpstreamTimeout",
    "Usage",
    "chat_routes",
    "create_app",
]

if TYPE_CHECKING:
    from .responders.providers.anthropic import AnthropicResponder as AnthropicResponder
    from .responders.providers.openai import OpenAIResponder as OpenAIResponder

# They need the extra `providers`: imported when they are named, and not part of `import *`.
_PROVIDERS = {"AnthropicResponder": "anthropic", "OpenAIResponder": "openai"}


def __getattr__(name: str) -> Any:
    module = _PROVIDERS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".responders.providers.{module}", __name__), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_PROVIDERS})
