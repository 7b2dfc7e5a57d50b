"""In somebody else's app: in each, tokens arrive as they come, and the client's leaving arrives."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import random
import sys
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, NamedTuple

import pytest
from fastapi import FastAPI
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

from omniforge_chat import Settings, Turn, chat_routes, create_app
from omniforge_chat.app import ChatApp
from omniforge_chat.core.reply import Responder

from ..support.answers import last, refusal, text
from ..support.app import Exchange, exchange
from ..support.client import Client, assert_next_request_works
from ..support.constants import PATIENCE
from ..support.responders import PacedResponder
from ..support.servers import UvicornThread

SETTINGS = Settings()


class Host(NamedTuple):
    """A host app, and where in it the service is."""

    app: ASGIApp
    prefix: str


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


def _mounted(responder: Responder, *middleware: Middleware) -> Host:
    routes = [
        Route("/page", _page),
        Mount("/assistant", create_app(responder, settings=SETTINGS)),
    ]
    return Host(Starlette(routes=routes, middleware=middleware), "/assistant")


def _mounted_in_starlette(responder: Responder) -> Host:
    return _mounted(responder)


def _mounted_in_fastapi(responder: Responder) -> Host:
    host = FastAPI()
    host.mount("/assistant", create_app(responder, settings=SETTINGS))
    return Host(host, "/assistant")


def _mounted_at_the_root(responder: Responder) -> Host:
    return Host(Starlette(routes=[Mount("/", create_app(responder, settings=SETTINGS))]), "")


def _nested(responder: Responder) -> Host:
    inner = Mount(
        "/tenants/{tenant}", routes=[Mount("/chat", create_app(responder, settings=SETTINGS))]
    )
    return Host(Starlette(routes=[Mount("/a", routes=[inner])]), "/a/tenants/7/chat")


def _routes_in_starlette(responder: Responder) -> Host:
    return Host(Starlette(routes=chat_routes(responder, settings=SETTINGS)), "")


def _routes_in_fastapi(responder: Responder) -> Host:
    host = FastAPI(openapi_url=None)
    host.router.routes.extend(chat_routes(responder, settings=SETTINGS))
    return Host(host, "")


def _routes_under_a_path(responder: Responder) -> Host:
    routes = [Mount("/assistant", routes=chat_routes(responder, settings=SETTINGS))]
    return Host(Starlette(routes=routes), "/assistant")


def _behind_base_http_middleware(responder: Responder) -> Host:
    return _mounted(responder, WRAPPER)


def _behind_two_base_http_middlewares(responder: Responder) -> Host:
    return _mounted(responder, WRAPPER, WRAPPER)


def _behind_a_middleware_that_reads_the_body(responder: Responder) -> Host:
    return _mounted(responder, READER)


def _behind_gzip(responder: Responder) -> Host:
    return _mounted(responder, GZIP)


def _behind_gzip_and_base_http_middleware(responder: Responder) -> Host:
    return _mounted(responder, GZIP, WRAPPER)


def _behind_base_http_middleware_and_gzip(responder: Responder) -> Host:
    return _mounted(responder, WRAPPER, GZIP)


def _behind_cors(responder: Responder) -> Host:
    return _mounted(responder, CORS)


def _behind_fastapi_middleware(responder: Responder) -> Host:
    host = FastAPI()
    host.middleware("http")(_pass_on)
    host.add_middleware(GZipMiddleware, minimum_size=1)
    host.mount("/assistant", create_app(responder, settings=SETTINGS))
    return Host(host, "/assistant")


HOSTS = [
    _mounted_in_starlette,
    _mounted_in_fastapi,
    _mounted_at_the_root,
    _nested,
    _routes_in_starlette,
    _routes_in_fastapi,
    _routes_under_a_path,
    _behind_base_http_middleware,
    _behind_two_base_http_middlewares,
    _behind_a_middleware_that_reads_the_body,
    _behind_gzip,
    _behind_gzip_and_base_http_middleware,
    _behind_base_http_middleware_and_gzip,
    _behind_cors,
    _behind_fastapi_middleware,
]


# BaseHTTPMiddleware drops a body part that is empty, and GZipMiddleware outside of it holds the
# headers back until there is one (it has let those of what it does not compress pass since 1.8). So
# in these the headers arrive with the first token, or with a heartbeat, and not before.
LATE_HEADERS = (
    (_behind_gzip_and_base_http_middleware, _behind_fastapi_middleware)
    if tuple(map(int, starlette_version.split(".")[:2])) < (1, 8)
    else ()
)


def _name(build: Callable[[Responder], Host]) -> str:
    return build.__name__[1:].replace("_", " ")


def _ask(client: Client, prefix: str) -> None:
    """Ask for a chat as a browser does, which takes gzip."""
    client.post(
        {"message": "hi"},
        path=f"{prefix}/api/v1/chat",
        headers={"Accept-Encoding": "gzip, deflate, br", "Origin": "https://app.example"},
    )


@pytest.mark.parametrize("build", HOSTS, ids=_name)
def test_in_a_host_tokens_arrive_one_by_one_and_leaving_ends_the_responder(
    build: Callable[[Responder], Host],
) -> None:
    """A middleware that collects, compresses or keeps silent would take away what this is for."""
    paced = PacedResponder()
    host = build(paced)
    with UvicornThread(host.app) as server:
        with server.connect() as client:
            for _ in range(2):
                _ask(client, host.prefix)
                if build in LATE_HEADERS:
                    paced.ask()
                status, headers = client.head()
                assert status == 200
                assert headers["content-type"] == "text/event-stream; charset=utf-8"
                assert headers["x-request-id"]
                assert headers["x-conversation-id"]
                assert "content-encoding" not in headers
                for number in range(3):
                    if number or build not in LATE_HEADERS:
                        paced.ask()
                    assert json.loads(client.frame().data) == {"content": f"{number} "}
                paced.finish()
                assert last(client.frames())[0] == "done"
        for tokens in (0, 1):
            with server.connect() as client:
                _ask(client, host.prefix)
                for _ in range(tokens):
                    paced.ask()
                    client.head()
                    client.frame()
                assert paced.called.wait(PATIENCE)
            assert paced.closed.wait(PATIENCE)


@pytest.mark.parametrize("build", HOSTS, ids=_name)
def test_in_a_host_errors_keep_their_shape(build: Callable[[Responder], Host]) -> None:
    """What the service answers, it answers in its own way; the host's paths stay the host's."""
    host = build(PacedResponder())
    path = f"{host.prefix}/api/v1/chat"
    answer = exchange(host.app, {"text": "hi"}, path=path, headers={"X-Request-ID": "mine"})
    assert refusal(*answer.json())[:2] == (422, "validation_error")
    assert answer.headers["x-request-id"] == "mine"
    answer = exchange(host.app, method="GET", path=f"{host.prefix}/health")
    assert answer.json()[2] == {"status": "healthy"}
    document = exchange(host.app, method="GET", path=f"{host.prefix}/openapi.json").json()[2]
    assert document["servers"] == [{"url": host.prefix or "/"}]


def test_a_mounted_app_answers_what_is_under_its_path() -> None:
    """A typing error in the path behind the mount is ours to explain."""
    host = _mounted(PacedResponder())
    answer = exchange(host.app, path="/assistant/api/v1/chats")
    assert refusal(*answer.json())[:2] == (404, "not_found")
    answer = exchange(host.app, method="GET", path="/assistant/api/v1/chat")
    assert refusal(*answer.json())[:2] == (405, "method_not_allowed")


def test_two_mounted_apps_answer_each_in_its_own_way_and_have_room_of_their_own() -> None:
    """Two assistants in one product: what fills one leaves the other alone."""
    paced = PacedResponder()

    async def other(turn: Turn) -> AsyncIterator[str]:
        yield "the other one"

    settings = Settings(max_streams=1)
    host = Starlette(
        routes=[
            Mount("/one", create_app(paced, settings=settings)),
            Mount("/two", create_app(other, settings=settings)),
        ]
    )
    with UvicornThread(host) as server, server.connect() as first, server.connect() as second:
        _ask(first, "/one")
        assert first.head()[0] == 200
        _ask(second, "/one")
        assert refusal(*second.json())[:2] == (503, "overloaded")
        _ask(second, "/two")
        second.head()
        frames = second.frames()
        assert last(frames)[0] == "done"
        assert text(frames) == "the other one"
        paced.ask()
        paced.finish()
        assert text(first.frames()) == "0 "


def test_the_host_s_lifespan_is_the_host_s() -> None:
    """A mounted app gets no lifespan of its own, and needs none."""
    steps: List[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[Dict[str, str]]:
        steps.append("started")
        yield {"database": "open"}
        steps.append("ended")

    service = create_app(settings=SETTINGS)
    host = Starlette(routes=[Mount("/assistant", service)], lifespan=lifespan)
    with UvicornThread(host) as server, server.connect() as client:
        assert steps == ["started"]
        for _ in range(2):
            _ask(client, "/assistant")
            assert client.head()[0] == 200
            assert last(client.frames())[0] == "done"
        client.close()
        server.stop()
    assert steps == ["started", "ended"]


def test_without_any_lifespan_a_service_of_its_own_works_too() -> None:
    """Not every server runs one."""
    app = create_app(settings=SETTINGS)
    with UvicornThread(app, lifespan="off") as server, server.connect() as client:
        assert_next_request_works(client)


def test_a_host_s_compression_still_does_its_work_elsewhere() -> None:
    """That a stream passes through it is by its content type, and no accident."""
    host = _behind_gzip(PacedResponder())
    page = exchange(host.app, method="GET", path="/page", headers={"Accept-Encoding": "gzip"})
    assert page.headers["content-encoding"] == "gzip"


def test_a_middleware_of_the_host_adds_to_the_stream_s_headers() -> None:
    """It sees the response as it sees any other."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "hi"

    host = _behind_base_http_middleware(respond)
    with UvicornThread(host.app) as server, server.connect() as client:
        _ask(client, host.prefix)
        assert client.head()[1]["x-host"] == "was here"
        assert last(client.frames())[0] == "done"


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
    assert exchange(app, {"message": "hi"}).status == 401


