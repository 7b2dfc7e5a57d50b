"""Kept replies in somebody else's app: under its paths, behind its layers, and for its users."""

from __future__ import annotations

import re
from typing import Any, Awaitable, Callable, Dict, List, Mapping, Optional, Tuple

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
    UnauthenticatedUser,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniforge_chat import (
    Claim,
    MemoryHistory,
    MemoryReplay,
    Replay,
    Settings,
    chat_routes,
    create_app,
)
from omniforge_chat.core.responder import Responder

from ..support.answers import refusal, text
from ..support.app import HandDrivenRequest, call
from ..support.client import Client
from ..support.conducted import Conductor, Reading
from ..support.constants import CONVERSATION, PATIENCE
from ..support.responders import saying
from ..support.servers import UvicornThread

SETTINGS = Settings(history="memory", replay="memory", heartbeat_interval=None)
CHAT = "/api/v1/chat"
KEPT = f"/api/v1/conversations/{CONVERSATION}"


async def _pass_on(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    return await call_next(request)


WRAPPER = Middleware(BaseHTTPMiddleware, dispatch=_pass_on)
GZIP = Middleware(GZipMiddleware, minimum_size=1)


def _app(responder: Responder) -> ASGIApp:
    return create_app(responder, settings=SETTINGS)


def _routes(responder: Responder) -> List[Any]:
    return [*chat_routes(responder, history=MemoryHistory(), replay=MemoryReplay())]


def _mounted(responder: Responder, *middleware: Middleware) -> ASGIApp:
    return Starlette(routes=[Mount("/assistant", _app(responder))], middleware=middleware)


def _nested(responder: Responder) -> ASGIApp:
    inner: List[BaseRoute] = [Mount("/{tenant}", routes=[Mount("/assistant", _app(responder))])]
    return Starlette(routes=[Mount("/a", routes=inner)])


def _in_fastapi(responder: Responder, *middleware: Middleware) -> ASGIApp:
    host = FastAPI(middleware=middleware)
    host.mount("/assistant", _app(responder))
    return host


def _routes_under_a_path(responder: Responder) -> ASGIApp:
    return Starlette(routes=[Mount("/my chat", routes=_routes(responder))])


HOSTS: Dict[str, Tuple[Callable[..., ASGIApp], str, Tuple[Middleware, ...]]] = {
    "mounted": (_mounted, "/assistant", ()),
    "nested": (_nested, "/a/7/assistant", ()),
    "in FastAPI": (_in_fastapi, "/assistant", ()),
    "routes": (lambda responder: Starlette(routes=_routes(responder)), "", ()),
    "routes under a path": (_routes_under_a_path, "/my%20chat", ()),
    "behind BaseHTTPMiddleware": (_mounted, "/assistant", (WRAPPER,)),
    "behind two of them": (_mounted, "/assistant", (WRAPPER, WRAPPER)),
    "behind gzip": (_mounted, "/assistant", (GZIP,)),
    "behind both in FastAPI": (_in_fastapi, "/assistant", (GZIP, WRAPPER)),
}


@pytest.mark.parametrize(("build", "prefix", "middleware"), HOSTS.values(), ids=HOSTS)
def test_in_a_host_a_reply_outlives_its_connection_too(
    build: Callable[..., ASGIApp], prefix: str, middleware: Tuple[Middleware, ...]
) -> None:
    """Whatever stands around the chat hears of the leaving first, and must not end the reply."""
    conductor = Conductor()
    body = {"message": "hi", "conversation_id": CONVERSATION}
    with UvicornThread(build(conductor, *middleware)) as server:
        with server.connect() as client:
            client.post(body, path=f"{prefix}{CHAT}", headers={"Accept-Encoding": "gzip"})
            reply = conductor.reply("hi")
            reply.say("Hel")
            reading = Reading(client).until("Hel")
            location = reading.headers["location"]
            assert location == f"{prefix}{CHAT}/replies/{reading.reply_id}"
        with server.connect() as client:  # nobody but this client is there now
            client.ask(location, headers={"Last-Event-ID": reading.last_id})
            reply.say("l")
            rest = Reading(client).until("l")
            assert rest.headers["location"] == location
            client.close()
        with server.connect() as client:
            client.ask(f"{prefix}{KEPT}/stream")
            joined = Reading(client).until("Hell")
            assert joined.headers["location"] == location
            with server.connect() as other:
                other.ask(location, method="DELETE")
                assert other.json()[::2] == (202, {"status": "stopping"})
            assert joined.end()[1]["finish_reason"] == "stopped"
            assert reply.closed.wait(PATIENCE)
            client.ask(f"{prefix}{KEPT}")
            messages = client.json()[2]["messages"]
            assert [each["content"] for each in messages] == ["hi", "Hell"]
            client.ask(f"{prefix}{KEPT}/", method="DELETE")
            assert client.head()[0] == 204
            client.ask(location)
            assert refusal(*client.json())[:2] == (404, "reply_not_found")


SHAPES: Dict[str, Tuple[str, str]] = {
    "alone": ("", ""),
    "by the specification": ("/a", "/a"),
    "behind a proxy that strips it": ("", "/a"),
    "the first part of a route's path": ("", "/api"),
    "and again, with it in the path": ("/api", "/api"),
    "a last slash, stripped": ("", "/a/"),
    "encoded": ("/café a", "/caf%C3%A9%20a"),
    "the first slash last, as Litestar has it": ("", "/a"),
}


@pytest.mark.parametrize("slash", ["", "/"], ids=["", "slash"])
@pytest.mark.parametrize(("before", "root_path"), SHAPES.values(), ids=SHAPES)
def test_each_route_is_found_by_any_path_that_can_only_mean_it(
    request: pytest.FixtureRequest, before: str, root_path: str, slash: str
) -> None:
    """As those of the service without parameters are."""
    app = _app(saying("Hi"))
    moved = "Litestar" in request.node.name

    def ask(path: str, method: str = "GET", body: object = b"") -> HandDrivenRequest:
        path = f"{path[1:]}/" if moved else before + path + slash
        return call(app, body, method=method, path=path, root_path=root_path, raw_path=b"")

    said = ask(CHAT, "POST", {"message": "hi", "conversation_id": CONVERSATION})
    name = said.headers["x-reply-id"]
    read = ask(f"{CHAT}/replies/{name}")
    assert text(read.frames) == "Hi"
    assert read.headers["location"] == said.headers["location"]
    assert ask(f"{CHAT}/replies/{name}", "DELETE").json()[2] == {"status": "ended"}
    assert ask(f"{KEPT}/stop", "POST").json()[2] == {"status": "ended"}
    assert ask(f"{KEPT}/stream").status == 204
    assert len(ask(KEPT).json()[2]["messages"]) == 2
    assert ask(KEPT, "DELETE").status == 204


@pytest.mark.parametrize(
    "path",
    [
        f"/x{CHAT}/replies/a",
        f"{CHAT}/replies/a/b",
        f"{CHAT}/replies/",
        f"{CHAT}/replies",
        f"{CHAT}s/replies/a",
        "/api/v1/conversations",
        f"/x{KEPT}",
        f"{KEPT}/stream/x",
    ],
)
def test_no_other_path_is_one_of_ours(path: str) -> None:
    """Whoever guards a part of the paths would guard less than there is."""
    answer = call(_app(saying("Hi")), b"", method="GET", path=path, root_path="/y")
    assert refusal(*answer.json())[:2] == (404, "not_found")


@pytest.mark.parametrize("replay", ["memory", MemoryReplay, object(), MemoryHistory()])
def test_what_is_no_store_of_replies_is_refused_at_the_start(replay: Any) -> None:
    """The name of the setting, and a class in place of an object, are easy mistakes."""
    with pytest.raises(TypeError, match="replay is no store of replies: "):
        create_app(saying("Hi"), settings=Settings(), replay=replay)


def test_a_store_of_replies_that_is_passed_is_the_one() -> None:
    """Two apps of one process may share it: what one has produced the other reads."""
    replay: Replay = MemoryReplay()
    apps = [create_app(saying("Hi"), settings=Settings(), replay=replay) for _ in range(2)]
    location = call(apps[0]).headers["location"]
    assert text(call(apps[1], b"", method="GET", path=location).frames) == "Hi"


# Whose they are


class Backend(AuthenticationBackend):
    """Whoever sends a name is somebody."""

    async def authenticate(
        self, conn: HTTPConnection
    ) -> Optional[Tuple[AuthCredentials, BaseUser]]:
        name = conn.headers.get("X-User")
        return None if name is None else (AuthCredentials(), SimpleUser(name))


def by(user: Optional[str], more: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """The headers of a request by this user."""
    return {**({} if user is None else {"X-User": user}), **(more or {})}


def test_replies_conversations_and_keys_belong_to_the_user_whom_the_host_knows() -> None:
    """Somebody else gets the answer of an unknown one: an id that has leaked is nothing worth."""
    app = create_app(saying("Hi"), settings=SETTINGS)
    app.add_middleware(AuthenticationMiddleware, backend=Backend())
    body = {"message": "hi", "conversation_id": CONVERSATION}
    key = {"Idempotency-Key": "k"}
    said = call(app, body, headers=by("ann", key))
    path = f"{CHAT}/replies/{said.headers['x-reply-id']}"
    over = {"Last-Event-ID": said.frames[0].id}
    for user in ("bob", None, "an", "ann "):
        for method in ("GET", "DELETE"):
            answer = call(app, b"", method=method, path=path, headers=by(user))
            assert refusal(*answer.json())[:2] == (404, "reply_not_found")
            answer = call(app, b"", method=method, path=KEPT, headers=by(user))
            assert refusal(*answer.json())[:2] == (404, "conversation_not_found")
        stopped = call(app, b"", method="POST", path=f"{KEPT}/stop", headers=by(user))
        assert refusal(*stopped.json())[0] == 404
        assert call(app, b"", method="GET", path=f"{KEPT}/stream", headers=by(user)).status == 204
        (frame,) = call(app, b"", headers=by(user, over)).frames
        assert '"reply_not_found"' in frame.data
        other = call(app, body, headers=by(user, key))
        assert refusal(*other.json())[:2] == (404, "conversation_not_found")
        own = call(app, {"message": f"by {user}"}, headers=by(user, key))
        assert "idempotency-replayed" not in own.headers
    assert text(call(app, b"", method="GET", path=path, headers=by("ann")).frames) == "Hi"
    assert text(call(app, b"", headers=by("ann", over)).frames) == ""
    assert call(app, body, headers=by("ann", key)).headers["idempotency-replayed"] == "true"
    assert call(app, b"", method="DELETE", path=KEPT, headers=by("ann")).status == 204


class Identified(BaseUser):
    """A user who has an identity besides the name."""

    is_authenticated = True
    display_name = "Ann"
    identity = "17"


class Named(BaseUser):
    """A user who has a name alone, as Starlette's own had before."""

    is_authenticated = True
    display_name = "ann"


class Nobody:
    """A user of a framework that knows no such thing."""


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        (None, ""),
        (UnauthenticatedUser(), ""),
        (Nobody(), ""),
        ("ann", ""),
        ({"name": "ann"}, ""),
        (SimpleUser("ann"), "ann"),
        (Named(), "ann"),
        (Identified(), "17"),
    ],
)
def test_the_owner_is_the_identity_of_an_authenticated_user(user: Any, owner: str) -> None:
    """A name may be there twice. What is no user of Starlette's form is nobody."""
    owners: List[str] = []

    class Noting(MemoryHistory):
        async def begin_turn(self, claim: Claim) -> Any:
            owners.append(claim.owner)
            return await super().begin_turn(claim)

    call(create_app(saying("Hi"), settings=SETTINGS, history=Noting()), user=user)
    assert owners == [owner]


