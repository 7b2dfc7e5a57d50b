"""The numbers as Prometheus reads them. Only here is prometheus-client, which the extra `metrics`
brings.
"""

from __future__ import annotations

import importlib
import platform
import time
from typing import Any, Iterator, List, Protocol, Tuple

import msgspec

from ..rules import SettingsError
from ..version import version_of
from .counts import Counts
from .families import FAMILIES, Family
from .metrics import Metrics
from .process import cpu_seconds, process_gauges

LONGEST_ACCEPT = 1024
"""Characters of the header `Accept` that are looked at."""


class Source(Protocol):
    """Where the numbers come from."""

    async def counts(self) -> Counts:
        """Those of this moment. Raises OSError if they cannot be had."""


class Exposition:
    """Makes the text of what `metrics` has counted.

    `source` is this worker alone; somebody else who knows of more workers may replace it. Raises
    SettingsError if prometheus-client is missing.
    """

    def __init__(self, metrics: Metrics) -> None:
        try:
            self._core: Any = importlib.import_module("prometheus_client.core")
            self._choose: Any = importlib.import_module(
                "prometheus_client.exposition"
            ).choose_encoder
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "prometheus_client":
                raise
            raise SettingsError(
                "metrics",
                "on",
                "off, or the package prometheus-client: pip install 'omniforge-chat[metrics]'",
            ) from None
        self.metrics = metrics
        self.source: Source = self
        self._started = time.time()

    async def aclose(self) -> None:
        """Leave nothing behind in the event loop."""
        await self.metrics.aclose()

    async def counts(self) -> Counts:
        """See Source."""
        return self.snapshot()

    def snapshot(self, *, process: bool = True) -> Counts:
        """The numbers of this worker, and those of its process, which take a while to find out."""
        gauges = process_gauges() if process else {}
        counts = msgspec.structs.replace(self.metrics.counts, gauges=gauges)
        counts.counters["process_cpu_seconds_total"][()] = cpu_seconds()
        gauges["process_start_time_seconds"] = self._started
        gauges["omniforge_workers"] = 1
        for name, read in self.metrics.gauges.items():
            gauges[name] = read()
        return counts

    async def render(self, accept: str) -> Tuple[bytes, str]:
        """The text, and its type; `accept` is the header of that name, and chooses the format.

        Raises OSError if the numbers cannot be had.
        """
        counts = await self.source.counts()
        try:
            encode, kind = self._choose(accept[:LONGEST_ACCEPT])
        except (TypeError, ValueError):  # a version that is no number
            encode, kind = self._choose("")
        text: bytes = encode(_Collector(self._core, counts))
        return text, kind


class _Collector:
    """The numbers in the shapes of prometheus-client, whose encoders call `collect`."""

    def __init__(self, core: Any, counts: Counts) -> None:
        self._core = core
        self._counts = counts

    def collect(self) -> Iterator[Any]:
        for name, family in FAMILIES.items():
            if family.kind == "counter":
                yield self._counter(name, family)
            elif family.kind == "histogram":
                yield self._histogram(name, family)
            elif name in self._counts.gauges:
                value = self._counts.gauges[name]
                yield self._core.GaugeMetricFamily(name, family.text, value)
        yield self._build()

    def _counter(self, name: str, family: Family) -> Any:
        made = self._core.CounterMetricFamily(name, family.text, labels=family.labels)
        for labels, number in self._counts.counters[name].items():
            made.add_metric(labels, number)
        return made

    def _histogram(self, name: str, family: Family) -> Any:
        made = self._core.HistogramMetricFamily(name, family.text, labels=family.labels)
        bounds = (*map(str, family.bounds), "+Inf")
        for labels, (*numbers, total) in self._counts.histograms[name].items():
            buckets: List[Tuple[str, float]] = []
            below = 0.0
            for bound, number in zip(bounds, numbers):
                below += number
                buckets.append((bound, below))
            made.add_metric(labels, buckets, total)
        return made

    def _build(self) -> Any:
        labels = {"version": version_of(), "python": platform.python_version()}
        return self._core.InfoMetricFamily("omniforge_build", "What runs.", labels)
