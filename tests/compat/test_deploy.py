"""The deployment of docs/deploy: its processes, as compose.yaml has them, though in no containers.

Redis gets the arguments that stand there, the workers their variables, and nginx its nginx.conf.
Only names and ports of the network are those of this machine.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple

import pytest
from ruamel.yaml import YAML

from omniforge_chat.core.sse import Frame

from ..support.answers import last, text
from ..support.client import Client
from ..support.constants import CONVERSATION, PATIENCE
from ..support.missing import missing
from ..support.process import ServiceProcess, running
from ..support.stores import PostgresServer, RedisServer
from ..support.stores.redis import program
from .driving import free_port
from .fronts import DEPLOY, FRONTS, WORKERS
from .table import executable

PASSWORD = "sesame"

RESPONDER = """
import asyncio, os, pathlib

async def respond(turn):
    yield f"{os.environ['NAME']} knows {len(turn.history)} and "
    while turn.message == "wait" and not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    yield "has ended"
"""


def compose() -> Dict[str, Any]:
    """The services, each with its password in place of a variable."""
    source = (DEPLOY / "compose.yaml").read_text("utf-8")
    source = re.sub(r"\$\{\w+_PASSWORD:\?\}", PASSWORD, source)
    services: Dict[str, Any] = YAML(typ="safe").load(source)["services"]
    return services


class Deployment(NamedTuple):
    """What runs: the workers by their names, and the port of nginx."""

    workers: Dict[str, ServiceProcess]
    port: int
    redis: RedisServer

    def ask(self, path: str = "", **headers: str) -> Client:
        """A connection on which a stream begins, from whichever worker is ready for it."""
        deadline = time.monotonic() + PATIENCE
        while True:
            client = Client(self.port)
            if path:
                client.ask(path, headers=headers)
            else:
                client.post({"message": headers["message"], "conversation_id": CONVERSATION})
            status, answered = client.head()
            if status == 200:
                return client
            # A worker is draining, or has died with the conversation.
            with client:
                assert status in (409, 503), client.content(answered)
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def begin(self) -> List[Frame]:
        """The first frame of a reply that waits; its connection is cut when that is stored."""
        with self.ask(message="wait") as client:
            first = client.frame()
            while not any(first.id[:22] in key for key in self.redis.client.scan_iter()):
                time.sleep(0.01)
        return [first]

    def rest(self, before: List[Frame]) -> List[Frame]:
        """The frames of the rest, after those."""
        reply_id = before[-1].id.partition(".")[0]
        path = f"/api/v1/chat/replies/{reply_id}"
        with self.ask(path, **{"Last-Event-ID": before[-1].id}) as client:
            return client.frames()


@pytest.fixture
def deployment(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[Deployment]:
    services = compose()
    always = {name for name, service in services.items() if "profiles" not in service}
    assert always == {*WORKERS, "nginx", "redis", "postgres"}
    (tmp_path / "slow.py").write_text(RESPONDER)
    name, *arguments = services["redis"]["command"]
    at = arguments.index("--requirepass")
    assert (name, arguments[at + 1]) == ("redis-server", PASSWORD)
    del arguments[at : at + 2]
    with contextlib.ExitStack() as stack:
        redis = RedisServer(program("redis"), *arguments, password=PASSWORD)
        stack.enter_context(redis)
        workers = {}
        for worker in WORKERS:
            variables = dict(services[worker]["environment"])
            assert variables["REDIS_URL"] == f"redis://:{PASSWORD}@redis:6379/0"
            assert variables["CHAT_HISTORY"] == f"postgresql://chat:{PASSWORD}@postgres:5432/chat"
            variables.update(REDIS_URL=redis.url, CHAT_HISTORY=postgres_server.url)
            variables.update(CHAT_RESPONDER="slow:respond", NAME=worker)
            variables.update(CHAT_METRICS=f"127.0.0.1:{free_port()}")
            workers[worker] = stack.enter_context(running(tmp_path, **variables))
        ports = [worker.port for worker in workers.values()]
        yield Deployment(workers, stack.enter_context(FRONTS[0].running(tmp_path, *ports)), redis)


def producer(frames: List[Frame]) -> str:
    """The worker that has produced a reply."""
    return text(frames).split()[0]


def other_than(worker: str) -> str:
    [other] = set(WORKERS) - {worker}
    return other


def test_a_reply_and_its_conversation_survive_the_stop_of_their_worker(
    deployment: Deployment, tmp_path: Path
) -> None:
    """That is a rolling deploy, for somebody on a train."""
    first = deployment.begin()
    worker = producer(first)
    deployment.workers[worker].process.send_signal(signal.SIGTERM)
    deployment.workers[worker].wait_for("draining: 1 stream")
    (tmp_path / "go").touch()
    whole = [*first, *deployment.rest(first)]
    assert text(whole) == f"{worker} knows 0 and has ended"
    assert last(whole)[0] == "done"
    assert deployment.workers[worker].status() == 0
    with deployment.ask(message="hi") as client:
        frames = client.frames()
    assert text(frames) == f"{other_than(worker)} knows 2 and has ended"


def test_a_conversation_survives_a_worker_that_is_killed(deployment: Deployment) -> None:
    """Its machine is lost, and the reply with it, but nothing of what was said."""
    first = deployment.begin()
    worker = producer(first)
    deployment.workers[worker].kill()
    rest = deployment.rest(first)
    assert (rest[-1].event, last(rest)[1]["code"]) == ("error", "worker_lost")
    with deployment.ask(message="hi") as client:  # as soon as the conversation is free
        frames = client.frames()
    assert text(frames) == f"{other_than(worker)} knows 1 and has ended"


def test_prometheus_takes_its_configuration() -> None:
    """It would not start with a field that it does not know."""
    promtool = executable("promtool") or missing("promtool")
    done = subprocess.run([promtool, "check", "config", DEPLOY / "prometheus.yml"])
    assert done.returncode == 0
