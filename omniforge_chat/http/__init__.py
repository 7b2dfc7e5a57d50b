"""From bytes to the core and back: the routes of the service, its pages and its errors.

`app` uses the names that are exported here, and `chat_routes` is public. The checks of a request
(`validation`) and the OpenAPI document (`openapi`) are private to this room.
"""

from .routes import chat_routes, error_response, internal_error

__all__ = ["chat_routes", "error_response", "internal_error"]
