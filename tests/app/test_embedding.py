"""In somebody else's app: in each, tokens arrive as they come, and the client's leaving arrives."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, Tuple

import pytest
from fastapi import Depends, FastAPI, Header, HTTPException
from starlette import __version__ as starlette_version
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from omniforge_chat import Settings, chat_routes, create_app
from omniforge_chat.app import ChatApp
from omniforge_chat.core.responder import Responder
from omniforge_chat.responders import placeholder

from ..support.answers import last, refusal
from ..support.app import HandDrivenRequest, call
from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.responders import PacedResponder, TellingCallers
from ..support.servers import UvicornThread

SETTINGS = Settings()


async def _pass_on(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    response = await call_next(request)
    response.headers["X-Host"] = "was here"
    return response


async def _read_and_pass_on(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    await request.body()
    return await call_next(request)


WRAPPER = Middleware(BaseHTTPMiddleware, dispatch=_pass_on)
READER = Middleware(BaseHTTPMiddleware, dispatch=_read_and_pass_on)
GZIP = Middleware(GZipMiddleware, minimum_size=1)
CORS = Middleware(CORSMiddleware, allow_origins=["*"])


async def _page(request: Request) -> Response:
    return PlainTextResponse("the host's own page " * 100)


def _app(responder: Responder) -> Mount:
    """The service as a part of a host."""
    return Mount("/assistant", create_app(responder, settings=SETTINGS))


def _starlette(responder: Responder, *middleware: Middleware) -> Starlette:
    return Starlette(routes=[Route("/page", _page), _app(responder)], middleware=middleware)


def _nested(responder: Responder) -> Starlette:
    return Starlette(routes=[Mount("/a", routes=[Mount("/{tenant}", routes=[_app(responder)])])])


def _root(responder: Responder) -> Starlette:
    return Starlette(routes=[Mount("/", create_app(responder, settings=SETTINGS))])


def _fastapi(responder: Responder, *middleware: Middleware) -> FastAPI:
    host = FastAPI(middleware=middleware)
    host.mount("/assistant", create_app(responder, settings=SETTINGS))
    return host


def _routes_in_fastapi(responder: Responder) -> FastAPI:
    host = FastAPI(openapi_url=None)
    host.router.routes.extend(chat_routes(responder, settings=SETTINGS))
    return host


def _routes(responder: Responder) -> Starlette:
    return Starlette(routes=chat_routes(responder, settings=SETTINGS))


def _routes_under_a_path(responder: Responder) -> Starlette:
    routes = chat_routes(responder, settings=SETTINGS)
    return Starlette(routes=[Mount("/assistant", routes=routes)])


# How a host has the service in it, and where; what stands around it comes as arguments.
HOSTS: Dict[str, Tuple[Callable[..., ASGIApp], str, Tuple[Middleware, ...]]] = {
    "mounted in Starlette": (_starlette, "/assistant", ()),
    "mounted in FastAPI": (_fastapi, "/assistant", ()),
    "mounted at the root": (_root, "", ()),
    "nested": (_nested, "/a/7/assistant", ()),
    "routes in Starlette": (_routes, "", ()),
    "routes in FastAPI": (_routes_in_fastapi, "", ()),
    "routes under a path": (_routes_under_a_path, "/assistant", ()),
    "behind BaseHTTPMiddleware": (_starlette, "/assistant", (WRAPPER,)),
    "behind two of them": (_starlette, "/assistant", (WRAPPER, WRAPPER)),
    "behind one that reads the body": (_starlette, "/assistant", (READER,)),
    "behind gzip": (_starlette, "/assistant", (GZIP,)),
    "behind gzip and BaseHTTPMiddleware": (_starlette, "/assistant", (GZIP, WRAPPER)),
    "behind BaseHTTPMiddleware and gzip": (_starlette, "/assistant", (WRAPPER, GZIP)),
    "behind CORS": (_starlette, "/assistant", (CORS,)),
    "behind both in FastAPI": (_fastapi, "/assistant", (GZIP, WRAPPER)),
}

# BaseHTTPMiddleware drops a body part that is empty, and GZipMiddleware outside of it holds the
# headers back until there is one (it has let those of what it does not compress pass since 1.8). So
# with these the headers arrive with the first token, or with a heartbeat, and not before.
HOLDS_HEADERS_BACK = tuple(map(int, starlette_version.split(".")[:2])) < (1, 8)


def _ask(client: Client, prefix: str) -> None:
    """Ask for a chat as a browser does, which takes gzip."""
    client.post(
        {"message": "hi"},
        path=f"{prefix}/api/v1/chat",
        headers={"Accept-Encoding": "gzip, deflate, br", "Origin": "https://app.example"},
    )


@pytest.mark.parametrize(("build", "prefix", "middleware"), HOSTS.values(), ids=HOSTS)
def test_in_a_host_tokens_arrive_one_by_one_and_leaving_ends_the_responder(
    build: Callable[..., ASGIApp], prefix: str, middleware: Tuple[Middleware, ...]
) -> None:
    """A middleware that collects, compresses or keeps silent would take away what this is for."""
    paced = PacedResponder()
    late = HOLDS_HEADERS_BACK and middleware == (GZIP, WRAPPER)
    with UvicornThread(build(paced, *middleware)) as server:
        with server.connect() as client:
            for _ in range(2):
                _ask(client, prefix)
                if late:
                    paced.ask()
                status, headers = client.head()
                assert status == 200
                assert headers["content-type"] == "text/event-stream; charset=utf-8"
                assert headers["x-request-id"]
                assert headers["x-conversation-id"]
                assert "content-encoding" not in headers
                assert headers.get("x-host") == ("was here" if WRAPPER in middleware else None)
                for number in range(3):
                    if number or not late:
                        paced.ask()
                    assert json.loads(client.frame().data) == {"content": f"{number} "}
                paced.finish()
                assert last(client.frames())[0] == "done"
        for tokens in (0, 1):
            with server.connect() as client:
                _ask(client, prefix)
                for _ in range(tokens):
                    paced.ask()
                    client.head()
                    client.frame()
                assert paced.called.wait(PATIENCE)
            assert paced.closed.wait(PATIENCE)


@pytest.mark.parametrize("host", ["nested", "mounted at the root", "routes under a path"])
def test_in_a_host_errors_and_addresses_are_those_of_the_service(host: str) -> None:
    """What the service answers, it answers in its own way; the host's paths stay the host's."""
    build, prefix, _ = HOSTS[host]
    app = build(PacedResponder())
    path = f"{prefix}/api/v1/chat"
    answer = call(app, {"text": "hi"}, path=path, headers={"X-Request-ID": "mine"})
    assert refusal(*answer.json())[:2] == (422, "validation_error")
    assert answer.headers["x-request-id"] == "mine"
    answer = call(app, method="GET", path=f"{prefix}/health")
    assert answer.json()[2] == {"status": "healthy"}
    document = call(app, method="GET", path=f"{prefix}/openapi.json").json()[2]
    assert document["servers"] == [{"url": prefix or "/"}]


def test_a_mounted_app_answers_what_is_under_its_path() -> None:
    """A typing error in the path behind the mount is ours to explain."""
    host = _starlette(PacedResponder())
    answer = call(host, path="/assistant/api/v1/chats")
    assert refusal(*answer.json())[:2] == (404, "not_found")
    answer = call(host, method="GET", path="/assistant/api/v1/chat")
    assert refusal(*answer.json())[:2] == (405, "method_not_allowed")


def test_the_host_s_lifespan_is_the_host_s() -> None:
    """A mounted app gets no lifespan of its own, and needs none."""
    steps: List[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Dict[str, str]]:
        steps.append("started")
        yield {"database": "open"}
        steps.append("ended")

    host = Starlette(routes=[_app(placeholder)], lifespan=lifespan)
    with UvicornThread(host) as server, server.connect() as client:
        assert steps == ["started"]
        _ask(client, "/assistant")
        assert client.head()[0] == 200
        assert last(client.frames())[0] == "done"
        client.close()
        server.stop()
    assert steps == ["started", "ended"]


def test_a_host_s_compression_still_does_its_work_elsewhere() -> None:
    """That a stream passes through it is by its content type, and no accident."""
    host = _starlette(PacedResponder(), GZIP)
    page = call(host, method="GET", path="/page", headers={"Accept-Encoding": "gzip"})
    assert page.headers["content-encoding"] == "gzip"


def _key(key: str = Header("")) -> None:
    if key != "sesame":
        raise HTTPException(401)


def test_dependencies_of_fastapi_guard_neither_a_mount_nor_routes() -> None:
    """docs/embedding.md says so, and shows a middleware, which does."""
    ways: List[Callable[[FastAPI], None]] = [
        lambda host: host.mount("/a", create_app(settings=SETTINGS)),
        lambda host: host.router.routes.append(Mount("/a", routes=chat_routes(placeholder))),
    ]
    for add in ways:
        host = FastAPI(dependencies=[Depends(_key)])
        add(host)
        assert call(host, path="/a/api/v1/chat").status == 200
        host = FastAPI(dependencies=[Depends(_key)])
        add(host)
        host.add_middleware(_Guard)
        assert call(host, path="/a/api/v1/chat").status == 401


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429])
def test_a_route_that_a_host_adds_may_refuse(status: int) -> None:
    """A lock that answers 404 in place of 401 misleads whoever has the key."""

    async def refuse(request: Request) -> Response:
        raise HTTPException(status, headers={"X-Reason": "mine"})

    app = create_app(settings=SETTINGS)
    app.add_route("/mine", refuse)
    answer = call(app, method="GET", path="/mine")
    assert (answer.status, answer.headers["x-reason"]) == (status, "mine")
    assert "x-request-id" in answer.headers


# Past the router


class _Guard:
    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await PlainTextResponse("Who are you?", 401)(scope, receive, send)


@pytest.mark.parametrize(
    "add",
    [
        pytest.param(lambda app: app.add_middleware(_Guard), id="add_middleware"),
        pytest.param(lambda app: app.user_middleware.append(Middleware(_Guard)), id="its list"),
        pytest.param(
            lambda app: setattr(app, "user_middleware", [Middleware(_Guard)]), id="another list"
        ),
        pytest.param(
            lambda app: app.router.routes.insert(
                0, Route("/api/v1/chat", _Guard(app), methods=["POST"])
            ),
            id="a route before it",
        ),
        pytest.param(lambda app: setattr(app.routes[0], "app", _Guard(app)), id="its route"),
    ],
)
@pytest.mark.parametrize("origins", [(), ("*",)], ids=["no CORS", "CORS"])
def test_what_a_host_puts_around_the_app_is_around_the_chat_too(
    add: Callable[[ChatApp], None], origins: Any
) -> None:
    """The chat is reached past the router; it must not be past who guards it."""
    app = create_app(settings=Settings(cors_origins=origins))
    add(app)
    assert call(app, {"message": "hi"}).status == 401


def test_a_tool_that_adds_its_middleware_while_an_app_is_made_is_around_the_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So do those that replace Starlette by a class of their own."""
    make = Starlette.__init__

    def instrumented(app: Any, *arguments: Any, **options: Any) -> None:
        make(app, *arguments, **options)
        app.add_middleware(_Guard)

    monkeypatch.setattr(Starlette, "__init__", instrumented)
    assert call(create_app(settings=SETTINGS), {"message": "hi"}).status == 401


