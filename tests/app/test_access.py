"""Who may chat, and how much: keys, a host's own function, ownership and limits, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Dict, List, Optional, Tuple

import anyio
import pytest
from starlette.applications import Starlette
from starlette.authentication import BaseUser
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from omniforge_chat import (
    Access,
    Allowance,
    Caller,
    Forbidden,
    Lifecycle,
    Rate,
    Settings,
    Turn,
    Usage,
    chat_routes,
    create_app,
)
from omniforge_chat.app import ChatApp
from omniforge_chat.rules import DIALECTS

from ..support.answers import last, refusal
from ..support.app import HandDrivenRequest, call
from ..support.constants import CONVERSATION
from ..support.logs import Records
from ..support.responders import saying

ALICE, BOB = "alice-0123456789", "bob-0123456789ab"
KEYS = f"alice:{ALICE},bob:{BOB}"
REPLIES = "/api/v1/chat/replies"
BODIES: Dict[str, Any] = {
    "/api/v1/chat": {"message": "hi"},
    "/v1/chat/completions": {
        "model": "x",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    },
    "/api/chat": {"messages": [{"role": "user", "parts": [{"type": "text", "text": "hi"}]}]},
    "/ag-ui": {
        "threadId": "t",
        "runId": "r",
        "messages": [{"id": "1", "role": "user", "content": "hi"}],
    },
}

OTHERS = [
    ("GET", REPLIES + "/{reply}"),
    ("DELETE", REPLIES + "/{reply}"),
    ("GET", f"/api/v1/conversations/{CONVERSATION}"),
    ("DELETE", f"/api/v1/conversations/{CONVERSATION}"),
    ("POST", f"/api/v1/conversations/{CONVERSATION}/stop"),
]


def bearer(key: str) -> Dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(
    app: ChatApp,
    path: str = "/api/v1/chat",
    body: object = None,
    *,
    key: str = "",
    method: str = "POST",
    **more: str,
) -> HandDrivenRequest:
    headers = {**(bearer(key) if key else {}), **{k.replace("_", "-"): v for k, v in more.items()}}
    made = HandDrivenRequest(body, path=path, method=method, headers=headers)
    await made.run(app)
    return made


def guarded(*settings: Any, **values: Any) -> ChatApp:
    return create_app(saying("Hello"), settings=Settings(api_keys=KEYS, **values))


# Who asks


@pytest.mark.parametrize("path", BODIES)
def test_without_a_key_each_format_refuses_in_its_own_shape(path: str) -> None:
    """A client of any format knows what to do: to ask for a key."""
    app = guarded(dialects=DIALECTS)
    answer = call(app, BODIES[path], path=path)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]
    assert b"unauthorized" in answer.body or b"key or a token is needed" in answer.body
    assert call(app, BODIES[path], path=path, headers=bearer(ALICE)).status == 200


@pytest.mark.parametrize("path", BODIES)
def test_who_may_not_and_who_asks_too_often_is_told_in_that_shape_too(path: str) -> None:
    """A client library reads the code where it reads that of every refusal."""
    shapes = []
    for status, code, headers in (
        (401, b"unauthorized", {}),
        (403, b"forbidden", {"X-Name": "mallory"}),
        (429, b"rate_limited", {"X-Name": "alice"}),
    ):
        limits = Settings(dialects=DIALECTS, rate_limit=Rate(1, 60))
        app = create_app(saying("a"), settings=limits, authenticate=by_name)
        if status == 429:
            assert call(app, BODIES[path], path=path, headers=headers).status == 200
        answer = call(app, BODIES[path], path=path, headers=headers)
        assert answer.status == status
        assert ("retry-after" in answer.headers) == (status == 429)
        kind = answer.headers["content-type"]
        is_json = kind == "application/json"  # the AI SDK shows the text as it is
        assert code in answer.body or not is_json
        shapes.append((kind, *(_names(answer.body) if is_json else ())))
    assert len({*shapes}) == 1


def _names(body: bytes) -> List[str]:
    """The names of all fields of a document, and of those within."""
    found: Dict[str, Any] = json.loads(body)
    return [*found, *(name for each in found.values() if isinstance(each, dict) for name in each)]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {ALICE}"},
        {"Authorization": f"bearer  {ALICE}"},
        {"X-API-Key": ALICE},
        {"Authorization": "Basic eDp5", "X-API-Key": ALICE},
    ],
)
def test_a_key_comes_in_either_header(headers: Dict[str, str]) -> None:
    """Clients of OpenAI's format send the one, those of Anthropic's the other."""
    assert call(guarded(), headers=headers).status == 200


@pytest.mark.parametrize(
    "key", ["x", ALICE[:-1], ALICE + "x", ALICE.upper(), "é", pytest.param("x" * 9000, id="long")]
)
def test_a_wrong_key_is_refused_before_the_body_is_read(key: str) -> None:
    """And it is in no line of the log, whatever it was."""
    with Records() as records:
        request = call(guarded(), headers=bearer(key))
    assert refusal(*request.json())[:2] == (401, "unauthorized")
    assert request.received == 0
    assert not any(key in record.getMessage() for record in records.all if len(key) > 1)


def test_the_responder_knows_who_asks() -> None:
    """It may bill, or look for their documents."""
    seen: List[Optional[Caller]] = []

    async def respond(turn: Turn) -> Any:
        seen.append(turn.caller)
        yield "a"

    call(create_app(respond, settings=Settings(api_keys=KEYS)), headers=bearer(BOB))
    call(create_app(respond, settings=Settings()))
    assert [caller and caller.id for caller in seen] == ["key:bob", None]


async def by_name(connection: HTTPConnection) -> Optional[Caller]:
    """A host's own function."""
    name = connection.headers.get("x-name")
    if name == "mallory":
        raise Forbidden("Not you")
    if name == "http":
        raise HTTPException(403, "Nor you")
    if name == "basic":
        raise HTTPException(401, "Who are you?", {"www-authenticate": 'Basic realm="x"'})
    if name == "broken":
        raise ConnectionRefusedError("xyzzy")
    if name == "slow":
        await anyio.sleep_forever()
    return None if name is None else Caller(name, frozenset({"chat"} if name != "reader" else ()))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alice", (200, "")),
        ("", (401, "unauthorized")),
        ("mallory", (403, "forbidden")),
        ("http", (403, "forbidden")),
        ("reader", (403, "forbidden")),
        ("basic", (401, "unauthorized")),
        ("broken", (500, "internal_error")),
        ("slow", (503, "access_unavailable")),
    ],
)
def test_a_host_s_own_function_says_who_asks(name: str, expected: Tuple[int, str]) -> None:
    """Whatever it does, the client is told."""
    app = create_app(saying("a"), settings=Settings(body_timeout=0.05), authenticate=by_name)
    answer = call(app, headers={"X-Name": name} if name else {})
    if expected[1]:
        assert refusal(*answer.json())[:2] == expected
        assert b"xyzzy" not in answer.body
    else:
        assert answer.status == 200


