"""What goes wrong between a client and a server, on real sockets and our own server.

After each of these nothing is left: no stream, no task, no connection, no file descriptor.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, List, Optional, Tuple

import pytest

from omniforge_chat import Settings, Turn, create_app
from omniforge_chat.core.responder import Responder
from omniforge_chat.responders import placeholder
from omniforge_chat.server import Server
from omniforge_chat.stream.response import EventStream

from ..support.answers import last, refusal
from ..support.client import Client, assert_next_request_works, hesitant, request
from ..support.constants import PATIENCE
from ..support.logs import Records
from ..support.process import ServiceProcess, running
from ..support.responders import PacedResponder
from ..support.servers import WIRES, ServiceThread

HOWS = ["close", "reset"]
"""How a client ends its connection: with FIN, or with RST."""

CHUNK = "x" * 4096


class Stage:
    """A service whose responder each test replaces with its own."""

    def __init__(self, wire: Dict[str, Any], **limits: Any) -> None:
        self.responder: Responder = placeholder
        settings = Settings(**limits)
        self.app = create_app(self._respond, settings=settings)
        self.service = ServiceThread(self.app, settings, **wire)

    def _respond(self, turn: Turn) -> AsyncIterator[Any]:
        return self.responder(turn)

    def sending(self) -> bool:
        """Whether a `send` waits for its client, seen from another turn of the loop."""
        streams = [s for s in self.app._lifecycle._waiting if isinstance(s, EventStream)]
        return any(stream._state.sending for stream in streams)

    def is_open(self) -> bool:
        """Whether a request is being answered."""
        return self.app.open_streams > 0


class Endless:
    """A responder that always has a next chunk ready, and counts what it has said."""

    def __init__(self) -> None:
        self.characters = 0
        self.closed = threading.Event()

    async def __call__(self, turn: Turn) -> AsyncIterator[str]:
        self.closed.clear()
        try:
            while True:
                self.characters += len(CHUNK)
                yield CHUNK
        finally:
            self.closed.set()


@pytest.fixture(scope="module", params=WIRES)
def theatre(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(request.param)
    with stage.service:
        yield stage


@pytest.fixture
def stage(theatre: Stage) -> Iterator[Stage]:
    """A service that is at rest before and after the test."""
    theatre.responder = placeholder
    yield theatre
    theatre.service.rest()


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> Dict[str, Any]:
    options: Dict[str, Any] = request.param
    return options


# The client leaves


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("sent", ["nothing", "part of the head", "the head", "half the body"])
def test_a_client_may_leave_before_its_request_is_complete(
    stage: Stage, sent: str, how: str
) -> None:
    """There is nobody to answer, and a place that was taken is given back."""
    head, _, body = request({"message": "hi"}).partition(b"\r\n\r\n")
    parts = {
        "nothing": b"",
        "part of the head": head[:40],
        "the head": head + b"\r\n\r\n",
        "half the body": head + b"\r\n\r\n" + body[:8],
    }
    with Records() as records:
        client = stage.service.connect()
        client.send(parts[sent])
        if sent in ("the head", "half the body"):
            stage.service.until(stage.is_open)
        getattr(client, how)()
        stage.service.rest()
        assert records.all == []


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("tokens", [0, 2])
def test_a_client_may_leave_while_the_responder_waits(stage: Stage, tokens: int, how: str) -> None:
    """Before the first token as well as between two."""
    stage.responder = paced = PacedResponder()
    with Records() as records:
        client = stage.service.chat()
        reference = client.head()[1]["x-request-id"]
        for _ in range(tokens):
            paced.ask()
            client.frame()
        getattr(client, how)()
        assert paced.closed.wait(PATIENCE)
        assert records.chat(reference)["outcome"] == "disconnected"


@pytest.mark.parametrize("how", HOWS)
def test_a_client_may_leave_while_it_is_sent_to(stage: Stage, how: str) -> None:
    """A responder that never waits, and a server that waits for a client that does not read."""
    stage.responder = endless = Endless()
    client = stage.service.chat()
    client.head()
    stage.service.until(stage.sending)
    getattr(client, how)()
    assert endless.closed.wait(PATIENCE)


@pytest.mark.parametrize("how", HOWS)
def test_a_client_may_leave_while_its_reply_is_pouring_in(stage: Stage, how: str) -> None:
    """Nothing waits here, neither the responder nor the server."""
    stage.responder = endless = Endless()
    client = stage.service.chat()
    client.head()
    while endless.characters < 4_000_000:
        client.frame()
    getattr(client, how)()
    assert endless.closed.wait(PATIENCE)


@pytest.mark.parametrize("how", HOWS)
def test_a_client_may_leave_when_all_has_been_said(stage: Stage, how: str) -> None:
    """As most do."""
    client = stage.service.chat()
    client.head()
    assert last(client.frames())[0] == "done"
    getattr(client, how)()


@pytest.mark.parametrize("when", ["the body", "a token"])
def test_a_client_that_closes_its_half_has_left(stage: Stage, when: str) -> None:
    """uvicorn ends a connection at the end of what the client sends, and so does the reply."""
    stage.responder = paced = PacedResponder()
    paced.closed.set()
    client = stage.service.connect()
    body = request({"message": "hi"})
    client.send(body if when == "a token" else body[:-5])
    stage.service.until(stage.is_open)
    client.socket.shutdown(socket.SHUT_WR)
    client.wait_closed()
    assert paced.closed.wait(PATIENCE)
    client.close()


def test_a_client_that_closes_its_half_while_it_is_sent_to_gets_what_was_sent(stage: Stage) -> None:
    """The connection, and with it the reply, ends when the client has taken that, or is cut."""
    stage.responder = endless = Endless()
    client = stage.service.chat()
    client.head()
    stage.service.until(stage.sending)
    client.socket.shutdown(socket.SHUT_WR)
    client.wait_closed()
    assert endless.closed.wait(PATIENCE)
    client.close()


def test_a_pipelined_request_waits_for_the_first_and_leaves_with_it(stage: Stage) -> None:
    """It is neither taken for the client's leaving, nor begun for nobody."""
    calls: List[str] = []
    paced = PacedResponder()

    def respond(turn: Turn) -> AsyncIterator[str]:
        calls.append(turn.message)
        return paced(turn)

    stage.responder = respond
    client = stage.service.connect()
    client.post({"message": "first"})
    client.post({"message": "second"})
    client.post({"message": "third"})
    client.head()
    paced.ask()
    assert client.frame().event == "chunk"
    paced.finish()
    assert last(client.frames())[0] == "done"
    client.head()
    paced.ask()
    assert client.frame().event == "chunk"
    assert calls == ["first", "second"]
    client.close()
    assert paced.closed.wait(PATIENCE)
    stage.service.rest()
    assert calls == ["first", "second"]


