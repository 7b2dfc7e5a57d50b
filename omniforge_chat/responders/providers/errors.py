"""What a model provider's failure means: for the client, for the log, and for another try.

A status, an error document and an error frame in the middle of a stream say the same things, and
are judged by the same table.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import Any, Callable, Mapping, Optional, Tuple, Type

import msgspec

from ...errors import UpstreamError, UpstreamRateLimited, UpstreamTimeout

MAX_REASON_CHARACTERS = 300
"""How much of a provider's own words is passed on."""

LONGEST_WAIT = 5.0
"""Seconds that we wait by ourselves where a provider says when to come back."""

LONGEST_TOLD = 31 * 86_400.0
"""A longer wait is a mistake, and nobody is told of it."""

_RETRIED = {429, 502, 503, 529}
# Only these are about what the client sent. The words of the others may speak of accounts, models
# and addresses that are the operator's business: they go to the log alone.
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

# In a stream there is no status; these are the providers' names for what would have had one.
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

Strike = Callable[[str], str]

_decode = msgspec.json.Decoder().decode
_durations = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)").findall
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Failure(msgspec.Struct, frozen=True):
    """What went wrong: `kind` and `message` for the client, `detail` for the log.

    `again` says that the request may be sent once more while nothing was passed on, not before
    `wait` seconds have gone where the provider asked for them. `stale` says that nobody has seen
    it: the connection was an old one, and the other side had left.
    """

    kind: Type[UpstreamError]
    message: str
    detail: str
    again: bool = False
    wait: Optional[float] = None
    stale: bool = False

    def error(self) -> UpstreamError:
        """The error that the client is told of."""
        if self.kind is UpstreamRateLimited:
            return UpstreamRateLimited(self.message, retry_after=self.wait)
        return self.kind(self.message)


def refused(status: int, headers: Mapping[str, str], body: bytes, strike: Strike) -> Failure:
    """The failure that an answer of another status than 200 stands for.

    `strike` takes the secrets out of the provider's words, before these are cut or quoted.
    """
    try:
        document: Any = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    kinds, reason = _words(document, strike)
    wait = retry_after(headers)
    again = (
        status in _RETRIED
        and "insufficient_quota" not in kinds  # a 429 that no waiting helps
        and (wait is None or wait <= LONGEST_WAIT)
    )
    return _judged(status, _named(kinds, strike), reason, again, wait)


def reported(problem: object, strike: Strike) -> Failure:
    """The failure that an error frame in the middle of a stream stands for."""
    kinds, reason = _words(problem, strike)
    status = 500
    for kind in kinds:
        known = _STATUSES.get(kind)
        if known is None and kind.isdecimal() and len(kind) == 3:
            known = int(kind)
        if known is not None:
            status = known
            break
    return _judged(status, _named(kinds, strike), reason, again=False, wait=None)


def _judged(status: int, kinds: str, reason: str, again: bool, wait: Optional[float]) -> Failure:
    kind, message = _MEANINGS.get(status, (UpstreamError, "The model provider failed"))
    if status in _ABOUT_THE_REQUEST and reason and not _is_the_operators(f"{kinds} {reason}"):
        message = f"{message}: {reason}"
    # What a provider says to a wrong key may quote the key.
    detail = f"status={status} kind={kinds}"
    if reason and status != 401:
        detail += f" reason={reason!r}"
    return Failure(kind, message, detail, again, wait)


def _words(document: Any, strike: Strike) -> Tuple[Tuple[str, ...], str]:
    """The provider's names for an error, as they are, and its words, for people to read."""
    problem = document
    if isinstance(problem, dict):
        problem = problem.get("error") or problem
    if not isinstance(problem, dict):
        return (), _line(problem, strike)
    found = (problem.get("code"), problem.get("type"))
    kinds = tuple(str(kind) for kind in found if isinstance(kind, (str, int)))
    return kinds, _line(problem.get("message") or problem.get("detail"), strike)


def _named(kinds: Tuple[str, ...], strike: Strike) -> str:
    return _line("/".join(kinds), strike)


def _line(text: object, strike: Strike) -> str:
    """`text` without control characters and not too long; empty where it is no text."""
    if isinstance(text, int):
        text = str(text)
    if not isinstance(text, str):
        return ""
    # Nothing of use is further away, and a text of megabytes is not worth splitting.
    near = strike(text)[: 4 * MAX_REASON_CHARACTERS]
    words = "".join(c if c.isprintable() else " " for c in near)
    line = " ".join(words.split())
    return line if len(line) <= MAX_REASON_CHARACTERS else line[:MAX_REASON_CHARACTERS] + "..."


def retry_after(headers: Mapping[str, str]) -> Optional[float]:
    """The wait in seconds that a provider asks for, if it does.

    `Retry-After` is a number of seconds or a date (RFC 9110, section 10.2.3). Without it, the
    longest of the limits that `x-ratelimit-*` says are used up decides.
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