def test_a_user_without_any_name_is_an_error_and_not_everybody() -> None:
    """Whoever sees to it that users are known would else share one memory among them."""

    class Nameless:
        is_authenticated = True

    answer = call(create_app(saying("Hi"), settings=SETTINGS), user=Nameless())
    assert refusal(*answer.json())[:2] == (500, "internal_error")


# Pages of other origins


@pytest.mark.parametrize("keeps", [False, True])
def test_pages_of_other_origins_may_use_what_there_is(keeps: bool) -> None:
    """And nothing is allowed for which there is no use."""
    store = "memory" if keeps else "off"
    settings = Settings(
        cors_origins=("https://a.example",), cors_headers=("X-Own",), replay=store, history=store
    )
    app = create_app(saying("Hi"), settings=settings)

    def preflight(method: str, headers: str) -> HandDrivenRequest:
        asked = {"Origin": "https://a.example", "Access-Control-Request-Method": method}
        asked["Access-Control-Request-Headers"] = headers
        return call(app, b"", method="OPTIONS", path=f"{CHAT}/replies/x", headers=asked)

    allowed = preflight("GET", "x-own")
    methods = {"GET", "HEAD", "POST", *(["DELETE"] if keeps else [])}
    assert set(allowed.headers["access-control-allow-methods"].split(", ")) == methods
    for method, headers in (
        ("DELETE", "x-own"),
        ("GET", "last-event-id"),
        ("POST", "content-type, idempotency-key, last-event-id"),
    ):
        assert preflight(method, headers).status == (200 if keeps else 400)
    said = call(app, headers={"Origin": "https://a.example"})
    exposed = said.headers["access-control-expose-headers"].split(", ")
    assert {"X-Request-ID", "X-Conversation-ID", "Retry-After"} <= set(exposed)
    kept = {"X-Reply-ID", "Location", "Idempotency-Replayed"}
    assert kept & set(exposed) == (kept if keeps else set())
    assert said.headers["access-control-allow-origin"] == "https://a.example"


# A layer that ends a request


class Ending:
    """A middleware that cancels a request whose client has left, as some servers do."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as group:

            async def watched() -> Message:
                message = await receive()
                if message["type"] == "http.disconnect":
                    group.cancel_scope.cancel()
                return message

            await self._app(scope, watched, send)


def test_who_cancels_the_request_ends_the_reply_and_those_who_read_it_hear_so() -> None:
    """Daphne does, ten seconds after the leaving. It is no hang, and no half for a whole."""
    conductor = Conductor()
    with UvicornThread(Ending(_app(conductor))) as server:
        with server.chat("hi") as client:
            reply = conductor.reply("hi")
            reply.say("Hel")
            reading = Reading(client).until("Hel")
            follower = Client(server.port)
            follower.ask(reading.headers["location"])
            following = Reading(follower).until("Hel")
        assert reply.closed.wait(PATIENCE)
        event, data = following.end()
        assert (event, data["code"], following.said) == ("error", "shutting_down", "Hel")
        assert re.fullmatch(r".*\.9007199254740991", following.last_id)
        follower.close()
