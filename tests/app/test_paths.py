"""Each route is found by every path that can only mean it, in any host and behind any server."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniforge_chat import Settings, chat_routes, create_app
from omniforge_chat.app import ChatApp

from ..support.answers import last, refusal
from ..support.app import HandDrivenRequest, call
from ..support.responders import saying

SETTINGS = Settings()
ROUTES = ["/api/v1/chat", "/health", "/ready", "/openapi.json", "/docs", "/reader.js"]


def _app() -> ChatApp:
    return create_app(saying("hi"), settings=SETTINGS)


def _routes() -> List[Route]:
    return chat_routes(saying("hi"), settings=SETTINGS)


def _in_fastapi() -> FastAPI:
    host = FastAPI(openapi_url=None)
    host.router.routes.extend(_routes())
    return host


def ask(app: ASGIApp, route: str, path: str, **scope: Any) -> HandDrivenRequest:
    """A request for `route` that comes as `path`."""
    scope.setdefault("raw_path", path.encode())
    return call(app, method="POST" if route == ROUTES[0] else "GET", path=path, **scope)


def found(answer: HandDrivenRequest, route: str) -> bool:
    """Whether it was `route` that has answered."""
    if answer.status != 200:
        assert refusal(*answer.json())[0] == 404
        return False
    if route == ROUTES[0]:
        return last(answer.frames)[0] == "done"
    return {
        "/health": b'{"status":"healthy"}',
        "/ready": b'{"status":"ready"}',
        "/openapi.json": b'{"openapi":"3.2.0"',
        "/docs": b"<!doctype html>",
        "/reader.js": b"// A reader of the chat's stream",
    }[route] in answer.body[:40]


# What stands before the path of a route, and `root_path`.
SHAPES: Dict[str, Tuple[str, str]] = {
    "alone": ("", ""),
    "uvicorn --root-path, and the specification": ("/a", "/a"),
    "hypercorn, granian, daphne --root-path behind a proxy that strips it": ("", "/a"),
    "the first part of a route's path": ("", "/api"),
    "and again, with it in the path": ("/api", "/api"),
    "the path of a route": ("", "/api/v1/chat"),
    "a last slash": ("/a", "/a/"),
    "a last slash, stripped": ("", "/a/"),
    "only a slash": ("", "/"),
    "encoded": ("/café a", "/caf%C3%A9%20a"),
    "decoded": ("/café a", "/café a"),
    "two parts": ("/a/b", "/a/b"),
    "a mount within what a proxy strips": ("/b", "/a/b"),
}


@pytest.mark.parametrize("slash", ["", "/"], ids=["", "slash"])
@pytest.mark.parametrize(("before", "root_path"), SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("make", [_app, lambda: Starlette(routes=_routes()), _in_fastapi])
def test_each_route_is_found_by_any_path_that_can_only_mean_it(
    make: Callable[[], ASGIApp], before: str, root_path: str, slash: str
) -> None:
    """Servers read the specification of `root_path` in two ways, and hosts in more."""
    app = make()
    for route in ROUTES:
        path = before + route + slash
        answer = ask(app, route, path, root_path=root_path, raw_path=b"")
        assert found(answer, route), route
        assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("path", "root_path"),
    [
        ("/a/health", ""),
        ("/a/health", "/b"),
        ("/a/health", "/xa"),
        ("/xhealth", "/x"),
        ("/a/b/health", "/a"),
        ("/a/health", "/a/b"),
        ("/health//", ""),
        ("//health", ""),
        ("/healthy", ""),
        ("/Health", ""),
    ],
)
def test_no_other_path_is_one_of_ours(path: str, root_path: str) -> None:
    """Whoever guards a part of the paths would guard less than there is."""
    app = _app()
    assert not found(ask(app, "/health", path, root_path=root_path), "/health")
    path = path.replace("health", "api/v1/chat")
    assert not found(ask(app, ROUTES[0], path, root_path=root_path), ROUTES[0])


@pytest.mark.parametrize("prefix", ["/a", "/api", "/a/b", "/t/7"])
@pytest.mark.parametrize("root_path", ["", "/api", "/x/y"])
@pytest.mark.parametrize("stripped", [False, True])
def test_a_mount_is_found_behind_each_server(prefix: str, root_path: str, stripped: bool) -> None:
    """The host adds its part to `root_path`, which the path may or may not begin with."""
    path = "/t/{tenant}" if prefix == "/t/7" else prefix
    for inner in (Mount(path, _app()), Mount(path, routes=_routes())):
        host = Starlette(routes=[inner])
        for route in ROUTES:
            given = prefix + route if stripped else root_path + prefix + route
            if stripped and root_path == prefix:
                continue  # the host itself takes its mount for the root path
            answer = ask(host, route, given, root_path=root_path)
            assert found(answer, route), (route, given)


class _LikeLitestar:
    """`@asgi(path, is_mount=True)`: the path without the mount's, its first slash last."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        rest = scope["path"][len(self._prefix) :].strip("/") + "/"
        path = rest if self._prefix == "/" or rest == "/" else f"/{rest}"
        await self._app({**scope, "path": path}, receive, send)


