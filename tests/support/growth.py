"""How the time of some work grows with its size: machines differ, growth does not."""

from __future__ import annotations

import time
from typing import Callable

TIMES = 16
LINEAR = 4 * TIMES
"""The most that `growth` may be for work that is linear: what is quadratic has TIMES squared."""


def growth(work: Callable[[int], object], size: int) -> float:
    """How many times as long TIMES the size takes, in CPU time: the best of five each, in turns.

    It is about TIMES if the time is linear in the size. `work(size)` should take a millisecond.
    """
    least = [float("inf")] * 2
    for _ in range(5):
        for index, amount in enumerate((size, TIMES * size)):
            began = time.thread_time()
            work(amount)
            least[index] = min(least[index], time.thread_time() - began)
    small, large = least
    return large / small
