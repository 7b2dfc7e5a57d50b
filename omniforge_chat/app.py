"""create_app(): the only place that puts the parts together."""

from __future__ import annotations

import contextlib
import inspect
import os
from functools import partial
from typing import Any, AsyncIterator, Awaitable, List, NamedTuple, Optional, Sequence, Tuple

from anyio import create_task_group, move_on_after
from msgspec.structs import asdict
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Match, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from .conversations import make_history
from .conversations.protocol import History, check_history
from .core.responder import Responder
from .dialects import Dialect
from .http import (
    ANSWERED_HEADERS,
    ASKED_HEADERS,
    CORS,
    CREDENTIAL_HEADERS,
    LIMIT_HEADERS,
    Access,
    AllowedHosts,
    Authenticate,
    ChatEndpoint,
    DirectWay,
    chat_routes,
    front_routes,
    http_error,
    metrics_routes,
    server_error,
)
from .logs import logger
from .observe import Exposition, make_exposition, make_tracing
from .observer import Observer, Observers
from .replay import Replay, make_replay
from .replay.protocol import check_replay
from .request_id import RequestIDMiddleware
from .responders import load_responder
from .settings import Settings
from .stores import SharedRedis, make_redis
from .stream.lifecycle import Lifecycle


class Parts(NamedTuple):
    """What an app is made of. Each may have an `aclose`."""

    responder: Responder
    history: Optional[History]
    replay: Optional[Replay]
    access: Access
    exposition: Optional[Exposition]


class ChatApp(Starlette):
    """A chat service as an ASGI app, made by `create_app`. You can `drain` and close it.

    It is a Starlette app: add middleware, exception handlers and routes as you do elsewhere. Its
    own layers are not in Starlette's lists. So everything in `user_middleware` and
    `exception_handlers` is yours, and stands around the chat.
    """

    def __init__(
        self,
        settings: Settings,
        lifecycle: Lifecycle,
        routes: List[Route],
        parts: Parts,
        below: object,
    ) -> None:
        super().__init__(routes=routes, lifespan=_lifespan)
        self.router.redirect_slashes = False  # each route has both paths
        self.router.default = _Default(self.router, settings)
        self._settings = settings
        self._lifecycle = lifecycle
        self.observers = lifecycle.observers
        self.exposition = parts.exposition
        self._parts = parts
        self._below = below  # it may have an `aclose`, too; they use it
        self._own_routes = routes
        self._chats = [route for route in routes if isinstance(route.endpoint, ChatEndpoint)]
        self._dialects: List[Dialect] = [
            route.endpoint.dialect  # type: ignore[attr-defined] # it is a ChatEndpoint
            for route in self._chats
        ]

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette's layers outside, then those that others have added, then ours."""
        others, handlers = self.user_middleware, self.exception_handlers
        ours = self._around_the_chat()
        bare = not (
            others
            or handlers
            or ours
            or self.debug
            or getattr(self, "max_body_size", None) is not None
        )
        direct = Middleware(DirectWay, router=self.router, routes=self._chats)
        # Starlette reads its lists here, and only here.
        self.user_middleware = [Middleware(RequestIDMiddleware), *others, *ours, direct]
        self.exception_handlers = {
            HTTPException: partial(http_error, self._lifecycle.refusals, self._dialects),
            Exception: partial(server_error, self._dialects),
            **handlers,
        }
        try:
            stack = super().build_middleware_stack()
        finally:
            self.user_middleware, self.exception_handlers = others, handlers
        # The chat puts its request's id on its responses itself.
        stack = DirectWay(stack, self.router, self._chats) if bare else stack
        hosts = self._settings.allowed_hosts
        if not hosts or "*" in hosts:
            return stack
        return AllowedHosts(stack, hosts, self._lifecycle.refusals, self._dialects)

    def _around_the_chat(self) -> List[Middleware]:
        """Our layers that the chat needs. Without any, and without others', it is reached first."""
        origins = self._settings.cors_origins
        if not origins:
            return []
        exposed = [name for dialect in self._dialects for name in dialect.exposed_headers]
        headers = [*self._settings.cors_headers]
        if self._parts.replay is not None:
            exposed.extend(ANSWERED_HEADERS)
            headers.extend(ASKED_HEADERS)
        if self._parts.access.acts:
            exposed.extend(LIMIT_HEADERS)
            headers.extend(CREDENTIAL_HEADERS)
        methods = {method for route in self._own_routes for method in route.methods or ()}
        return [
            Middleware(CORS, origins=origins, methods=methods, headers=headers, exposed=exposed)
        ]

    @property
    def open_streams(self) -> int:
        """The number of chats that are being answered now."""
        return self._lifecycle.open_streams

    async def drain(self, seconds: Optional[float] = None) -> None:
        """End the open streams, and take no new ones. Call it before the server shuts down.

        From now on `/ready` and new chats get 503. Open streams have `seconds` to finish, or
        `drain_timeout` of the settings if it is None. Each stream that is left then ends with
        `error` `shutting_down`. Returns when no stream is open. A second call with fewer seconds
        shortens the time.
        """
        await self._lifecycle.drain(self._settings.drain_timeout if seconds is None else seconds)

    async def aclose(self) -> None:
        """Call `aclose()` of the responder and of the stores, if they have one.

        If the app is served on its own, its lifespan calls this at shutdown. A mounted app has no
        lifespan. You may call this in your own; if you do not, the connections end with the
        process. A failure, and a close that takes longer than `cleanup_timeout`, is logged and not
        raised.
        """
        self._lifecycle.refusals.close()
        seconds = self._settings.cleanup_timeout
        with move_on_after(seconds) as scope:
            async with create_task_group() as group:
                for part in self._parts:
                    group.start_soon(_close, part)
        with move_on_after(seconds) as below:  # also if they were late
            await _close(self._below)
        if scope.cancelled_caught or below.cancelled_caught:
            logger.error("the app did not close within %g s", seconds)


