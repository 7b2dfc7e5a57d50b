"""The numbers of several workers, which find each other in a directory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Iterator

import pytest
from msgspec.structs import replace

from omniforge_chat import Turn, Usage
from omniforge_chat.observe import Exposition, Metrics, fleet
from omniforge_chat.observe.fleet import Fleet, Member
from omniforge_chat.observer import ChatEnd

from ..support.logs import Records

END = ChatEnd(Turn("hi", "c", "r"), "done", 200, 5, Usage(9, 4, 5), "stop", 0.5, 2.5, 1000, 2)
CHATS = "omniforge_chats_total"


class Worker:
    """One worker, with so many open streams."""

    def __init__(self, parent: Fleet, name: str, streams: int = 1) -> None:
        self.metrics = Metrics()
        self.metrics.gauges["omniforge_open_streams"] = lambda: streams
        self.member = Member(Exposition(self.metrics), parent.directory, name)

    def chat(self, times: int = 1) -> None:
        for _ in range(times):
            self.metrics.chat_ended(END)

    async def sum(self) -> float:
        return (await self.member.counts()).counters[CHATS].get(("native", "done"), 0)

    async def gauge(self, name: str) -> float:
        return (await self.member.counts()).gauges[name]


@pytest.fixture
def parent() -> Iterator[Fleet]:
    made = Fleet()
    yield made
    made.close()
    assert not os.path.exists(made.directory)


def test_whoever_is_asked_has_the_sum_of_all(parent: Fleet) -> None:
    """Prometheus meets one of them at random: rates would be nonsense if each told its own."""

    async def run() -> None:
        workers = [Worker(parent, str(number), streams=number) for number in (1, 2, 3)]
        for worker in workers:
            await worker.member.open()
            worker.chat(10)
        for worker in workers:
            assert await worker.sum() == 30
            assert await worker.gauge("omniforge_open_streams") == 6
            assert await worker.gauge("omniforge_workers") == 3
        workers[0].chat()
        assert await workers[1].sum() == 31  # at once, and not only when files are written
        for worker in workers:
            worker.member.close()

    asyncio.run(run())


def test_the_directory_is_its_user_s_alone(parent: Fleet) -> None:
    """Nobody else may read the numbers, or put numbers of their own there."""
    assert stat.S_IMODE(os.stat(parent.directory).st_mode) == 0o700


@pytest.mark.parametrize("folded", [False, True], ids=["just now", "folded"])
def test_the_dead_are_in_the_sum_and_their_gauges_are_not(parent: Fleet, folded: bool) -> None:
    """A counter that goes back is a restart to Prometheus, and a jump in every rate."""

    async def run() -> None:
        one, other = Worker(parent, "1"), Worker(parent, "2", streams=5)
        await one.member.open()
        await other.member.open()
        other.chat(7)
        assert await one.sum() == 7
        other.member.close()
        if folded:
            parent.fold("2")
            assert sorted(os.listdir(parent.directory)) == ["1.counts", "1.sock", "dead.counts"]
        assert await one.sum() == 7
        assert await one.gauge("omniforge_open_streams") == 1
        assert await one.gauge("omniforge_workers") == 1
        one.member.close()

    asyncio.run(run())


def test_a_worker_that_ends_leaves_all_its_numbers_behind(parent: Fleet) -> None:
    """The chats of a drain are those of its last second."""

    async def run() -> None:
        one, other = Worker(parent, "1"), Worker(parent, "2")
        await other.member.open()
        other.chat(7)
        other.member.close()
        assert await one.sum() == 7

    asyncio.run(run())


def test_nobody_is_counted_twice_while_the_parent_adds_the_dead(parent: Fleet) -> None:
    """A file may have been read in the moment in which the parent adds it to its own."""

    async def run() -> None:
        one, other = Worker(parent, "1"), Worker(parent, "2")
        other.chat(7)
        await other.member.open()
        other.member.close()
        path = Path(parent.directory) / "2.counts"
        data = path.read_bytes()
        parent.fold("2")
        path.write_bytes(data)
        assert await one.sum() == 7

    asyncio.run(run())


@pytest.mark.parametrize("listed", [False, True])
def test_nobody_is_left_out_while_the_parent_adds_the_dead(
    parent: Fleet, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may do so right before the files are listed, or right before they are read."""
    glob = Path.glob

    def then_fold(self: Path, pattern: str) -> Iterator[Path]:
        before = [*glob(self, pattern)]
        if pattern == "*.counts":
            parent.fold("2")
        return iter(before if listed else [*glob(self, pattern)])

    async def run() -> None:
        one, other = Worker(parent, "1"), Worker(parent, "2")
        other.chat(7)
        await other.member.open()
        other.member.close()
        monkeypatch.setattr(Path, "glob", then_fold)
        assert await one.sum() == 7

    asyncio.run(run())


