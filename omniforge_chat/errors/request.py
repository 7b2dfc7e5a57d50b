"""The errors that answer a request in place of a stream."""

from __future__ import annotations

from types import MappingProxyType
from typing import Mapping, Optional

from .chat import ChatError


class RequestError(ChatError):
    """An error that answers a request, in place of a stream.

    `retry_after`, if it is not None, is the number of seconds after which the client may try again.
    `headers` are further headers of the response.
    """

    refuses_chat = True
    ends_stream = False
    retry_after: Optional[int] = None
    headers: Mapping[str, str] = MappingProxyType({})


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


class Unauthorized(RequestError):
    """Nobody knows who asks: a key or a token is missing, wrong or out of date."""

    code = "unauthorized"
    status = 401
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})  # RFC 9110, section 11.6.1


class Forbidden(RequestError):
    """It is known who asks, and they may not do that."""

    code = "forbidden"
    status = 403


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


class RateLimited(RequestError):
    """Who asks has had as many chats, streams or tokens as they may have for now."""

    code = "rate_limited"
    status = 429
    retry_after = 1  # at least; each has its own

    def __init__(
        self, message: str, *, retry_after: int, headers: Optional[Mapping[str, str]] = None
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if headers is not None:
            self.headers = headers


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


class AccessUnavailable(Unavailable):
    """It cannot be found out now who asks: the issuer of the token is out of reach."""

    code = "access_unavailable"


class LimitsUnavailable(Unavailable):
    """The store of the limits cannot be reached, and no chat may pass without it."""

    code = "limits_unavailable"


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