@contextlib.asynccontextmanager
async def _lifespan(app: ChatApp) -> AsyncIterator[None]:
    """Nothing opens at the start: a part that needs a connection opens it at first use."""
    try:
        yield
    finally:
        await app.aclose()


async def _close(part: object) -> None:
    aclose = getattr(part, "aclose", None)
    if aclose is not None and not inspect.isclass(part):  # a class makes an object for each turn
        try:
            await aclose()
        except Exception:
            logger.exception("%s failed to close", type(part).__name__)


def create_app(
    responder: Optional[Responder] = None,
    *,
    settings: Optional[Settings] = None,
    history: Optional[History] = None,
    replay: Optional[Replay] = None,
    dialects: Optional[Sequence[str]] = None,
    authenticate: Optional[Authenticate] = None,
    observers: Sequence[Observer] = (),
) -> ChatApp:
    """A chat service: an ASGI app to serve on its own, or to mount in another app.

    `responder` is an async generator function that takes a Turn and yields text. Without it, the
    responder that the settings name answers.

    Without `settings` they are read from the environment. If you pass them, it is not read, with
    one exception: a provider that `settings.responder` names takes its address, key and model from
    there.

    `dialects` are the wire formats that it speaks: some of "native", "openai", "ai_sdk" and
    "ag_ui". Without it, those of the settings.

    `history` stores conversations, and `replay` keeps replies for clients that come back. Without
    them there are those that `settings.history` and `settings.replay` name.

    `authenticate` is an async function that gets the connection (a HTTPConnection of Starlette) and
    returns the Caller, or None if it knows nobody; it may raise Forbidden. Besides, there are the
    keys and tokens of the settings. With any of these, whoever is not known is refused.

    `observers` are told what happens, besides those that the settings name.

    Raises TypeError for what cannot be used so, and SettingsError for a value that makes no sense.
    """
    settings = _settings(settings, dialects)
    if responder is None:
        responder = load_responder(settings.responder, settings)
    redis = make_redis(settings)
    history, replay = _stores(settings, redis, history, replay)
    exposition = make_exposition(settings)
    if exposition is not None:
        observers = (*observers, exposition.metrics)
    observers = (*observers, *make_tracing(settings))
    lifecycle = Lifecycle(max_streams=settings.max_streams, observers=observers)
    access = Access(settings, authenticate=authenticate, redis=redis)
    routes = chat_routes(
        responder,
        settings=settings,
        lifecycle=lifecycle,
        history=history,
        replay=replay,
        access=access,
    )
    _watch(lifecycle.observers, history, redis)
    if exposition is not None:
        routes += metrics_routes(exposition, settings, lifecycle, replay, access)
    parts = Parts(responder, history, replay, access, exposition)
    return ChatApp(settings, lifecycle, routes, parts, redis)


def _watch(observers: Observers, *stores: Any) -> None:
    """Let those stores tell `observers` of their answers that can."""
    for store in stores:
        if isinstance(getattr(store, "observers", None), Observers):
            store.observers = observers


def _settings(settings: Optional[Settings], dialects: Optional[Sequence[str]]) -> Settings:
    if settings is None:
        settings = Settings.from_env(os.environ)
    if dialects is not None:
        # `replace` of msgspec 0.20 would check nothing.
        settings = Settings(**{**asdict(settings), "dialects": tuple(dialects)})
    return settings


def _stores(
    settings: Settings,
    redis: Optional[SharedRedis],
    history: Optional[History],
    replay: Optional[Replay],
) -> Tuple[Optional[History], Optional[Replay]]:
    """Those that are given, if they can be ones, and else those that the settings name."""
    if history is None:
        history = make_history(settings, redis)
    else:
        check_history(history)
    if replay is None:
        replay = make_replay(settings, redis)
    else:
        check_replay(replay)
    return history, replay


class _Default:
    """What the router calls if no route is found: the page at `/`, unless a host has its own."""

    def __init__(self, router: Router, settings: Settings) -> None:
        self._not_found = router.default
        self._front = front_routes(settings)

    _asgi_single_callable = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for route in self._front:
            match, child_scope = route.matches(scope)
            if match != Match.NONE:
                scope.update(child_scope)
                return route.handle(scope, receive, send)
        return self._not_found(scope, receive, send)
