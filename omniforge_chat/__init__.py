"""A chat endpoint that can be trusted: any async generator of text, streamed as events."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from .app import create_app
from .conversations import History, MemoryHistory
from .errors import ChatError
from .http.routes import chat_routes
from .models import Finish, Message, Turn, Usage
from .settings import Settings

__all__ = [
    "ChatError",
    "Finish",
    "History",
    "MemoryHistory",
    "Message",
    "Settings",
    "Turn",
    "Usage",
    "chat_routes",
    "create_app",
]

if TYPE_CHECKING:
    from .responders.providers.anthropic import AnthropicResponder as AnthropicResponder
    from .responders.providers.openai import OpenAIResponder as OpenAIResponder

# They need the extra `models`: imported when they are named, and not part of `import *`.
_MODELS = {"AnthropicResponder": "anthropic", "OpenAIResponder": "openai"}


def __getattr__(name: str) -> Any:
    module = _MODELS.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".responders.providers.{module}", __name__), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_MODELS})
