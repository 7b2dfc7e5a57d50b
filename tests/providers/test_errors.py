"""What a provider's failure means, read from a status, a document or a frame: without a socket."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any, Dict, Optional

import pytest

from omniforge_chat.errors import UpstreamRateLimited
from omniforge_chat.responders.providers.errors import Failure, refused, reported, retry_after

from ..support.growth import LINEAR, growth

REFUSED = "The model provider refused the request"
LIMITED = "The model provider is at its rate limit"


def refusal(status: int, document: Any = None, **headers: str) -> Failure:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return refused(status, fields, body, lambda text: text.replace("secret", "***"))


def date_in(seconds: float) -> str:
    return formatdate(time.time() + seconds, usegmt=True)


@pytest.mark.parametrize(
    ("status", "again", "code", "message"),
    [
        (400, False, "upstream_error", f"{REFUSED}: no such luck"),
        (401, False, "upstream_error", "The model provider refused the credentials of this"),
        (403, False, "upstream_error", "The model provider does not permit this service to use"),
        (404, False, "upstream_error", "The model provider does not know the model, or the addr"),
        (408, False, "upstream_timeout", "The model provider took too long"),
        (422, False, "upstream_error", f"{REFUSED}: no such luck"),
        (429, True, "upstream_rate_limited", LIMITED),
        (500, False, "upstream_error", "The model provider failed"),
        (502, True, "upstream_error", "The model provider failed"),
        (503, True, "upstream_error", "The model provider is not available"),
        (504, False, "upstream_timeout", "The model provider took too long"),
        (529, True, "upstream_error", "The model provider is overloaded"),
        (302, False, "upstream_error", "The model provider failed"),
    ],
)
def test_a_refusal_is_told_as_far_as_it_is_the_clients_business(
    status: int, again: bool, code: str, message: str
) -> None:
    """The operator finds the rest in the log, but not the answer to a wrong key.

    Only a refusal that passes is tried again. Any other would come again, or may have cost.
    """
    failure = refusal(status, {"error": {"message": "no such luck", "type": "some_error"}})
    assert (failure.again, failure.error().code) == (again, code)
    assert failure.message.startswith(message)
    assert ("no such luck" in failure.message) == (status in (400, 422))
    assert failure.detail.startswith(f"status={status} kind=some_error")
    assert ("no such luck" in failure.detail) == (status != 401)


@pytest.mark.parametrize(
    "reason",
    [
        "Your credit balance is too low. Please go to Plans & Billing to upgrade.",
        "This organization has been disabled.",
        "You exceeded your current quota",
        "Your credit_balance is 0 for org-Abc123",
        "insufficient_quota for proj_abc",
        "Insufficient funds: top up",
    ],
)
def test_a_reason_that_is_about_the_operator_s_account_is_told_to_the_operator(reason: str) -> None:
    """Some providers give these the status of a bad request."""
    failure = refusal(400, {"error": {"message": reason, "type": "invalid_request_error"}})
    assert failure.message == REFUSED
    assert reason in failure.detail


def test_a_reason_is_bounded_redacted_and_on_one_line() -> None:
    """It is somebody else's text, on its way to a client and to a log."""
    failure = refusal(400, {"error": {"message": f"you sent\nsecret {'x' * 5000}"}})
    assert failure.message.startswith(f"{REFUSED}: you sent *** xxx")
    assert len(failure.message) < 400


@pytest.mark.parametrize("body", [b"", b"<html>oops", b'"text"', b"[1]", b'{"error": "text"}'])
def test_a_refusal_without_the_usual_document_is_one_too(body: bytes) -> None:
    """Proxies and gateways answer in their own ways."""
    assert refusal(500, body).message == "The model provider failed"


@pytest.mark.parametrize(
    ("headers", "again", "shown"),
    [
        ({}, True, LIMITED),
        ({"retry_after": "0"}, True, f"{LIMITED}; try again in 1 second"),
        ({"retry_after": "30"}, False, f"{LIMITED}; try again in 30 seconds"),
        ({"retry_after": date_in(3600)}, False, f"{LIMITED}; try again in 3"),
        (
            {"x_ratelimit_reset_tokens": "6m0.5s", "x_ratelimit_remaining_tokens": "0"},
            False,
            f"{LIMITED}; try again in 361 seconds",
        ),
    ],
)
def test_a_rate_limit_says_how_long_to_wait(
    headers: Dict[str, str], again: bool, shown: str
) -> None:
    """A wait that is too long for us is the client's to decide about."""
    failure = refusal(429, {}, **headers)
    assert failure.again == again
    assert failure.error().message.startswith(shown)


def test_an_exhausted_quota_is_not_tried_again() -> None:
    """It has the status of a rate limit, but no waiting helps."""
    failure = refusal(429, {"error": {"code": "insufficient_quota", "message": "pay"}})
    assert (failure.error().code, failure.again) == ("upstream_rate_limited", False)


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "1e300"}, None),
        ({"x-ratelimit-reset-requests": f"{'9' * 400}s"}, None),
        ({"retry-after": date_in(-60)}, 0.0),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-reset-requests": "1h", "x-ratelimit-remaining-requests": "5"}, None),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "1m1s"}, 61.0),
    ],
)
def test_the_wait_is_read_in_all_its_forms(headers: Dict[str, str], wait: Optional[float]) -> None:
    """RFC 9110, section 10.2.3, and what providers made beside it."""
    assert retry_after(headers) == wait


def test_a_header_of_digits_is_soon_read() -> None:
    """All streams of the process wait meanwhile."""
    name = "x-ratelimit-reset-tokens"
    assert growth(lambda size: [retry_after({name: "9" * size})] * 9, 4_000) < LINEAR


FAILED = ("upstream_error", "The model provider failed")


@pytest.mark.parametrize(
    ("problem", "code", "message"),
    [
        ({"error": {"type": "server_error", "message": "hm", "code": None}}, *FAILED),
        ({"error": {"type": "overloaded_error"}}, FAILED[0], "The model provider is overloaded"),
        ({"error": {"type": "rate_limit_error"}}, "upstream_rate_limited", LIMITED),
        ({"code": "429", "message": "slow down"}, "upstream_rate_limited", LIMITED),
        ({"type": "invalid_request_error", "message": "hm"}, FAILED[0], f"{REFUSED}: hm"),
        ({"error": {"message": "hm", "code": 400}}, FAILED[0], f"{REFUSED}: hm"),
        ({"message": "hm", "code": 500}, *FAILED),
        ("hm", *FAILED),
        (["hm"], *FAILED),
        ({}, *FAILED),
    ],
)
def test_an_error_frame_is_judged_as_a_status_is(problem: object, code: str, message: str) -> None:
    """Providers, gateways and llama.cpp each have a form of their own for it."""
    failure = reported(problem, str)
    assert (failure.error().code, failure.message, failure.again) == (code, message, False)
    assert ("reason='hm'" in failure.detail) == ("hm" in str(problem))


def test_a_rate_limit_error_carries_the_wait() -> None:
    """For a responder that falls back on another provider."""
    assert UpstreamRateLimited("wait", retry_after=0.2).retry_after == 0.2
    assert str(UpstreamRateLimited("Wait", retry_after=0.2)) == "Wait; try again in 1 second"
