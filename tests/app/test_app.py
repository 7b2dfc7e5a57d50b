"""create_app, driven by hand: what is put together, and what stays apart."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any, AsyncIterator, Dict, List

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

import omniforge_chat
from omniforge_chat import Settings, Turn, chat_routes, create_app
from omniforge_chat.settings import variable

from ..support.answers import last, refusal, text
from ..support.app import HandDrivenRequest, call
from ..support.logs import Records
from ..support.process import environment
from ..support.responders import saying

ORIGIN = "https://app.example"


async def _respond(turn: Turn) -> AsyncIterator[str]:
    yield f"{turn.message}!"


# The public names


def test_the_public_names_are_these() -> None:
    """Whatever is added here is a promise."""
    assert sorted(omniforge_chat.__all__) == [
        "Access",
        "Allowance",
        "Caller",
        "ChatApp",
        "ChatEnd",
        "ChatError",
        "Claim",
        "ConversationBusy",
        "ConversationNotFound",
        "Finish",
        "Forbidden",
        "History",
        "HistoryUnavailable",
        "InvalidParameter",
        "Item",
        "Lifecycle",
        "MemoryHistory",
        "MemoryReplay",
        "Message",
        "Observer",
        "PostgresHistory",
        "Rate",
        "RateLimited",
        "ReadEnd",
        "Refusal",
        "Replay",
        "Responder",
        "SQLiteHistory",
        "Settings",
        "SettingsError",
        "StoredConversations",
        "StoredMessage",
        "Thought",
        "Turn",
        "Unauthorized",
        "UpstreamCall",
        "UpstreamEnd",
        "UpstreamError",
        "UpstreamRateLimited",
        "UpstreamTimeout",
        "Usage",
        "chat_routes",
        "create_app",
    ]
    # These need an extra, so `import *` must not name them.
    lazy = ["AnthropicResponder", "OpenAIResponder", "Tracing"]
    assert not set(lazy) & set(omniforge_chat.__all__)
    assert {*omniforge_chat.__all__, *lazy} <= set(dir(omniforge_chat))
    assert all(hasattr(omniforge_chat, name) for name in [*omniforge_chat.__all__, *lazy])


def test_importing_the_package_starts_reads_and_patches_nothing(tmp_path: Path) -> None:
    """A library that acts when it is imported acts in programs that never use it."""
    script = """
        import asyncio, logging, os, signal, sys, threading

        # What we stand on may read the environment; only what we do ourselves is looked at.
        import argparse, importlib.metadata, importlib.resources, multiprocessing.connection
        import msgspec, uvicorn, starlette.applications, starlette.middleware.cors

        class Forbidden(dict):
            def _refuse(self, *arguments):
                raise AssertionError("the environment was read")
            __getitem__ = __contains__ = __iter__ = get = items = keys = copy = _refuse

        signals = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        server = dict(vars(uvicorn.Server))
        watched = ("socket.", "os.fork", "os.posix_spawn", "subprocess.", "_thread.start")
        events = []
        sys.addaudithook(lambda name, _: events.append(name) if name.startswith(watched) else None)
        environ, os.environ = os.environ, Forbidden()

        import omniforge_chat, omniforge_chat.cli.serve, omniforge_chat.server
        from omniforge_chat import *

        os.environ = environ
        assert events == [], events
        assert threading.active_count() == 1
        assert signals == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        assert server == dict(vars(uvicorn.Server))
        assert logging.getLogger().handlers == []
        assert logging.getLogger("omniforge_chat").handlers == []
        assert logging.getLogger("omniforge_chat").level == logging.NOTSET
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# The environment


