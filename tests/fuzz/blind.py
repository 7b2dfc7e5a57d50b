"""python -m tests.fuzz.blind SECONDS SEED TARGET...: inputs by hypothesis, for so long each."""

from __future__ import annotations

import logging
import sys
from time import monotonic
from typing import List

from hypothesis import HealthCheck, Phase, given, seed, settings

from .faults import check, tell
from .inputs import inputs
from .registry import TARGETS
from .target import Target

_A_ROUND = settings(
    max_examples=200,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def search(target: Target, seconds: float, number: int) -> bool:
    """Try the seeds, and then inputs for so long: whether no fault was found. One is printed.

    Two searches with the same `number` begin with the same inputs.
    """
    until = monotonic() + seconds
    tries = len(target.seeds)
    sound = all(check(target, data) for data in target.seeds)

    def some(several: List[bytes]) -> None:
        nonlocal tries, sound
        for data in several:
            if sound and monotonic() < until:
                tries += 1
                sound = check(target, data)

    a_round = _A_ROUND(given(inputs(target))(some))
    while sound and monotonic() < until:
        seed(number)(a_round)()
        number += 1
    tell("blind", target, tries, sound=sound)
    return sound


def main(seconds: str, number: str, *names: str) -> int:
    """The exit status."""
    logging.disable()
    found = [search(TARGETS[name], float(seconds), int(number)) for name in names]
    return int(not all(found))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
