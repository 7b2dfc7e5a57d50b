"""The soak, for as long as fits among the other tests."""

from __future__ import annotations

from ..soak import soak


def test_streams_that_end_fail_stall_and_are_dropped_leave_nothing_behind() -> None:
    """What no single test thought of shows where everything happens at once."""
    assert soak(3.0, seed=1) == []