@pytest.mark.parametrize("how", HOWS)
def test_a_client_that_leaves_after_its_next_request_is_noticed(
    wire: Dict[str, Any], how: str
) -> None:
    """Not only when something is sent to it, which without heartbeats may be never."""
    stage = Stage(wire, heartbeat_interval=None)
    stage.responder = paced = PacedResponder()
    with stage.service as service:
        client = service.chat()
        client.head()
        paced.ask()
        assert client.frame().event == "chunk"
        client.ask("/health")
        getattr(client, how)()
        assert paced.closed.wait(PATIENCE)
        service.rest()


def test_no_more_is_read_ahead_than_a_few_requests(wire: Dict[str, Any]) -> None:
    """They lie in memory for as long as the first one is answered."""
    stage = Stage(wire, heartbeat_interval=None)
    stage.responder = paced = PacedResponder()
    with stage.service as service, service.chat() as client:
        client.head()
        paced.ask()
        assert client.frame().event == "chunk"
        client.socket.settimeout(0.5)
        with pytest.raises(socket.timeout):  # the kernel's buffers are full, the server's are not
            client.send(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n" * 500_000)
        client.reset()
        paced.ask()  # who does not read learns of the reset when it writes


@pytest.mark.parametrize("sent", ["nothing", "part of a head", "a request and part of a head"])
def test_a_head_that_does_not_come_is_not_waited_for(wire: Dict[str, Any], sent: str) -> None:
    """Connections that ask for nothing would take all descriptors, and no limit counts them."""
    stage = Stage(wire, body_timeout=0.2)
    with stage.service as service, service.connect() as client:
        if sent.startswith("a request"):
            assert_next_request_works(client)
        if sent != "nothing":
            client.send(b"POST /api/v1/chat HTTP/1.1\r\nHost")
        client.wait_closed()


def test_a_thousand_clients_that_vanish_leave_nothing_behind(stage: Stage) -> None:
    """Port scanners, health checks, and phones in a tunnel."""
    dice = random.Random(1)
    stage.responder = PacedResponder()
    whole = request({"message": "hi"})
    for _ in range(10):
        clients = [stage.service.connect() for _ in range(100)]
        for client in clients:
            client.send(whole[: dice.randrange(len(whole) + 1)])
        dice.shuffle(clients)
        for client in clients:
            getattr(client, dice.choice(HOWS))()
    stage.service.rest()
    stage.responder = placeholder
    with stage.service.connect() as client:
        assert_next_request_works(client)


# The client does not read


def test_a_slow_client_slows_its_responder_and_misses_nothing(stage: Stage) -> None:
    """Backpressure: what lies between the two stays bounded, however much there is to say."""
    total = 32_000_000
    said = 0

    async def long(turn: Turn) -> AsyncIterator[str]:
        nonlocal said
        while said < total:
            said += len(CHUNK)
            yield CHUNK

    stage.responder = long
    with hesitant(stage.service.port) as client:
        client.post({"message": "hi"})
        client.head()
        stage.service.until(stage.sending)
        # Byte by byte: far less than makes room for another write.
        held = said
        assert held < total / 3
        for _ in range(100):
            assert client.socket.recv(1)
            assert stage.service.call(stage.sending)
        assert said == held
        # Then it reads on.
        end = b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            end = (end + client.socket.recv(1 << 20))[-1000:]
        assert b"event: done\n" in end
        assert said >= total


def test_clients_that_never_read_are_cut_and_their_memory_returns(wire: Dict[str, Any]) -> None:
    """Ten of them would hold what a hundred others need."""
    stage = Stage(wire, send_timeout=0.3)
    stage.responder = Endless()
    with stage.service, Records() as records:
        clients = []
        for _ in range(10):
            clients.append(hesitant(stage.service.port))
            clients[-1].post({"message": "hi"})
        stage.service.until(lambda: len(records.all) == len(clients))
        # Where the streams are slow to fill their buffers, the kernel's limit is the quicker one.
        outcomes = {vars(record)["chat"]["outcome"] for record in records.all}
        assert outcomes <= {"stalled", "disconnected"}
        stage.service.until(lambda: stage.service.connections == 0)
        for client in clients:  # to them it looks open until they have read what was sent before
            client.close()
        stage.service.rest()
        gc.collect()
        streams = [found for found in gc.get_objects() if isinstance(found, EventStream)]
        assert not [stream for stream in streams if stream._lifecycle is stage.app._lifecycle]
        assert records.troubles == []


def test_a_client_that_takes_nothing_is_no_burden_to_the_others(stage: Stage) -> None:
    """Its own stream waits, and no other."""
    stage.responder = Endless()
    with hesitant(stage.service.port) as stuck:
        stuck.post({"message": "hi"})
        stage.service.until(stage.sending)
        stage.responder = placeholder
        with stage.service.connect() as client:
            for _ in range(20):
                assert_next_request_works(client)


# The end of the server


def test_sigterm_lets_open_streams_finish_and_refuses_new_ones(wire: Dict[str, Any]) -> None:
    """An orchestrator sees that it drains, a client is told to go elsewhere, a reply is whole."""
    stage = Stage(wire)
    stage.responder = paced = PacedResponder()
    with stage.service as service, service.connect() as other:
        client = service.chat()
        client.head()
        paced.ask()
        assert client.frame().event == "chunk"
        service.terminate()
        service.until(lambda: stage.app._lifecycle.draining)
        other.ask("/ready")
        status, _, body = other.json()
        assert (status, body) == (503, {"status": "draining"})
        for connection in (other, service.connect()):
            connection.post({"message": "hi"})
            status, headers, body = connection.json()
            assert refusal(status, headers, body)[:2] == (503, "shutting_down")
            assert int(headers["retry-after"]) >= 1
            connection.close()
        paced.ask()
        assert client.frame().event == "chunk"
        paced.finish()
        assert last(client.frames())[0] == "done"
        client.close()
        service.join()


def test_a_body_that_is_still_coming_when_the_drain_ends_is_refused(wire: Dict[str, Any]) -> None:
    """A client that sends slowly does not hold the process up."""
    stage = Stage(wire, drain_timeout=0.1)
    with stage.service as service, service.connect() as client:
        client.send(request({"message": "hi"})[:-5])
        service.until(stage.is_open)
        service.terminate()
        assert refusal(*client.json())[:2] == (503, "shutting_down")
        service.join()


def test_a_drain_cuts_a_client_that_does_not_read(wire: Dict[str, Any]) -> None:
    """It has `cleanup_timeout` to take its last frame, and then the process ends without it."""
    stage = Stage(wire, drain_timeout=0.0, cleanup_timeout=0.2)
    stage.responder = endless = Endless()
    with stage.service as service, hesitant(service.port) as client:
        client.post({"message": "hi"})
        service.until(stage.sending)
        service.terminate()
        assert endless.closed.wait(PATIENCE)
        service.join()


RESPONDERS = '''
import asyncio, atexit, logging, os, sys, time

async def waiting(turn):
    """Say which process this is, and wait."""
    yield str(os.getpid())
    if turn.message != "go":
        await asyncio.Event().wait()

class Replaced:
    """The installed packages are gone: only Python's own modules can still be imported."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

async def redeployed(turn):
    """Wait, while a deploy replaces the installed packages."""
    yield "begun"
    sys.meta_path.insert(0, Replaced())
    await asyncio.Event().wait()

async def deaf(turn):
    """Refuse to end."""
    yield "begun"
    while True:
        try:
            await asyncio.Event().wait()
        except BaseException:
            continue

def note_exit():
    atexit.register(lambda: print("at exit", file=sys.stderr))

async def threaded(turn):
    """Wait for a thread that nobody can end."""
    note_exit()
    yield "begun"
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)

async def blocked(turn):
    """Block the event loop."""
    note_exit()
    yield "begun"
    await asyncio.sleep(0.01)
    logging.error("blocked")
    while True:
        time.sleep(0.01)

async def until_told(turn):
    """Say which process this is, and end when there is a file of the name `go`."""
    yield str(os.getpid())
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
'''


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A current directory with the responders of a service in it."""
    (tmp_path / "faults.py").write_text(RESPONDERS)
    return tmp_path


def _open(service: ServiceProcess, count: int) -> List[Tuple[Client, str]]:
    """So many streams, each with the first word that it said."""
    clients = [service.connect() for _ in range(count)]
    for client in clients:
        client.post({"message": "hi"})
    opened = []
    for client in clients:
        assert client.head()[0] == 200
        opened.append((client, json.loads(client.frame().data)["content"]))
    return opened


def _shut_down(client: Client) -> None:
    """The stream ends as a drain ends it, and the connection after it."""
    event, data = last(client.frames())
    assert (event, data["code"]) == ("error", "shutting_down")
    assert data["usage"]["tokens"] >= 1
    client.wait_closed()
    client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel tells what was not taken")
def test_a_client_that_reads_slowly_is_not_cut() -> None:
    """It takes what a `send` brought only after several times the limit, but it takes something."""
    stage = Stage({}, send_timeout=1.5)
    stage.responder = endless = Endless()
    with stage.service as service, service.chat() as client:
        client.head()
        service.until(stage.sending)
        said = endless.characters
        ends = time.monotonic() + 4.0
        while time.monotonic() < ends:  # some 200,000 bytes a second, of several millions
            assert client.socket.recv(10_000)
            time.sleep(0.05)
        assert not endless.closed.is_set()
        assert endless.characters < said + 2**20  # they are not kept for it, either
        assert endless.closed.wait(PATIENCE)  # as soon as it reads no more


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.parametrize("line", [b"a" * 2**20, b"a: b\r\n" * 2**18], ids=["one", "many"])
def test_a_head_that_never_ends_costs_little(directory: Path, line: bytes) -> None:
    """Before there was a limit, one connection took gigabytes."""
    with running(directory) as service, service.connect() as client:
        assert service.reply()
        before = service.resident("VmHWM")
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nA: ")
        for _ in range(80):
            client.send(line)
        assert refusal(*client.json())[:2] == (431, "headers_too_large")
        grown = service.resident("VmHWM") - before
        print(f"{grown:.1f} MiB for {80 * len(line) / 2**20:.0f} MiB of a head")
        assert grown < 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_thread_that_goes_on_does_not_keep_the_process_from_a_second_signal(
    directory: Path, number: int
) -> None:
    """Python waits for it at the end, and somebody waits for Python."""
    options = {"CHAT_RESPONDER": "faults:threaded", "CHAT_DRAIN_TIMEOUT": "0"}
    with running(directory, CHAT_CLEANUP_TIMEOUT="0.2", **options) as service:
        ((client, _),) = _open(service, 1)
        service.process.send_signal(signal.SIGTERM)
        _shut_down(client)
        service.wait_for("Finished server process")
        assert service.end(number) == 0


@pytest.mark.parametrize("responder", ["threaded", "blocked"])
def test_one_signal_ends_a_process_in_time_whatever_runs_in_it(
    directory: Path, responder: str
) -> None:
    """Nobody can end a thread, and most that stop a process ask only once."""
    options = {"CHAT_RESPONDER": f"faults:{responder}", "CHAT_DRAIN_TIMEOUT": "0"}
    with running(directory, CHAT_CLEANUP_TIMEOUT="0.1", **options) as service:
        ((client, _),) = _open(service, 1)
        if responder == "blocked":
            service.wait_for("blocked")
        service.process.send_signal(signal.SIGTERM)
        if responder == "blocked":
            client.close()
        else:
            _shut_down(client)
        service.wait_for("ERROR .*did not end in time; its threads are MainThread")
        assert service.status() == 0
        assert "at exit" in service.log  # written past the thread of the log


def test_sigterm_under_300_open_streams_ends_each_with_its_last_frame(directory: Path) -> None:
    """None is cut, and the process ends as a success."""
    with running(directory, CHAT_RESPONDER="faults:waiting", CHAT_DRAIN_TIMEOUT="0.2") as service:
        opened = _open(service, 300)
        service.process.send_signal(signal.SIGTERM)
        for _ in opened:
            service.wait_for("outcome=shutting_down")
        for client, _ in opened:
            _shut_down(client)
        assert service.status() == 0
        assert not [line for line in service.log if " ERROR " in line or "Traceback" in line]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain_now_and_loses_no_last_frame(
    directory: Path, number: int, workers: int
) -> None:
    """Whoever presses Ctrl-C twice means it; the clients still learn of it.

    The parent of workers passes on each stop that it hears of.
    """
    options = {"CHAT_RESPONDER": "faults:waiting", "CHAT_DRAIN_TIMEOUT": "600"}
    with running(directory, "--workers", str(workers), **options) as service:
        for _ in range(workers):
            service.wait_for("Started server process")
        opened = _open(service, 50)
        service.process.send_signal(number)
        open_streams = [
            int(service.wait_for(r"draining: (\d+) streams are open")[1]) for _ in range(workers)
        ]
        assert sum(open_streams) == 50
        service.process.send_signal(number)
        for client, _ in opened:
            _shut_down(client)
        assert service.status() == 0


def test_workers_end_and_die_one_at_a_time(directory: Path) -> None:
    """SIGTERM drains the one, SIGKILL cuts its streams only, and both are replaced."""
    options = {"CHAT_RESPONDER": "faults:waiting", "CHAT_DRAIN_TIMEOUT": "0.2"}
    with running(directory, "--workers", "2", **options) as service:
        workers = {service.wait_for(r"Started server process \[(\d+)\]")[1] for _ in range(2)}
        opened: List[Tuple[Client, str]] = []
        while {worker for _, worker in opened} != workers:
            opened += _open(service, 20)
        assert str(service.process.pid) not in workers
        first, second = sorted(workers)

        os.kill(int(first), signal.SIGTERM)
        for client in [client for client, worker in opened if worker == first]:
            _shut_down(client)
        third = service.wait_for(r"Started server process \[(\d+)\]")[1]
        assert not any(f"worker {second} ended" in line for line in service.log)

        os.kill(int(second), signal.SIGKILL)
        for client in [client for client, worker in opened if worker == second]:
            with pytest.raises((EOFError, ConnectionResetError)):
                client.piece()  # no last frame: a client takes that for a cut
            client.close()
        service.wait_for(rf"ERROR .*worker {second} ended with status -9")
        fourth = service.wait_for(r"Started server process \[(\d+)\]")[1]

        opened = []
        while {worker for _, worker in opened} != {third, fourth}:
            opened += _open(service, 20)
        service.process.send_signal(signal.SIGTERM)
        for client, _ in opened:
            _shut_down(client)
        assert service.status() == 0


def test_a_signal_to_all_processes_of_a_service_is_one_stop(directory: Path) -> None:
    """systemd tells each of them, and so the workers hear of it from their parent once more."""
    options = {"CHAT_RESPONDER": "faults:until_told", "CHAT_DRAIN_TIMEOUT": "600"}
    with running(directory, "--workers", "2", **options) as service:
        workers = {service.wait_for(r"Started server process \[(\d+)\]")[1] for _ in range(2)}
        opened: List[Tuple[Client, str]] = []
        while {worker for _, worker in opened} != workers:
            opened += _open(service, 10)
        for process in [*map(int, workers), service.process.pid]:
            os.kill(process, signal.SIGTERM)
        for _ in workers:
            service.wait_for("draining: ")
        (directory / "go").touch()
        for client, _ in opened:
            assert last(client.frames())[0] == "done"
            client.close()
        assert service.status() == 0
        assert not [line for line in service.log if "(now)" in line]


@pytest.mark.parametrize("wire", WIRES[:1])
def test_each_side_that_asks_for_a_stop_may_hurry_it_itself(wire: Dict[str, Any]) -> None:
    """The first word of the second side is the same stop; its second is another."""
    settings = Settings(drain_timeout=600)
    paced = PacedResponder()
    with ServiceThread(create_app(paced, settings=settings), settings, **wire) as service:
        with service.chat() as client:
            client.head()
            server = service._server
            assert isinstance(server, Server)
            for source in ("signal", "parent"):
                server.stop(source)
                service.until(lambda: len(server._drains) == 1)
            paced.ask()
            assert client.frame().event == "chunk"
            server.stop("parent")
            assert last([client.frame()])[1]["code"] == "shutting_down"
        service.join()


@pytest.mark.skipif(sys.version_info < (3, 10), reason="needs sys.stdlib_module_names")
def test_a_deploy_may_replace_the_packages_before_it_stops_the_service(directory: Path) -> None:
    """The drain imports nothing, so each client is still told."""
    options = {"CHAT_RESPONDER": "faults:redeployed", "CHAT_DRAIN_TIMEOUT": "0"}
    with running(directory, **options) as service:
        ((client, _),) = _open(service, 1)
        service.process.send_signal(signal.SIGTERM)
        _shut_down(client)
        assert service.status() == 0
        assert not [line for line in service.log if " ERROR " in line or "Traceback" in line]


def test_a_drain_that_fails_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The service stops all the same, and the log has the reason."""
    settings = Settings(drain_timeout=600)
    app = create_app(settings=settings)

    async def drain(seconds: Optional[float] = None) -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr(app, "drain", drain)
    with ServiceThread(app, settings) as service:
        service.terminate()
        service.join()
    (failed,) = [record for record in caplog.records if record.message == "the drain failed"]
    assert failed.exc_info is not None


@pytest.mark.parametrize("cause", ["leave", "drain"])
def test_a_responder_that_refuses_to_end_does_not_keep_the_process(
    directory: Path, cause: str
) -> None:
    """It is given up, and what is left of it ends with the process."""
    options = {"CHAT_RESPONDER": "faults:deaf", "CHAT_CLEANUP_TIMEOUT": "0.1"}
    with running(directory, **options, CHAT_DRAIN_TIMEOUT="0") as service:
        [(client, _)] = _open(service, 1)
        if cause == "leave":
            client.close()
        else:
            service.process.send_signal(signal.SIGTERM)
            _shut_down(client)
        service.wait_for("ERROR .*responder did not end within 0.1 s of its cancellation")
        service.wait_for("ERROR .*responder given up")
        assert (service.end() if cause == "leave" else service.status()) == 0