def test_every_app_of_ours_says_that_it_is_no_asgi_2_app() -> None:
    """Tools guess it from a `__call__` that is no coroutine function, and call it with a scope."""
    app = create_app(settings=SETTINGS)
    inner: Any = app.build_middleware_stack()
    seen = set()
    while inner is not app.router:
        called = getattr(inner, "_asgi_single_callable", False)
        assert called or inspect.iscoroutinefunction(type(inner).__call__), inner
        seen.add(type(inner).__name__)
        inner = getattr(inner, "app", None) or inner._app
    assert {"RequestIDMiddleware", "DirectWay"} <= seen


@pytest.mark.parametrize(
    ("path", "root_path"),
    [
        ("/api/v1/chat", ""),
        ("/assistant/api/v1/chat", "/assistant"),
        # A proxy that takes its prefix away, and a server that is told of it.
        ("/api/v1/chat", "/assistant"),
    ],
)
def test_the_chat_is_found_wherever_it_is_mounted(path: str, root_path: str) -> None:
    """Past the router or by way of it, the answer is the same."""
    answer = call(create_app(settings=SETTINGS), path=path, root_path=root_path)
    assert last(answer.frames)[0] == "done"
    assert answer.scope["path_params"] == {}
    assert callable(answer.scope["endpoint"])


