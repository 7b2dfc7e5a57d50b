"""Every error that a client can be told of, as one tree.

ChatError                     processing_error        500
├── RequestError              (before the stream)
│   ├── InvalidBody           validation_error        400
│   ├── NotFound              not_found               404
│   ├── MethodNotAllowed      method_not_allowed      405
│   ├── RequestTimeout        request_timeout         408
│   ├── ConversationBusy      conversation_busy       409 (with Retry-After)
│   ├── PayloadTooLarge       payload_too_large       413
│   ├── UnsupportedMediaType  unsupported_media_type  415
│   ├── InvalidFields         validation_error        422
│   │   └── MessageTooLong    message_too_long        422
│   ├── HeadersTooLarge       headers_too_large       431
│   ├── InternalError         internal_error          500
│   └── Unavailable           (with Retry-After)      503
│       ├── Overloaded        overloaded              503
│       └── ShuttingDown      shutting_down           503
├── ReplyTimeout              timeout                 (within the stream)
├── StreamError               stream_error            (within the stream)
└── UpstreamError             upstream_error          (within the stream)
    ├── UpstreamTimeout       upstream_timeout
    └── UpstreamRateLimited   upstream_rate_limited

The code and the HTTP status are data on the class. A responder raises ChatError, or a class of its
own derived from it, to tell the client something on purpose; any other exception is a bug, and its
text stays in the log.
"""

from __future__ import annotations

import math
from typing import Optional


class ChatError(Exception):
    """An error whose message and code are meant for the client to see.

    `message` is shown as it is. `code` replaces the code of the class for this one error; codes are
    words in lower case joined by `_`.
    """

    code: str = "processing_error"
    status: int = 500

    def __init__(self, message: str, *, code: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class RequestError(ChatError):
    """The request is answered with an error document instead of a stream.

    `retry_after`, where there is one, is the number of seconds after which another try may succeed.
    """

    retry_after: Optional[int] = None


class InvalidBody(RequestError):
    """The body is not JSON, not UTF-8, or not an object."""

    code = "validation_error"
    status = 400


class NotFound(RequestError):
    """No route has this path."""

    code = "not_found"
    status = 404


class MethodNotAllowed(RequestError):
    """The route exists, with other methods."""

    code = "method_not_allowed"
    status = 405


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408


class ConversationBusy(RequestError):
    """Another message of the same conversation is being answered."""

    code = "conversation_busy"
    status = 409
    retry_after = 1


class PayloadTooLarge(RequestError):
    """The body is larger than the limit."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    """The body is not declared as JSON, or it is compressed."""

    code = "unsupported_media_type"
    status = 415


class InvalidFields(RequestError):
    """The body is a JSON object that breaks a constraint; the message names every wrong field."""

    code = "validation_error"
    status = 422


class MessageTooLong(InvalidFields):
    """The message has more characters than are allowed."""

    code = "message_too_long"


class HeadersTooLarge(RequestError):
    """The head of the request is larger than our own server reads."""

    code = "headers_too_large"
    status = 431


class InternalError(RequestError):
    """Something unexpected happened before the stream began."""

    code = "internal_error"


class Unavailable(RequestError):
    """No stream can be opened now; it may be tried again a little later."""

    status = 503
    retry_after = 1


class Overloaded(Unavailable):
    """As many streams are open as are allowed."""

    code = "overloaded"


class ShuttingDown(Unavailable):
    """The server drains: it lets open streams finish and takes no new ones."""

    code = "shutting_down"


class ReplyTimeout(ChatError):
    """The first token, the next token or the whole reply took longer than allowed."""

    code = "timeout"


class StreamError(ChatError):
    """The stream itself failed: what the responder yielded cannot be sent, for instance."""

    code = "stream_error"


class UpstreamError(ChatError):
    """A model provider failed, refused, or cut its reply off."""

    code = "upstream_error"


class UpstreamTimeout(UpstreamError):
    """A model provider was silent for longer than allowed."""

    code = "upstream_timeout"


class UpstreamRateLimited(UpstreamError):
    """A model provider refused for now; `retry_after` is its wait in seconds, where it gave one."""

    code = "upstream_rate_limited"

    def __init__(self, message: str, *, retry_after: Optional[float] = None) -> None:
        if retry_after is not None:
            seconds = max(1, math.ceil(retry_after))
            message += f"; try again in {seconds} second{'s' if seconds > 1 else ''}"
        super().__init__(message)
        self.retry_after = retry_after


class SettingsError(ValueError):
    """A setting that cannot be used. Its text names the setting, the value and what was expected.

    It is no ChatError: nobody is there yet to be told but the operator.
    """

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"{name}={value!r}: expected {expected}")
        self.name = name
        self.value = value
        self.expected = expected