def test_many_workers_may_die(parent: Fleet) -> None:
    """A responder that crashes its process does so again and again."""

    async def run() -> float:
        for number in range(120):
            worker = Worker(parent, f"w{number}")
            worker.chat()
            await worker.member.open()
            worker.member.close()
            parent.fold(f"w{number}")
        assert len(os.listdir(parent.directory)) == 1
        return await Worker(parent, "last").sum()

    assert asyncio.run(run()) == 120


def test_a_worker_that_hangs_holds_nobody_up(
    parent: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last numbers count: it is late, and not dead."""
    monkeypatch.setattr(fleet, "DEADLINE", 0.05)

    async def run() -> None:
        one, hung = Worker(parent, "1"), Worker(parent, "2", streams=4)
        await one.member.open()
        hung.chat(3)
        await hung.member.open()
        hung.member.close()
        assert await one.sum() == 3
        assert await one.gauge("omniforge_open_streams") == 1
        path = os.path.join(parent.directory, "2.sock")
        with contextlib.suppress(FileNotFoundError):  # the newer Pythons have removed it
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as listener:  # nobody accepts
            listener.bind(path)
            listener.listen()
            assert await one.sum() == 3
            assert await one.gauge("omniforge_open_streams") == 5
        one.member.close()

    asyncio.run(run())


def test_a_file_that_is_none_is_left_out(parent: Fleet) -> None:
    """The others are told all the same."""

    async def run() -> float:
        (Path(parent.directory) / "2.counts").write_bytes(b"\xc1")
        worker = Worker(parent, "1")
        worker.chat()
        return await worker.sum()

    with Records() as records:
        assert asyncio.run(run()) == 1
    assert "cannot be read" in records.all[0].getMessage()


def test_a_directory_that_has_gone_is_told_once_and_no_sum_is() -> None:
    """Each worker would tell its own numbers, and each scrape that meets another one go back."""
    parent = Fleet()
    parent.close()

    async def run() -> None:
        worker = Worker(parent, "1")
        with Records() as records:
            for _ in range(3):
                worker.chat()
                with pytest.raises(OSError, match="cannot be written"):
                    await worker.sum()
        assert [record.levelname for record in records.all] == ["ERROR"]

    asyncio.run(run())


def test_a_report_beyond_all_numbers_stops_nothing(parent: Fleet) -> None:
    """A responder may say what it wants; the others are counted all the same."""

    async def run() -> None:
        one, other = Worker(parent, "1"), Worker(parent, "2")
        for worker in (one, other):
            worker.metrics.chat_ended(replace(END, usage=Usage(2**64, 2**64, 5)))
            await worker.member.open()
        assert await one.sum() == await other.sum() == 2
        for worker in (one, other):
            worker.member.close()

    asyncio.run(run())


@pytest.mark.parametrize("name", ["2", "dead"])
def test_without_the_numbers_of_one_no_sum_is_told(
    parent: Fleet, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If this process has no more file descriptors, say: a sum without them goes back."""
    read_bytes = Path.read_bytes

    def read(self: Path) -> bytes:
        if self.name == f"{name}.counts":
            raise OSError(errno.EMFILE, "Too many open files")
        return read_bytes(self)

    async def run() -> None:
        one, other = Worker(parent, "1"), Worker(parent, "2")
        for worker in (one, other):
            await worker.member.open()
            worker.chat()
        assert await one.sum() == 2
        monkeypatch.setattr(Path, "read_bytes", read)
        with pytest.raises(OSError, match="Too many"):
            await one.sum()
        monkeypatch.undo()
        assert await one.sum() == 2
        for worker in (one, other):
            worker.member.close()

    asyncio.run(run())


def test_numbers_that_cannot_be_folded_stay_in_the_sum(
    parent: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of the directory may be full at that moment."""

    def full(*paths: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def run() -> None:
        one, other = Worker(parent, "1"), Worker(parent, "2")
        other.chat(7)
        await other.member.open()
        other.member.close()
        with monkeypatch.context() as patch, Records() as records:
            patch.setattr(os, "replace", full)
            parent.fold("2")
        assert "cannot be written" in records.all[0].getMessage()
        assert await one.sum() == 7

    asyncio.run(run())
