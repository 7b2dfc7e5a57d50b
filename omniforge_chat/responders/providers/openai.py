"""OpenAI's chat completions, and the servers that speak them."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, Dict, List, Optional

from ...models import Turn
from ...rules import Rule
from .completions import CompletionReader
from .options import ProviderOptions, takes
from .parameters import LIMITS
from .reader import FrameReader
from .responder import ProviderResponder, instructions

AZURE = (
    "openai.azure.com",
    "cognitiveservices.azure.com",
    "services.ai.azure.com",
    "openai.azure.us",
    "openai.azure.cn",
)
"""The domains of Azure, which has OpenAI's models."""

_MAX_TOKENS_FIELD = Rule(" or ".join(LIMITS), lambda value: value in LIMITS)
_ON_OFF = Rule(
    "on or off",
    lambda value: type(value) is bool,
    lambda text: ("off", "on").index(text.lower()) == 1,
)


class OpenAIOptions(ProviderOptions, frozen=True, kw_only=True):
    """The options of OpenAIResponder.

    - `include_usage` asks for a count of the tokens at the end of the stream. Without it, and if
      the provider does not know the field, they are estimated.
    - `max_tokens_field` is the provider's name for `max_tokens`. Without it, it follows from the
      host, and is changed if the provider asks for the other one.
    """

    default_url = "https://api.openai.com/v1"
    default_model = "gpt-4.1-mini"
    prefix = "OPENAI"
    domains = AZURE
    own_rules = MappingProxyType({"include_usage": _ON_OFF, "max_tokens_field": _MAX_TOKENS_FIELD})

    include_usage: bool = True
    max_tokens_field: Optional[str] = None


class OpenAIResponder(ProviderResponder):
    """Relays chat completions: OpenAI, vLLM, llama.cpp, Ollama, LM Studio, gateways.

    The keywords are those of OpenAIOptions. Raises SettingsError for one that cannot be used.
    """

    options_type = OpenAIOptions
    _options: OpenAIOptions

    @takes(OpenAIOptions)
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def path(self) -> str:
        return "/chat/completions"

    def headers(self) -> Dict[str, str]:
        key = self._options.api_key
        return {"Authorization": f"Bearer {key}"} if key else {}

    def fields(self) -> Dict[str, Any]:
        fields = super().fields()
        if "max_tokens" in fields:
            fields[self._limit_name] = fields.pop("max_tokens")
        if self._options.include_usage:
            fields["stream_options"] = {"include_usage": True}
        return fields

    @property
    def _limit_name(self) -> str:
        # OpenAI's newer models refuse the old name; most other servers know no other.
        return self._options.max_tokens_field or LIMITS[self._options.is_known_host]

    def limit_field(self) -> str:
        named = [name for name in LIMITS if name in (self._options.extra_body or {})]
        return named[0] if named else self._limit_name

    def substitutes(self) -> Dict[str, Optional[str]]:
        old, new = LIMITS
        found: Dict[str, Optional[str]] = {"stream_options": None}
        if self._options.max_tokens_field is None:
            found.update({old: new, new: old})
        # A field of your own is sent as it is.
        return {name: found[name] for name in found if name not in (self._options.extra_body or {})}

    def messages(self, turn: Turn) -> List[Dict[str, str]]:
        messages = super().messages(turn)
        system = instructions(self._options.system_prompt, turn)
        if system:
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def reader(self) -> FrameReader:
        several = (self._options.extra_body or {}).get("n", 1) != 1
        return CompletionReader(several=several)