def _fill_environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """An environment in which the service's own variables are `values` and no others."""
    for field in Settings.__struct_fields__:
        monkeypatch.delenv(variable(field), raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_given_settings_nothing_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host app configures what it mounts; its own `PORT` is none of the chat's business."""
    nonsense = {variable(field): "\0nonsense" for field in Settings.__struct_fields__}
    monkeypatch.setattr(os, "environ", nonsense)
    app = create_app(_respond, settings=Settings())
    assert last(call(app).frames)[0] == "done"
    assert "access-control-allow-origin" not in call(app, headers={"Origin": "x"}).headers


def test_without_settings_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service is configured, under any server: `uvicorn --factory` passes no arguments."""
    named = {"CHAT_RESPONDER": f"{__name__}:_respond", "CHAT_MAX_BODY_BYTES": "20"}
    _fill_environment(monkeypatch, **named, CORS_ORIGINS=ORIGIN)
    answer = call(create_app(), headers={"Origin": ORIGIN})
    assert text(answer.frames) == "hi!"
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    answer = call(create_app(), {"message": "h" * 20})
    assert refusal(*answer.json())[:2] == (413, "payload_too_large")
    # What the code says is nearer than what the environment says.
    assert text(call(create_app(saying("another"))).frames) == "another"


def test_with_nothing_said_the_placeholder_answers_pages_of_every_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody who tries the service from a page of their own should see it work."""
    _fill_environment(monkeypatch)
    answer = call(create_app(), headers={"Origin": ORIGIN})
    assert "This is a placeholder response." in text(answer.frames)
    assert answer.headers["access-control-allow-origin"] == "*"
    _fill_environment(monkeypatch, CORS_ORIGINS="")
    answer = call(create_app(), headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in answer.headers


# Ids


def test_a_new_conversation_gets_an_id_that_header_and_done_agree_on() -> None:
    """A client continues a conversation by this id, and may have read either of the two."""
    app = create_app(_respond, settings=Settings())
    seen = set()
    for fields in ({}, {"conversation_id": None}):
        answer = call(app, {"message": "hi", **fields})
        conversation_id = last(answer.frames)[1]["conversation_id"]
        assert conversation_id == answer.headers["x-conversation-id"]
        assert uuid.UUID(conversation_id).version == 4
        seen.add(conversation_id)
    assert len(seen) == 2


def test_the_client_s_request_id_is_the_turn_s_and_the_answer_s() -> None:
    """The client's own log, ours, and the responder's then speak of the same request."""
    seen: List[str] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        seen.append(turn.request_id)
        yield "hi"

    app = create_app(respond, settings=Settings())
    for body in ({"message": "hi"}, {"text": "hi"}):
        answer = call(app, body, headers={"X-Request-ID": "mine"})
        assert answer.headers["x-request-id"] == "mine"
        answer = call(app, body, headers={"X-Request-ID": "two words"})
        assert answer.headers["x-request-id"] not in ("", "two words")
    assert seen[0] == "mine"
    assert "two words" not in seen


# Errors

NOWHERE = ["/api/v1", "/api/v1/chat//", "/api/v1/chats", "/api/v1/cha", "/x/api/v1/chat"]


@pytest.mark.parametrize("origins", [(), ("*",), (ORIGIN,)], ids=["no CORS", "any", "one"])
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        *(("POST", path, 404, "not_found") for path in NOWHERE),
        ("GET", "/health//", 404, "not_found"),
        ("GET", "/api/v1/chat", 405, "method_not_allowed"),
        ("OPTIONS", "/api/v1/chat", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("POST", "/boom", 500, "internal_error"),
    ],
)
def test_every_error_has_the_one_shape(
    origins: Any, method: str, path: str, status: int, code: str
) -> None:
    """A client has one way to read what went wrong, wherever it did."""

    async def boom(request: Request) -> Response:
        raise RuntimeError("the secret cause")

    app = create_app(_respond, settings=Settings(cors_origins=origins))
    app.router.routes.append(Route("/boom", boom, methods=["POST"]))

    async def run() -> HandDrivenRequest:
        made = HandDrivenRequest(
            method=method, path=path, headers={"Origin": ORIGIN, "X-Request-ID": "ref-1"}
        )
        try:
            await made.run(app)
        except RuntimeError:
            assert status == 500
        return made

    with Records() as records:
        answer = asyncio.run(run())
    got, got_code, message = refusal(*answer.json())
    assert (got, got_code) == (status, code)
    assert answer.headers["x-request-id"] == "ref-1"
    assert "location" not in answer.headers
    if status == 405:  # RFC 9110, section 15.5.6, demands it
        allowed = {"GET", "HEAD"} if path == "/health" else {"POST"}
        assert set(answer.headers["allow"].split(", ")) == allowed
    if status == 500:
        assert_only_the_log_has_the_cause(message, records)


@pytest.mark.parametrize(
    "host", ["[", "[::1", "]", "a:b:c", "//x", "a b", "é", "", "x:99999999", "?#@"]
)
def test_no_answer_is_made_from_the_host_header(host: str) -> None:
    """Starlette makes a URL from it, and some of its versions fail at a bad one."""
    app = create_app(_respond, settings=Settings(cors_origins=("*",)))
    headers = {"Host": host, "Origin": ORIGIN}
    assert last(call(app, headers=headers).frames)[0] == "done"
    asked = {"/": 307, "/docs": 200, "/openapi.json": 200, "/nowhere": 404, "/api/v1/chat": 405}
    for path, status in asked.items():
        for root_path in ("", "/x"):
            answer = call(
                app, method="GET", path=root_path + path, headers=headers, root_path=root_path
            )
            assert answer.status == status
            if host:
                assert host not in "".join(answer.headers.values())


def assert_only_the_log_has_the_cause(message: str, records: Records) -> None:
    """The client is told where to find it."""
    assert "secret" not in message
    assert "ref-1" in message
    (record,) = (record for record in records.all if record.exc_info)
    assert "ref-1" in record.getMessage()


def test_what_breaks_unexpectedly_before_the_stream_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client learns nothing of the cause, and the server need not end the connection for it."""

    def fail(body: bytes) -> None:
        raise RuntimeError("the secret cause")

    monkeypatch.setattr("omniforge_chat.dialects.native.parse", fail)
    with Records() as records:
        answer = call(create_app(settings=Settings()), headers={"X-Request-ID": "ref-1"})
    status, code, message = refusal(*answer.json())
    assert (status, code) == (500, "internal_error")
    assert_only_the_log_has_the_cause(message, records)


def test_a_client_that_leaves_while_its_body_is_read_gets_and_costs_nothing() -> None:
    """There is nobody to answer, and what came is no request."""
    called = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        called.append(turn)
        yield "never"

    async def run() -> HandDrivenRequest:
        made = HandDrivenRequest(
            parts=[{"type": "http.request", "body": b'{"message":"hi"}', "more_body": True}]
        )
        made.gone.set()
        await made.run(create_app(respond, settings=Settings(max_streams=1)))
        return made

    with Records() as records:
        assert asyncio.run(run()).sent == []
    assert called == []
    assert records.all == []


@pytest.mark.parametrize(("length", "parts_read"), [({"Content-Length": "101"}, 0), ({}, 3)])
def test_a_body_too_large_is_not_read_further(length: Dict[str, str], parts_read: int) -> None:
    """The limit is there so that memory and time are not spent on it."""
    parts = [{"type": "http.request", "body": b"x" * 50, "more_body": True}] * 10
    app = create_app(_respond, settings=Settings(max_body_bytes=100))
    answer = call(app, headers=length, parts=parts)
    assert refusal(*answer.json())[:2] == (413, "payload_too_large")
    assert answer.received == parts_read


# CORS


def _preflight(
    origins: Any,
    *,
    origin: str = ORIGIN,
    allowed: Any = ("*",),
    path: str = "/api/v1/chat",
    **headers: str,
) -> HandDrivenRequest:
    return call(
        create_app(_respond, settings=Settings(cors_origins=origins, cors_headers=allowed)),
        method="OPTIONS",
        path=path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-request-id",
            **headers,
        },
    )


@pytest.mark.parametrize(
    ("origins", "allowed"), [(("*",), "*"), ((ORIGIN,), ORIGIN), (("*", ORIGIN), "*")]
)
def test_a_page_of_an_allowed_origin_may_send_and_read(origins: Any, allowed: str) -> None:
    """JSON from another origin is asked for first, and ids are readable only where exposed."""
    asked = _preflight(origins, **{"X-Request-ID": "preflight-1"})
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == allowed
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "x-request-id" in asked.headers["access-control-allow-headers"].lower()
    assert asked.headers["cache-control"] == "no-store"
    assert asked.headers["x-request-id"] == "preflight-1"
    app = create_app(_respond, settings=Settings(cors_origins=origins))
    for body, status in (({"message": "hi"}, 200), ({"text": "hi"}, 422)):
        answer = call(app, body, headers={"Origin": ORIGIN})
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == allowed
        exposed = {n.strip() for n in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed == {"X-Request-ID", "X-Conversation-ID", "Retry-After"}


SENT = ["Authorization", "Last-Event-ID", "X-Requested-With", "x-stainless-lang", "x-a, b ,C"]


@pytest.mark.parametrize("path", ["/api/v1/chat", "/api/v1/chat/", "/health", "/docs", "/nowhere"])
@pytest.mark.parametrize("origins", [("*",), (ORIGIN,)])
def test_a_page_may_send_any_header_to_any_route(origins: Any, path: str) -> None:
    """Libraries add headers of their own, and a host's guard needs `Authorization`."""
    for header in SENT:
        for method in ("GET", "HEAD", "POST"):
            asked = {
                "Access-Control-Request-Headers": header,
                "Access-Control-Request-Method": method,
            }
            answer = _preflight(origins, path=path, **asked)
            assert answer.status == 200
            assert answer.headers["access-control-allow-headers"] == header
            assert method in answer.headers["access-control-allow-methods"].split(", ")


@pytest.mark.parametrize("header", SENT)
def test_only_the_headers_that_are_named_may_be_sent_if_there_are_names(header: str) -> None:
    """In any case; those of the protocol always."""
    asked = {"Access-Control-Request-Headers": f"content-type, x-request-id, {header.lower()}"}
    answer = _preflight((ORIGIN,), allowed=("AUTHORIZATION",), **asked)
    assert answer.status == (200 if header == "Authorization" else 400)
    assert answer.headers["cache-control"] == "no-store"
    assert _preflight((ORIGIN,), allowed=(), **asked).status == 400
    assert _preflight((ORIGIN,), allowed=()).status == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_no_method_is_allowed_that_no_route_has(method: str) -> None:
    """The browser tells the page at once."""
    answer = _preflight(("*",), **{"Access-Control-Request-Method": method})
    assert answer.status == 400


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("*",), ORIGIN, False),
        ((ORIGIN,), ORIGIN, True),
        ((ORIGIN,), "https://evil.example", False),
    ],
)
def test_a_private_network_is_open_to_pages_that_are_named_alone(
    origins: Any, origin: str, allowed: bool
) -> None:
    """`*` is for trying things out; it must not open a service at home to each page there is."""
    private = {"Access-Control-Request-Private-Network": "true"}
    answer = _preflight(origins, origin=origin, **private)
    given = answer.headers.get("access-control-allow-private-network")
    assert given == ("true" if allowed else None)
    answer = _preflight(origins, origin=origin)
    assert "access-control-allow-private-network" not in answer.headers


