"""What was measured, as tables: the promises first, then every figure that they come from."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from statistics import median
from typing import Dict, List, NamedTuple, Sequence

from .load import STREAMS, Figures
from .subjects import FORMATS

Samples = Dict[str, Dict[str, List[Figures]]]
"""By workload and subject, the figures of each round."""

OURS = "omniforge"

QUIET = 5
"""Percent of its time that a side may wait for its core before a run is called disturbed."""

_PACKAGES = ["omniforge-chat", "starlette", "anyio", "msgspec", "uvicorn", "uvloop", "httptools"]
_PACKAGES += ["httpx", "fastapi", "pydantic", "sse-starlette", "openai"]


class Promise(NamedTuple):
    """A figure of one workload, as it is or against another subject's in the same round.

    Against another it is the ratio, or with `added` the difference.
    """

    work: str
    workload: str
    figure: str
    against: str
    least: float
    aim: float
    added: bool = False
    subject: str = OURS

    @property
    def at_most(self) -> bool:
        return self.aim < self.least

    def rounds(self, samples: Samples, subject: str, *, by_cpu: bool = False) -> List[float]:
        """The value of each round; of a rate also as it would be were the core all the server's."""
        figure = self.figure.replace("per_second", "per_cpu_second") if by_cpu else self.figure
        subjects = samples.get(self.workload, {})
        values = [figures[figure] for figures in subjects.get(subject, [])]
        if not self.against:
            return values
        others = [figures[figure] for figures in subjects.get(self.against, [])]
        if self.added:
            return [value - other for value, other in zip(values, others)]
        return [value / other for value, other in zip(values, others)]

    def verdict(self, value: float) -> str:
        sign = -1 if self.at_most else 1
        if sign * value >= sign * self.aim:
            return "pass, aim met"
        return "pass" if sign * value >= sign * self.least else "FAIL"


_PACED = f"{STREAMS['paced']} paced streams"
_KEPT = f"{STREAMS['kept']} paced streams, kept in"
_MANY = "open streams (10,000 by default)"
_RELAYED = "relayed streams (300 by default)"
PROMISES = [
    Promise("short reply, req/s, of bare", "short", "per_second", "bare", 0.65, 0.80),
    Promise("long reply, replies/s, of bare", "long", "per_second", "bare", 6, 10),
    Promise(f"{_PACED}, CPU per token, of bare", "paced", "cpu_us", "bare", 1.5, 1.25),
    Promise(f"{_PACED}, p99 delay, ms", "paced", "delay_p99_ms", "", 5, 1),
    Promise(f"{_PACED}, KiB per stream", "paced", "kib_per_stream", "", 24, 18),
    *(
        Promise(f"{_KEPT} {where}, {more}", "kept", figure, OURS, *demands, True, f"replay-{where}")
        for where, cpu in (("memory", (1.0, 0.5)), ("redis", (6.0, 4.0)))
        for more, figure, demands in (
            ("CPU µs per token more", "cpu_us", cpu),
            ("p99 delay, ms more", "delay_p99_ms", (0.5, 0.0)),
        )
    ),
    Promise(f"{_MANY}, % of a core", "many", "server_percent", "", 90, 75),
    Promise(f"{_MANY}, KiB per stream", "many", "kib_per_stream", "", 24, 20),
    Promise(f"{_MANY}, errors", "many", "errors", "", 0.5, 0),
    Promise("short reply, of fastapi-stream", "short", "per_second", "fastapi-stream", 5.5, 7),
    Promise("long reply, of fastapi-stream", "long", "per_second", "fastapi-stream", 30, 60),
    *(
        Promise(f"{work} in {name}, of bare", f"{kind}-{name}", "per_second", "bare", *demands)
        for kind, work, demands in (
            ("short", "short reply", (0.6, 0.75)),
            ("long", "long reply", (6.0, 9.0)),
        )
        for name in FORMATS
    ),
    Promise("relayed tokens per CPU", "relay", "per_cpu_second", "fastapi-openai", 4.5, 6),
    Promise(f"{_RELAYED}, p99 added, ms", "relay-paced", "delay_p99_ms", "direct", 3, 1, True),
    Promise(f"{_RELAYED}, KiB per stream", "relay-paced", "kib_per_stream", "", 60, 40),
]

