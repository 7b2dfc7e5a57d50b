"""The names in spans, by the conventions of OpenTelemetry.

Those of HTTP are stable: https://github.com/open-telemetry/semantic-conventions, version 1.44.0.

Those of generative AI are in development. They have a repository of their own:
https://github.com/open-telemetry/semantic-conventions-genai, as of September 2026, when its schema
was `gen-ai-dev/1.42.0-dev`. The older ones are in version 1.36.0 of the first repository. By its
plan for the change, a program goes on with the older names, unless OTEL_SEMCONV_STABILITY_OPT_IN
has `gen_ai_latest_experimental`. Of what we tell, the two differ in one name.
"""

from __future__ import annotations

# Of HTTP, and in general

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS = "http.response.status_code"
RESENT = "http.request.resend_count"
SCHEME = "url.scheme"
PATH = "url.path"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
CLIENT_ADDRESS = "client.address"
PROTOCOL_VERSION = "network.protocol.version"
USER_AGENT = "user_agent.original"
ERROR = "error.type"

# Of generative AI

PROVIDER = {"older": "gen_ai.system", "latest": "gen_ai.provider.name"}
OPERATION = "gen_ai.operation.name"
CHAT = "chat"
CONVERSATION = "gen_ai.conversation.id"
MODEL = "gen_ai.request.model"
STREAM = "gen_ai.request.stream"
PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "top_k": "gen_ai.request.top_k",
    "max_tokens": "gen_ai.request.max_tokens",
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "seed": "gen_ai.request.seed",
    "n": "gen_ai.request.choice.count",
}
"""Parameters of a request that are numbers. Others may hold text."""

RESPONSE_ID = "gen_ai.response.id"
RESPONSE_MODEL = "gen_ai.response.model"
FINISH_REASONS = "gen_ai.response.finish_reasons"
FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

INPUT = "gen_ai.input.messages"
OUTPUT = "gen_ai.output.messages"
INSTRUCTIONS = "gen_ai.system_instructions"

# Our own

OUTCOME = "omniforge.outcome"
REQUEST_ID = "omniforge.request_id"
DIALECT = "omniforge.dialect"
CHUNKS = "omniforge.chunks"
REPLY_ID = "omniforge.reply_id"
FIRST_CHUNK_SENT = "first chunk sent"
"""An event in the span of a chat."""