def test_a_tool_that_adds_its_middleware_while_an_app_is_made_is_around_the_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So do those that replace Starlette by a class of their own."""
    make = Starlette.__init__

    def instrumented(app: Any, *arguments: Any, **options: Any) -> None:
        make(app, *arguments, **options)
        app.add_middleware(_Guard)

    monkeypatch.setattr(Starlette, "__init__", instrumented)
    assert exchange(create_app(settings=SETTINGS), {"message": "hi"}).status == 401


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
    assert {"RequestIDMiddleware", "_DirectWay"} <= seen


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

    async def main() -> Exchange:
        made = Exchange({"message": "hi"}, path=path)
        made.scope["root_path"] = root_path
        await made.run(create_app(settings=SETTINGS))
        return made

    made = asyncio.run(main())
    assert last(made.frames)[0] == "done"
    assert made.scope["path_params"] == {}
    assert callable(made.scope["endpoint"])


@pytest.mark.parametrize("added", [True, False])
def test_nothing_stands_between_the_server_and_the_chat_but_what_a_host_adds(added: bool) -> None:
    """Each layer is on the way of every token, and most hand it on and do nothing else."""
    callers: List[str] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            callers.append(frame.f_globals["__name__"])
        yield "hi"

    app = create_app(respond, settings=SETTINGS)
    if added:
        app.add_exception_handler(500, lambda request, error: PlainTextResponse("sorry", 500))
    assert last(exchange(app, {"message": "hi"}).frames)[0] == "done"
    assert ("starlette.middleware.errors" in callers) == added
    assert "starlette.routing" not in callers


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda app: None, id="nothing"),
        pytest.param(lambda app: app.add_middleware(GZipMiddleware), id="middleware"),
        pytest.param(lambda app: setattr(app, "debug", True), id="debug"),
    ],
)
def test_a_send_that_fails_is_logged_once_under_the_request_s_id(
    changed: Callable[[ChatApp], None], caplog: pytest.LogCaptureFixture
) -> None:
    """By the chat itself, whatever is around it."""
    _fail_to_send(changed)
    assert _failures(caplog) == 1


def test_a_host_s_handler_is_asked_about_a_send_that_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It may count failures, or report them elsewhere."""
    asked = []

    async def report(request: Any, error: Exception) -> Any:
        asked.append(str(error))
        return PlainTextResponse("sorry", 500)

    _fail_to_send(lambda app: app.add_exception_handler(Exception, report))
    assert asked == ["the server's own fault"]
    assert _failures(caplog) == 1


