"""A chat endpoint that can be trusted: any async generator of text, streamed as events."""

from .app import create_app
from .errors import ChatError
from .models import Finish, Message, Turn, Usage
from .routes import chat_routes
from .settings import Settings

__all__ = [
    "ChatError",
    "Finish",
    "Message",
    "Settings",
    "Turn",
    "Usage",
    "chat_routes",
    "create_app",
]