def test_a_host_s_own_challenge_reaches_the_client() -> None:
    """A browser asks for a password then, and not for a token."""
    app = create_app(saying("a"), settings=Settings(), authenticate=by_name)
    answer = call(app, headers={"X-Name": "basic"})
    assert answer.headers["www-authenticate"] == 'Basic realm="x"'


def test_what_is_kept_asks_too_and_bears_a_function_that_fails() -> None:
    """A connection that is refused to the function is no reason to leave a client in silence."""
    settings = Settings(history="memory", replay="memory")
    app = create_app(saying("a"), settings=settings, authenticate=by_name)
    for method, path in OTHERS:
        target = path.format(reply="4fGk0uXxSleYb1h3c8Zb8Q")
        answer = call(app, method=method, path=target, headers={"X-Name": "broken"})
        assert refusal(*answer.json())[:2] == (500, "internal_error")


def test_the_routes_of_a_host_s_own_table_ask_as_well() -> None:
    """An app made of `chat_routes` is as closed as one of `create_app`."""
    settings = Settings()
    access = Access(settings, authenticate=by_name)

    app = Starlette(routes=chat_routes(saying("a"), settings=settings, access=access))
    assert call(app).status == 401
    assert call(app, headers={"X-Name": "alice"}).status == 200


class User(BaseUser):
    """A user of Starlette's AuthenticationMiddleware, with an identity of any kind."""

    is_authenticated = True
    display_name = "somebody"

    def __init__(self, identity: Any) -> None:
        self._identity = identity

    @property
    def identity(self) -> Any:
        return self._identity


