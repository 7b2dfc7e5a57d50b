"""The observer that counts.

A chat costs a few additions. Nothing of prometheus-client is on its way: `exposition` makes text of
the numbers when somebody asks.
"""

from __future__ import annotations

from asyncio import get_running_loop
from bisect import bisect_left
from typing import Callable, Dict, List, Set

from .. import errors
from ..models import Turn, Usage
from ..observer import ChatEnd, Observer, ReadEnd, Refusal, Scope, UpstreamEnd
from ..rules import DIALECTS
from .counts import OTHER, Counts, Labels, empty
from .families import FAMILIES
from .lag import Lag

MAX_OWN_CODES = 50
"""How many codes of a host's own are told apart; the others are OTHER."""

MAX_CODE_CHARACTERS = 64

_CODES = {"done", "disconnected", "stalled", "cancelled", "stopped", OTHER} | {
    kind.code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.ChatError)
}
_STORES = ("redis", "sqlite", "postgresql")
_PROVIDERS = ("openai", "anthropic")

_REPORTED = (("prompt", "false"), ("completion", "false"))
_ESTIMATED = (("prompt", "true"), ("completion", "true"))
_UNKNOWN = ("unknown", "false")

_TO_THE_END = FAMILIES["omniforge_chat_duration_seconds"].bounds
_TO_THE_FIRST = FAMILIES["omniforge_time_to_first_chunk_seconds"].bounds
_TO_THE_NEXT = FAMILIES["omniforge_time_per_chunk_seconds"].bounds


class Metrics(Observer):
    """Counts what happens in one app. `counts` has the numbers, apart from gauges.

    `gauges` are read when somebody asks; others may put theirs there.
    """

    def __init__(self) -> None:
        self.counts = Counts.zero()
        self.gauges: Dict[str, Callable[[], float]] = {}
        counters, histograms = self.counts.counters, self.counts.histograms
        self._chats = counters["omniforge_chats_total"]
        self._refusals = counters["omniforge_refusals_total"]
        self._resumed = counters["omniforge_replies_resumed_total"]
        self._tokens = counters["omniforge_tokens_total"]
        # No int: a responder may report more than other formats than Python's can have.
        self._tokens.update(dict.fromkeys((*_REPORTED, *_ESTIMATED, _UNKNOWN), 0.0))
        self._sent = counters["omniforge_response_bytes_total"]
        self._beats = counters["omniforge_heartbeats_total"]
        self._attempts = counters["omniforge_upstream_attempts_total"]
        self._duration = histograms["omniforge_chat_duration_seconds"][()]
        self._first = histograms["omniforge_time_to_first_chunk_seconds"][()]
        self._next = histograms["omniforge_time_per_chunk_seconds"][()]
        self._own_codes: Set[str] = set()
        name = "omniforge_event_loop_lag_seconds"
        self._lag = Lag(histograms[name][()], FAMILIES[name].bounds)

    def chat_began(self, turn: Turn, scope: Scope) -> None:
        """See Observer."""
        loop = get_running_loop()
        if loop is not self._lag.loop:
            self._lag.start(loop)

    def chat_ended(self, end: ChatEnd) -> None:
        """See Observer."""
        try:
            self._chats[end.turn.dialect, end.outcome] += 1
        except KeyError:
            dialect = end.turn.dialect if end.turn.dialect in DIALECTS else OTHER
            _count(self._chats, (dialect, self._code(end.outcome)))
        seconds, first, chunks = end.seconds, end.first_chunk, end.chunks
        self._duration[bisect_left(_TO_THE_END, seconds)] += 1
        self._duration[-1] += seconds
        if first is not None:
            self._first[bisect_left(_TO_THE_FIRST, first)] += 1
            self._first[-1] += first
            if chunks > 1:
                each = (seconds - first) / (chunks - 1)
                self._next[bisect_left(_TO_THE_NEXT, each)] += 1
                self._next[-1] += each
        if end.usage is not None:
            self._count_tokens(end.usage)
        self._sent[()] += end.sent_bytes
        if end.heartbeats:
            self._beats[()] += end.heartbeats

    def _count_tokens(self, usage: Usage) -> None:
        tokens, keys = self._tokens, _REPORTED
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if usage.estimated:
            keys = _ESTIMATED
            if completion is None:
                completion = usage.tokens  # it is made from the text of the reply
        if prompt is not None:
            tokens[keys[0]] += prompt
        if completion is not None:
            tokens[keys[1]] += completion
        elif prompt is None:
            tokens[_UNKNOWN] += usage.tokens

    def chat_refused(self, refusal: Refusal) -> None:
        """See Observer."""
        _count(self._refusals, (self._code(refusal.error.code),))

    def reply_read(self, end: ReadEnd) -> None:
        """See Observer."""
        _count(self._resumed, (self._code(end.outcome),))
        self._sent[()] += end.sent_bytes
        self._beats[()] += end.heartbeats

    def upstream_ended(self, end: UpstreamEnd) -> None:
        """See Observer."""
        provider = end.call.provider if end.call.provider in _PROVIDERS else OTHER
        result = self._code(end.result)
        _count(self._attempts, (provider, result))
        model, ours = ("chat", provider), self.counts
        error = "" if result in ("done", "cancelled") else result
        name = "gen_ai_client_inference_duration_seconds"
        _observe(ours, name, (*model, error), end.seconds)
        if end.first_chunk is not None:
            name = "gen_ai_client_inference_time_to_first_chunk_seconds"
            _observe(ours, name, model, end.first_chunk)
        if end.usage is None or end.usage.estimated:
            return
        for kind, number in (
            ("input", end.usage.prompt_tokens),
            ("output", end.usage.completion_tokens),
        ):
            if number is not None:
                # Images and the like may be in a prompt, and nobody says how much they are of it.
                modality = "unknown" if kind == "input" and end.call.turn.parts else "text"
                name = f"gen_ai_client_inference_usage_{kind}_tokens_total"
                _count(ours.counters[name], (*model, modality), number)

    def store_answered(self, store: str, seconds: float, failed: bool) -> None:
        """See Observer."""
        labels = (store if store in _STORES else OTHER,)
        _observe(self.counts, "omniforge_store_duration_seconds", labels, seconds)
        if failed:
            _count(self.counts.counters["omniforge_store_failures_total"], labels)

    def _code(self, code: str) -> str:
        """`code`, if it is one of ours, or among the first of a host's own."""
        if code in _CODES or code in self._own_codes:
            return code
        if len(self._own_codes) >= MAX_OWN_CODES or not 0 < len(code) <= MAX_CODE_CHARACTERS:
            return OTHER
        self._own_codes.add(code)
        return code

    async def aclose(self) -> None:
        """Leave no timer behind."""
        self._lag.stop()


def _count(series: Dict[Labels, float], labels: Labels, number: float = 1) -> None:
    series[labels] = series.get(labels, 0) + number


def _observe(counts: Counts, name: str, labels: Labels, value: float) -> None:
    histogram: List[float] = counts.histograms[name].setdefault(labels, empty(name))
    histogram[bisect_left(FAMILIES[name].bounds, value)] += 1
    histogram[-1] += value
