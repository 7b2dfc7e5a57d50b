"""The meaning of a provider's failure: for the client, for the log, and for another try.

A status, an error document and an error frame in the middle of a stream say the same things. One
table judges them all.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Mapping, Optional, Tuple, Type

import msgspec

from ...errors import UpstreamError, UpstreamRateLimited, UpstreamTimeout
from .address import without_secrets
from .reasons import (
    MAX_NAME_CHARACTERS,
    MAX_REASON_CHARACTERS,
    Redact,
    Words,
    one_line,
    words_in,
    words_of,
)

UNREADABLE = "The model provider sent something that cannot be read"

FAILED = 500
"""The status of an error that has none, and no name that we know."""

LONGEST_WAIT = 5.0
"""Seconds. If a provider asks for a longer wait, the client is told instead."""

LONGEST_TOLD = 31 * 86_400.0
"""Seconds. A longer wait is a mistake of the provider's, and is ignored."""

_RETRIED = {429, 502, 503, 529}
# Only these are about the client's own request. The reasons of the others may name accounts, models
# and addresses. Those concern the operator alone, so they go to the log.
_ABOUT_THE_REQUEST = {400, 413, 422}
_is_the_operators = re.compile(
    r"(?<![a-z])(accounts?|api.?keys?|arrear(s|age)|balance|billing|budgets?|credits?|deployments?"
    r"|funds|invoices?|organi[sz]ations?|org-\w+|payments?|plans?|projects?|quotas?|spend(ing)?"
    r"|subscriptions?|teams?|tenants?|virtual.?keys?|wallets?|workspaces?)(?![a-z])"
    "|账户|账号|余额|欠费|充值|套餐",
    re.IGNORECASE,
).search

_MEANINGS: Mapping[int, Tuple[Type[UpstreamError], str]] = {
    400: (UpstreamError, "The model provider refused the request"),
    401: (UpstreamError, "The model provider refused the credentials of this service"),
    403: (UpstreamError, "The model provider does not permit this service to use the model"),
    404: (UpstreamError, "The model provider does not know the model, or the address is wrong"),
    408: (UpstreamTimeout, "The model provider took too long"),
    413: (UpstreamError, "The model provider refused the request as too large"),
    422: (UpstreamError, "The model provider refused the request"),
    429: (UpstreamRateLimited, "The model provider is at its rate limit"),
    503: (UpstreamError, "The model provider is not available"),
    504: (UpstreamTimeout, "The model provider took too long"),
    529: (UpstreamError, "The model provider is overloaded"),
}

# An error in a stream, or under the status 200, has no status of its own. The providers' names for
# it stand for one.
_STATUSES = {
    "invalid_request_error": 400,
    "exceed_context_size_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "timeout_error": 504,
    "overloaded_error": 529,
    # Google
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "resource_exhausted": 429,
    "unavailable": 503,
    "deadline_exceeded": 504,
    # MiniMax
    "1001": 504,
    "1002": 429,
    "1004": 401,
    "1039": 429,
    "2013": 400,
    "2049": 401,
}
_is_rate_limit = re.compile(r"rate.?limit|too.?many.?requests|throttl", re.IGNORECASE).match

_durations = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)").findall
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Failure(msgspec.Struct, frozen=True):
    """A failure: `kind` and `message` for the client, `detail` for the log.

    `again` allows another try, after `wait` seconds if the provider asked for them. `stale` says
    that nobody saw the request: it went to a kept connection that the other side had closed.
    `status` and `words` are the provider's own.
    """

    kind: Type[UpstreamError]
    message: str
    detail: str
    again: bool = False
    wait: Optional[float] = None
    stale: bool = False
    status: int = 0
    words: Words = Words()

    def refuses(self, field: str) -> bool:
        """Whether the provider says that it does not know `field` of the request."""
        return self.status in (400, 422) and self.words.refuse(field)

    def error(self) -> UpstreamError:
        """Make the error that the client is told of."""
        if self.kind is UpstreamRateLimited:
            return UpstreamRateLimited(self.message, retry_after=self.wait)
        return self.kind(self.message)