def test_a_host_s_own_function_is_asked_also_if_a_middleware_has_found_a_user() -> None:
    """It may know that this user was locked out, or has an allowance of their own."""
    app = create_app(saying("a"), settings=Settings(), authenticate=by_name)
    for name, status in (("mallory", 403), ("", 401), ("alice", 200)):
        headers = {"X-Name": name} if name else {}
        assert call(app, headers=headers, user=User("bob")).status == status


@pytest.mark.parametrize("identity", [None, "", "x" * 257, "a\nb"])
@pytest.mark.parametrize("rate", [None, Rate(9, 60)])
def test_a_user_with_an_identity_that_is_none_is_an_error_everywhere(
    identity: Any, rate: Optional[Rate]
) -> None:
    """All users without one would else be the same, and each would read what the others said."""
    settings = Settings(history="memory", replay="memory", dialects=DIALECTS, rate_limit=rate)
    app = create_app(saying("a"), settings=settings)
    paths = [*OTHERS, ("GET", "/v1/models"), *(("POST", path) for path in BODIES)]
    for method, path in paths:
        target = path.format(reply="4fGk0uXxSleYb1h3c8Zb8Q")
        with Records() as records:
            answer = call(app, BODIES.get(path), method=method, path=target, user=User(identity))
        assert answer.status == 500
        assert b"reference" in answer.body
        assert records.troubles, "the host can see why"


def test_limits_of_a_host_s_own_table_are_in_redis_if_the_settings_say_so() -> None:
    """Several workers would else let several times as much pass, and nobody would notice."""
    settings = Settings(
        rate_limit=Rate(1, 60),
        limits="redis",
        limits_required=True,
        redis_url="redis://127.0.0.1:1",
    )

    async def run() -> None:
        access = Access(settings)
        app = Starlette(routes=chat_routes(saying("a"), settings=settings, access=access))
        request = HandDrivenRequest()
        await request.run(app)
        await access.aclose()
        assert refusal(*request.json())[:2] == (503, "limits_unavailable")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_function_that_is_not_async_is_refused_at_the_start() -> None:
    """It would block all streams, and an await of its result would fail at the first request."""
    with pytest.raises(TypeError, match="async"):
        create_app(saying("a"), settings=Settings(), authenticate=lambda c: None)  # type: ignore[arg-type, return-value] # that is what is tested


async def monitor(connection: HTTPConnection) -> Caller:
    """Knows a caller that may read metrics, and no more, and one that may chat."""
    return Caller("x", frozenset({connection.headers["x-may"]}))


def test_metrics_are_for_those_who_may_read_them() -> None:
    """They tell how busy a service is, which is nobody's business else."""
    settings = Settings(metrics="on")
    app = create_app(saying("a"), settings=settings, authenticate=monitor)
    for may, chats, reads in (("metrics", 403, 200), ("chat", 200, 403)):
        headers = {"X-May": may}
        assert call(app, headers=headers).status == chats
        assert call(app, method="GET", path="/metrics", headers=headers).status == reads
    open_to_all = create_app(saying("a"), settings=settings)
    assert call(open_to_all, method="GET", path="/metrics").status == 200


# Whose it is


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_somebody_else_s_conversations_and_replies_are_not_there(method: str, path: str) -> None:
    """A stolen id is worth nothing: the answer is that to an id that nobody has."""

    async def run() -> None:
        app = guarded(history="memory", replay="memory", dialects=DIALECTS)
        body = {"message": "hi", "conversation_id": CONVERSATION}
        mine = await ask(app, body=body, key=ALICE)
        target = path.format(reply=mine.headers["x-reply-id"])
        assert (await ask(app, target, method=method)).status == 401
        assert (await ask(app, target, method=method, key=BOB)).status == 404
        assert (await ask(app, target, method=method, key=ALICE)).status in (200, 202, 204)

    asyncio.run(run())


