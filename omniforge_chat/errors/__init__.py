"""Every error that a client can see, as one tree.

ChatError                     processing_error        500
├── RequestError
│   ├── BadRequest            bad_request             400
│   ├── InvalidBody           validation_error        400
│   │   └── InvalidHeader     validation_error        400
│   ├── Unauthorized          unauthorized            401 (with WWW-Authenticate)
│   ├── Forbidden             forbidden               403
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
│   ├── RateLimited           rate_limited            429 (with Retry-After)
│   ├── HeadersTooLarge       headers_too_large       431
│   ├── InternalError         internal_error          500
│   └── Unavailable           (with Retry-After)      503
│       ├── AccessUnavailable access_unavailable      503
│       ├── HistoryUnavailable  history_unavailable   503
│       ├── LimitsUnavailable limits_unavailable      503
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
that has their HTTP status. `http/openapi.py` reads code and status from the class. Module `request`
has the former, `chat` the latter.

Raise ChatError in a responder, or a class of your own derived from it, if the client should see the
message. Any other exception is a bug: its text stays in the log.
"""

from .chat import (
    Abandoned,
    ChatError,
    InvalidParameter,
    ReplayGap,
    ReplyTimeout,
    ReplyTooLong,
    StreamError,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    WorkerLost,
)
from .request import (
    AccessUnavailable,
    BadRequest,
    ConversationBusy,
    ConversationNotFound,
    Forbidden,
    HeadersTooLarge,
    HistoryUnavailable,
    HostNotAllowed,
    InternalError,
    InvalidBody,
    InvalidFields,
    InvalidHeader,
    KeyReused,
    LimitsUnavailable,
    MessageTooLong,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    ReplayUnavailable,
    ReplyExpired,
    ReplyNotFound,
    RequestError,
    RequestTimeout,
    ShuttingDown,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)

__all__ = [
    "Abandoned",
    "AccessUnavailable",
    "BadRequest",
    "ChatError",
    "ConversationBusy",
    "ConversationNotFound",
    "Forbidden",
    "HeadersTooLarge",
    "HistoryUnavailable",
    "HostNotAllowed",
    "InternalError",
    "InvalidBody",
    "InvalidFields",
    "InvalidHeader",
    "InvalidParameter",
    "KeyReused",
    "LimitsUnavailable",
    "MessageTooLong",
    "MethodNotAllowed",
    "NotFound",
    "Overloaded",
    "PayloadTooLarge",
    "RateLimited",
    "ReplayGap",
    "ReplayUnavailable",
    "ReplyExpired",
    "ReplyNotFound",
    "ReplyTimeout",
    "ReplyTooLong",
    "RequestError",
    "RequestTimeout",
    "ShuttingDown",
    "StreamError",
    "Unauthorized",
    "Unavailable",
    "UnsupportedMediaType",
    "UpstreamError",
    "UpstreamRateLimited",
    "UpstreamTimeout",
    "WorkerLost",
]
