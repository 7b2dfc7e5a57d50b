"""What happens in a service, told to whoever counts, traces or logs it.

It stands on the ground floor because rooms call it that do not know each other. `observe/` has the
observers that come with the package.
"""

from __future__ import annotations

from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

import msgspec

from .errors import RequestError
from .logs import logger
from .models import Turn, Usage

Scope = Mapping[str, Any]
"""The scope of a request, as the ASGI specification has it."""


class ChatEnd(msgspec.Struct, frozen=True, gc=False):
    """How a chat has ended. Times are in seconds.

    - `outcome`: "done", "disconnected", "stalled", "cancelled", or the code of the error.
    - `status`: that of the HTTP response. A stream that has begun has 200.
    - `chunks`: the pieces of text that were sent.
    - `usage`: the tokens; None if there was no text and no report.
    - `finish_reason`: the reason that the model gave, if it did.
    - `first_chunk`: the time to the first piece, or None if there was none.
    - `seconds`: the time from the end of the request to the end of the reply.
    - `sent_bytes`: those of the body of the response.
    - `heartbeats`: the number of those that were sent.
    - `reply_id`, `followers`, `away`: of a reply that is kept: its id, how many read it, and for
      how long its client was gone, or None.
    """

    turn: Turn
    outcome: str
    status: int
    chunks: int
    usage: Optional[Usage]
    finish_reason: Optional[str]
    first_chunk: Optional[float]
    seconds: float
    sent_bytes: int
    heartbeats: int
    reply_id: str = ""
    followers: int = 0
    away: Optional[float] = None


class ReadEnd(msgspec.Struct, frozen=True, gc=False):
    """How a stream has ended that has read a kept reply, from the position `after` on."""

    request_id: str
    conversation_id: str
    reply_id: str
    outcome: str
    after: int
    seconds: float
    sent_bytes: int
    heartbeats: int


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A request that was refused before any stream.

    `dialect` is the name of the wire format, or "" if it was for no chat. `scope` is that of the
    request; it is empty if the server refused what was no HTTP.
    """

    error: RequestError
    request_id: str
    dialect: str
    scope: Scope


class UpstreamCall(msgspec.Struct, frozen=True, gc=False):
    """A request to a model provider.

    - `provider`: the kind of its API, "openai" or "anthropic".
    - `model`: the one that is asked for.
    - `address`, `port`: those of the server.
    - `attempt`: 1, or more if it is made again.
    - `parameters`: the others that go with it, such as `temperature` and `max_tokens`.
    - `turn`: what it is made for.
    """

    provider: str
    model: str
    address: str
    port: int
    attempt: int
    parameters: Mapping[str, Any]
    turn: Turn


class UpstreamEnd(msgspec.Struct, frozen=True, gc=False):
    """How a request to a model provider has ended. Times are in seconds.

    - `result`: "done", "cancelled", or the code of the error, as in `errors`.
    - `status`: that of the HTTP response, or None if there was none.
    - `first_chunk`: the time to the first piece of the reply, or None.
    - `response_id`, `response_model`: as the provider says, or "".
    - `text`: that of the reply, if one of the observers `wants_text`.
    """

    call: UpstreamCall
    result: str
    status: Optional[int]
    seconds: float
    first_chunk: Optional[float] = None
    usage: Optional[Usage] = None
    finish_reason: Optional[str] = None
    response_id: str = ""
    response_model: str = ""
    text: str = ""


class Observer:
    """Derive from it, and write the methods that you need; the others do nothing.

    They are called in the event loop, and everybody waits for them: they must return at once. What
    they raise is logged, and disturbs nobody. `chat_began`, `first_chunk` and `chat_ended` of one
    chat are called in one task; its `upstream_` methods there, or in a task that it has started.
    """

    wants_text = False
    """Whether it wants the text of a provider's reply, as `UpstreamEnd.text`."""

    def chat_began(self, turn: Turn, scope: Scope) -> None:
        """A chat is about to be answered."""

    def first_chunk(self, turn: Turn, seconds: float) -> None:
        """The first piece of a reply has been sent, so long after the request."""

    def chat_ended(self, end: ChatEnd) -> None:
        """A chat has ended; each that began does so once."""

    def chat_refused(self, refusal: Refusal) -> None:
        """A request was refused."""

    def reply_read(self, end: ReadEnd) -> None:
        """A stream has ended that has read a kept reply."""

    def upstream_began(self, call: UpstreamCall) -> Optional[Mapping[str, str]]:
        """A provider is about to be asked. The result are further headers of that request."""
        return None

    def upstream_ended(self, end: UpstreamEnd) -> None:
        """The provider's answer has ended; each request that began does so once."""

    def store_answered(self, store: str, seconds: float, failed: bool) -> None:
        """A store ("redis", "sqlite", "postgresql") has answered, or failed to."""


Hooks = Tuple[Callable[..., Any], ...]


class Observers:
    """Those of one app. For each event it has the methods that do something about it.

    `want_text` says whether one of them wants the text of replies. Raises TypeError for what is no
    Observer, and for a method that is a coroutine function: nobody would await it.
    """

    def __init__(self, observers: Sequence[Observer] = ()) -> None:
        self.all = tuple(observers)
        for observer in self.all:
            if not isinstance(observer, Observer):
                raise TypeError(f"an observer must be an Observer, not {observer!r}")
        self.want_text = any(observer.wants_text for observer in self.all)
        self.chat_began = self._hooks("chat_began")
        self.first_chunk = self._hooks("first_chunk")
        self.chat_ended = self._hooks("chat_ended")
        self.chat_refused = self._hooks("chat_refused")
        self.reply_read = self._hooks("reply_read")
        self.upstream_began = self._hooks("upstream_began")
        self.upstream_ended = self._hooks("upstream_ended")
        self.store_answered = self._hooks("store_answered")
        self._upstream = self if self.upstream_began or self.upstream_ended else None

    def enter(self) -> None:
        """From now on, tell these of the requests to providers in this context."""
        if upstream_observers.get() is not self._upstream:
            upstream_observers.set(self._upstream)

    def _hooks(self, name: str) -> Hooks:
        nothing = getattr(Observer, name)
        found = [
            getattr(observer, name)
            for observer in self.all
            if getattr(type(observer), name) is not nothing
        ]
        for hook in found:
            if iscoroutinefunction(hook):
                raise TypeError(f"{hook.__qualname__} must be a plain function, not async")
        return tuple(found)


upstream_observers: ContextVar[Optional[Observers]] = ContextVar(
    "omniforge_chat.upstream_observers", default=None
)
"""Whom a responder tells of its requests to a provider. By a context variable, because a host's own
responder may call that of a provider."""


def tell(hooks: Hooks, *event: Any) -> List[Any]:
    """Call each of `hooks` with `event`, and return what they return. What they raise is logged.

    Also a CancelledError, say, or a panic of an extension module: the stream would take it for its
    own, and others would not hear of the event.
    """
    results: List[Any] = []
    for hook in hooks:
        try:
            results.append(hook(*event))
        except KeyboardInterrupt:
            raise
        except BaseException:
            _log_failure(hook)
    return results


def tell_end(hooks: Hooks, end: ChatEnd) -> None:
    """The same for the event that comes with each chat, in a third of the time."""
    for hook in hooks:
        try:
            hook(end)
        except KeyboardInterrupt:
            raise
        except BaseException:
            _log_failure(hook)


def _log_failure(hook: object) -> None:
    logger.exception("an observer failed: %s", getattr(hook, "__qualname__", hook))