def test_a_post_that_comes_back_finds_no_reply_of_somebody_else() -> None:
    """Nor does a key for requests that somebody else has used."""

    async def run() -> None:
        app = guarded(history="memory", replay="memory")
        body = {"message": "hi", "conversation_id": CONVERSATION}
        mine = await ask(app, body=body, key=ALICE, Idempotency_Key="k")
        position = f"{mine.headers['x-reply-id']}.2"
        stolen = await ask(app, key=BOB, Last_Event_ID=position)
        assert b"llo" not in stolen.body
        other = await ask(app, body=body, key=BOB, Idempotency_Key="k")
        assert refusal(*other.json())[:2] == (404, "conversation_not_found")
        again = await ask(app, body=body, key=ALICE, Idempotency_Key="k")
        assert again.headers["idempotency-replayed"] == "true"

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/omniforge"])
def test_the_documents_of_a_format_ask_for_a_key_too(path: str) -> None:
    """A client finds out with its first request that its key is wrong."""
    app = guarded(dialects=DIALECTS)
    assert call(app, path=path, method="GET").status == 401
    assert call(app, path=path, method="GET", headers=bearer(ALICE)).status == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/openapi.json", "/docs", "/reader.js"])
def test_probes_and_documents_are_open(path: str) -> None:
    """A probe has no key, and the page has to load before it can ask for one."""
    assert call(guarded(), path=path, method="GET").status == 200


# How much


def limited(**values: Any) -> ChatApp:
    return create_app(saying("Hello", Usage(600)), settings=Settings(**values))


def test_a_caller_who_asks_too_often_is_told_when_to_come_back() -> None:
    """A client library waits as long as `Retry-After` says, and then it passes."""
    app = limited(api_keys=KEYS, rate_limit=Rate(2, 60))
    first, second, third = (call(app, headers=bearer(ALICE)) for _ in range(3))
    assert [first.status, second.status, third.status] == [200, 200, 429]
    assert first.headers["ratelimit-policy"] == '"minute";q=2;w=60'
    assert first.headers["ratelimit"] == '"minute";r=1'
    assert refusal(*third.json())[:2] == (429, "rate_limited")
    assert third.headers["retry-after"] == "30"
    assert third.headers["ratelimit"].startswith('"minute";r=0;t=')
    assert third.received == 0, "it is decided before the body is read"
    assert call(app, headers=bearer(BOB)).status == 200, "the limit is each caller's own"


def test_a_refusal_tells_of_the_limits_too() -> None:
    """It has used up a chat."""
    app = limited(rate_limit=Rate(2, 60))
    answer = call(app, {"message": "x" * 10_001})
    assert answer.status == 422
    assert answer.headers["ratelimit"] == '"minute";r=1'


def test_a_reader_is_told_of_the_limits_whatever_the_answer_is() -> None:
    """It may read more replies, or look for others."""
    app = limited(rate_limit=Rate(2, 60), caller_streams=3, replay="memory")
    answer = call(app, b"", method="GET", path=f"{REPLIES}/4fGk0uXxSleYb1h3c8Zb8Q")
    assert answer.status == 404
    assert answer.headers["ratelimit"] == '"minute";r=2, "readers";r=2'


def test_a_page_of_another_origin_may_show_its_key_and_read_the_limits() -> None:
    """If it may send a message, and there is anybody to be known, or a limit to be told of."""
    origin = "https://a.example"
    own = {"cors_origins": (origin,), "cors_headers": ("X-Own",)}
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-api-key",
    }
    for values, status in (({}, 400), ({"api_keys": KEYS}, 200), ({"caller_streams": 1}, 200)):
        app = limited(**own, **values)
        assert call(app, b"", method="OPTIONS", headers=asked).status == status
        exposed = call(app, headers={"Origin": origin}).headers["access-control-expose-headers"]
        expected = status == 200
        assert ({"RateLimit", "RateLimit-Policy"} <= set(exposed.split(", "))) == expected


def test_where_nobody_is_known_the_address_counts() -> None:
    """A header that anybody can send changes nothing."""
    app = limited(rate_limit=Rate(1, 60))
    forged = {"X-Forwarded-For": "10.0.0.9"}
    assert call(app).status == 200
    assert call(app, headers=forged).status == 429
    assert call(app, client=("10.0.0.9", 1)).status == 200
    assert call(app, client=("2001:db8::1", 1)).status == 200
    assert call(app, client=("2001:db8::2", 1)).status == 429, "one household, one limit"
    assert call(app, client=None).status == 200
    assert call(app, client=None).status == 429


def test_tokens_are_counted_when_a_reply_has_ended() -> None:
    """As its usage says; a day has so many."""
    app = limited(tokens_per_day=1000)
    assert [call(app).status for _ in range(3)] == [200, 200, 429]


