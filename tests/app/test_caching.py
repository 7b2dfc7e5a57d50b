"""What a cache between a client and the service may keep: nothing that can be old."""

from __future__ import annotations

import asyncio
from typing import Any, Dict

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from omniforge_chat import Settings, chat_routes, create_app
from omniforge_chat.responders import placeholder

from ..support.app import HandDrivenRequest

POST = {"method": "POST"}
ANSWERS = [
    ("no-store", {"path": "/health"}, 200),
    ("no-store", {"path": "/ready"}, 200),
    ("no-cache", {"path": "/openapi.json"}, 200),
    ("no-cache", {"path": "/docs"}, 200),
    ("no-cache", {"path": "/reader.js"}, 200),
    ("no-store", {"path": "/openapi.json", "query_string": b"version=1"}, 422),
    ("no-cache, no-transform", POST, 200),
    ("no-store", {**POST, "headers": {"last-event-id": "1"}}, 204),
    ("no-store", {**POST, "body": b"{"}, 400),
    ("no-store", {**POST, "headers": {"content-type": "text/plain"}}, 415),
]
OF_AN_APP = [
    ("no-cache", {"path": "/"}, 200),
    ("no-store", {"path": "/nowhere"}, 404),
    ("no-store", {}, 405),
    ("no-store", {"path": "/boom"}, 500),
]


async def boom(request: Request) -> Response:
    raise RuntimeError


def ask(app: Any, request: Dict[str, Any]) -> HandDrivenRequest:
    async def run() -> HandDrivenRequest:
        made = HandDrivenRequest(**{"method": "GET", **request})
        try:
            await made.run(app)
        except RuntimeError:
            assert made.status == 500
        return made

    return asyncio.run(run())


@pytest.mark.parametrize(("directive", "request_", "status"), [*ANSWERS, *OF_AN_APP])
def test_every_answer_says_what_a_cache_may_do(
    directive: str, request_: Dict[str, Any], status: int
) -> None:
    """Varnish kept `/ready` for two minutes, and with it another client's X-Request-ID."""
    for origins in ((), ("*",)):
        app = create_app(settings=Settings(cors_origins=origins, page=True))
        app.add_route("/boom", boom)
        methods = ["GET", "HEAD"] if request_.get("method") is None else ["POST"]
        for method in methods:
            answer = ask(app, {**request_, "method": method})
            assert (answer.status, answer.headers["cache-control"]) == (status, directive)


@pytest.mark.parametrize(("directive", "request_", "status"), ANSWERS)
def test_so_do_the_routes_alone(directive: str, request_: Dict[str, Any], status: int) -> None:
    """Whoever has them stands behind the same caches."""
    app = Starlette(routes=[*chat_routes(placeholder), Route("/boom", boom)])
    answer = ask(app, request_)
    assert (answer.status, answer.headers["cache-control"]) == (status, directive)


def test_that_a_service_drains_is_not_kept_either() -> None:
    """A balancer that sees it for too long leaves a new process without work."""
    app = create_app(settings=Settings())
    asyncio.run(app.drain(0))
    for request in ({"path": "/ready"}, POST):
        answer = ask(app, request)
        assert (answer.status, answer.headers["cache-control"]) == (503, "no-store")