@pytest.mark.parametrize("prefix", ["/a", "/"])
def test_a_host_that_moves_the_slash_is_understood(prefix: str) -> None:
    """Litestar 2.25 does."""
    host = _LikeLitestar(_app(), prefix)
    for route in ROUTES:
        assert found(ask(host, route, prefix.rstrip("/") + route), route)
    document = ask(host, "/openapi.json", prefix.rstrip("/") + "/openapi.json").json()[2]
    assert document["servers"] == [{"url": prefix}]


@pytest.mark.parametrize(
    ("path", "root_path", "url"),
    [
        ("/openapi.json", "", "/"),
        ("/openapi.json/", "", "/"),
        ("/openapi.json", "/", "/"),
        ("/openapi.json", "/a/", "/a"),
        ("/a/openapi.json", "/a", "/a"),
        ("/b/openapi.json", "/a/b", "/a/b"),
    ],
)
def test_the_document_says_where_the_service_is(path: str, root_path: str, url: str) -> None:
    """Generated clients send their requests there."""
    document = ask(_app(), "/openapi.json", path, root_path=root_path).json()[2]
    assert document["servers"] == [{"url": url}]


def test_a_route_of_the_host_comes_first() -> None:
    """What a host has put at a path is meant by it, also where ours would be found otherwise."""

    async def own(request: Any) -> PlainTextResponse:
        return PlainTextResponse("own")

    app = _app()
    app.router.routes.insert(0, Route("/v1/chat", own, methods=["GET", "POST"]))
    answer = call(app, path="/api/v1/chat", root_path="/api")
    assert answer.body == b"own"
    host = Starlette(routes=[Route("/health/", own), *_routes()])
    assert call(host, method="GET", path="/health/").body == b"own"
    assert call(host, method="GET", path="/health").status == 200


@pytest.mark.parametrize("path", ["/api/v1/chat/", "/health/"])
def test_the_wrong_method_is_told_at_either_path(path: str) -> None:
    """The right ones stand in `Allow`."""
    for app in (_app(), Starlette(routes=_routes())):
        answer = call(app, method="DELETE", path=path)
        assert answer.status == 405
        assert answer.headers["allow"]


def test_with_a_last_slash_the_page_is_elsewhere() -> None:
    """The addresses in it are relative, so that it works behind any prefix."""
    for prefix in ("", "/a"):
        path = f"{prefix}/docs/"
        answer = ask(_app(), "/docs", path, root_path=prefix)
        assert answer.status == 307
        assert urljoin(path, answer.headers["location"]) == f"{prefix}/docs"


# The front


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "root_path", "raw_path"),
    [
        ("/", "", "/"),
        ("/a/", "/a", "/a/"),
        ("/a", "/a", "/a"),  # a host that does not add the slash
        ("/", "", "/a"),  # Litestar
        ("/", "", "/a/b%20c"),
        ("/", "/a", "/"),
        ("/", "", None),
        ("", "", ""),
    ],
)
def test_the_front_leads_to_the_page(method: str, path: str, root_path: str, raw_path: Any) -> None:
    """The log prints this address when the service starts."""
    raw = None if raw_path is None else raw_path.encode()
    headers = {"Host": "[", "X-Request-ID": "mine"}
    answer = call(
        _app(), method=method, path=path, root_path=root_path, raw_path=raw, headers=headers
    )
    assert (answer.status, answer.headers["x-request-id"]) == (307, "mine")
    assert answer.headers["cache-control"] == "no-cache"
    seen = raw_path or "/"
    target = urljoin(f"http://proxy.example/stripped{seen}", answer.headers["location"])
    assert target == f"http://proxy.example/stripped{seen.rstrip('/')}/docs"


@pytest.mark.parametrize("name", ["https:", "//evil.example", "/evil.example", "\\evil.example"])
def test_the_front_leads_nowhere_else(name: str) -> None:
    """A link to the service must not lead to another one."""
    answer = call(_app(), method="GET", path="/", raw_path=f"/{name}".encode())
    target = urljoin("http://chat.example/x", answer.headers["location"])
    assert target.startswith("http://chat.example/")


def test_another_method_at_the_front_is_refused() -> None:
    """A chat that is sent there has the wrong address, and should hear of it."""
    answer = call(_app(), path="/")
    assert refusal(*answer.json())[:2] == (405, "method_not_allowed")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_the_front_is_the_host_s_if_it_has_one() -> None:
    """Wherever it has put it: a page of its own, or a mount that takes all that is left."""

    async def own(request: Any) -> PlainTextResponse:
        return PlainTextResponse("own")

    for add in (
        lambda app: app.routes.append(Route("/", own)),
        lambda app: app.routes.insert(0, Route("/", own)),
        lambda app: app.mount("/", Router([Route("/", own)])),
        lambda app: setattr(app.router, "default", PlainTextResponse("own")),
    ):
        app = _app()
        add(app)
        assert call(app, method="GET", path="/").body == b"own"
    for routes in (_routes(), [Mount("/x", _app())]):
        assert call(Starlette(routes=routes), method="GET", path="/").status == 404