def test_who_reads_a_reply_again_does_not_pay_for_it_again() -> None:
    """Its tokens are counted once, however often a client has to come back."""

    async def run() -> None:
        app = limited(tokens_per_day=1_300, replay="memory")
        for _ in range(4):
            answer = await ask(app, Idempotency_Key="k")
            assert answer.status == 200
        assert answer.headers["idempotency-replayed"] == "true"
        assert (await ask(app)).status == 200

    asyncio.run(run())


def test_a_host_s_allowance_stands_in_place_of_the_settings() -> None:
    """A customer who pays more may do more."""

    async def who(connection: HTTPConnection) -> Caller:
        rich = Allowance(Rate(5, 60)) if "x-rich" in connection.headers else None
        return Caller("rich" if rich else "poor", allowance=rich)

    app = create_app(saying("a"), settings=Settings(rate_limit=Rate(1, 60)), authenticate=who)
    assert [call(app).status for _ in range(2)] == [200, 429]
    assert [call(app, headers={"X-Rich": "1"}).status for _ in range(6)] == [200] * 5 + [429]


def test_200_requests_at_once_pass_no_more_often_than_the_limit_says() -> None:
    """However they interleave."""

    async def run() -> None:
        app = limited(rate_limit=Rate(50, 3600), api_keys=KEYS)
        answers = await asyncio.gather(*(ask(app, key=ALICE) for _ in range(200)))
        assert sorted(answer.status for answer in answers) == [200] * 50 + [429] * 150

    asyncio.run(run())


def test_streams_at_once_are_limited_and_come_back() -> None:
    """Whatever ends them."""

    async def run() -> None:
        go_on = asyncio.Event()
        began: asyncio.Queue[None] = asyncio.Queue()

        async def respond(turn: Turn) -> Any:
            yield "a"
            began.put_nowait(None)
            await go_on.wait()

        app = create_app(respond, settings=Settings(caller_streams=2))
        open_ones = [HandDrivenRequest() for _ in range(2)]
        tasks = [asyncio.ensure_future(request.run(app)) for request in open_ones]
        for _ in range(2):
            await began.get()
        third = await ask(app)
        assert refusal(*third.json())[:2] == (429, "rate_limited")
        open_ones[0].gone.set()
        await tasks[0]
        go_on.set()
        assert (await ask(app)).status == 200
        await tasks[1]
        assert last(open_ones[1].frames)[0] == "done"

    asyncio.run(run())


def test_a_full_service_takes_back_nothing_from_who_was_let_in() -> None:
    """A refused request gives its place back."""
    lifecycle = Lifecycle(max_streams=1)
    lifecycle.admit()

    settings = Settings(caller_streams=1)
    app = Starlette(routes=chat_routes(saying("a"), settings=settings, lifecycle=lifecycle))
    assert call(app).status == 503
    lifecycle.release()
    assert call(app).status == 200


def test_who_comes_back_for_a_reply_has_a_place_though_all_are_taken() -> None:
    """Or a client with one stream at once could not go on with it."""

    async def run() -> None:
        app = create_app(
            saying("Hello"),
            settings=Settings(replay="memory", caller_streams=1, rate_limit=Rate(1, 3600)),
        )
        mine = await ask(app)
        reply = f"{REPLIES}/{mine.headers['x-reply-id']}"
        assert (await ask(app)).status == 429
        assert (await ask(app, reply, method="GET")).status == 200
        again = await ask(app, Last_Event_ID=f"{mine.headers['x-reply-id']}.2")
        assert again.status == 200

    asyncio.run(run())


def test_a_request_sent_again_with_its_key_is_no_second_chat() -> None:
    """But a new one with a key is one, as every other."""

    async def run() -> None:
        app = create_app(
            saying("Hello"), settings=Settings(replay="memory", rate_limit=Rate(1, 3600))
        )
        assert (await ask(app, Idempotency_Key="a")).status == 200
        again = await ask(app, Idempotency_Key="a")
        assert (again.status, again.headers["idempotency-replayed"]) == (200, "true")
        new = await ask(app, Idempotency_Key="b")
        assert refusal(*new.json())[:2] == (429, "rate_limited")

    asyncio.run(run())
