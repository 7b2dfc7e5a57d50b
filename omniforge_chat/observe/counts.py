"""The numbers of one worker, or of several, in plain dicts and lists: to count costs little."""

from __future__ import annotations

from typing import Dict, List, Mapping, Tuple

import msgspec

from .families import FAMILIES

Labels = Tuple[str, ...]
"""The values of the labels of a metric, in their order."""

MAX_SERIES = 500
"""How many combinations of labels one name may have."""

OTHER = "other"


class Counts(msgspec.Struct):
    """Numbers by the names in FAMILIES, and by labels.

    A histogram is a list: for each bound how many values were not above it, and above the one
    before; then how many were above all; then the sum of the values.
    """

    counters: Dict[str, Dict[Labels, float]] = {}
    histograms: Dict[str, Dict[Labels, List[float]]] = {}
    gauges: Dict[str, float] = {}

    @classmethod
    def zero(cls) -> Counts:
        """All names, and a 0 for those without labels."""
        counts = cls()
        for name, family in FAMILIES.items():
            if family.kind == "counter":
                counts.counters[name] = {} if family.labels else {(): 0}
            elif family.kind == "histogram":
                counts.histograms[name] = {} if family.labels else {(): empty(name)}
        return counts

    def add(self, other: Counts) -> None:
        """Add the counters and the histograms of another worker, which may be of another version.

        Its gauges are left out: see `join`.
        """
        for name, theirs in other.counters.items():
            ours = self.counters.get(name)
            if ours is not None:
                for labels, number in theirs.items():
                    key = _bounded(labels, ours)
                    ours[key] = ours.get(key, 0) + number
        for name, lists in other.histograms.items():
            series = self.histograms.get(name)
            if series is not None:
                for labels, numbers in lists.items():
                    key = _bounded(labels, series)
                    sums = series.setdefault(key, empty(name))
                    if len(sums) == len(numbers):
                        series[key] = [ours + theirs for ours, theirs in zip(sums, numbers)]

    def join(self, other: Counts) -> None:
        """Join the gauges of another worker with these."""
        for name, number in other.gauges.items():
            family = FAMILIES.get(name)
            if family is not None:
                ours = self.gauges.get(name)
                self.gauges[name] = number if ours is None else family.join(ours, number)


def empty(name: str) -> List[float]:
    """A histogram of this name, without values."""
    return [0] * (len(FAMILIES[name].bounds) + 2)


def _bounded(labels: Labels, series: Mapping[Labels, object]) -> Labels:
    if labels in series or len(series) < MAX_SERIES:
        return labels
    return (OTHER,) * len(labels)