@pytest.mark.parametrize("added", [True, False])
def test_nothing_stands_between_the_server_and_the_chat_but_what_a_host_adds(added: bool) -> None:
    """Each layer is on the way of every token, and most hand it on and do nothing else."""
    responder = TellingCallers()
    app = create_app(responder, settings=SETTINGS)
    if added:
        app.add_exception_handler(500, lambda request, error: PlainTextResponse("sorry", 500))
    assert last(call(app, {"message": "hi"}).frames)[0] == "done"
    assert ("starlette.middleware.errors" in responder.callers) == added
    assert "starlette.routing" not in responder.callers


@pytest.mark.parametrize(
    ("change", "asked"),
    [
        pytest.param(lambda app, report: None, 0, id="nothing"),
        pytest.param(lambda app, report: app.add_middleware(GZipMiddleware), 0, id="middleware"),
        pytest.param(lambda app, report: setattr(app, "debug", True), 0, id="debug"),
        pytest.param(
            lambda app, report: app.add_exception_handler(Exception, report), 1, id="a handler"
        ),
    ],
)
def test_a_send_that_fails_is_logged_once_and_told_to_a_host_s_handler(
    change: Callable[[ChatApp, Any], None], asked: int, caplog: pytest.LogCaptureFixture
) -> None:
    """By the chat itself, whatever is around it; the handler may count it or report it."""
    told: List[str] = []

    async def report(request: Any, error: Exception) -> Response:
        told.append(str(error))
        return PlainTextResponse("sorry", 500)

    class Failing(HandDrivenRequest):
        async def send(self, message: Any) -> None:
            await super().send(message)
            raise RuntimeError("the server's own fault")

    async def main() -> None:
        app = create_app(settings=SETTINGS)
        change(app, report)
        made = Failing({"message": 1}, headers={"x-request-id": "ref-1"})
        with pytest.raises(RuntimeError, match="the server's own fault"):
            await made.run(app)

    asyncio.run(main())
    assert told == ["the server's own fault"] * asked
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("request failed request_id=ref-1") == 1