# What is in the scope


class _Scopes:
    """Keeps the scope as the chat gets it, and as it is when the response has been sent."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def look(message: Message) -> None:
            self.during = dict(scope)
            await send(message)

        await self._app(scope, receive, look)
        self.after = dict(scope)


def _scopes(app: ChatApp, direct: bool, **scope: Any) -> Dict[str, Any]:
    if not direct:
        app.routes.insert(0, Route("/never", lambda request: PlainTextResponse("")))
    around = _Scopes(app)
    assert last(call(around, **scope).frames)[0] == "done"
    assert around.during == around.after
    # Not the router's: ExceptionMiddleware leaves it for the functions that Starlette wraps.
    around.after.pop("starlette.exception_handlers", None)
    around.after.pop("headers")
    return around.after


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize(
    "scope",
    [
        {},
        {"path": "/a/api/v1/chat", "root_path": "/a"},
        {"path_params": {"tenant": "ada"}, "app_root_path": "", "root_path": "/a"},
        {"router": "the host's"},
    ],
)
def test_past_the_router_the_scope_has_all_that_the_router_leaves(
    scope: Dict[str, Any], middleware: bool
) -> None:
    """Middleware that counts by route reads it there."""
    app = _app()
    if middleware:
        app.add_middleware(_Scopes)
    past, by = _scopes(app, True, **scope), _scopes(app, False, **scope)
    by.setdefault("route", past["route"])  # since Starlette 1.0
    for left in (past, by):
        assert left.pop("omniforge_chat.request_id")
    assert past == by
    assert past["route"] is by["route"] is app._chats[0]
    assert past["router"] is by["router"]


def _wrap(app: ChatApp, guard: Callable[[ASGIApp], ASGIApp]) -> None:
    wrapped: Any = guard(app.router.middleware_stack)
    app.router.middleware_stack = wrapped


def _replace(app: ChatApp, guard: Callable[[ASGIApp], ASGIApp]) -> None:
    app.router = guard(app.router)  # type: ignore[assignment]  # as some tools do


def _subclass(app: ChatApp, guard: Callable[[ASGIApp], ASGIApp]) -> None:
    class Guarded(Router):
        async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
            await guard(super().app)(scope, receive, send)

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await self.app(scope, receive, send)

    app.router.__class__ = Guarded


@pytest.mark.parametrize("add", [_wrap, _replace, _subclass])
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("origins", [(), ("*",)], ids=["no CORS", "CORS"])
def test_what_a_host_puts_around_the_router_is_around_the_chat(
    add: Callable[..., None], started: bool, origins: Any
) -> None:
    """It may be a guard."""
    app = create_app(saying("hi"), settings=Settings(cors_origins=origins))
    if started:
        if add is _replace:
            pytest.skip("Starlette itself keeps the router that it has started with")
        assert call(app).status == 200
    add(app, lambda inner: PlainTextResponse("Who are you?", 401))
    assert call(app).status == 401


# The request's id


class _SetsID:
    """A middleware that adds X-Request-ID to each response, whatever is there."""

    def __init__(self, app: ASGIApp, value: bytes, name: bytes = b"x-request-id") -> None:
        self._app, self._pair = app, (name, value)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], self._pair]}
            await send(message)

        await self._app({**scope}, receive, add)


@pytest.mark.parametrize("name", [b"x-request-id", b"X-Request-ID"])
@pytest.mark.parametrize("origins", [(), ("*",)], ids=["no CORS", "CORS"])
def test_a_response_has_one_request_id_beside_a_middleware_that_adds_its_own(
    origins: Any, name: bytes
) -> None:
    """A client that finds two reads "a, b". The host's own is in the host's log."""
    asked: List[Dict[str, Any]] = [
        {},
        {"body": b"{"},
        {"path": "/nowhere"},
        *({"method": "GET", "path": path} for path in ("/", "/health", "/docs", "/api/v1/chat")),
    ]
    for values in ([b"host"], [b"host", b"ours"], [b"ours"], [b"host", b"host"]):
        app = create_app(saying("hi"), settings=Settings(cors_origins=origins))
        for value in values:
            app.user_middleware.append(Middleware(_SetsID, value=value, name=name))
        for request in asked:
            answer = call(app, **request, headers={"X-Request-ID": "ours"})
            ids = [value for key, value in answer.sent[0]["headers"] if key.lower() == name.lower()]
            assert ids == [b"host" if b"host" in values else b"ours"]


def test_an_id_that_a_middleware_sets_in_the_request_is_the_one() -> None:
    """As asgi-correlation-id does: the log of the host and ours then agree."""

    class Sets:
        def __init__(self, app: ASGIApp) -> None:
            self._app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            scope = {**scope, "headers": [*scope["headers"], (b"x-request-id", b"set")]}
            await self._app(scope, receive, send)

    app = _app()
    app.add_middleware(Sets)
    for request in ({}, {"path": "/nowhere"}, {"body": b"{"}):
        assert call(app, **request).headers["x-request-id"] == "set"
