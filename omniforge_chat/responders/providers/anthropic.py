"""Anthropic's messages, and the servers that speak them."""

from __future__ import annotations

from typing import Any, Dict, Optional

import msgspec

from ...core.sse import Frame
from .options import ProviderOptions, takes
from .reader import FrameReader, as_count
from .responder import ProviderResponder

VERSION = "2023-06-01"
"""The version of the wire format, which every request names."""

MAX_TOKENS = 4096
"""The longest reply if you name no limit, as the API demands one."""


class AnthropicOptions(ProviderOptions, frozen=True, kw_only=True):
    """The options of AnthropicResponder. `base_url` is the address without `/v1`."""

    default_url = "https://api.anthropic.com"
    default_model = "claude-haiku-4-5"
    prefix = "ANTHROPIC"


class AnthropicResponder(ProviderResponder):
    """Relays messages: Anthropic, and servers that speak its API.

    The keywords are those of AnthropicOptions. Raises SettingsError for one that cannot be used.
    """

    options_type = AnthropicOptions

    @takes(AnthropicOptions)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def path(self) -> str:
        # The base URL of other servers often has the version in it.
        return "/messages" if self.base_url.endswith("/v1") else "/v1/messages"

    def headers(self) -> Dict[str, str]:
        key = self._options.api_key
        return {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}

    def fields(self) -> Dict[str, Any]:
        fields = {"max_tokens": MAX_TOKENS, **super().fields()}
        if self._options.system_prompt:
            fields["system"] = self._options.system_prompt
        return fields

    def reader(self) -> FrameReader:
        return MessageReader()


# Only the fields that are needed: msgspec skips all others without building them.
class _Delta(msgspec.Struct):
    type: Optional[str] = None
    text: Optional[str] = None
    stop_reason: Optional[str] = None


class _Usage(msgspec.Struct):
    input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_read_input_tokens: Any = None
    output_tokens: Any = None


class _Message(msgspec.Struct):
    usage: Optional[_Usage] = None


class _Type(msgspec.Struct):
    type: Optional[str] = None


class _Event(msgspec.Struct):
    delta: Optional[_Delta] = None
    message: Optional[_Message] = None
    usage: Optional[_Usage] = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_type = msgspec.json.Decoder(_Type).decode
_decode_any = msgspec.json.Decoder().decode

_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

_FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class MessageReader(FrameReader):
    """Reads the events of a message up to `message_stop`."""

    __slots__ = ("_input", "_output")

    def __init__(self) -> None:
        super().__init__()
        self._input: Dict[str, int] = {}
        self._output: Optional[int] = None

    def read(self, frame: Frame) -> str:
        name = frame.event
        if name == "message":  # the frame has no name, but its data have
            name = _decode_type(frame.data).type or ""
        if name.startswith(("content_block", "message")):
            self.progressed = True
        if name == "content_block_delta":
            delta = _decode(frame.data).delta
            if delta is not None and delta.type == "text_delta":
                return delta.text or ""
        elif name in ("message_start", "message_delta"):
            self._note(_decode(frame.data))
        elif name == "message_stop":
            self.ended = True
        elif name == "error":
            self.fail(_decode_any(frame.data))
        # Pings, and events of later versions, are skipped unread.
        return ""

    def _note(self, event: _Event) -> None:
        if event.message is not None and event.message.usage is not None:
            # Its count of the output is a placeholder.
            self._count_input(event.message.usage)
        if event.usage is not None:
            # The counts are totals, and a later one replaces an earlier one; not all are repeated.
            self._count_input(event.usage)
            output = as_count(event.usage.output_tokens)
            if output is not None:
                self._output = output
        self.count(sum(self._input.values()) if self._input else None, self._output)
        if event.delta is not None and event.delta.stop_reason:
            reason = event.delta.stop_reason
            self.finish_reason = _FINISHES.get(reason, reason)

    def _count_input(self, usage: _Usage) -> None:
        """Note the tokens of the prompt, from the provider's cache and not."""
        for name in _INPUT:
            tokens = as_count(getattr(usage, name))
            if tokens is not None:
                self._input[name] = tokens or self._input.get(name, 0)