def test_a_mounted_app_has_its_own_cors() -> None:
    """If it is asked for: the pages that may chat need not be those that may do all else."""
    app = create_app(_respond, settings=Settings(cors_origins=(ORIGIN,)))
    host = Starlette(routes=[Mount("/a", app)])
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "authorization"
    answer = call(host, method="OPTIONS", path="/a/api/v1/chat", headers=headers)
    assert answer.status == 200
    assert answer.headers["access-control-allow-headers"] == "authorization"
    assert call(host, method="OPTIONS", path="/b", headers=headers).status == 404


@pytest.mark.parametrize("origins", [("*",), (ORIGIN,), ("*", ORIGIN)])
def test_credentials_are_never_allowed(origins: Any) -> None:
    """`*` with credentials would let any page act as the user who visits it."""
    app = create_app(_respond, settings=Settings(cors_origins=origins))
    answers = [
        _preflight(origins, Cookie="session=1"),
        call(app, headers={"Origin": ORIGIN, "Cookie": "session=1"}),
        call(app, {}, headers={"Origin": "https://other.example", "Cookie": "session=1"}),
    ]
    for answer in answers:
        assert "access-control-allow-credentials" not in answer.headers


def test_a_page_of_another_origin_is_not_let_in() -> None:
    """The browser keeps from it whatever has no such header."""
    app = create_app(_respond, settings=Settings(cors_origins=(ORIGIN,)))
    evil = "https://evil.example"
    for answer in (_preflight((ORIGIN,), origin=evil), call(app, headers={"Origin": evil})):
        assert "access-control-allow-origin" not in answer.headers


