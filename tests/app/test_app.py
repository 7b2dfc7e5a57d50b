"""create_app, driven by hand: what is put together, and what stays apart."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, Optional

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import omniforge_chat
from omniforge_chat import Settings, Turn, chat_routes, create_app
from omniforge_chat.errors import SettingsError
from omniforge_chat.settings import variable

from ..support.answers import last, refusal, text
from ..support.app import Exchange, exchange
from ..support.logs import Records
from ..support.process import environment

ORIGIN = "https://app.example"


async def _respond(turn: Turn) -> AsyncIterator[str]:
    yield f"{turn.message}!"


# The public names


def test_the_public_names_are_these() -> None:
    """Whatever is added here is a promise."""
    assert sorted(omniforge_chat.__all__) == [
        "ChatApp",
        "ChatError",
        "ConversationBusy",
        "Finish",
        "History",
        "Item",
        "Lifecycle",
        "MemoryHistory",
        "Message",
        "Responder",
        "Settings",
        "SettingsError",
        "Turn",
        "UpstreamError",
        "UpstreamRateLimited",
        "UpstreamTimeout",
        "Usage",
        "chat_routes",
        "create_app",
    ]
    # These need an extra, so `import *` must not name them.
    lazy = ["AnthropicResponder", "OpenAIResponder"]
    assert sorted(set(dir(omniforge_chat)) - set(vars(omniforge_chat))) == lazy
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

        import omniforge_chat, omniforge_chat.cli, omniforge_chat.server

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


# The responder


def test_without_a_responder_the_placeholder_answers() -> None:
    """`create_app()` is a whole service."""
    answer = exchange(create_app(settings=Settings()))
    assert "This is a placeholder response." in text(answer.frames)


def test_any_async_generator_function_answers() -> None:
    """One line makes an endpoint of it."""
    answer = exchange(create_app(_respond, settings=Settings()), {"message": "hello"})
    assert text(answer.frames) == "hello!"
    assert last(answer.frames)[0] == "done"


class _Model:
    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        yield "called"

    async def method(self, turn: Turn) -> AsyncIterator[str]:
        yield "bound"


def _plain(turn: Turn) -> AsyncIterator[str]:
    return _respond(turn)


async def _configured(greeting: str, turn: Turn) -> AsyncIterator[str]:
    yield greeting


@pytest.mark.parametrize(
    ("responder", "reply"),
    [
        pytest.param(_Model(), "called", id="an object with __call__"),
        pytest.param(_Model().method, "bound", id="a bound method"),
        pytest.param(functools.partial(_configured, "bonjour"), "bonjour", id="a partial"),
        pytest.param(_plain, "hi!", id="a function that returns an async iterator"),
        pytest.param(lambda turn: _respond(turn), "hi!", id="a lambda"),
    ],
)
def test_other_callables_that_return_an_async_iterator_answer_too(
    responder: Any, reply: str
) -> None:
    """A model has a configuration, and so the thing that answers is often an object."""
    assert text(exchange(create_app(responder, settings=Settings())).frames) == reply


async def _coroutine(turn: Turn) -> str:
    return "hi"


def _sync_generator(turn: Turn) -> Iterator[str]:
    yield "hi"


async def _no_arguments() -> AsyncIterator[str]:
    yield "hi"


async def _two_arguments(turn: Turn, model: object) -> AsyncIterator[str]:
    yield "hi"


class _AsyncCall:
    async def __call__(self, turn: Turn) -> str:
        return "hi"


@pytest.mark.parametrize(
    ("responder", "said"),
    [
        pytest.param("placeholder", "not callable", id="a name"),
        pytest.param(42, "not callable", id="a number"),
        pytest.param(_coroutine, "coroutine function", id="a coroutine function"),
        pytest.param(_AsyncCall(), "coroutine function", id="an object with async __call__"),
        pytest.param(
            functools.partial(_coroutine), "coroutine function", id="a partial of a coroutine"
        ),
        pytest.param(_sync_generator, "sync generator", id="a sync generator"),
        pytest.param(_Model, "a class", id="a class"),
        pytest.param(_respond(Turn("", "", "")), "called already", id="a generator"),
        pytest.param(_no_arguments, "one argument", id="a function of nothing"),
        pytest.param(_two_arguments, "one argument", id="a function of two arguments"),
    ],
)
@pytest.mark.parametrize("make", [create_app, chat_routes])
def test_what_is_no_responder_is_refused_with_what_to_write_instead(
    make: Any, responder: Any, said: str
) -> None:
    """Better at the start than at the first message, and better than a traceback from within."""
    with pytest.raises(TypeError, match=f"{said}.*(async def|the function itself)"):
        make(responder, settings=Settings())


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
    assert last(exchange(app).frames)[0] == "done"
    assert "access-control-allow-origin" not in exchange(app, headers={"Origin": "x"}).headers


def test_without_settings_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service is configured, under any server: `uvicorn --factory` passes no settings."""
    _fill_environment(monkeypatch, CHAT_MAX_BODY_BYTES="20", CORS_ORIGINS=ORIGIN)
    app = create_app(_respond)
    assert refusal(*exchange(app, {"message": "h" * 20}).json())[:2] == (413, "payload_too_large")
    answer = exchange(app, headers={"Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == ORIGIN


def test_a_setting_that_cannot_be_read_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that guesses what was meant is found out much later."""
    _fill_environment(monkeypatch, CHAT_MAX_STREAMS="many")
    with pytest.raises(SettingsError, match="CHAT_MAX_STREAMS='many': expected a whole number"):
        create_app()


def test_the_environment_names_the_responder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`uvicorn --factory` cannot pass one, so its name is a setting."""
    (tmp_path / "named_by_environment.py").write_text(
        "async def respond(turn):\n    yield 'from afar'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    _fill_environment(monkeypatch, CHAT_RESPONDER="named_by_environment:respond")
    assert text(exchange(create_app()).frames) == "from afar"
    # What the code says is nearer than what the environment says.
    assert text(exchange(create_app(_respond)).frames) == "hi!"


# Errors


@pytest.mark.parametrize("origins", [(), ("*",), (ORIGIN,)], ids=["no CORS", "any", "one"])
@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "/nowhere", 404, "not_found"),
        ("POST", "/api/v1/chat/", 404, "not_found"),
        ("GET", "/health/", 404, "not_found"),
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

    async def run() -> Exchange:
        made = Exchange(
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
    assert [name for name, _ in answer.sent[0]["headers"]].count(b"x-request-id") == 1
    if status == 405:
        assert answer.headers["allow"]
    if status == 500:
        assert "secret" not in message
        assert "ref-1" in message
        assert len(records.troubles) == 1
        assert "ref-1" in records.troubles[0]


def test_a_client_that_leaves_while_its_body_is_read_gets_and_costs_nothing() -> None:
    """There is nobody to answer, and what came is no request."""
    called = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        called.append(turn)
        yield "never"

    async def run() -> Exchange:
        made = Exchange(
            parts=[{"type": "http.request", "body": b'{"message":"hi"}', "more_body": True}]
        )
        made.gone.set()
        await made.run(create_app(respond, settings=Settings(max_streams=1)))
        return made

    with Records() as records:
        assert asyncio.run(run()).sent == []
    assert called == []
    assert records.all == []


def test_a_body_too_large_is_not_read_further() -> None:
    """The limit is there so that memory and time are not spent on it."""

    async def run(length: Optional[str], part: bytes) -> Exchange:
        made = Exchange(
            headers={"Content-Length": length} if length else {},
            parts=[{"type": "http.request", "body": part, "more_body": True}] * 10,
        )
        await made.run(create_app(_respond, settings=Settings(max_body_bytes=100)))
        return made

    for length, part, parts_read in (("101", b"x", 0), (None, b"x" * 50, 3), (None, b"x" * 101, 1)):
        answer = asyncio.run(run(length, part))
        assert refusal(*answer.json())[:2] == (413, "payload_too_large")
        assert answer.received == parts_read


# CORS


def _preflight(origins: Any, *, origin: str = ORIGIN, **headers: str) -> Exchange:
    return exchange(
        create_app(_respond, settings=Settings(cors_origins=origins)),
        method="OPTIONS",
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,x-request-id",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
    )


@pytest.mark.parametrize(("origins", "allowed"), [(("*",), "*"), ((ORIGIN,), ORIGIN)])
def test_a_page_of_an_allowed_origin_may_send_and_read(origins: Any, allowed: str) -> None:
    """JSON from another origin is asked for first, and ids are readable only where exposed."""
    asked = _preflight(origins, x_request_id="preflight-1")
    assert asked.status == 200
    assert asked.headers["access-control-allow-origin"] == allowed
    assert "POST" in asked.headers["access-control-allow-methods"]
    assert "x-request-id" in asked.headers["access-control-allow-headers"].lower()
    assert asked.headers["x-request-id"] == "preflight-1"
    app = create_app(_respond, settings=Settings(cors_origins=origins))
    for body, status in (({"message": "hi"}, 200), ({"text": "hi"}, 422)):
        answer = exchange(app, body, headers={"Origin": ORIGIN})
        assert answer.status == status
        assert answer.headers["access-control-allow-origin"] == allowed
        exposed = {n.strip() for n in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed == {"X-Request-ID", "X-Conversation-ID", "Retry-After"}


@pytest.mark.parametrize("origins", [("*",), (ORIGIN,), ("*", ORIGIN)])
def test_credentials_are_never_allowed(origins: Any) -> None:
    """`*` with credentials would let any page act as the user who visits it."""
    app = create_app(_respond, settings=Settings(cors_origins=origins))
    answers = [
        _preflight(origins, cookie="session=1"),
        exchange(app, headers={"Origin": ORIGIN, "Cookie": "session=1"}),
        exchange(app, {}, headers={"Origin": "https://other.example", "Cookie": "session=1"}),
    ]
    for answer in answers:
        assert "access-control-allow-credentials" not in answer.headers


def test_a_page_of_another_origin_is_not_let_in() -> None:
    """The browser keeps from it whatever has no such header."""
    asked = _preflight((ORIGIN,), origin="https://evil.example")
    assert "access-control-allow-origin" not in asked.headers
    app = create_app(_respond, settings=Settings(cors_origins=(ORIGIN,)))
    answer = exchange(app, headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_in_code_there_is_no_cors_unless_asked_for() -> None:
    """A host app has its own; two layers of it answer with each header twice."""
    app = create_app(_respond, settings=Settings())
    answer = exchange(app, headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert _preflight(()).status == 405


def test_a_service_serves_every_origin_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody who tries it from a page of their own should see it work."""
    _fill_environment(monkeypatch)
    answer = exchange(create_app(_respond), headers={"Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == "*"
    _fill_environment(monkeypatch, CORS_ORIGINS="")
    answer = exchange(create_app(_respond), headers={"Origin": ORIGIN})
    assert "access-control-allow-origin" not in answer.headers


# Apart


def test_two_apps_in_one_process_do_not_meet() -> None:
    """Limits and counters belong to an app: a full one does not fill its neighbour."""

    async def run() -> None:
        release = asyncio.Event()

        async def blocked(turn: Turn) -> AsyncIterator[str]:
            yield "started"
            await release.wait()

        settings = Settings(max_streams=1)
        app, neighbour = create_app(blocked, settings=settings), create_app(settings=settings)
        first, started = Exchange(), asyncio.Event()
        send = first.send

        async def send_and_tell(message: Any) -> None:
            await send(message)
            if b"started" in message.get("body", b""):
                started.set()

        first.send = send_and_tell  # type: ignore[method-assign]
        open_stream = asyncio.ensure_future(first.run(app))
        await started.wait()
        refused, elsewhere = Exchange(), Exchange()
        await refused.run(app)
        status, headers, body = refused.json()
        assert refusal(status, headers, body)[:2] == (503, "overloaded")
        assert int(headers["retry-after"]) >= 1
        assert refused.received == 0
        await elsewhere.run(neighbour)
        assert last(elsewhere.frames)[0] == "done"
        release.set()
        await open_stream
        assert last(first.frames)[0] == "done"
        again = Exchange()
        await again.run(app)
        assert last(again.frames)[0] == "done"

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "status"), [({"message": "hi"}, 200), ({"text": "hi"}, 422), (b"{", 400)]
)
def test_a_place_is_given_back_however_a_request_ends(body: Any, status: int) -> None:
    """One that is not is lost until the process ends."""
    app = create_app(_respond, settings=Settings(max_streams=1))
    for _ in range(3):
        assert exchange(app, body).status == status


def test_an_app_may_serve_one_event_loop_after_the_other() -> None:
    """Tests make loops as they go; nothing that belongs to one is kept."""
    app = create_app(_respond, settings=Settings())
    for _ in range(2):
        assert last(exchange(app).frames)[0] == "done"


def test_an_app_that_drains_takes_no_new_chats_and_says_so() -> None:
    """Whoever balances the load sends them elsewhere; the process still lives."""
    app, neighbour = (create_app(_respond, settings=Settings()) for _ in range(2))

    async def run() -> Exchange:
        await app.drain(0)
        made = Exchange()
        await made.run(app)
        return made

    refused = asyncio.run(run())
    status, headers, body = refused.json()
    assert refusal(status, headers, body)[:2] == (503, "shutting_down")
    assert int(headers["retry-after"]) >= 1
    assert refused.received == 0
    ready = exchange(app, method="GET", path="/ready")
    assert (ready.status, ready.json()[2]) == (503, {"status": "draining"})
    assert exchange(app, method="GET", path="/health").status == 200
    assert exchange(neighbour, method="GET", path="/ready").status == 200
    assert last(exchange(neighbour).frames)[0] == "done"


# The other routes


def test_the_routes_are_these() -> None:
    """Each is in the document, except the two that show it."""
    paths: Dict[str, Any] = {
        route.path: route.methods for route in chat_routes(_respond, settings=Settings())
    }
    assert paths == {
        "/api/v1/chat": {"POST"},
        "/health": {"GET", "HEAD"},
        "/ready": {"GET", "HEAD"},
        "/openapi.json": {"GET", "HEAD"},
        "/docs": {"GET", "HEAD"},
    }


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/docs"])
def test_every_answer_has_a_request_id(path: str) -> None:
    """Also the ones that nobody expects to go wrong."""
    app = create_app(_respond, settings=Settings())
    answer = exchange(app, method="GET", path=path, headers={"X-Request-ID": "mine"})
    assert answer.status == 200
    assert answer.headers["x-request-id"] == "mine"
    assert exchange(app, method="GET", path=path).headers["x-request-id"] != "mine"


def test_the_document_says_where_it_is_mounted() -> None:
    """Tools that read it send their requests to `servers`."""
    app = create_app(_respond, settings=Settings())
    document = json.loads(exchange(app, method="GET", path="/openapi.json").body)
    assert document["servers"] == [{"url": "/"}]
    assert document["openapi"] == "3.2.0"
