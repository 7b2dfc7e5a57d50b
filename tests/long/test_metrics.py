"""The metrics of a service with four workers, which take a while to start."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec

from omniforge_chat.observe.counts import Counts

from ..live.test_metrics import CHATS, chats, directory, flags, started, until_workers
from ..support.constants import PATIENCE
from ..support.metrics import scrape
from ..support.process import running

__all__ = ["directory"]


class File(msgspec.Struct):
    """What a worker writes down."""

    counts: Counts


def until_written(place: Path, number: int) -> None:
    """Wait until the files of all workers together have so many chats."""
    decode = msgspec.msgpack.Decoder(File).decode
    deadline = time.monotonic() + PATIENCE
    while (
        sum(
            sum(decode(path.read_bytes()).counts.counters[CHATS].values())
            for path in place.glob("*.counts")
        )
        != number
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_scrape_has_the_sum_of_all_workers_and_of_those_that_were_killed(
    directory: Path,
) -> None:
    """Whichever worker Prometheus meets, and whatever happens to the others."""
    variables = {"CHAT_METRICS": "on", "TMPDIR": str(directory)}
    with running(directory, *flags(workers=4), **variables) as service:
        port = started(service, 4)
        [place] = directory.glob("omniforge-chat-*")
        until_workers(port, 4)
        answered = chats(service, 200)
        assert len(answered) > 1
        for _ in range(8):
            found = scrape(port)
            assert found(CHATS) == found(CHATS, outcome="done") == 200
            assert found("omniforge_chat_duration_seconds_count") == 200
            assert found("omniforge_workers") == 4
        answered = chats(service, 20)
        until_written(place, 220)  # each second, what nobody has asked for yet
        os.kill(answered.pop(), signal.SIGKILL)
        for _ in range(5):
            assert scrape(port)(CHATS) == 220
        service.wait_for("ended with status -9")
        service.wait_for("serving on")
        assert until_workers(port, 4)(CHATS) == 220
        # The file of the dead one is gone: a worker that crashes again and again fills no disk.
        assert (place / "dead.counts").exists()
        assert len([*place.glob("*.counts")]) == 5
        os.kill(chats(service, 20).pop(), signal.SIGTERM)  # it ends by itself, and loses nothing
        service.wait_for("ended with status 0")
        assert scrape(port)(CHATS) == 240
        assert service.end() == 0
    assert not place.exists()
