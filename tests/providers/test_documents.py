"""The parts of a frame's document that servers spell in many ways: without a reader."""

from __future__ import annotations

import math
from typing import Any, Dict

import pytest

from omniforge_chat.responders.providers.documents import finish_reason, gave_up, loads, problem

GAVE_UP = """
    network_error NetworkError network-error error error_finish ERROR ERROR_TOXIC server_error
    internal_server_error InternalServerError timeout Timeout time_out timed_out deadline_exceeded
    abort aborted ABORTED cancel cancelled canceled CANCELLED request_cancelled
    insufficient_system_resource overloaded overloaded_error engine_overloaded RESOURCE_EXHAUSTED
    rate_limit rate_limited rate_limit_exceeded insufficient_quota disconnected connection_closed
    service_unavailable failed FAILURE exception interrupted out_of_memory shutdown preempted
    server_busy killed worker_crashed evicted stalled terminated expired dropped unreachable
"""

HONEST = """
    stop STOP Stop length max_tokens MAX_TOKENS content_filter SAFETY RECITATION sensitive
    tool_calls function_call tool_use eos eos_token stop_sequence end_turn pause_turn refusal
    model_length model_context_window_exceeded COMPLETE guardrail_intervened skill_use incomplete
    max_output_tokens because OTHER
"""


@pytest.mark.parametrize("digits", [20, 400, 5_000, 60_000])
def test_a_number_of_many_digits_fails_no_document(digits: int) -> None:
    """The usual frame passes over such a field; another one has to be read as well."""
    found = loads('{"created": %s, "x": NaN, "a": "b"}' % ("9" * digits))
    assert found["a"] == "b"
    assert found["created"] == (10**digits - 1 if digits < 600 else math.inf)


@pytest.mark.parametrize("reason", GAVE_UP.split())
def test_a_reason_that_tells_of_a_failure_is_one(reason: str) -> None:
    """Each server has a spelling of its own for it."""
    assert finish_reason(reason) == reason
    assert gave_up(reason)


@pytest.mark.parametrize("reason", HONEST.split())
def test_any_other_reason_is_the_providers_word_for_an_end(reason: str) -> None:
    """A reply that is complete must not fail, because nobody knows the word."""
    assert finish_reason(reason) == reason
    assert not gave_up(reason)


@pytest.mark.parametrize(
    "reason",
    [
        *("", " ", "null", "NULL", "None", "none", "undefined", "FINISH_REASON_UNSPECIFIED"),
        *(None, False, True, 0, 1, [], {}, ["stop"], {"type": "stop"}),
    ],
)
def test_a_reason_that_says_nothing_is_none(reason: Any) -> None:
    """Some servers send one with each frame before the last."""
    assert finish_reason(reason) is None


def test_a_reason_is_fit_to_be_shown() -> None:
    """It goes to the client and to the log, and it is somebody else's text."""
    assert finish_reason(f" st\nop\ud83d{'x' * 1000}") == f"stop{'x' * 96}"


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"choices": []},
        {"type": "ping"},
        {"status": "processing"},
        {"usage": {"total_tokens": 1}},
        {"error": None},
        {"error": "", "usage": {"total_tokens": 1}},
        {"code": 0, "message": "success"},
        {"code": "200", "msg": "ok"},
        {"error_code": 0},
        {"base_resp": {"status_code": 0, "status_msg": ""}},
        {"base_resp": None, "x_groq": {"id": "r"}},
        {"message": {"role": "assistant", "content": "x"}},
        {"message": ""},
        {"errors": []},
        {"detail": None},
        {"success": True},
    ],
)
def test_a_document_that_only_looks_like_an_error_is_none(document: Dict[str, Any]) -> None:
    """Frames without a choice are no failures for that."""
    assert problem(document) is None


@pytest.mark.parametrize("document", [{"message": "x"}, {"detail": "x"}, {"code": 1, "msg": "x"}])
def test_beside_a_part_of_the_reply_only_a_plain_error_counts(document: Dict[str, Any]) -> None:
    """A field of that name may be anything there."""
    assert problem(document) is not None
    assert problem(document, at_work=True) is None
    assert problem({**document, "error": "x"}, at_work=True) == "x"