def test_in_code_there_is_no_cors_unless_asked_for() -> None:
    """A host app has its own; two layers of it answer with each header twice."""
    answer = call(create_app(_respond, settings=Settings()), headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert _preflight(()).status == 405


# Apart


def test_two_apps_in_one_process_do_not_meet() -> None:
    """Limits and counters belong to an app: a full one does not fill its neighbour."""

    async def run() -> None:
        started, release = asyncio.Event(), asyncio.Event()

        async def blocked(turn: Turn) -> AsyncIterator[str]:
            started.set()
            await release.wait()
            yield "released"

        settings = Settings(max_streams=1)
        app, neighbour = create_app(blocked, settings=settings), create_app(settings=settings)
        first, refused, elsewhere, again = (HandDrivenRequest() for _ in range(4))
        open_stream = asyncio.ensure_future(first.run(app))
        await started.wait()
        await refused.run(app)
        assert refusal(*refused.json())[:2] == (503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.received == 0
        await elsewhere.run(neighbour)
        release.set()
        await open_stream
        await again.run(app)
        for answered in (elsewhere, first, again):
            assert last(answered.frames)[0] == "done"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"), [({"message": "hi"}, 200), ({"text": "hi"}, 422), (b"{", 400)]
)
def test_a_place_is_given_back_however_a_request_ends(body: Any, status: int) -> None:
    """One that is not is lost until the process ends."""
    app = create_app(_respond, settings=Settings(max_streams=1))
    for _ in range(3):
        assert call(app, body).status == status


def test_an_app_that_drains_takes_no_new_chats_and_says_so() -> None:
    """Whoever balances the load sends them elsewhere; the process still lives."""
    app = create_app(_respond, settings=Settings())
    asyncio.run(app.drain(0))
    refused = call(app)
    assert refusal(*refused.json())[:2] == (503, "shutting_down")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.received == 0
    ready = call(app, method="GET", path="/ready")
    assert (ready.status, ready.json()[2]) == (503, {"status": "draining"})
    assert call(app, method="GET", path="/health").status == 200


# The other routes


def test_the_routes_are_these() -> None:
    """Each is in the document, except those that are for people and pages."""
    paths: Dict[str, Any] = {
        route.path: route.methods for route in chat_routes(_respond, settings=Settings())
    }
    assert paths == {
        "/api/v1/chat": {"POST"},
        "/health": {"GET", "HEAD"},
        "/ready": {"GET", "HEAD"},
        "/openapi.json": {"GET", "HEAD"},
        "/docs": {"GET", "HEAD"},
        "/reader.js": {"GET", "HEAD"},
    }


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "content_type", "begins"),
    [
        ("/health", "application/json", b'{"status":"healthy"}'),
        ("/ready", "application/json", b'{"status":"ready"}'),
        ("/openapi.json", "application/json", b'{"openapi":'),
        ("/docs", "text/html; charset=utf-8", b"<!doctype html>"),
        ("/reader.js", "text/javascript; charset=utf-8", b"// A reader"),
    ],
)
def test_the_other_routes_answer_under_the_request_id(
    method: str, path: str, content_type: str, begins: bytes
) -> None:
    """Orchestrators ask with GET, load balancers with HEAD."""
    for app in (create_app(settings=Settings()), Starlette(routes=chat_routes(_respond))):
        answer = call(app, method=method, path=path, headers={"X-Request-ID": "mine"})
        assert answer.status == 200
        assert answer.headers["content-type"] == content_type
        assert answer.headers["x-request-id"] == "mine"
        assert answer.body.startswith(begins)
        assert call(app, method=method, path=path).headers["x-request-id"] != "mine"
