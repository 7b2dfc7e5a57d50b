"""The errors that end a stream, and what all errors have in common."""

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
