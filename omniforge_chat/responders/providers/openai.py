"""OpenAI's chat completions, and everything that speaks them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Union

import msgspec

from ...core.sse import Frame
from ...models import Turn
from .responder import ModelResponder, Reply, as_count

if TYPE_CHECKING:
    import httpx


class OpenAIResponder(ModelResponder):
    """Relays chat completions: OpenAI, vLLM, llama.cpp, Ollama, LM Studio, gateways.

    `include_usage` asks for a count of the tokens at the end of the stream; without it they are
    estimated. All other arguments are those of ModelResponder.
    """

    default_url = "https://api.openai.com/v1"
    default_model = "gpt-4.1-mini"
    variables = "OPENAI"

    def __init__(
        self,
        *,
        base_url: Optional[str] = None,
        api_key: Optional[str] = None,
        model: Optional[str] = None,
        system_prompt: Optional[str] = None,
        temperature: Optional[float] = None,
        max_tokens: Optional[int] = None,
        include_usage: bool = True,
        extra_body: Optional[Mapping[str, Any]] = None,
        extra_headers: Optional[Mapping[str, str]] = None,
        extra_query: Optional[Mapping[str, str]] = None,
        first_chunk_timeout: Optional[float] = 50.0,
        idle_timeout: Optional[float] = 50.0,
        connect_timeout: float = 5.0,
        max_connections: Optional[int] = None,
        client: Optional[httpx.AsyncClient] = None,
    ) -> None:
        self._include_usage = include_usage
        super().__init__(
            base_url=base_url,
            api_key=api_key,
            model=model,
            system_prompt=system_prompt,
            temperature=temperature,
            max_tokens=max_tokens,
            extra_body=extra_body,
            extra_headers=extra_headers,
            extra_query=extra_query,
            first_chunk_timeout=first_chunk_timeout,
            idle_timeout=idle_timeout,
            connect_timeout=connect_timeout,
            max_connections=max_connections,
            client=client,
        )

    def path(self) -> str:
        return "/chat/completions"

    def headers(self, api_key: Optional[str]) -> Dict[str, str]:
        return {"Authorization": f"Bearer {api_key}"} if api_key else {}

    def fields(self, temperature: Optional[float], max_tokens: Optional[int]) -> Dict[str, Any]:
        fields = super().fields(temperature, max_tokens)
        if self._is_default_url and "max_tokens" in fields:
            # OpenAI's newer models refuse the old name; other servers know no other.
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        if self._include_usage:
            fields["stream_options"] = {"include_usage": True}
        return fields

    def messages(self, turn: Turn) -> List[Dict[str, str]]:
        messages = super().messages(turn)
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    def reply(self) -> Reply:
        return CompletionReply()


# Only the fields that are needed: what is not named here is skipped without being built.
class _Part(msgspec.Struct):
    type: Optional[str] = None
    text: Any = None


class _Delta(msgspec.Struct):
    content: Union[str, List[_Part], None] = None
    refusal: Optional[str] = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: Optional[_Delta] = None
    finish_reason: Optional[str] = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None


class _Chunk(msgspec.Struct):
    choices: Optional[List[_Choice]] = None
    usage: Optional[_Usage] = None
    error: Any = None
    object: Optional[str] = None


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_any = msgspec.json.Decoder().decode


_CUT = ("abort", "error", "insufficient_system_resource")
"""Reasons that are none: the server gave the request up. What vLLM, gateways and DeepSeek say."""


def _text(parts: List[_Part]) -> str:
    """What is to be read in a content of several parts: Mistral's models think in others."""
    texts = [part.text for part in parts if part.type == "text"]
    return "".join(text for text in texts if isinstance(text, str))


class CompletionReply(Reply):
    """Reads `chat.completion.chunk` objects up to `[DONE]`."""

    __slots__ = ()

    def read(self, frame: Frame) -> str:
        data = frame.data.strip()
        if data == "[DONE]":
            self.ended = True
            return ""
        if not data:
            return ""  # it says nothing
        if frame.event == "error":
            self.fail(_decode_any(data))
            return ""
        chunk = _decode(data)
        if chunk.error is not None:
            self.fail(chunk.error)
            return ""
        if chunk.object == "error":  # an error document that is not wrapped in another
            self.fail(_decode_any(data))
            return ""
        text = ""
        if chunk.choices:
            self.progressed = True
            choice = chunk.choices[0]
            if choice.index == 0:
                if choice.delta is not None:
                    content = choice.delta.content
                    if isinstance(content, list):
                        content = _text(content)
                    text = content or choice.delta.refusal or ""
                reason = choice.finish_reason
                if reason in _CUT:
                    self.fail(f"finish_reason is {reason}")
                elif reason:  # some servers send "" in every chunk before the last
                    self.finish_reason = reason
        if chunk.usage is not None:
            usage = chunk.usage
            counts = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
            self.count(*map(as_count, counts))
        return text
