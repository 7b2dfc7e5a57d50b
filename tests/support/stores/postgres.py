"""PostgreSQL."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import Any, Dict, Iterator, List

import psycopg

from ..missing import missing
from .server import Server

USER = "postgres"
PASSWORD = "pass-of-the-tests"


def program(name: str) -> str:
    """The path of one of its programs. Without it the test is skipped, and in CI it fails."""
    # Debian puts them where no path leads, a directory for each version.
    places = [os.environ.get("PATH", ""), *sorted(glob.glob("/usr/lib/postgresql/*/bin"))]
    found = shutil.which(name, path=os.pathsep.join(places))
    return found or missing(f"{name} of PostgreSQL", "as root, .ci/programs installs it")


class PostgresServer(Server):
    """A PostgreSQL with a cluster of its own, whose only user has a password.

    What it has committed is there after a SIGKILL. It would not be after a loss of power, as no
    test can bring that about, and fsync takes time.
    """

    end = signal.SIGINT  # after SIGTERM it waits until the last client leaves
    last = signal.SIGQUIT  # after SIGKILL some shared memory of the system would stay

    def __init__(self, *arguments: str) -> None:
        super().__init__()
        self._arguments = arguments
        self._numbers = count(1)
        self._database = "postgres"

    def _identity(self) -> Dict[str, Any]:
        # It refuses to run as root.
        if os.geteuid() != 0:
            return {}
        names = {entry.pw_name for entry in pwd.getpwall()}
        nobody = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _make(self) -> None:
        """The cluster."""
        password = self.directory / "password"
        password.write_text(PASSWORD)
        identity = self._identity()
        if identity:
            for path in (self.directory, password):
                os.chown(path, identity["user"], identity["group"])
        options = ["--no-sync", "--no-locale", "--encoding", "UTF8", "--auth", "password"]
        done = subprocess.run(
            [program("initdb"), *options, "-U", USER, "--pwfile", password, "-D", self._data],
            cwd=self.directory,
            capture_output=True,
            text=True,
            **identity,
        )
        assert done.returncode == 0, done.stderr

    def _command(self) -> List[str]:
        settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.directory}",
            "fsync=off",
            "shared_buffers=16MB",
            "dynamic_shared_memory_type=mmap",  # which leaves nothing behind after a SIGKILL
        ]
        options = [part for setting in settings for part in ("-c", setting)]
        return [program("postgres"), "-D", str(self._data), *options, *self._arguments]

    def _spawn(self) -> None:
        if not self._data.exists():
            self._make()
        super()._spawn()

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url_of("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True

    def _is_held_up(self) -> bool:
        # After a SIGKILL, processes of the one before need a moment to see that it is gone.
        return "is still in use" in self.log

    def _processes(self) -> List[int]:
        # Each connection has a process.
        if sys.platform != "linux":
            return [self.pid]
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [self.pid, *map(int, children.split())]

    def kill(self) -> None:
        for pid in self._processes()[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().kill()

    def url_of(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    @property
    def url(self) -> str:
        """That of the database that it is used for now."""
        return self.url_of(self._database)

    def execute(self, statement: str) -> List[Any]:
        """The rows of a statement, which is a transaction by itself, in that database."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def database(self) -> Iterator[None]:
        """A new database, which it is used for meanwhile; at the end all is as before."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        self._database = name
        try:
            yield
        finally:
            self.heal()
            self._database = "postgres"
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")
