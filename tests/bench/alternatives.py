"""The same chat as one writes it with FastAPI, with FastAPI's own events, and with sse-starlette.

Each validates the same fields and counts the same usage. What it does not have (request ids, a log
line for each chat, heartbeats, deadlines) it is not made to do.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of endpoints.

import json
import os
import uuid
from typing import Annotated, Any, AsyncIterator, Dict, Optional, Tuple

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from omniforge_chat.dialects.native import Native
from omniforge_chat.models import MAX_MESSAGE_CHARACTERS, UUID4_PATTERN

from .subjects import RESPONDERS, UPSTREAM, tokens

_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class ChatRequest(BaseModel):
    """The request, with the constraints of the contract."""

    message: Annotated[str, Field(min_length=1, max_length=MAX_MESSAGE_CHARACTERS, pattern=r"\S")]
    conversation_id: Annotated[Optional[str], Field(pattern=UUID4_PATTERN)] = None


async def _events(request: ChatRequest, workload: str) -> AsyncIterator[Tuple[str, Dict[str, Any]]]:
    """The reply as names and fields of events."""
    characters = 0
    async for text in RESPONDERS[workload](request):
        characters += len(text)
        yield "chunk", {"content": text}
    conversation_id = request.conversation_id or str(uuid.uuid4())
    usage = {"tokens": tokens(characters), "estimated": True}
    yield "done", {"conversation_id": conversation_id, "usage": usage}


def _json(fields: Dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def fastapi_stream(workload: str) -> ASGIApp:
    """FastAPI, with frames put together by hand."""
    app = FastAPI()

    async def frames(request: ChatRequest) -> AsyncIterator[str]:
        async for name, fields in _events(request, workload):
            yield f"event: {name}\ndata: {_json(fields)}\n\n"

    @app.post(Native.path)
    async def chat(request: ChatRequest) -> StreamingResponse:
        return StreamingResponse(frames(request), media_type="text/event-stream", headers=_HEADERS)

    return app


def fastapi_sse(workload: str) -> ASGIApp:
    """FastAPI, with the response that it has for events."""
    from fastapi.sse import EventSourceResponse, ServerSentEvent  # new in 0.135

    app = FastAPI()

    @app.post(Native.path, response_class=EventSourceResponse)
    async def chat(request: ChatRequest) -> AsyncIterator[ServerSentEvent]:
        async for name, fields in _events(request, workload):
            yield ServerSentEvent(event=name, data=fields)

    return app


def sse_starlette(workload: str) -> ASGIApp:
    """Starlette, with the response of sse-starlette."""
    # It patches uvicorn when it is imported: not for the other subjects. Only `bench` installs it.
    from sse_starlette.sse import (  # type: ignore[import-not-found,unused-ignore]
        EventSourceResponse,
    )

    async def events(request: ChatRequest) -> AsyncIterator[Dict[str, str]]:
        async for name, fields in _events(request, workload):
            yield {"event": name, "data": _json(fields)}

    async def chat(request: Request) -> Response:
        asked = ChatRequest.model_validate_json(await request.body())
        response: Response = EventSourceResponse(events(asked), headers=_HEADERS, sep="\n")
        return response

    return Starlette(routes=[Route(Native.path, chat, methods=["POST"])])


def fastapi_openai(workload: str) -> ASGIApp:
    """FastAPI, with the `openai` package as the way to the upstream."""
    # Only `bench` installs it.
    from openai import AsyncOpenAI  # type: ignore[import-not-found,unused-ignore]

    app = FastAPI()
    client = AsyncOpenAI(base_url=os.environ[UPSTREAM], api_key="none")

    async def frames(request: ChatRequest) -> AsyncIterator[str]:
        stream = await client.chat.completions.create(
            model="bench",
            messages=[{"role": "user", "content": request.message}],
            stream=True,
            stream_options={"include_usage": True},
        )
        usage: Dict[str, int] = {}
        finish_reason: Optional[str] = None
        async for chunk in stream:
            for choice in chunk.choices:
                if choice.delta.content:
                    yield f"event: chunk\ndata: {_json({'content': choice.delta.content})}\n\n"
                finish_reason = choice.finish_reason or finish_reason
            if chunk.usage is not None:
                usage = {
                    "tokens": chunk.usage.total_tokens,
                    "prompt_tokens": chunk.usage.prompt_tokens,
                    "completion_tokens": chunk.usage.completion_tokens,
                }
        conversation_id = request.conversation_id or str(uuid.uuid4())
        done = {"conversation_id": conversation_id, "usage": usage, "finish_reason": finish_reason}
        yield f"event: done\ndata: {_json(done)}\n\n"

    @app.post(Native.path)
    async def chat(request: ChatRequest) -> StreamingResponse:
        return StreamingResponse(frames(request), media_type="text/event-stream", headers=_HEADERS)

    return app
