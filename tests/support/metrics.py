"""The numbers of a service, as Prometheus' own parsers read them."""

from __future__ import annotations

from typing import Dict, FrozenSet, Set, Tuple

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as read_text

from .client import Client

Labels = FrozenSet[Tuple[str, str]]


class Scrape:
    """The samples of one answer of this `kind`."""

    def __init__(self, text: str, kind: str = "text/plain") -> None:
        self.text = text
        self.kind = kind
        read = read_openmetrics if "openmetrics" in kind else read_text
        self.values: Dict[Tuple[str, Labels], float] = {}
        self.names: Set[str] = set()
        for family in read(text):
            for sample in family.samples:
                self.names.add(sample.name)
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self.values, f"{key} is there twice"
                self.values[key] = sample.value

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the samples with this name and these labels; 0 if there is none."""
        wanted = set(labels.items())
        return sum(n for (name_, its), n in self.values.items() if name_ == name and wanted <= its)

    def labels(self, name: str, label: str) -> Set[str]:
        """The values of a label."""
        return {dict(its)[label] for name_, its in self.values if name_ == name}


def scrape(port: int, path: str = "/metrics", **headers: str) -> Scrape:
    """Those that a service on this port tells, over a connection of its own."""
    with Client(port) as client:
        client.ask(path, headers=headers)
        status, given = client.head()
        assert status == 200, status
        return Scrape(client.content(given).decode(), given["content-type"])
