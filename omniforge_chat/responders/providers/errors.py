"""The meaning of a provider's failure: for the client, for the log, and for another try.

A status, an error document and an error frame in the middle of a stream say the same things. One
table judges them all.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Mapping, Optional, Tuple, Type

import msgspec

from ...errors import UpstreamError, UpstreamRateLimited, UpstreamTimeout

MAX_REASON_CHARACTERS = 300
"""The longest part of a provider's own words that is passed on."""

LONGEST_WAIT = 5.0
"""Seconds. If a provider asks for a longer wait, the client is told instead."""

LONGEST_TOLD = 31 * 86_400.0
"""Seconds. A longer wait is a mistake of the provider's, and is ignored."""

_RETRIED = {429, 502, 503, 529}
# Only these are about the client's own request. The reasons of the others may name accounts, models
# and addresses. Those concern the operator alone, so they go to the log.
_ABOUT_THE_REQUEST = {400, 413, 422}
_is_the_operators = re.compile(
    r"(?<![a-z])(accounts?|api.?keys?|balance|billing|credits?|deployments?|funds|organi[sz]ations?"
    r"|org-\w+|payments?|plans?|projects?|quotas?|subscriptions?|wallets?|workspaces?)(?![a-z])",
    re.IGNORECASE,
).search

_MEANINGS: Mapping[int, Tuple[Type[UpstreamError], str]] = {
    400: (UpstreamError, "The model provider rejected the request"),
    401: (UpstreamError, "The model provider refused the credentials of this service"),
    403: (UpstreamError, "The model provider does not permit this service to use the model"),
    404: (UpstreamError, "The model provider does not know the model, or the address is wrong"),
    408: (UpstreamTimeout, "The model provider took too long"),
    413: (UpstreamError, "The model provider rejected the request as too large"),
    422: (UpstreamError, "The model provider rejected the request"),
    429: (UpstreamRateLimited, "The model provider is at its rate limit"),
    503: (UpstreamError, "The model provider is not available"),
    504: (UpstreamTimeout, "The model provider took too long"),
    529: (UpstreamError, "The model provider is overloaded"),
}

# A stream has no status for an error. The providers' names for it stand for one.
_STATUSES = {
    "invalid_request_error": 400,
    "exceed_context_size_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}

Redact = Callable[[str], str]

_decode = msgspec.json.Decoder().decode
_durations = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)").findall
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Failure(msgspec.Struct, frozen=True):
    """A failure: `kind` and `message` for the client, `detail` for the log.

    `again` allows another try, after `wait` seconds if the provider asked for them. `stale` says
    that nobody saw the request: it went to a kept connection that the other side had closed.
    """

    kind: Type[UpstreamError]
    message: str
    detail: str
    again: bool = False
    wait: Optional[float] = None
    stale: bool = False

    def error(self) -> UpstreamError:
        """Make the error that the client is told of."""
        if self.kind is UpstreamRateLimited:
            return UpstreamRateLimited(self.message, retry_after=self.wait)
        return self.kind(self.message)


def refused(status: int, headers: Mapping[str, str], body: bytes, redact: Redact) -> Failure:
    """Judge an answer whose status is not 200.

    `redact` takes the secrets out of the provider's words, before these are cut or quoted.
    """
    try:
        document: Any = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    kinds, reason = _words(document, redact)
    wait = retry_after(headers)
    again = (
        status in _RETRIED
        and "insufficient_quota" not in kinds  # a 429 that no waiting helps
        and (wait is None or wait <= LONGEST_WAIT)
    )
    return _judged(status, _named(kinds, redact), reason, again, wait)


def reported(problem: object, redact: Redact) -> Failure:
    """Judge an error frame in the middle of a stream."""
    kinds, reason = _words(problem, redact)
    status = 500
    for kind in kinds:
        known = _STATUSES.get(kind)
        if known is None and kind.isdecimal() and len(kind) == 3:
            known = int(kind)
        if known is not None:
            status = known
            break
    return _judged(status, _named(kinds, redact), reason, again=False, wait=None)


def _judged(status: int, kinds: str, reason: str, again: bool, wait: Optional[float]) -> Failure:
    kind, message = _MEANINGS.get(status, (UpstreamError, "The model provider failed"))
    if status in _ABOUT_THE_REQUEST and reason and not _is_the_operators(f"{kinds} {reason}"):
        message = f"{message}: {reason}"
    # The answer to a wrong key may quote the key.
    detail = f"status={status} kind={kinds}"
    if reason and status != 401:
        detail += f" reason={reason!r}"
    return Failure(kind, message, detail, again, wait)


def _words(document: Any, redact: Redact) -> Tuple[Tuple[str, ...], str]:
    """Find the provider's names for an error, unchanged, and its words, made fit to read."""
    problem = document
    if isinstance(problem, dict):
        problem = problem.get("error") or problem
    if not isinstance(problem, dict):
        return (), _line(problem, redact)
    found = (problem.get("code"), problem.get("type"))
    kinds = tuple(str(kind) for kind in found if isinstance(kind, (str, int)))
    return kinds, _line(problem.get("message") or problem.get("detail"), redact)


def _named(kinds: Tuple[str, ...], redact: Redact) -> str:
    return _line("/".join(kinds), redact)


def _line(text: object, redact: Redact) -> str:
    """Put `text` on one short line without control characters; empty if it is no text."""
    if isinstance(text, int):
        text = str(text)
    if not isinstance(text, str):
        return ""
    # The line needs no more, and a text of megabytes is not worth splitting.
    near = redact(text)[: 4 * MAX_REASON_CHARACTERS]
    words = "".join(c if c.isprintable() else " " for c in near)
    line = " ".join(words.split())
    return line if len(line) <= MAX_REASON_CHARACTERS else line[:MAX_REASON_CHARACTERS] + "..."


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """Read the wait that a provider asks for, in seconds; None if it asks for none.

    `Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3). Without it, the
    `x-ratelimit-*` headers decide: the longest wait among the limits that are used up.
    """
    text = headers.get("retry-after", "").strip()
    if text:
        try:
            seconds = float(text)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except (TypeError, ValueError, OverflowError):
                return None
        return max(0.0, seconds) if seconds <= LONGEST_TOLD else None
    waits = []
    for limit in ("requests", "tokens"):
        reset = _durations(headers.get(f"x-ratelimit-reset-{limit}", ""))
        if reset and headers.get(f"x-ratelimit-remaining-{limit}", "0") == "0":
            waits.append(sum(float(number) * _SECONDS[unit] for number, unit in reset))
    wait = max(waits, default=None)
    return wait if wait is not None and wait <= LONGEST_TOLD else None


def describe(error: Exception) -> str:
    """Put an exception on one line, for the log."""
    return f"{type(error).__name__}: {error}".rstrip(": ")
