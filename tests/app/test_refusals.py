"""Chats that are refused: what a client gets, what the log says, and what a host's limit does."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, AsyncIterator, Callable, Dict, List

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount
from starlette.types import ASGIApp

from omniforge_chat import Settings, Turn, chat_routes, create_app

from ..support.answers import last, refusal
from ..support.app import HandDrivenRequest, call
from ..support.logs import Records
from ..support.responders import saying
from ..support.timeless import clock, passing, timeless

# The log


async def refuse(app: ASGIApp, body: object = b"{", **request: Any) -> HandDrivenRequest:
    made = HandDrivenRequest(body, **request)
    await made.run(app)
    assert made.status >= 400
    return made


def told(records: Records) -> List[str]:
    """What the log says of refusals, at the level at which it is run."""
    lines = [r for r in records.all if r.levelno > logging.DEBUG]
    return [f"{record.levelname} {record.getMessage()}" for record in lines]


@timeless
async def test_the_first_refusal_is_told_at_once_and_the_rest_once_a_second() -> None:
    """An operator hears of it in time, and an attack does not fill the disk."""
    app = create_app(settings=Settings())
    with Records() as records:
        await refuse(app)
        assert len(told(records)) == 1
        assert told(records)[0].startswith("INFO refused: validation_error=1 (body: ")
        for _ in range(500):
            await refuse(app, {"message": "x" * 10_001})
            await refuse(app)
        await passing(0.9)
        assert len(told(records)) == 1
        await passing(0.2)  # although no other refusal follows
        assert len(told(records)) == 2
        for part in ("message_too_long=500 (message: ", "validation_error=500 (body: "):
            assert part in told(records)[1]
        await passing(1)
        await refuse(app)
        assert len(told(records)) == 3, "after a quiet second the next one is the first again"
        await passing(10)
        assert len(told(records)) == 3


@timeless
async def test_what_the_service_cannot_help_is_a_warning() -> None:
    """A service that is full needs somebody to look; a client's typing error does not."""
    app = create_app(settings=Settings())
    with Records() as records:
        await refuse(app)
        await app.drain(0)
        await refuse(app)
        await passing(1)
        await app.aclose()
    info, warning = told(records)
    assert info.startswith("INFO refused: validation_error=1")
    assert warning == "WARNING refused: shutting_down=1 (Server is shutting down)"


@timeless
async def test_at_the_end_the_rest_is_told_and_no_timer_is_left() -> None:
    """What came in the last second would be lost with the process."""
    app = create_app(settings=Settings())
    with Records() as records:
        for _ in range(3):
            await refuse(app)
        assert len(told(records)) == 1
        await app.aclose()
        assert "validation_error=2" in told(records)[1]
        pending: List[asyncio.TimerHandle] = clock()._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in pending if not timer.cancelled()] == []
        await app.aclose()
        assert len(told(records)) == 2


def test_an_app_in_another_loop_tells_on() -> None:
    """A timer of a loop that has ended never fires."""
    app = create_app(settings=Settings())
    with Records() as records:
        for _ in range(3):
            assert call(app, b"{").status == 400
    assert len(told(records)) == 3


def test_two_apps_count_for_themselves() -> None:
    """A host has to see which of its chats is in trouble."""

    async def run() -> None:
        for app in (create_app(settings=Settings()), create_app(settings=Settings())):
            await refuse(app)

    with Records() as records:
        asyncio.run(run())
    assert [line.partition(" (")[0] for line in told(records)] == [
        "INFO refused: validation_error=1"
    ] * 2


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"body": b"["}, 400, "validation_error"),
        ({"body": {"text": "hi"}}, 422, "validation_error"),
        ({"headers": {"content-type": "text/plain\n\t\x1b[31m" + "x" * 999}}, 415, "unsupported"),
        ({"headers": {"content-length": "999999"}}, 413, "payload_too_large"),
        ({"path": "/elsewhere/\x1b[31m\u2028\x00" + "x" * 999}, 404, "not_found"),
        ({"method": "DELETE"}, 405, "method_not_allowed"),
        ({"method": "POST", "path": "/health"}, 405, "method_not_allowed"),
        ({"method": "GET", "path": "/v1/models/none"}, 404, "not_found"),
        (
            {"method": "GET", "path": "/openapi.json", "query_string": b"version=%1b"},
            *(422, "validation_error"),
        ),
    ],
)
def test_at_debug_each_refused_request_has_its_line(request_: Any, status: int, code: str) -> None:
    """By its id, which the client may have sent in a complaint."""
    headers = {**request_.pop("headers", {}), "X-Request-ID": "ref-1"}
    app = create_app(settings=Settings(dialects=("native", "openai")))
    with Records() as records:
        for _ in range(2):
            call(app, **request_, headers=headers)
    lines = [r.getMessage() for r in records.all if r.levelno == logging.DEBUG]
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(f"request refused request_id=ref-1 status={status} code={code}")
        assert len(line) < 400
        assert line.isprintable()


