"""From bytes to the core and back: the routes of the service, its pages and its errors.

`app` and `cli` use the names that are exported here, and `chat_routes` is public. The checks of a
request (`body`) and the OpenAPI document (`openapi`) are private to this room.
"""

from .chat import FAILURE_LOGGED, ChatEndpoint
from .cors import CORS
from .direct import DirectWay
from .front import front_route
from .hosts import AllowedHosts
from .metrics import metrics_routes
from .paths import shape_at
from .replies import ANSWERED_HEADERS, ASKED_HEADERS
from .responses import error_response, internal_error
from .routes import chat_routes
from .stored import conversation_document, delete_conversation

__all__ = [
    "ANSWERED_HEADERS",
    "ASKED_HEADERS",
    "CORS",
    "FAILURE_LOGGED",
    "AllowedHosts",
    "ChatEndpoint",
    "DirectWay",
    "chat_routes",
    "conversation_document",
    "delete_conversation",
    "error_response",
    "front_route",
    "internal_error",
    "metrics_routes",
    "shape_at",
]
