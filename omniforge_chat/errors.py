"""Every error that a client can see, as one tree.

ChatError                     processing_error        500
├── RequestError
│   ├── BadRequest            bad_request             400
│   ├── InvalidBody           validation_error        400
│   │   └── InvalidHeader     validation_error        400
│   ├── NotFound              not_found               404
│   │   ├── ConversationNotFound  conversation_not_found  404
│   │   └── ReplyNotFound     reply_not_found         404
│   ├── MethodNotAllowed      method_not_allowed      405
│   ├── RequestTimeout        request_timeout         408
│   ├── ConversationBusy      conversation_busy       409 (with Retry-After)
│   ├── ReplyExpired          reply_expired           410
│   ├── PayloadTooLarge       payload_too_large       413
│   ├── UnsupportedMediaType  unsupported_media_type  415
│   ├── HostNotAllowed        host_not_allowed        421
│   ├── InvalidFields         validation_error        422
│   │   ├── KeyReused         idempotency_key_reused  422
│   │   └── MessageTooLong    message_too_long        422
│   ├── HeadersTooLarge       headers_too_large       431
│   ├── InternalError         internal_error          500
│   └── Unavailable           (with Retry-After)      503
│       ├── HistoryUnavailable  history_unavailable   503
│       ├── Overloaded        overloaded              503
│       ├── ReplayUnavailable replay_unavailable      503
│       └── ShuttingDown      shutting_down           503
├── Abandoned                 abandoned               500
├── InvalidParameter          invalid_parameter       422
├── ReplayGap                 replay_gap              500
├── ReplyTimeout              timeout                 504
├── ReplyTooLong              reply_too_long          500
├── StreamError               stream_error            500
├── WorkerLost                worker_lost             502
└── UpstreamError             upstream_error          502
    ├── UpstreamTimeout       upstream_timeout        504
    └── UpstreamRateLimited   upstream_rate_limited   429

A RequestError is the answer to a request, before any stream. The others are the last event of a
stream, and so are ReplyNotFound, ReplayUnavailable and ShuttingDown. If the reply is one document,
that has their HTTP status. `http/openapi.py` reads code and status from the class.

Raise ChatError in a responder, or a class of your own derived from it, if the client should see the
message. Any other exception is a bug: its text stays in the log.
"""

from __future__ import annotations

import math
from typing import ClassVar, Optional


