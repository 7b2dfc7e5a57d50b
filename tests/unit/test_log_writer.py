"""The thread that writes the log: whoever logs never waits, and what is lost is counted."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pty
import socket
import sys
import threading
from pathlib import Path
from typing import Callable, Iterator, List, TextIO, Tuple

import pytest

from omniforge_chat.logs import BatchingStreamHandler, TextFormatter
from omniforge_chat.logs.writer import LineWriter, may_block

from ..support.constants import PATIENCE

LINE = b"x" * 99 + b"\n"


def note(count: int) -> bytes:
    return b"%d dropped\n" % count


@contextlib.contextmanager
def pipe() -> Iterator[Tuple[int, int]]:
    """The two ends of a pipe that takes little."""
    reader, writer = os.pipe()
    if sys.platform == "linux":
        fcntl.fcntl(writer, 1031, 4096)  # F_SETPIPE_SZ
    try:
        yield reader, writer
    finally:
        for fd in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(fd)


def read_until(reader: int, end: bytes) -> bytes:
    """All that comes, up to `end`."""
    data = b""
    while not data.endswith(end):
        data += os.read(reader, 65536)
    return data


def test_lines_come_as_they_were_written() -> None:
    """In their order, and all of them, if somebody reads."""
    lines = [b"%d\n" % number * 700 for number in range(50)]  # longer than a piece, too
    with pipe() as (reader, fd):
        writer = LineWriter(fd, note)
        for line in lines:
            writer.write(line)
        assert read_until(reader, b"49\n" * 700) == b"".join(lines)


def test_one_long_line_is_written_whole() -> None:
    """A traceback as JSON has no line end to cut at."""
    with pipe() as (reader, fd):
        LineWriter(fd, note).write(b"x" * 10_000 + b"\n")
        assert read_until(reader, b"\n") == b"x" * 10_000 + b"\n"


def test_what_nobody_reads_is_dropped_beyond_the_limit_and_counted() -> None:
    """Memory has an end; who reads again learns what is missing, and where."""
    with pipe() as (reader, fd):
        writer = LineWriter(fd, note, limit=10_000)
        for _ in range(1000):
            writer.write(LINE + LINE)
        came = read_until(reader, b" dropped\n").splitlines()
        assert set(came[:-1]) == {LINE[:-1]}
        assert 100 <= len(came) - 1 <= 150  # those that wait, and those in the pipe
        assert came[-1] == b"%d dropped" % (2000 - len(came) + 1)
        writer.write(LINE)  # and it goes on
        assert read_until(reader, b"\n") == LINE


def test_it_drops_and_tells_again_and_again_and_forgets_none() -> None:
    """However the reader and those who log fall together."""
    dropped = lines = 0
    with pipe() as (reader, fd):
        writer = LineWriter(fd, note, limit=5_000)

        def log() -> None:
            for _ in range(20_000):
                writer.write(LINE)
            writer.flush(PATIENCE, at_most=PATIENCE)
            os.close(fd)

        thread = threading.Thread(target=log)
        thread.start()
        with open(reader, "rb", closefd=False) as file:
            for line in file:
                if line == LINE:
                    lines += 1
                else:
                    dropped += int(line.split()[0])
        thread.join(PATIENCE)
    assert (lines + dropped, dropped > 0) == (20_000, True)


def test_a_flush_waits_for_a_slow_reader_but_not_for_one_that_does_not_read() -> None:
    """At the end of a process nothing is lost, and nobody hangs."""
    with pipe() as (reader, fd):
        writer = LineWriter(fd, note)
        writer.flush(PATIENCE, at_most=PATIENCE)  # there is nothing
        writer.write(LINE * 100)
        writer.flush(0.02, at_most=PATIENCE)
        came: List[bytes] = []
        with open(reader, "rb", closefd=False) as file:
            read = threading.Thread(target=lambda: came.append(file.read()))
            read.start()
            writer.write(b"end\n")
            writer.flush(PATIENCE, at_most=PATIENCE)
            os.close(fd)  # what was not written until now is lost
            read.join(PATIENCE)
        assert came == [LINE * 100 + b"end\n"]


def test_a_reader_that_is_gone_is_nobody_s_failure() -> None:
    """EPIPE: no line can be written any more, and none is waited for."""
    with pipe() as (reader, fd):
        os.close(reader)
        writer = LineWriter(fd, note, limit=1000)
        for _ in range(100):
            writer.write(LINE)
        writer.flush(PATIENCE, at_most=PATIENCE)


def test_a_descriptor_that_somebody_made_non_blocking_loses_nothing() -> None:
    """O_NONBLOCK is a property of the open file, which is shared with other processes."""
    with pipe() as (reader, fd):
        os.set_blocking(fd, False)
        LineWriter(fd, note).write(LINE * 1000)
        assert len(read_until(reader, LINE * 1000)) == len(LINE) * 1000


def test_where_no_thread_can_be_started_whoever_logs_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At its end Python 3.12 starts none; a line from there must not be lost, nor waited for."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with pipe() as (reader, fd):
        writer = LineWriter(fd, note)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            writer.write(b"one\n")
            writer.write(b"two\n")
            writer.flush(PATIENCE, at_most=PATIENCE)
            assert os.read(reader, 100) == b"one\ntwo\n"
        writer.write(b"three\n")
        assert read_until(reader, b"three\n") == b"three\n"


# The handler on each kind of file


def logged(stream: TextIO) -> logging.Logger:
    """A logger whose lines go to `stream` as those of a service go to standard error."""
    handler = BatchingStreamHandler()
    handler.setStream(stream)
    handler.setFormatter(TextFormatter())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    return logger


def connected() -> Tuple[int, int]:
    left, right = socket.socketpair()
    return left.detach(), right.detach()


@pytest.mark.parametrize("make", [os.pipe, connected, pty.openpty])
def test_whoever_logs_waits_for_no_reader(make: Callable[[], Tuple[int, int]]) -> None:
    """A pipe, systemd's socket, a terminal: each would hold the event loop otherwise."""
    reader, fd = make()
    assert may_block(fd)
    with open(fd, "w") as stream:
        logger = logged(stream)
        for number in range(3000):
            logger.error("%d %s", number, "x" * 100)
        logger.error("%d", "no number")  # which logging tells of on the same standard error
        logger.error("the end")
        data: List[bytes] = []
        while b"the end" not in b"".join(data[-2:]):
            data.append(os.read(reader, 65536))
        text = b"".join(data).decode()
        assert [f" test: {number} x" in text for number in (0, 2999)] == [True, True]
        assert "--- Logging error ---" in text
        assert "not str" in text
        assert os.get_blocking(fd)  # as it was: others share it
    os.close(reader)


def test_a_file_is_written_by_whoever_logs(tmp_path: Path) -> None:
    """It has no reader who could stop, and a crash loses nothing of it."""
    with open(tmp_path / "log", "w") as stream:
        assert not may_block(stream.fileno())
        logged(stream).error("here")
        assert (tmp_path / "log").read_text().endswith(" ERROR test: here\n")
