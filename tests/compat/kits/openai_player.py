"""The libraries of PyPI that speak OpenAI's format. It is told by lines of JSON: [method, ...].

    python openai_player.py LIBRARY BASE_URL

`say`, `leave` and `whole` get the messages as pairs of role and text. They ask for a stream, leave
it behind its first text, and ask for a document. They answer what the user then sees.

It imports nothing of ours, as it runs where only the library is installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
from importlib import import_module
from typing import Any, AsyncIterator, Callable, Dict, List, NamedTuple, Sequence, Tuple

MODEL = "omniforge"
HEADERS = {"X-Conversation-ID": "talk-1"}
OPTIONS: Dict[str, Any] = {"api_key": "none", "default_headers": HEADERS}

Messages = Sequence[Tuple[str, str]]
Seen = Dict[str, Any]
"""What a reply has come to: `text`, `thoughts`, `tokens`, `reason`, `error` and `code`."""


def plain(messages: Messages) -> List[Any]:
    return [{"role": role, "content": text} for role, text in messages]


class Library(NamedTuple):
    """A reply as a stream, which yields whenever there is more; and whole."""

    stream: Callable[[Messages, Seen], Any]
    whole: Callable[[Messages, Seen], Any]
    lingers: bool = False
    """Its connection stays open until garbage is collected."""


# openai, in its three ways


def _chunk(chunk: Any, seen: Seen) -> None:
    if chunk.usage:
        seen["tokens"] = chunk.usage.total_tokens
    for choice in chunk.choices:
        seen["text"] += choice.delta.content or ""
        seen["thoughts"] += getattr(choice.delta, "reasoning_content", None) or ""
        seen["reason"] = choice.finish_reason


async def _openai_stream(messages: Messages, seen: Seen) -> AsyncIterator[None]:
    with import_module("openai").OpenAI(**OPTIONS) as client:
        asked = {"model": MODEL, "messages": plain(messages), "stream": True}
        usage = {"include_usage": True}
        with client.chat.completions.create(**asked, stream_options=usage) as chunks:
            for chunk in chunks:
                _chunk(chunk, seen)
                yield


async def _openai_async(messages: Messages, seen: Seen) -> AsyncIterator[None]:
    async with import_module("openai").AsyncOpenAI(**OPTIONS) as client:
        asked = {"model": MODEL, "messages": plain(messages), "stream": True}
        usage = {"include_usage": True}
        async with await client.chat.completions.create(**asked, stream_options=usage) as chunks:
            async for chunk in chunks:
                _chunk(chunk, seen)
                yield


async def _openai_helper(messages: Messages, seen: Seen) -> AsyncIterator[None]:
    openai = import_module("openai")
    with openai.OpenAI(**OPTIONS) as client:
        asked = {"model": MODEL, "messages": plain(messages)}
        usage = {"include_usage": True}
        told = contextlib.suppress(openai.LengthFinishReasonError)  # its way to tell the reason
        with told, client.chat.completions.stream(**asked, stream_options=usage) as events:
            for event in events:
                if event.type == "chunk":
                    _chunk(event.chunk, seen)
                    yield
            reply = events.get_final_completion().choices[0]
            assert (reply.message.content or "") == seen["text"]
            assert reply.finish_reason == seen["reason"]


def _openai_whole(messages: Messages, seen: Seen) -> None:
    with import_module("openai").OpenAI(**OPTIONS) as client:
        [model] = client.models.list().data
        assert client.models.retrieve(model.id) == model
        reply = client.chat.completions.create(model=model.id, messages=plain(messages))
        seen["text"] = reply.choices[0].message.content
        seen["reason"] = reply.choices[0].finish_reason


# LangChain


def _langchain() -> Any:
    return import_module("langchain_openai").ChatOpenAI(model=MODEL, stream_usage=True, **OPTIONS)


async def _langchain_stream(messages: Messages, seen: Seen) -> AsyncIterator[None]:
    with contextlib.closing(_langchain().stream(list(messages))) as chunks:
        for chunk in chunks:
            seen["text"] += chunk.text
            if chunk.usage_metadata:
                seen["tokens"] = chunk.usage_metadata["total_tokens"]
            seen["reason"] = chunk.response_metadata.get("finish_reason") or seen["reason"]
            yield


def _langchain_whole(messages: Messages, seen: Seen) -> None:
    seen["text"] = _langchain().invoke(list(messages)).text


# LlamaIndex


def _llama_index(messages: Messages) -> Tuple[Any, List[Any]]:
    message = import_module("llama_index.core.llms").ChatMessage
    options = {**OPTIONS, "api_base": OPTIONS["base_url"], "is_chat_model": True}
    model = import_module("llama_index.llms.openai_like").OpenAILike(model=MODEL, **options)
    return model, [message(role=role, content=text) for role, text in messages]


async def _llama_index_stream(messages: Messages, seen: Seen) -> AsyncIterator[None]:
    model, converted = _llama_index(messages)
    usage = {"include_usage": True}
    with contextlib.closing(model.stream_chat(converted, stream_options=usage)) as chunks:
        for chunk in chunks:
            seen["text"] += chunk.delta or ""
            seen["thoughts"] += chunk.additional_kwargs.get("thinking_delta", "")
            seen["tokens"] = chunk.additional_kwargs.get("total_tokens") or seen["tokens"]
            for choice in chunk.raw.choices:
                seen["reason"] = choice.finish_reason
            yield


def _llama_index_whole(messages: Messages, seen: Seen) -> None:
    model, converted = _llama_index(messages)
    seen["text"] = model.chat(converted).message.content


# Pydantic AI


def _pydantic_ai(messages: Messages) -> Tuple[Any, Dict[str, Any]]:
    known = import_module("pydantic_ai.messages")
    client = import_module("openai").AsyncOpenAI(**OPTIONS)
    provider = import_module("pydantic_ai.providers.openai").OpenAIProvider(openai_client=client)
    model = import_module("pydantic_ai.models.openai").OpenAIChatModel(MODEL, provider=provider)
    *earlier, (_, prompt) = messages
    history = [
        known.ModelRequest([known.UserPromptPart(text)])
        if role == "user"
        else known.ModelResponse([known.TextPart(text)])
        for role, text in earlier
    ]
    agent = import_module("pydantic_ai").Agent(model)
    return agent, {"user_prompt": prompt, "message_history": history}


async def _pydantic_ai_stream(messages: Messages, seen: Seen) -> AsyncIterator[None]:
    agent, asked = _pydantic_ai(messages)
    async with agent.run_stream(**asked) as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            seen["text"] += text
            yield
        reply = result.all_messages()[-1]
        seen["tokens"] = reply.usage.total_tokens
        seen["reason"] = reply.finish_reason
        thoughts = [part.content for part in reply.parts if part.part_kind == "thinking"]
        seen["thoughts"] = "".join(thoughts)


async def _pydantic_ai_whole(messages: Messages, seen: Seen) -> None:
    agent, asked = _pydantic_ai(messages)
    seen["text"] = (await agent.run(**asked)).output


LIBRARIES = {
    "openai": Library(_openai_stream, _openai_whole),
    "openai-async": Library(_openai_async, _openai_whole),
    "openai-helper": Library(_openai_helper, _openai_whole),
    "langchain": Library(_langchain_stream, _langchain_whole),
    "llama-index": Library(_llama_index_stream, _llama_index_whole, lingers=True),
    "pydantic-ai": Library(_pydantic_ai_stream, _pydantic_ai_whole),
}


async def play(library: Library, method: str, messages: Messages) -> Seen:
    seen: Seen = {"text": "", "thoughts": "", "tokens": None, "reason": None, "code": None}
    try:
        if method == "whole":
            reply = library.whole(messages, seen)
            if reply is not None:
                await reply
        else:
            async with contextlib.aclosing(library.stream(messages, seen)) as pieces:
                async for _ in pieces:
                    if seen["text"] and method == "leave":
                        break
            if library.lingers:
                gc.collect()
    except Exception as error:
        body = getattr(error, "body", None)
        code = body.get("code") if isinstance(body, dict) else None
        seen.update(error=str(error), code=getattr(error, "code", code))
    return seen


def main() -> None:
    name, OPTIONS["base_url"] = sys.argv[1:]
    library = LIBRARIES[name]
    for line in sys.stdin:
        method, *given = json.loads(line)
        print(json.dumps(asyncio.run(play(library, method, given[0]))), flush=True)


if __name__ == "__main__":
    main()
