"""The wire formats: the frames of each, and the responder that reads them."""

from __future__ import annotations

import json
from typing import Any, List, Mapping, Optional, Type, Union

from omniforge_chat.responders.providers.anthropic import AnthropicResponder
from omniforge_chat.responders.providers.openai import OpenAIResponder
from omniforge_chat.responders.providers.reader import FrameReader

from .provider import Provider, Script, streaming

KEY = "sk-test-0123456789abcdef"


class Wire:
    """One wire format: how its frames look, and which responder reads them."""

    name: str
    responder: Union[Type[OpenAIResponder], Type[AnthropicResponder]]
    base_path: str
    stop: str
    """What the provider calls a natural end."""
    length: str
    """What it calls a limit on the length."""

    def opening(self) -> List[bytes]:
        """The frames before the first text."""
        raise NotImplementedError

    def text(self, text: str) -> bytes:
        raise NotImplementedError

    def finish(self, reason: str) -> List[bytes]:
        """The frames that say why the text has ended, and what it cost: 7 tokens and 5."""
        raise NotImplementedError

    def end(self) -> bytes:
        """The frame that ends the stream."""
        raise NotImplementedError

    def error(self, kind: str, message: str) -> bytes:
        raise NotImplementedError

    def reply(self, *texts: str, reason: Optional[str] = None) -> List[bytes]:
        """All the frames of a reply."""
        parts = [self.text(text) for text in texts]
        return [*self.opening(), *parts, *self.finish(reason or self.stop), self.end()]

    def answer(self, *texts: str) -> Script:
        """Send a whole reply."""
        return streaming(*self.reply(*texts))

    def reader(self) -> FrameReader:
        """A reader of one reply."""
        return self.responder(base_url="http://h").reader()

    def make(self, provider: Provider, **options: Any) -> Any:
        """A responder that asks `provider`."""
        options = {"base_url": provider.url + self.base_path, "api_key": KEY, **options}
        return self.responder(**options)


def frame(data: Any, event: str = "") -> bytes:
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


class _OpenAI(Wire):
    name = "openai"
    responder = OpenAIResponder
    base_path = "/v1"
    stop = "stop"
    length = "length"

    def _chunk(self, delta: Optional[Mapping[str, Any]], reason: Optional[str] = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        return frame(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "m",
                "choices": choices if delta is not None else [],
                "usage": None if delta is not None else USAGE,
            }
        )

    def opening(self) -> List[bytes]:
        return [self._chunk({"role": "assistant", "content": None})]

    def text(self, text: str) -> bytes:
        return self._chunk({"content": text})

    def finish(self, reason: str) -> List[bytes]:
        return [self._chunk({}, reason), self._chunk(None)]

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def error(self, kind: str, message: str) -> bytes:
        return frame({"error": {"message": message, "type": kind, "code": None}})


USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


class _Anthropic(Wire):
    name = "anthropic"
    responder = AnthropicResponder
    base_path = ""
    stop = "end_turn"
    length = "max_tokens"

    def _event(self, name: str, **fields: Any) -> bytes:
        return frame({"type": name, **fields}, name)

    def opening(self) -> List[bytes]:
        usage = {
            "input_tokens": 4,
            "cache_creation_input_tokens": 1,
            "cache_read_input_tokens": 2,
            "output_tokens": 1,
        }
        message = {"id": "m", "role": "assistant", "content": [], "usage": usage}
        block = {"type": "text", "text": ""}
        return [
            self._event("message_start", message=message),
            self._event("content_block_start", index=0, content_block=block),
            self._event("ping"),
        ]

    def text(self, text: str) -> bytes:
        delta = {"type": "text_delta", "text": text}
        return self._event("content_block_delta", index=0, delta=delta)

    def finish(self, reason: str) -> List[bytes]:
        delta = {"stop_reason": reason, "stop_sequence": None}
        return [
            self._event("content_block_stop", index=0),
            self._event("message_delta", delta=delta, usage={"output_tokens": 5}),
        ]

    def end(self) -> bytes:
        return self._event("message_stop")

    def error(self, kind: str, message: str) -> bytes:
        return self._event("error", error={"type": kind, "message": message})


OPENAI: Wire = _OpenAI()
ANTHROPIC: Wire = _Anthropic()
WIRES = (OPENAI, ANTHROPIC)