def _fail_to_send(changed: Callable[[ChatApp], None]) -> None:
    """A refusal that the server fails to send, by an app that its host has changed."""

    class Failing(Exchange):
        async def send(self, message: Any) -> None:
            await super().send(message)
            raise RuntimeError("the server's own fault")

    async def main() -> None:
        app = create_app(settings=SETTINGS)
        changed(app)
        made = Failing({"message": 1}, headers={"x-request-id": "ref-1"})
        with pytest.raises(RuntimeError, match="the server's own fault"):
            await made.run(app)

    asyncio.run(main())


def _failures(caplog: pytest.LogCaptureFixture) -> int:
    """How often a failure was logged under the request's id."""
    lines = [record.getMessage() for record in caplog.records]
    return lines.count("request failed request_id=ref-1")


def test_a_table_that_the_host_changes_still_has_the_chat() -> None:
    """It may put routes of its own before ours."""

    async def hello(request: Any) -> Any:
        return PlainTextResponse("hello")

    app = create_app(settings=SETTINGS)
    app.routes.insert(0, Mount("/hello", routes=[Route("/", hello)]))
    assert last(exchange(app, {"message": "hi"}).frames)[0] == "done"
    assert exchange(app, method="GET", path="/hello/").body == b"hello"


def test_a_host_may_take_all_routes_away() -> None:
    """Then nothing is there, as at any other path."""
    app = create_app(settings=SETTINGS)
    app.routes.clear()
    assert exchange(app, {"message": "hi"}).status == 404


