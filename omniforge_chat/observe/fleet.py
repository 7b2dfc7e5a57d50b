"""One answer for all workers of a service, whichever of them is asked, and also if some have died.

The parent has made a directory that only its user may enter. In it each worker has a socket and a
file with its numbers. It writes the file each second, at its end, and whenever somebody connects to
the socket; the end of that connection says that it is written. So whoever is asked

1. writes its own file,
2. connects to all others at once, and waits for them until a deadline,
3. reads all files, and adds them up.

What anybody has ever been told of a worker is in its file, then. If it is killed, the file stays:
no sum goes back. Only what it has counted since, for a second at most, is lost.

If a file cannot be written or read, nobody is told any sum: it would be one of some workers, and
each of them would tell another one.

The parent adds the files of the dead to one of its own, and deletes them. That file is read last,
and says whom it has swallowed: nobody is left out, and nobody is counted twice. The gauges of the
dead are no part of any sum.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Set

import msgspec

from ..logs import logger
from .counts import Counts
from .exposition import Exposition

DEADLINE = 1.0
"""How many seconds the other workers have to write their files."""

WRITE_SECONDS = 1.0

_DEAD = "dead"
_SWALLOWED_NAMES = 100

_encode = msgspec.msgpack.Encoder().encode


class _File(msgspec.Struct):
    """The numbers of a worker; or of the dead, and the names of the last of those."""

    counts: Counts
    names: List[str] = []


_decode = msgspec.msgpack.Decoder(_File).decode


class Fleet:
    """The directory of all workers, for their parent. Raises OSError if none can be made."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="omniforge-chat-")
        self._dead = _File(Counts.zero())

    def fold(self, name: str) -> None:
        """Keep the numbers of a worker that has died."""
        path = Path(self.directory)
        try:
            file = _read(path / f"{name}.counts")
            if file is not None:
                self._dead.counts.add(file.counts)
                self._dead.names = [*self._dead.names[1 - _SWALLOWED_NAMES :], name]
                _write(path / f"{_DEAD}.counts", _encode(self._dead))
        except OSError as error:
            logger.error("the numbers of the dead workers cannot be written: %s", error)
            return
        for kind in ("counts", "sock"):
            with contextlib.suppress(OSError):
                (path / f"{name}.{kind}").unlink()

    def close(self) -> None:
        """Remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


class Member:
    """A worker among the others: a Source for its exposition.

    `open` and `close` it in its event loop.
    """

    def __init__(self, exposition: Exposition, directory: str, name: str) -> None:
        self._exposition = exposition
        self._path = Path(directory)
        self._name = name
        self._written = b""
        self._fails = False
        self._server: Optional[asyncio.AbstractServer] = None
        self._timer: Optional[asyncio.TimerHandle] = None

    async def open(self) -> None:
        """Be there for the others from now on."""
        self._exposition.source = self
        self._tick()
        if not hasattr(asyncio, "start_unix_server"):
            return  # on Windows nobody can ask, and the others read what is written each second
        socket = str(self._path / f"{self._name}.sock")
        try:
            self._server = await asyncio.start_unix_server(self._asked, socket)
        except OSError as error:
            logger.error("the metrics of this worker come late: %s", error)

    def close(self) -> None:
        """Leave the numbers behind."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._server.close()
        self._write(self._exposition.snapshot())

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._tick)
        self._write(self._exposition.snapshot(process=False))

    def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._write(self._exposition.snapshot())
        writer.close()

    def _write(self, counts: Counts) -> None:
        data = _encode(_File(counts))
        if data == self._written:
            return
        try:
            _write(self._path / f"{self._name}.counts", data)
        except OSError as error:
            if not self._fails:
                logger.error("the numbers of this worker cannot be written: %s", error)
            self._fails = True
        else:
            self._written, self._fails = data, False

    async def counts(self) -> Counts:
        """See Source."""
        own = self._exposition.snapshot()
        self._write(own)
        if self._fails:
            raise OSError("the numbers of this worker cannot be written")
        total = Counts.zero()
        total.add(own)
        total.join(own)
        there = await self._ask()
        files = self._others()
        dead = _read(self._path / f"{_DEAD}.counts")  # after the others: see the head
        if dead is not None:
            total.add(dead.counts)
            for name in dead.names:
                files.pop(name, None)
        for name, file in files.items():
            total.add(file.counts)
            if name in there:
                total.join(file.counts)
        return total

    async def _ask(self) -> Set[str]:
        """Let the others write their files; the names of those that live."""
        names = [path.stem for path in self._path.glob("*.sock") if path.stem != self._name]
        asked = {asyncio.ensure_future(_ask(self._path / f"{name}.sock")): name for name in names}
        if not asked:
            return set()
        done, late = await asyncio.wait(asked, timeout=DEADLINE)
        for each in late:
            each.cancel()
        if late:
            await asyncio.wait(late)
        # Who is late is busy, and lives: its numbers are those that it has written last.
        return {asked[each] for each in late} | {asked[each] for each in done if each.result()}

    def _others(self) -> Dict[str, _File]:
        found: Dict[str, _File] = {}
        for path in self._path.glob("*.counts"):
            if path.stem not in (self._name, _DEAD):
                file = _read(path)
                if file is not None:
                    found[path.stem] = file
        return found


async def _ask(path: Path) -> bool:
    """Wait until a worker has written its file. False if it is dead."""
    try:
        reader, writer = await asyncio.open_unix_connection(str(path))
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    except OSError:
        return True  # its queue is full, say
    try:
        with contextlib.suppress(OSError):
            await reader.read()
    finally:
        writer.close()
    return True


def _read(path: Path) -> Optional[_File]:
    """The file of a worker, if there is one. Raises OSError if it cannot be read."""
    try:
        return _decode(path.read_bytes())
    except FileNotFoundError:
        return None  # it has gone meanwhile
    except msgspec.MsgspecError as error:
        logger.error("the numbers of a worker cannot be read: %s", error)
        return None


def _write(path: Path, data: bytes) -> None:
    """Write a file so that it is never seen in part. Raises OSError."""
    new = path.with_suffix(".new")
    new.write_bytes(data)
    os.replace(new, path)