class ChatError(Exception):
    """An error whose message and code the client sees.

    `code` replaces that of the class for this one error: words in lower case, joined by `_`.
    """

    code: str = "processing_error"
    status: int = 500

    refuses_chat: ClassVar[bool] = False
    """Whether a chat may answer with it in place of a reply."""

    ends_stream: ClassVar[bool] = True
    """Whether it may be the last event of a stream."""

    def __init__(self, message: str, *, code: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code


class RequestError(ChatError):
    """An error that answers a request, in place of a stream.

    `retry_after`, if it is not None, is the number of seconds after which the client may try again.
    """

    refuses_chat = True
    ends_stream = False
    retry_after: Optional[int] = None


class BadRequest(RequestError):
    """This is no HTTP/1.1, or HTTP that could be read in two ways. The connection is closed."""

    code = "bad_request"
    status = 400
    refuses_chat = False  # our own server says it, and no route


class InvalidBody(RequestError):
    """The body is not JSON, not UTF-8, or not an object."""

    code = "validation_error"
    status = 400


class InvalidHeader(InvalidBody):
    """A header, or a parameter of the address, is wrong."""


class NotFound(RequestError):
    """No route has this path."""

    code = "not_found"
    status = 404
    refuses_chat = False


class ConversationNotFound(NotFound):
    """No conversation with this id is stored for who asks."""

    code = "conversation_not_found"
    refuses_chat = True


class ReplyNotFound(NotFound):
    """No reply with this id is kept for who asks: it is unknown, expired, or somebody else's."""

    code = "reply_not_found"
    ends_stream = True  # the answer to a POST that asks for the rest of a reply


class MethodNotAllowed(RequestError):
    """The path has a route, but not for this method."""

    code = "method_not_allowed"
    status = 405
    refuses_chat = False


class RequestTimeout(RequestError):
    """The body did not arrive in time."""

    code = "request_timeout"
    status = 408


class ConversationBusy(RequestError):
    """Another message of the same conversation is being answered."""

    code = "conversation_busy"
    status = 409
    retry_after = 1


class ReplyExpired(RequestError):
    """The request was answered before under its Idempotency-Key, and the reply is kept no more."""

    code = "reply_expired"
    status = 410


class PayloadTooLarge(RequestError):
    """The body is larger than the limit."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    """The Content-Type of the body is not JSON, or the body is compressed."""

    code = "unsupported_media_type"
    status = 415


class HostNotAllowed(RequestError):
    """The Host of the request is not a name of this service."""

    code = "host_not_allowed"
    status = 421


class InvalidFields(RequestError):
    """A field of the body is missing or wrong. The message names all such fields."""

    code = "validation_error"
    status = 422


class MessageTooLong(InvalidFields):
    """The message has more characters than allowed."""

    code = "message_too_long"


class KeyReused(InvalidFields):
    """Another request was sent with this Idempotency-Key."""

    code = "idempotency_key_reused"


class HeadersTooLarge(RequestError):
    """The head of the request is larger than our own server reads."""

    code = "headers_too_large"
    status = 431
    refuses_chat = False  # our own server says it, and no route


class InternalError(RequestError):
    """Something unexpected happened before the stream began."""

    code = "internal_error"


class Unavailable(RequestError):
    """The server cannot open a stream now. Try again a little later."""

    status = 503
    retry_after = 1


class Overloaded(Unavailable):
    """The limit of open streams or of open files is reached."""

    code = "overloaded"


class HistoryUnavailable(Unavailable):
    """The store of conversations cannot be reached, or does not do what it is asked."""

    code = "history_unavailable"


class ReplayUnavailable(Unavailable):
    """The store of replies cannot be reached now. The reply may still be there."""

    code = "replay_unavailable"
    ends_stream = True


class ShuttingDown(Unavailable):
    """The server is stopping: open streams may finish, and new ones are refused."""

    code = "shutting_down"
    ends_stream = True


class Abandoned(ChatError):
    """The client has left, and nobody came back for the rest of the reply in time."""

    code = "abandoned"


class InvalidParameter(ChatError):
    """A parameter that goes on to the model is wrong. The responder says so, and names all."""

    code = "invalid_parameter"
    status = 422


class ReplyTimeout(ChatError):
    """The first chunk, the next chunk or the whole reply took longer than allowed."""

    code = "timeout"
    status = 504


class ReplyTooLong(ChatError):
    """The reply was to be one document, and is too long for that. Ask for a stream."""

    code = "reply_too_long"


class StreamError(ChatError):
    """The stream itself failed. For example, the responder yielded something that is no text."""

    code = "stream_error"


class WorkerLost(ChatError):
    """The process that produced the reply is gone."""

    code = "worker_lost"
    status = 502


class ReplayGap(ChatError):
    """A part of the reply is lost, or the reply was too long to keep."""

    code = "replay_gap"


class UpstreamError(ChatError):
    """A model provider failed, refused, or cut its reply off."""

    code = "upstream_error"
    status = 502


class UpstreamTimeout(UpstreamError):
    """A model provider was silent for longer than allowed."""

    code = "upstream_timeout"
    status = 504


class UpstreamRateLimited(UpstreamError):
    """A model provider refused for now. `retry_after` is its wait in seconds, if it gave one."""

    code = "upstream_rate_limited"
    status = 429

    def __init__(self, message: str, *, retry_after: Optional[float] = None) -> None:
        if retry_after is not None:
            seconds = max(1, math.ceil(retry_after))
            message += f"; try again in {seconds} second{'s' if seconds > 1 else ''}"
        super().__init__(message)
        self.retry_after = retry_after
