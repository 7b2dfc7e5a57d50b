"""Anthropic's messages, and the servers that speak them."""

from __future__ import annotations

from typing import Any, Dict, Optional, Tuple

import msgspec

from ...core.sse import Frame
from ...models import Turn
from .documents import fields, finish_reason, loads, problem, thought_in, words
from .options import ProviderOptions, takes
from .parameters import LIMITS
from .reader import FrameReader, as_count
from .responder import ProviderResponder, instructions

VERSION = "2023-06-01"
"""The version of the wire format, which every request names."""

MAX_TOKENS = 4096
"""The longest reply if you name no limit, as the API demands one."""


class AnthropicOptions(ProviderOptions, frozen=True, kw_only=True):
    """The options of AnthropicResponder. `base_url` is the address without `/v1`.

    `auth_token` is sent as `Authorization: Bearer`, in place of `api_key`, as gateways ask for it.
    """

    default_url = "https://api.anthropic.com"
    default_model = "claude-haiku-4-5"
    prefix = "ANTHROPIC"
    credentials = ("api_key", "auth_token")
    parameters = ("temperature", "top_p", "top_k", *LIMITS, "stop", "model", "user")

    auth_token: Optional[str] = None


class AnthropicResponder(ProviderResponder):
    """Relays messages: Anthropic, and servers that speak its API.

    The keywords are those of AnthropicOptions. Raises SettingsError for one that cannot be used.
    """

    options_type = AnthropicOptions
    _options: AnthropicOptions

    @takes(AnthropicOptions)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def path(self) -> str:
        # The base URL of other servers often has the version in it.
        return "/messages" if self.base_url.endswith("/v1") else "/v1/messages"

    def headers(self) -> Dict[str, str]:
        headers = {"anthropic-version": VERSION}
        if self._options.auth_token:
            headers["Authorization"] = f"Bearer {self._options.auth_token}"
        elif self._options.api_key:
            headers["x-api-key"] = self._options.api_key
        return headers

    def fields(self) -> Dict[str, Any]:
        fields = {"max_tokens": MAX_TOKENS, **super().fields()}
        if self._options.system_prompt:
            fields["system"] = self._options.system_prompt
        return fields

    def parameters(self, given: Dict[str, Any]) -> Dict[str, Any]:
        stop, user = given.pop("stop", None), given.pop("user", None)
        if stop is not None:
            given["stop_sequences"] = [stop] if isinstance(stop, str) else stop
        if user is not None:
            given["metadata"] = {**fields(self._fields.get("metadata")), "user_id": user}
        return given

    def request(self, turn: Turn) -> Dict[str, Any]:
        request = super().request(turn)
        own = request.get("system")
        if isinstance(own, list):  # an extra_body can have blocks
            more = [{"type": "text", "text": turn.system}] if turn.system.strip() else []
            request["system"] = [*own, *more]
        elif own or turn.system.strip():
            request["system"] = instructions(own, turn)
        return request

    def reader(self) -> FrameReader:
        return MessageReader()


# Only the fields that a usual frame needs: msgspec skips all others without building them.
class _Delta(msgspec.Struct, gc=False):
    type: Optional[str] = None
    text: Optional[str] = None
    thinking: Optional[str] = None


class _BlockDelta(msgspec.Struct, gc=False):
    type: Optional[str] = None
    delta: Optional[_Delta] = None


_decode = msgspec.json.Decoder(_BlockDelta).decode

_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

_USUAL = "content_block_delta"

_KNOWN = (
    "message",
    "error",
    "message_start",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
)

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
        if frame.event in ("content_block_delta", "message") and self.finish_reason is None:
            try:
                event = _decode(frame.data)
            except msgspec.DecodeError:
                return self._look(frame)
            delta = event.delta
            if delta is not None and delta.type is not None and event.type == _USUAL:
                # One more piece of text, or of a thought. Some gateways leave the name out.
                self.progressed = self._began = True
                if delta.type == "text_delta":
                    return delta.text or ""
                if delta.type == "thinking_delta":
                    self.think(delta.thinking or "")
                return ""
        return self._look(frame)

    def _look(self, frame: Frame) -> str:
        """Read a frame that is not one more of the same."""
        name, data = frame.event, frame.data.strip()
        if name.lower() in ("error", "exception"):
            self.report(data)
            return ""
        if not data or name not in _KNOWN:
            return ""  # pings, and events of later versions
        if name == "content_block_stop":
            self.work(busy=False)
            return ""
        if name == "message" and data.startswith("[DONE]"):  # a gateway's own mark
            self.end()
            return ""
        document = loads(data)
        if document is None:
            return ""
        if not isinstance(document, dict):
            raise msgspec.ValidationError(f"a {type(document).__name__} is no event")
        if name == "message":  # the frame has no name, but its data may have
            name = document.get("type") or ""
        if name in _KNOWN:
            return self.mended(self._read(document, name))
        error = problem(document, at_work=bool(name))
        if error is not None:
            self.fail(error)
        return ""

    def _read(self, event: Dict[str, Any], name: str) -> str:
        """Read an event; return its text."""
        text, reason, busy = "", None, False
        if name == "message_start":
            message = fields(event.get("message"))
            self.name(message)
            self._count(message, output=False)
            text = self._content(message)
        elif name == "message":  # all of it in one
            self.name(event)
            text = self._content(event)
            reason = event.get("stop_reason")
        elif name == "content_block_start":
            text, busy = self._part(event.get("content_block"), "text", "thinking")
        elif name == "content_block_delta":
            text, busy = self._part(event.get("delta"), "text_delta", "thinking_delta")
        elif name == "message_delta":
            self._began = True  # a reason for the end never comes with the first frame
            reason = fields(event.get("delta")).get("stop_reason")
        self._count(event)
        reason = finish_reason(reason)
        error = event if name == "error" else problem(event, at_work=True)
        if error is not None:
            self.fail(error)
        elif name == "message_stop":
            self.end()
        else:
            self.work(busy=busy or bool(text), reason=_FINISHES.get(reason or "", reason))
        return text

    def _content(self, message: Dict[str, Any]) -> str:
        """Return the text of a message; its thoughts stand before it."""
        content = message.get("content")
        self.think(self.mended(thought_in(content)))
        return words(content)

    def _part(self, part: object, text_type: str, thought_type: str) -> Tuple[str, bool]:
        """Return the text of a block or of its delta, and whether the model was at work."""
        found = fields(part)
        kind = found.get("type")
        if kind in (text_type, None):
            text = words(found.get("text"))
            return text, bool(text)
        if kind == thought_type:
            self.think(self.mended(thought_in({**found, "type": "thinking"})))
        return "", True

    def _count(self, holder: Dict[str, Any], *, output: bool = True) -> None:
        """Note the usage: totals, of which a later one replaces an earlier one.

        Not all are repeated. The start has a placeholder for the `output`.
        """
        usage = fields(holder.get("usage"))
        if not usage:
            return
        for name in _INPUT:
            tokens = as_count(usage.get(name))
            if tokens:
                self._input[name] = tokens
        if output:
            self._output = as_count(usage.get("output_tokens")) or self._output
        self.count(sum(self._input.values()), self._output)
