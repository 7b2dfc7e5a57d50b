"""From bytes to the core and back: the routes of the service, its pages and its errors.

`app` and `cli` use the names that are exported here, and `chat_routes` is public. The checks of a
request (`body`) and the OpenAPI document (`openapi`) are private to this room.
"""

from .access import CREDENTIAL_HEADERS, LIMIT_HEADERS, Access, Authenticate
from .chat import ChatEndpoint
from .cors import CORS
from .direct import DirectWay
from .failures import http_error, server_error
from .front import front_routes
from .hosts import AllowedHosts
from .metrics import metrics_page, metrics_routes
from .replies import ANSWERED_HEADERS, ASKED_HEADERS
from .responses import error_response
from .routes import chat_routes
from .stored import conversation_document, delete_conversation

__all__ = [
    "ANSWERED_HEADERS",
    "ASKED_HEADERS",
    "CORS",
    "CREDENTIAL_HEADERS",
    "LIMIT_HEADERS",
    "Access",
    "AllowedHosts",
    "Authenticate",
    "ChatEndpoint",
    "DirectWay",
    "chat_routes",
    "conversation_document",
    "delete_conversation",
    "error_response",
    "front_routes",
    "http_error",
    "metrics_page",
    "metrics_routes",
    "server_error",
]