_UNITS = {
    "per_second": "per s",
    "cpu_us": "CPU µs each",
    "server_percent": "server's core %",
    "server_waited_percent": "waited %",
    "load_percent": "load's core %",
    "load_waited_percent": "waited %",
    "streams": "streams begun",
    "errors": "errors",
    "delay_p50_ms": "p50 ms",
    "delay_p99_ms": "p99 ms",
    "kib_per_stream": "KiB per stream",
}


def environment() -> Dict[str, str]:
    """The date, the machine and the versions that a run belongs to."""
    versions: List[str] = []
    for name in _PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} (not installed)")
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC",
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(versions),
        "load average at the start": "{:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
    }


def _cpu_model() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def promises(samples: Samples, subjects: Sequence[str]) -> str:
    """The promises, kept or not, and the same figure of every other subject."""
    others = [subject for subject in subjects if subject != OURS]
    others = [subject for subject in others if not subject.startswith("replay")]
    rows = [["work", "at least", "aim", OURS, "min-max", "by CPU", "verdict", *others]]
    for promise in PROMISES:
        values = promise.rounds(samples, promise.subject)
        if values:  # of what was measured
            by_cpu = promise.rounds(samples, promise.subject, by_cpu=True)
            rows.append(
                [
                    promise.work,
                    *(
                        f"{'<= ' if promise.at_most else ''}{n:g}"
                        for n in (promise.least, promise.aim)
                    ),
                    _middle(values),
                    _spread(values),
                    _middle(by_cpu) if by_cpu != values else "",
                    promise.verdict(median(values)),
                    *(_middle(promise.rounds(samples, other)) for other in others),
                ]
            )
    return _table(rows)


def changes(samples: Samples) -> str:
    """Each figure of ours as a ratio to the same of the other checkout, round by round."""
    rows = [["against the other checkout", "figure", "ratio", "min-max"]]
    for workload, by_subject in samples.items():
        pairs = list(zip(by_subject[OURS], by_subject.get("before", ())))
        for name in ("per_second", "per_cpu_second", "cpu_us", "delay_p99_ms", "kib_per_stream"):
            ratios = [ours[name] / other[name] for ours, other in pairs if name in ours]
            if ratios:
                rows.append([workload, name, _middle(ratios), _spread(ratios)])
    return _table(rows)


def disturbance(samples: Samples) -> str:
    """How much of its core the machine's other work took from each side, and whether it matters."""
    rounds = [figures for by in samples.values() for taken in by.values() for figures in taken]
    names = ("server_waited_percent", "load_waited_percent")
    waits = [median(figures[name] for figures in rounds) for name in names]
    line = "waited for their cores: server {:.1f} %, load {:.1f} % of the time".format(*waits)
    if max(waits) > QUIET:
        line += f" - above {QUIET} % the figures do not hold; repeat on a quiet machine"
    return line


def figures(samples: Samples, workload: str) -> str:
    """Every figure of one workload: its median over the rounds, and from where to where it went."""
    rows: List[List[str]] = []
    for subject, rounds in samples[workload].items():
        shown = [name for name in _UNITS if name in rounds[0]]
        columns = [[figures[name] for figures in rounds] for name in shown]
        rows = rows or [[workload, *(_UNITS[name] for name in shown)]]
        rows.append(
            [subject, *(f"{_middle(values)} {_spread(values)}".strip() for values in columns)]
        )
    return _table(rows)


def _middle(values: Sequence[float]) -> str:
    return _number(median(values)) if values else ""


def _spread(values: Sequence[float]) -> str:
    return f"({_number(min(values))}-{_number(max(values))})" if len(values) > 1 else ""


def _number(value: float) -> str:
    """Three digits that count, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _table(rows: List[List[str]]) -> str:
    """Rows, the first of them the heads, as Markdown that also reads well as it is."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