def refused(status: int, headers: Mapping[str, str], body: bytes, redact: Redact) -> Failure:
    """Judge an answer that is no stream.

    `redact` takes the secrets out of the provider's words, before these are cut or quoted.
    """
    succeeded = 200 <= status < 300
    words = words_in(body, redact, is_reply=succeeded)
    where = f"status={status}"
    if "location" in headers:
        location = without_secrets(headers["location"])
        where += f" location={one_line(location, redact, MAX_NAME_CHARACTERS)}"
    if "content-encoding" in headers:
        where += header(headers, "content-encoding", redact)
    elif not body:
        where += " body=empty"
    if succeeded:
        where += header(headers, "content-type", redact)
        status = _status_of(words.kinds)
        if status == FAILED and not words.is_document:
            return Failure(UpstreamError, UNREADABLE, f"{where} reason={words.reason!r}")
    wait = retry_after(headers)
    again = (
        status in _RETRIED
        and "insufficient_quota" not in words.kinds  # a 429 that no waiting helps
        and (wait is None or wait <= LONGEST_WAIT)
    )
    return _judged(status, where, words, redact, again, wait)


def reported(problem: object, redact: Redact) -> Failure:
    """Judge an error frame in the middle of a stream."""
    words = words_of(problem, redact)
    status = _status_of(words.kinds)
    return _judged(status, f"status={status}", words, redact)


def _status_of(kinds: Tuple[str, ...]) -> int:
    """The status that the provider's names for an error stand for."""
    for kind in kinds:
        if _is_rate_limit(kind):
            return 429
        known = _STATUSES.get(kind.lower())
        if known is None and len(kind) == 3 and kind.isdecimal() and kind[0] in "45":
            known = int(kind)
        if known is not None:
            return known
    return FAILED


def _judged(
    status: int,
    where: str,
    words: Words,
    redact: Redact,
    again: bool = False,
    wait: Optional[float] = None,
) -> Failure:
    kind, message = _MEANINGS.get(status, (UpstreamError, "The model provider failed"))
    kinds = one_line("/".join(words.kinds), redact, MAX_NAME_CHARACTERS)
    reason = words.reason
    told = status in _ABOUT_THE_REQUEST and words.is_document and reason
    if told and not _is_the_operators(f"{kinds} {reason}"):
        message = f"{message}: {reason}"
    detail = f"{where} kind={kinds}"
    # The answer to a wrong key may quote the key.
    if reason and status != 401:
        detail += f" reason={reason!r}"
    return Failure(kind, message, detail, again, wait, status=status, words=words)


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
        # Searching takes the square of the time for many digits.
        reset = _durations(headers.get(f"x-ratelimit-reset-{limit}", "")[:MAX_NAME_CHARACTERS])
        if reset and headers.get(f"x-ratelimit-remaining-{limit}", "0") == "0":
            waits.append(sum(float(number) * _SECONDS[unit] for number, unit in reset))
    wait = max(waits, default=None)
    return wait if wait is not None and wait <= LONGEST_TOLD else None


def header(headers: Mapping[str, str], name: str, redact: Redact) -> str:
    """The start of a header, for the log."""
    value = one_line(headers.get(name), redact, MAX_NAME_CHARACTERS)
    return f" {name.replace('-', '_')}={value}"


def silent(seconds: float, *, begun: bool) -> Failure:
    """The failure of a provider that sends nothing, or nothing that counts."""
    was = "was silent for" if begun else "did not begin to answer within"
    return Failure(UpstreamTimeout, f"The model provider {was} {seconds:g} seconds", "silence")


def describe(error: Exception) -> str:
    """Put an exception into some words for the log. They may quote what the provider sent."""
    return f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS].rstrip(": ")