# A client that connects again


@pytest.mark.parametrize("value", ["7", "", "\xff"])
@pytest.mark.parametrize("make", [create_app, lambda r, settings: chat_routes(r)])
def test_a_client_that_asks_for_the_rest_of_a_stream_gets_no_second_reply(
    make: Callable[..., Any], value: str
) -> None:
    """It repeats by itself after a cut, and its user would pay twice; 204 tells it to stop."""
    called: List[Turn] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        called.append(turn)
        yield "again"

    app = make(respond, settings=Settings())
    app = app if callable(app) else Starlette(routes=app)
    headers = {"Last-Event-ID": value, "X-Request-ID": "mine"}
    # However wrong the rest of the request is.
    for body in ({"message": "hi"}, b"{"):
        answer = call(app, body, headers=headers)
        assert (answer.status, answer.body, answer.received) == (204, b"", 0)
        assert answer.headers == {"cache-control": "no-store", "x-request-id": "mine"}
    assert called == []


def test_a_client_that_connects_again_is_told_to_stop_by_a_service_that_has_no_room_too() -> None:
    """503 would let it come again and again."""

    async def run() -> None:
        app = create_app(settings=Settings())
        await app.drain(0)
        made = HandDrivenRequest(headers={"last-event-id": "1"})
        await made.run(app)
        assert made.status == 204
        assert app.open_streams == 0

    asyncio.run(run())


# A limit of the host's for bodies


async def pass_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


def _limited(app: Any, limit: int) -> Any:
    app.max_body_size = limit
    return app


try:
    Starlette(max_body_size=1)
    LIMITS_BODIES = True
except TypeError:
    LIMITS_BODIES = False

LIMITED_HOSTS: Dict[str, Callable[[int], ASGIApp]] = {
    "itself": lambda limit: _limited(create_app(settings=Settings()), limit),
    "itself, with a middleware": lambda limit: _limited(
        _with_middleware(create_app(settings=Settings())), limit
    ),
    "mounted in Starlette": lambda limit: _limited(
        Starlette(routes=[Mount("/", create_app(settings=Settings()))]), limit
    ),
    "a mount with a limit": lambda limit: Starlette(
        routes=[Mount("/", create_app(settings=Settings()), max_body_size=limit)]
    ),
    "routes in Starlette": lambda limit: _limited(
        Starlette(routes=chat_routes(saying("hi"))), limit
    ),
    "routes in FastAPI": lambda limit: _limited(_fastapi(), limit),
}


def _with_middleware(app: Any) -> Any:
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    return app


def _fastapi() -> FastAPI:
    host = FastAPI()
    host.router.routes.extend(chat_routes(saying("hi")))
    return host


@pytest.mark.skipif(not LIMITS_BODIES, reason="this Starlette limits no bodies")
@pytest.mark.parametrize("host", LIMITED_HOSTS)
def test_a_body_beyond_the_limit_of_the_host_is_too_large(host: str) -> None:
    """Starlette raises from within `receive`, or answers in plain text from within `send`."""
    app = LIMITED_HOSTS[host](100)
    parts = [{"type": "http.request", "body": b"x" * 60, "more_body": True}] * 3
    wrong = {"content-type": "text/plain"}  # its refusal comes before the body is read
    with Records() as records:
        for request, status in (
            ({"parts": parts}, 413),
            ({"parts": parts, "headers": {"content-length": "180"}}, 413),
            ({"body": b"x" * 101}, 413),
            ({"body": b"x" * 101, "headers": {"content-length": "101"}}, 413),
            ({"headers": wrong}, 415),
            ({"body": b"x" * 101, "headers": {"content-length": "101", **wrong}}, 413),
        ):
            answer = call(app, **request)
            got, code, _ = refusal(*answer.json())
            assert (got, code) == (status, "payload_too_large" if status == 413 else code)
        answer = call(app, b'{"message":"hi"}', headers={"content-length": "16"})
        assert last(answer.frames)[0] == "done"
    assert records.troubles == []


@pytest.mark.skipif(not LIMITS_BODIES, reason="this Starlette limits no bodies")
@pytest.mark.parametrize("host", LIMITED_HOSTS)
def test_a_limit_of_the_host_does_not_raise_ours(host: str) -> None:
    """The smaller one counts."""
    app = LIMITED_HOSTS[host](10**9)
    for headers in ({}, {"content-length": "140000"}):
        answer = call(app, b" " * 140_000, headers=headers)
        assert refusal(*answer.json())[:2] == (413, "payload_too_large")
