"""The metrics of a service: their names, their kinds, and how those of several workers are joined.

Names and units follow Prometheus' conventions. Those that begin with `gen_ai_` are the ones of
OpenTelemetry's conventions for generative AI, as Prometheus spells them.
"""

from __future__ import annotations

from typing import Callable, Dict, NamedTuple, Tuple

_MILLISECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

TO_A_QUARTER_OF_AN_HOUR = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0),
)
"""`total_timeout` is 900 seconds."""
TO_A_MINUTE = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)
OF_A_CHUNK = (*_MILLISECONDS, 2.5, 10.0)
OF_A_STORE = (*_MILLISECONDS, 2.5, 5.0)
OF_THE_LOOP = (*_MILLISECONDS, 2.5, 5.0, 10.0)
OF_A_MODEL = tuple(0.01 * 2**power for power in range(14))
"""As the conventions have them."""


def total(one: float, other: float) -> float:
    return one + other


class Family(NamedTuple):
    """The metrics of one name.

    `kind` is "counter", "histogram" or "gauge". Gauges have no labels; `join` makes one number of
    those of two workers.
    """

    kind: str
    text: str
    labels: Tuple[str, ...] = ()
    bounds: Tuple[float, ...] = ()
    join: Callable[[float, float], float] = total


_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name")

FAMILIES: Dict[str, Family] = {
    "omniforge_chats_total": Family(
        "counter",
        "Chats that have ended, by format and by how they ended: done, disconnected, stalled, "
        "cancelled, or the code of the error.",
        ("dialect", "outcome"),
    ),
    "omniforge_refusals_total": Family(
        "counter", "Requests that were refused before any stream, by code.", ("code",)
    ),
    "omniforge_replies_resumed_total": Family(
        "counter", "Streams that have read a kept reply, by how they ended.", ("outcome",)
    ),
    "omniforge_tokens_total": Family(
        "counter",
        "Tokens of chats: of the prompt or of the completion, and whether they are an estimate.",
        ("kind", "estimated"),
    ),
    "omniforge_response_bytes_total": Family("counter", "Bytes of the bodies of streams."),
    "omniforge_heartbeats_total": Family("counter", "Heartbeats that were sent."),
    "omniforge_chat_duration_seconds": Family(
        "histogram",
        "Time from the end of a request to the end of its reply.",
        bounds=TO_A_QUARTER_OF_AN_HOUR,
    ),
    "omniforge_time_to_first_chunk_seconds": Family(
        "histogram", "Time from the end of a request to the first text.", bounds=TO_A_MINUTE
    ),
    "omniforge_time_per_chunk_seconds": Family(
        "histogram", "Mean time between the chunks of a reply.", bounds=OF_A_CHUNK
    ),
    "omniforge_open_streams": Family("gauge", "Chats that are being answered."),
    "omniforge_max_streams": Family("gauge", "How many chats may be answered at once."),
    "omniforge_detached_streams": Family("gauge", "Open streams whose client has left."),
    "omniforge_replay_unstored_characters": Family(
        "gauge", "Characters of kept replies that are not in the store yet."
    ),
    "omniforge_replay_behind_seconds": Family(
        "gauge", "How long nothing of kept replies could be stored; 0 while it can.", join=max
    ),
    "omniforge_upstream_attempts_total": Family(
        "counter",
        "Requests to a model provider, those made again included, by how they ended.",
        ("provider", "result"),
    ),
    "omniforge_store_duration_seconds": Family(
        "histogram", "Time that a store took to answer, or to fail.", ("store",), OF_A_STORE
    ),
    "omniforge_store_failures_total": Family(
        "counter", "Requests that a store failed to answer.", ("store",)
    ),
    "omniforge_event_loop_lag_seconds": Family(
        "histogram", "How late the event loop was, looked at twice a second.", bounds=OF_THE_LOOP
    ),
    "omniforge_workers": Family("gauge", "Workers whose numbers are in this answer."),
    "process_cpu_seconds_total": Family("counter", "CPU time of all workers."),
    "process_resident_memory_bytes": Family("gauge", "Resident memory of all workers."),
    "process_open_fds": Family("gauge", "Open file descriptors of all workers."),
    "process_max_fds": Family("gauge", "Limit of open file descriptors of a worker.", join=min),
    "process_start_time_seconds": Family(
        "gauge", "Start of the oldest worker, in seconds since 1970.", join=min
    ),
    "gen_ai_client_inference_duration_seconds": Family(
        "histogram", "Duration of a request to a model.", (*_GEN_AI, "error_type"), OF_A_MODEL
    ),
    "gen_ai_client_inference_time_to_first_chunk_seconds": Family(
        "histogram", "Time from a request to a model to its first chunk.", _GEN_AI, OF_A_MODEL
    ),
    "gen_ai_client_inference_usage_input_tokens_total": Family(
        "counter",
        "Input tokens, as model providers report them.",
        (*_GEN_AI, "gen_ai_token_modality"),
    ),
    "gen_ai_client_inference_usage_output_tokens_total": Family(
        "counter",
        "Output tokens, as model providers report them.",
        (*_GEN_AI, "gen_ai_token_modality"),
    ),
}