def test_what_the_router_of_a_host_has_found_is_kept() -> None:
    """Middleware that counts by route reads it when the response has been sent."""
    app = create_app(settings=SETTINGS)
    host = Starlette(routes=[Mount("/t/{tenant}", app)])

    async def main() -> Exchange:
        made = Exchange({"message": "hi"}, path="/t/ada/api/v1/chat")
        await made.run(host)
        return made

    scope = asyncio.run(main()).scope
    assert scope["path_params"] == {"tenant": "ada"}


def test_a_raw_app_beside_the_chat_keeps_its_headers() -> None:
    """ASGI lets them be anything that can be iterated, once."""

    async def raw(scope: Scope, receive: Receive, send: Send) -> None:
        headers = (pair for pair in [(b"x-own", b"1"), (b"x-other", b"2")])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"raw"})

    app = create_app(settings=SETTINGS)
    app.mount("/raw", raw)
    answer = exchange(app, method="GET", path="/raw/x")
    assert {"x-own", "x-other", "x-request-id"} == set(answer.headers)


def test_a_responder_that_seeds_random_numbers_makes_no_two_requests_one() -> None:
    """A reply that is to come out the same each time is no reason for the same reference."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        random.seed(1)
        yield "hi"

    app = create_app(respond, settings=SETTINGS)
    assert len({exchange(app).headers["x-request-id"] for _ in range(4)}) == 4


@pytest.mark.parametrize(
    "path", ["/api/v1/chat/", "/api/v1/chats", "/api/v1/cha", "/x", "/x/api/v1/chat"]
)
def test_no_other_path_is_taken_for_the_chat(path: str) -> None:
    """Each is answered by the router."""
    answer = exchange(create_app(settings=SETTINGS), {"message": "hi"}, path=path)
    assert refusal(*answer.json())[:2] == (404, "not_found")
