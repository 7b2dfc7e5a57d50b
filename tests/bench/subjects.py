"""What is measured: ASGI apps that answer the same request with the same frames.

This module holds the work that each of them does, the bare app and ours, and the upstream that some
of them relay; `alternatives.py` has the rest, so that a process loads the framework that it
measures and no other.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import time
from typing import Any, AsyncIterator, Callable, Dict, List, Optional, Sequence, Tuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from omniforge_chat import OpenAIResponder, Settings, Turn, Usage, create_app
from omniforge_chat.core.reply import CHARACTERS_PER_TOKEN
from omniforge_chat.dialects import make_dialect
from omniforge_chat.models import Chunk, Done, Rate
from omniforge_chat.responders import placeholder
from omniforge_chat.rules import DIALECTS

from ..support.native import encode_event

INTERVALS = {"paced": 0.05, "kept": 0.05, "relay-paced": 0.05, "many": 1.0}
"""Seconds between two tokens of a stream, where there is time between them."""

KEY = "bench-0123456789abcdef"
"""The key that each request shows; the service of most subjects asks nobody."""

MESSAGE = "Hello, help me create an agent"
CONVERSATION = "550e8400-e29b-41d4-a716-446655440000"

FORMATS = [name for name in DIALECTS if name != "native"]
"""The other wire formats, whose clients send the conversation with each message."""

IN_FORMATS = {f"{kind}-{name}": (kind, name) for kind in ("short", "long") for name in FORMATS}
"""The workloads that are short or long replies in one of them."""

_WORDS = [f"word {number} " for number in range(1000)]


async def long(turn: Any) -> AsyncIterator[str]:
    """A thousand chunks, each ready at once."""
    for word in _WORDS:
        yield word


def paced(interval: float) -> Callable[[Any], AsyncIterator[str]]:
    """As many tokens as the message says; each is the time at which it was yielded."""

    async def respond(turn: Any) -> AsyncIterator[str]:
        for _ in range(int(turn.message)):
            await asyncio.sleep(interval)
            yield stamp()

    return respond


def stamp() -> str:
    """The time now, as the text of a token that tells how long it was on its way."""
    return f"@{time.perf_counter_ns()} "


# `Any`: a framework passes its own request, of which `message` alone is read.
RESPONDERS: Dict[str, Callable[[Any], AsyncIterator[str]]] = {
    "short": placeholder,
    "long": long,
    "paced": paced(INTERVALS["paced"]),
    "kept": paced(INTERVALS["kept"]),
    "many": paced(INTERVALS["many"]),
}


def tokens(characters: int) -> int:
    """The usage of a reply, as the contract estimates it."""
    return max(1, characters // CHARACTERS_PER_TOKEN)


def omniforge(workload: str) -> ASGIApp:
    if workload in IN_FORMATS:
        kind, name = IN_FORMATS[workload]
        return create_app(RESPONDERS[kind], settings=Settings(dialects=(name,)))
    responder: Any = RESPONDERS.get(workload)
    if responder is None:
        responder = OpenAIResponder(base_url=os.environ[UPSTREAM], model="bench")
    return create_app(responder, settings=Settings())


def guarded(workload: str) -> ASGIApp:
    responder: Any = RESPONDERS.get(workload)
    if responder is None:
        responder = OpenAIResponder(base_url=os.environ[UPSTREAM], model="bench")
    settings = Settings(
        api_keys=f"bench:{KEY},other:{KEY[::-1]}",
        rate_limit=Rate(10**9, 60),
        caller_streams=10**6,
        tokens_per_day=10**12,
        metrics="on",
    )
    return create_app(responder, settings=settings)


def replay_memory(workload: str) -> ASGIApp:
    return create_app(RESPONDERS[workload], settings=Settings(replay="memory"))


def replay_redis(workload: str) -> ASGIApp:
    settings = Settings(replay="redis", redis_url=os.environ[REDIS])
    return create_app(RESPONDERS[workload], settings=settings)


_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ],
}


def _body(frame: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": frame, "more_body": more}


def bare(workload: str) -> ASGIApp:
    """The limit: constants, a send for each, and not even a look at the request."""
    if workload in INTERVALS:
        return _bare_paced(INTERVALS[workload])
    if workload in IN_FORMATS:
        frames = asyncio.run(_frames(workload)).split(b"\n\n")[:-1]
        bodies = [_body(frame + b"\n\n") for frame in frames]
        messages = [_START, *bodies[:-1], {**bodies[-1], "more_body": False}]
    else:
        texts: List[str] = asyncio.run(_collect(RESPONDERS[workload](_turn())))
        messages = [_START, *(_body(encode_event(Chunk(text))) for text in texts), _done(texts)]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def _frames(workload: str) -> bytes:
    """The bytes of the reply that our app gives."""
    path, body = question(workload)
    sent: List[Message] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "headers": [(b"content-type", b"application/json")],
    }
    bodies = [body]

    async def receive() -> Message:
        if not bodies:
            await asyncio.Event().wait()  # the client stays
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await omniforge(workload)(scope, receive, send)
    return b"".join(message.get("body", b"") for message in sent)


def question(workload: str) -> Tuple[str, bytes]:
    """The path and the body that ask for a reply in another format; one body does for all."""
    _, name = IN_FORMATS[workload]
    text = {"type": "text", "text": MESSAGE}
    message = {"id": "m", "role": "user", "content": [text], "parts": [text]}
    ids = {"id": CONVERSATION, "threadId": CONVERSATION, "runId": CONVERSATION}
    body = {"model": "bench", "stream": True, "messages": [message], **ids}
    return make_dialect(name, Settings()).path, json.dumps(body).encode()


def _bare_paced(interval: float) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        wanted = int(json.loads((await receive())["body"])["message"])
        await send(_START)
        for _ in range(wanted):
            await asyncio.sleep(interval)
            await send(_body(b'event: chunk\ndata: {"content":"%s"}\n\n' % stamp().encode()))
        await send(_done([]))

    return app


def _done(texts: Sequence[str]) -> Message:
    usage = Usage(tokens(sum(map(len, texts))), estimated=True)
    return _body(encode_event(Done(CONVERSATION, usage)), more=False)


def _turn() -> Turn:
    return Turn(message=MESSAGE, conversation_id=CONVERSATION, request_id="bench")


async def _collect(texts: AsyncIterator[str]) -> List[str]:
    return [text async for text in texts]


BEFORE = "BENCH_BEFORE"
"""The environment variable with the directory of another checkout, whose package is `before`."""

REDIS = "BENCH_REDIS"
"""The environment variable with the URL of the server in which replies are kept."""

UPSTREAM = "BENCH_UPSTREAM"
"""The environment variable with the base URL of the upstream that is relayed."""

RELAYED_TOKENS = 500
_RELAYED = [f"token {number} " for number in range(RELAYED_TOKENS)]
RELAYED_TEXT = "".join(_RELAYED)


def upstream(workload: str) -> ASGIApp:
    """A model's server that speaks OpenAI's chat completions, a write for each token.

    It says as many tokens as the message asks for: each in the next turn of the event loop, or as
    `paced` does.
    """
    ready = [_completion(text) for text in _RELAYED]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        more = True
        while more:
            message = await receive()
            body += message["body"]
            more = message["more_body"]
        asked = json.loads(body)
        wanted = int(asked["messages"][-1]["content"] if "messages" in asked else asked["message"])
        await send(_START)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number in range(wanted):
            if workload == "relay":
                await asyncio.sleep(0)
                await send(ready[number])
            else:
                # Each keeps to its own beat. If a late token put off the next, streams that met
                # once would stay together, as no models do, and a relay would get crowds.
                next_one = begun + (number + 1) * INTERVALS[workload]
                await asyncio.sleep(next_one - loop.time())
                await send(_completion(stamp()))
        usage = {"prompt_tokens": 1, "completion_tokens": wanted, "total_tokens": wanted + 1}
        await send(_completion(None, finish_reason="stop"))
        await send(_completion(None, choices=[], usage=usage))
        await send(_body(b"data: [DONE]\n\n", more=False))

    return app


def _completion(
    text: Optional[str], *, finish_reason: Optional[str] = None, **more: Any
) -> Message:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    chunk = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "bench",
        "choices": [choice],
        **more,
    }
    return _body(b"data: %s\n\n" % json.dumps(chunk, separators=(",", ":")).encode())


SUBJECTS = {
    "bare": "subjects:bare",
    "omniforge": "subjects:omniforge",
    "before": "subjects:omniforge",
    "guarded": "subjects:guarded",
    "replay-memory": "subjects:replay_memory",
    "replay-redis": "subjects:replay_redis",
    "fastapi-stream": "alternatives:fastapi_stream",
    "fastapi-sse": "alternatives:fastapi_sse",
    "sse-starlette": "alternatives:sse_starlette",
    "fastapi-openai": "alternatives:fastapi_openai",
    "direct": "subjects:upstream",
}
"""The name of each subject, and the module and function that make it for a workload."""

_PLAIN = (
    "bare",
    "omniforge",
    "before",
    "guarded",
    "fastapi-stream",
    "fastapi-sse",
    "sse-starlette",
)
_RELAYS = ("omniforge", "before", "guarded", "fastapi-openai")
WORKLOADS = {
    "short": _PLAIN,
    "long": _PLAIN,
    "paced": _PLAIN,
    "kept": ("omniforge", "before", "replay-memory", "replay-redis"),
    "many": ("bare", "omniforge"),
    "relay": _RELAYS,
    "relay-paced": (*_RELAYS, "direct"),
    **dict.fromkeys(IN_FORMATS, ("bare", "omniforge")),
}
"""What is done, and who does it."""


def load(subject: str, workload: str) -> ASGIApp:
    """The app of `subject` that does `workload`. Raises ImportError where it is not installed."""
    module, _, function = SUBJECTS[subject].partition(":")
    app: ASGIApp = getattr(importlib.import_module(f"tests.bench.{module}"), function)(workload)
    return app
