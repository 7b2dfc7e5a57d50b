"""Whose cancellation it was: that of a stream, or of somebody outside."""

from __future__ import annotations

import asyncio

import pytest

from omniforge_chat.core.cancellation import COUNTS_CANCELLATIONS, Cancellation, cancellations

counts = pytest.mark.skipif(not COUNTS_CANCELLATIONS, reason="tasks do not count there")


@pytest.mark.parametrize("others", [0, 1, 2])
def test_our_own_cancellations_are_told_from_those_of_others(others: int) -> None:
    """Ours are dealt with; those of others have to be passed on."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()  # long before
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        ours = Cancellation()
        for _ in range(others):
            task.cancel()
        ours.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(0)
        assert ours.from_outside == (others > 0 and COUNTS_CANCELLATIONS)
        ours.acknowledge()
        assert not ours.from_outside
        ours.take_back()
        assert cancellations(task) == (1 + others if COUNTS_CANCELLATIONS else 0)

    asyncio.run(main())


@counts
@pytest.mark.parametrize("first", [True, False])
def test_a_time_limit_that_is_due_in_the_same_turn_does_not_take_our_cancellation(
    first: bool,
) -> None:
    """`asyncio.timeout` compares the counts; without ours it would say TimeoutError, and go on."""

    async def wait(ours: Cancellation) -> None:
        async with asyncio.timeout(0):
            asyncio.get_running_loop().call_soon(ours.cancel)
            await asyncio.sleep(10)

    async def main() -> None:
        ours = Cancellation()
        if first:
            asyncio.get_running_loop().call_soon(ours.cancel)
        with pytest.raises(asyncio.CancelledError):
            await wait(ours)
        ours.take_back()

    asyncio.run(main())
