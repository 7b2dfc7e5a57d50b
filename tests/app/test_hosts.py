"""The names that a service answers to: no web page reaches it under a name of the page's own."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Callable, Dict, List

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount, WebSocketRoute

from omniforge_chat import Settings, create_app
from omniforge_chat.app import ChatApp

from ..support.answers import last, refusal
from ..support.app import HandDrivenRequest, call
from ..support.logs import Records
from ..support.responders import TellingCallers, saying

HOSTS = ("localhost", "127.0.0.1", "[::1]", "Chat.example", "*.example.com")
ALLOWED = [
    *("localhost", "localhost:8000", "LOCALHOST:1", "127.0.0.1:8000", "[::1]", "[::1]:8000"),
    *("chat.example", "a.example.com", "a.b.example.com:443", "localhost:"),
    "localhost \t ",  # httptools leaves such blanks
]
REFUSED = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "evil.example/localhost"),
    *("127.0.0.1.evil.example", "xlocalhost", "localhost@evil.example", "evil.example#localhost"),
    *("example.com", "evilexample.com", "[::2]", "::1", "0.0.0.0", "127.0.0.2", "10.0.0.1"),
    *("", " ", ":80", "[", "[::1", "localhost:x", "localhost:80:80", "localhost, evil.example"),
    *("\xe9.example.com:\xe9", "[::1].example.com"),
]
REQUESTS: List[Dict[str, Any]] = [
    {},
    {"body": b"{"},
    {"path": "/api/v1/chat/"},
    *({"method": "GET", "path": path} for path in ("/", "/health", "/docs", "/nowhere")),
    {"method": "OPTIONS"},
]


def _app(*others: Any, hosts: Any = HOSTS, origins: Any = ()) -> ChatApp:
    settings = Settings(allowed_hosts=hosts, cors_origins=origins)
    app = create_app(saying("hi"), settings=settings)
    app.user_middleware.extend(others)
    return app


APPS: Dict[str, Callable[[], ChatApp]] = {
    "bare": _app,
    "with CORS": lambda: _app(origins=("*",)),
    "with a middleware": lambda: _app(Middleware(GZipMiddleware)),
}


@pytest.mark.parametrize("app", APPS)
def test_a_request_for_another_host_is_refused(app: str) -> None:
    """The browser believes that the service is a part of the page's own site."""
    made = APPS[app]()
    for host in REFUSED:
        for request in REQUESTS:
            headers = {"Host": host, "X-Request-ID": "mine", "Origin": f"http://{host}"}
            answer = call(made, **request, headers=headers)
            assert refusal(*answer.json())[:2] == (421, "host_not_allowed"), host
            assert answer.headers["x-request-id"] == "mine"
            assert not [name for name in answer.headers if name.startswith("access-control")]
            assert answer.received == 0


@pytest.mark.parametrize("app", APPS)
def test_a_request_for_one_of_the_names_is_answered(app: str) -> None:
    """At any port, as a container or a tunnel may have another one."""
    made = APPS[app]()
    for host in (*ALLOWED, *ALLOWED):  # the second time it is known
        assert last(call(made, headers={"Host": host}).frames)[0] == "done", host
        assert call(made, method="GET", path="/nowhere", headers={"Host": host}).status == 404


def test_a_request_without_a_host_is_no_web_page_s() -> None:
    """Some load balancers ask for `/health` by HTTP/1.0."""
    assert call(_app(), method="GET", path="/health").status == 200


@pytest.mark.parametrize("hosts", [(), ("*",), ("localhost", "*")])
def test_any_host_is_allowed_unless_there_are_names(hosts: Any) -> None:
    """A host app has its own check, and a service in the open its own names."""
    for host in (*ALLOWED, *REFUSED):
        assert call(_app(hosts=hosts), headers={"Host": host}).status == 200


def test_a_mounted_app_may_have_its_own_names() -> None:
    """The check is the app's, wherever it stands."""
    host = Starlette(routes=[Mount("/a", _app())])
    for name, status in (("localhost", 200), ("evil.example", 421)):
        assert call(host, path="/a/api/v1/chat", headers={"Host": name}).status == status


def test_what_is_remembered_is_bounded() -> None:
    """Whoever sends another port with each request fills no memory."""
    app = _app()
    app.middleware_stack = app.build_middleware_stack()
    for port in range(3000):
        headers = {"Host": f"localhost:{port}"}
        assert call(app, method="GET", path="/health", headers=headers).status == 200
    assert len(app.middleware_stack._known) <= 1000  # type: ignore[attr-defined]


def test_a_web_socket_for_another_host_is_closed() -> None:
    """A host may have added one to the app, and no CORS guards it."""
    app = _app()
    opened = []

    async def socket(websocket: Any) -> None:
        await websocket.accept()
        opened.append(websocket)

    app.routes.append(WebSocketRoute("/ws", socket))

    async def run(host: bytes) -> Any:
        made = HandDrivenRequest(path="/ws", parts=[{"type": "websocket.connect"}])
        made.scope.update(type="websocket", headers=[(b"host", host)], subprotocols=[])
        del made.scope["method"]
        await made.run(app)
        return made.sent[0]["type"]

    assert asyncio.run(run(b"evil.example")) == "websocket.close"
    assert opened == []
    assert asyncio.run(run(b"localhost")) == "websocket.accept"


def test_the_log_says_which_setting_it_is() -> None:
    """A proxy on the same machine may pass the public name on, and then nothing works."""
    with Records() as records:
        call(_app(), headers={"Host": "chat.example.org\n" + "x" * 5000})
    [line] = [r for r in records.all if r.levelno == logging.WARNING]
    assert "host_not_allowed=1" in line.getMessage()
    assert "'chat.example.org" in line.getMessage()
    assert "ALLOWED_HOSTS" in line.getMessage()
    assert len(line.getMessage()) < 400


def test_the_check_is_on_the_way_of_no_token() -> None:
    """Each layer that stays costs something for each."""
    responder = TellingCallers()
    app = create_app(responder, settings=Settings(allowed_hosts=HOSTS))
    assert last(call(app, headers={"Host": "localhost"}).frames)[0] == "done"
    others = {"starlette.routing", "starlette.middleware.errors", "omniforge_chat.http.hosts"}
    assert "omniforge_chat.http.chat" in responder.callers
    assert not others & responder.callers