def test_a_table_that_the_host_changes_still_has_the_chat() -> None:
    """It may put routes of its own before ours."""

    async def hello(request: Any) -> Any:
        return PlainTextResponse("hello")

    app = create_app(settings=SETTINGS)
    app.routes.insert(0, Mount("/hello", routes=[Route("/", hello)]))
    assert last(call(app, {"message": "hi"}).frames)[0] == "done"
    assert call(app, method="GET", path="/hello/").body == b"hello"


def test_a_host_may_take_all_routes_away() -> None:
    """Then nothing is there, as at any other path."""
    app = create_app(settings=SETTINGS)
    app.routes.clear()
    assert call(app, {"message": "hi"}).status == 404


def test_what_the_router_of_a_host_has_found_is_kept() -> None:
    """Middleware that counts by route reads it when the response has been sent."""
    app = create_app(settings=SETTINGS)
    host = Starlette(routes=[Mount("/t/{tenant}", app)])
    answer = call(host, {"message": "hi"}, path="/t/ada/api/v1/chat")
    assert answer.scope["path_params"] == {"tenant": "ada"}


def test_a_raw_app_beside_the_chat_keeps_its_headers() -> None:
    """ASGI lets them be anything that can be iterated, once."""

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        headers = (pair for pair in [(b"x-own", b"1"), (b"x-other", b"2")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"raw"})

    app = create_app(settings=SETTINGS)
    app.mount("/raw", raw)
    answer = call(app, method="GET", path="/raw/x")
    assert {"x-own", "x-other", "x-request-id"} == set(answer.headers)
