"""The same app under other servers: what a client sees of it, and what reaches its responder.

(uvicorn is tested in test_chat_endpoint and test_faults, with each parser and event loop.)
All of these send the headers before the first token and each token as it comes, tell of a client
that leaves, and hold the app up when a client does not read. What differs:

uvicorn (our `serve`)
    Nothing is left to the host: SIGTERM drains, and a client that does not read is cut.
uvicorn (on its own)
    It knows no drain: SIGTERM waits for open streams as long as `--timeout-graceful-shutdown`
    allows, then cancels them; the host calls `ChatApp.drain`. A stalled client's stream ends, but
    its connection stays until the client has read what was sent or goes. With httptools it tells
    only the last request of a pipelined row that the client has left.
hypercorn
    The drain goes into `shutdown_trigger`, which hypercorn awaits: SIGTERM, `await app.drain()`,
    return. Afterwards it gives connections `graceful_timeout` (3 s). A stalled client's connection
    stays, as under uvicorn. Over HTTP/2 each stream of a connection is paced and reset by itself;
    but what a client does not read of one is kept in memory and never holds the responder up, so
    `send_timeout` does not end it (a total_timeout does).
granian
    Only embedded (`granian.server.embed`) can a host drain first: on SIGTERM it awaits
    `app.drain()` and then calls `server.stop()`. The command line waits on SIGTERM until the open
    streams have ended by themselves, or `--workers-kill-timeout` kills them without a last frame.
    Its stop waits for stalled connections too, with no limit but that one, and the process may
    then abort (SIGABRT, seen with 2.8) when all is done: embedding is experimental. It has to run
    with its default `--task-impl asyncio`: tasks of the other kind cannot be cancelled. Version
    2.5, the last for Python 3.9, never holds the app up: a client that does not read is not cut.

A client that closes its sending half has left, to each of these servers.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set, Tuple

import pytest
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded

from omniforge_chat.core.sse import Decoder, Frame

from ..support.answers import last, refusal, text
from ..support.client import Client, request
from ..support.constants import PATIENCE
from ..support.process import ServiceProcess, running

SERVE = '''
import asyncio, json, logging.config, os, signal, socket, sys

from omniforge_chat import Settings, create_app
from omniforge_chat.logs import log_config
from omniforge_chat.server import listen

said, gates, closings = {}, {}, {}


def words(name):
    return gates.setdefault(name, asyncio.Queue())


def closing(name):
    return closings.setdefault(name, asyncio.Event())


async def respond(turn):
    """Do what the first word of the message says, in the name of the second."""
    verb, name, *word = turn.message.split(" ")
    if verb == "tell":  # a word, to the stream of this name
        words(name).put_nowait(word[0])
        yield "told"
    elif verb == "closed":  # when that stream is: how many words it has been about to say
        await closing(name).wait()
        yield str(said[name])
    elif verb == "fail":
        yield "half"
        raise RuntimeError("the cause")
    else:
        said[name] = 0
        try:
            while True:
                said[name] += 1
                if verb == "endless":
                    yield "x" * 4096
                elif verb == "moment":
                    yield "one"
                    await asyncio.sleep(0.5)
                    return
                else:
                    yield await words(name).get()
                    if verb == "once":
                        return
        finally:
            closing(name).set()


settings = Settings(
    max_streams=8,
    send_timeout=1.0,
    cleanup_timeout=0.5,
    drain_timeout=float(os.environ["DRAIN"]),
    replay=os.environ.get("REPLAY", "off"),
)
app = create_app(respond, settings=settings)
listener = listen("127.0.0.1", 0)
port = listener.getsockname()[1]


def ready():
    print(f"{sys.argv[1]} on http://127.0.0.1:{port}", file=sys.stderr, flush=True)


def on_sigterm(act):
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, act)


async def hypercorn():
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    told = asyncio.Event()

    async def trigger():
        await told.wait()
        await app.drain()

    on_sigterm(told.set)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.graceful_timeout = 0.5
    ready()
    await serve(app, config, shutdown_trigger=trigger)


async def granian():
    from granian.constants import Interfaces
    from granian.server.embed import Server

    async def drain():
        await app.drain()
        server.stop()

    async def tell():
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return ready()

    on_sigterm(lambda: tasks.append(asyncio.ensure_future(drain())))
    listener.close()
    server = Server(app, address="127.0.0.1", port=port, interface=Interfaces.ASGI)
    tasks = [asyncio.ensure_future(tell())]
    await server.serve()


logging.config.dictConfig(log_config("INFO", "text"))
asyncio.run(globals()[sys.argv[1]]())
print("the server has ended", file=sys.stderr)
'''


def _server(*arguments: str, needs: Tuple[str, ...]) -> Any:
    missing = [name for name in needs if importlib.util.find_spec(name) is None]
    if "granian" in needs and sys.version_info < (3, 10):
        missing = ["granian newer than 2.5"]
    marks = [pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)} here")]
    return pytest.param(list(arguments), id="-".join(arguments), marks=marks)


HYPERCORN = _server("hypercorn", needs=("hypercorn",))
GRANIAN = _server("granian", needs=("granian",))
SERVERS = [HYPERCORN, GRANIAN]


def _start(directory: Path, arguments: List[str], drain: str = "0.3", **variables: str) -> Any:
    (directory / "serve.py").write_text(SERVE)
    command = [sys.executable, "serve.py", *arguments]
    return running(directory, command=command, DRAIN=drain, **variables)


@pytest.fixture(scope="module", params=SERVERS)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    with _start(tmp_path_factory.mktemp("servers"), request.param) as service:
        yield service


_names = (f"stream-{number}" for number in range(10**6))


@pytest.fixture
def name() -> str:
    """The name of a stream, which no other test uses."""
    return next(_names)


def _tell(service: ServiceProcess, name: str, word: str) -> None:
    assert service.reply(f"tell {name} {word}") == "told"


def _closed(service: ServiceProcess, name: str) -> int:
    """Wait until the responder of this stream is closed: how often it has yielded."""
    return int(service.reply(f"closed {name}"))


def _say(service: ServiceProcess, name: str, verb: str = "say", **options: int) -> Client:
    client = Client(service.port, **options)
    client.post({"message": f"{verb} {name}"}, headers={"X-Request-ID": name})
    return client


def _content(frame: Frame) -> str:
    assert frame.event == "chunk"
    content: str = json.loads(frame.data)["content"]
    return content


# The stream


def test_headers_come_before_the_first_token_and_each_token_as_it_is_said(
    service: ServiceProcess, name: str
) -> None:
    """A stream that a server gathers first is none."""
    with _say(service, name, "once") as client:
        status, headers = client.head()
        assert status == 200
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["x-request-id"] == name
        assert headers.get("connection") in (None, "keep-alive")
        _tell(service, name, "one")
        frames = client.frames()
        assert text(frames) == "one"
        assert last(frames)[0] == "done"
        client.ask("/health")
        assert client.json()[0] == 200  # on the same connection


def test_tokens_come_one_by_one(service: ServiceProcess, name: str) -> None:
    """Each is there before the next exists."""
    with _say(service, name) as client:
        assert client.head()[0] == 200
        for word in ("one", "two", "three"):
            _tell(service, name, word)
            assert _content(client.frame()) == word


def test_a_reply_that_fails_ends_with_the_error(service: ServiceProcess, name: str) -> None:
    """The last frame is the last thing sent, and the connection goes on."""
    with _say(service, name, "fail") as client:
        client.head()
        frames = client.frames()
        assert text(frames) == "half"
        event, data = last(frames)
        assert (event, data["code"]) == ("error", "processing_error")
        assert name in data["message"]


def test_the_log_tells_how_it_ended(service: ServiceProcess, name: str) -> None:
    """A server that speaks of a disconnect when all is sent does not change that."""
    with _say(service, name, "once") as client:
        client.head()
        _tell(service, name, "one")
        client.frames()
    service.wait_for(f"request_id={name} .*outcome=done")


# Errors


@pytest.mark.parametrize(
    ("body", "headers", "path", "status"),
    [
        (b"{", {}, "/api/v1/chat", 400),
        (b"", {}, "/nowhere", 404),
        (b"", {}, "/health", 405),
        (b"{}", {"Content-Type": "text/plain"}, "/api/v1/chat", 415),
        (b"{}", {}, "/api/v1/chat", 422),
        (b" " * 200_000, {}, "/api/v1/chat", 413),
    ],
)
def test_errors_have_the_one_shape(
    service: ServiceProcess, body: bytes, headers: Dict[str, str], path: str, status: int
) -> None:
    """No server adds an error of its own."""
    with service.connect() as client:
        client.post(body, headers=headers, path=path)
        assert refusal(*client.json())[0] == status


def test_where_every_place_is_taken_the_next_is_refused(service: ServiceProcess, name: str) -> None:
    """And a place that its client leaves is free again."""
    clients = [_say(service, f"{name}-{number}") for number in range(8)]
    for client in clients:
        assert client.head()[0] == 200
    with service.connect() as other:
        head = request({"message": "closed x"}).partition(b"\r\n\r\n")[0]
        other.send(head + b"\r\n\r\n")  # the body is not waited for
        status, headers, body = other.json()
        assert refusal(status, headers, body)[:2] == (503, "overloaded")
        assert int(headers["retry-after"]) >= 1
    for client in clients:
        client.close()
    for _ in clients:
        service.wait_for(f"request_id={name}-.* outcome=disconnected")
    assert _closed(service, f"{name}-0") == 1


# The client leaves, or does not read


@pytest.mark.parametrize("how", ["close", "reset", "half close"])
@pytest.mark.parametrize("tokens", [0, 2])
def test_a_client_that_leaves_ends_its_responder(
    service: ServiceProcess, name: str, tokens: int, how: str
) -> None:
    """Nobody pays for tokens that nobody reads."""
    client = _say(service, name)
    client.head()
    for _ in range(tokens):
        _tell(service, name, "word")
        client.frame()
    if how == "half close":
        client.socket.shutdown(socket.SHUT_WR)
    else:
        getattr(client, how)()
    assert _closed(service, name) == tokens + 1
    client.close()


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_leaves_while_it_is_sent_to_ends_its_responder(
    service: ServiceProcess, name: str, how: str
) -> None:
    """Whether the server takes what is sent, or holds it up."""
    client = _say(service, name, "endless")
    client.head()
    for _ in range(100):
        client.frame()
    getattr(client, how)()
    assert _closed(service, name) >= 100


def test_a_client_that_does_not_read_is_given_up_and_slows_its_responder(
    service: ServiceProcess, name: str
) -> None:
    """The responder is closed after `send_timeout`, and has not filled the memory until then."""
    with _say(service, name, "endless", receive_bytes=4096) as client:
        yields = _closed(service, name)
        assert yields * 4096 < 20_000_000
        service.wait_for(f"request_id={name} .*outcome=stalled")
        client.head()  # what was sent before is still there


@pytest.mark.parametrize("arguments", SERVERS)
def test_a_kept_reply_goes_on_when_its_client_has_left(
    tmp_path: Path, arguments: List[str]
) -> None:
    """The request's task runs on: no server of these cancels it, or holds its sends."""
    with _start(tmp_path, arguments, REPLAY="memory") as service:
        for how in ("close", "reset"):
            for verb, on_disconnect, outcome in (
                ("moment", "continue", "done"),
                ("say", 0.1, "abandoned"),
                ("endless", 0.1, "abandoned"),
            ):
                name = f"{verb}-{how}"
                client = Client(service.port, receive_bytes=4096)
                body = {"message": f"{verb} {name}", "on_disconnect": on_disconnect}
                client.post(body, headers={"X-Request-ID": name})
                _, headers = client.head()
                if verb != "say":
                    client.frame()
                getattr(client, how)()
                service.wait_for(rf"request_id={name} .*outcome={outcome} .*away_ms=[1-9]")
                if verb == "moment":
                    with Client(service.port) as again:
                        again.ask(headers["location"])
                        again.head()
                        assert text(again.frames()) == "one"


# The end


@pytest.mark.parametrize("arguments", SERVERS)
def test_a_drain_ends_each_stream_with_its_last_frame(
    tmp_path: Path, arguments: List[str], name: str
) -> None:
    """One that ends in time is whole; the process ends as a success."""
    with _start(tmp_path, arguments, drain="1") as service:
        whole, late = _say(service, f"{name}-whole", "moment"), _say(service, name)
        for client in (whole, late):
            assert client.head()[0] == 200
        _tell(service, name, "one")
        for client in (whole, late):
            assert _content(client.frame()) == "one"
        with service.connect() as other:
            service.process.send_signal(signal.SIGTERM)
            status = 200
            while status == 200:
                other.ask("/ready")
                status, _, body = other.json()
            assert (status, body) == (503, {"status": "draining"})
            other.post({"message": "say anything"})
            assert refusal(*other.json())[:2] == (503, "shutting_down")
        assert last(whole.frames())[0] == "done"
        event, data = last(late.frames())
        assert (event, data["code"]) == ("error", "shutting_down")
        whole.close()
        late.close()
        service.wait_for("the server has ended")
        # What granian's threads do while the interpreter ends is granian's.
        assert service.status() in ([0, -signal.SIGABRT] if arguments == ["granian"] else [0])


# HTTP/2


class H2Client:
    """One HTTP/2 connection, by prior knowledge (RFC 9113, section 3.3), and its streams."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._connection = H2Connection()
        self._connection.initiate_connection()
        self._headers: Dict[int, Dict[str, str]] = {}
        self._frames: Dict[int, List[Frame]] = {}
        self._decoders: Dict[int, Decoder] = {}
        self.ended: Set[int] = set()
        self.unread: Set[int] = set()
        """The streams whose data the client does not acknowledge."""

    def __enter__(self) -> H2Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def _flush(self) -> None:
        self.socket.sendall(self._connection.data_to_send())

    def post(self, message: str) -> int:
        """Ask for a chat; the id of its stream."""
        stream: int = self._connection.get_next_available_stream_id()
        body = json.dumps({"message": message}).encode()
        fields = {":method": "POST", ":path": "/api/v1/chat", ":scheme": "http"}
        fields.update({":authority": "test", "content-type": "application/json"})
        self._connection.send_headers(stream, list(fields.items()))
        self._connection.send_data(stream, body, end_stream=True)
        self._flush()
        self._frames[stream] = []
        self._decoders[stream] = Decoder()
        return stream

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError("the connection ended")
        for event in self._connection.receive_data(data):
            if isinstance(event, ResponseReceived):
                fields = [(bytes(n).decode(), bytes(v).decode()) for n, v in event.headers]
                self._headers[event.stream_id] = dict(fields)
            elif isinstance(event, DataReceived):
                self._frames[event.stream_id] += self._decoders[event.stream_id].feed(event.data)
                count = event.flow_controlled_length
                if event.stream_id not in self.unread:
                    self._connection.acknowledge_received_data(count, event.stream_id)
                elif count:
                    self._connection.increment_flow_control_window(count)
            elif isinstance(event, StreamEnded):
                self.ended.add(event.stream_id)
        self._flush()

    def head(self, stream: int) -> Dict[str, str]:
        """The headers of the response."""
        while stream not in self._headers:
            self._more()
        return self._headers[stream]

    def frame(self, stream: int) -> Frame:
        """The next event of the stream."""
        while not self._frames[stream]:
            self._more()
        return self._frames[stream].pop(0)

    def rest(self, stream: int) -> List[Frame]:
        """The events up to the proper end of the stream."""
        while stream not in self.ended:
            self._more()
        return self._frames[stream]

    def reset(self, stream: int) -> None:
        """Leave this stream, and no other."""
        self._connection.reset_stream(stream, ErrorCodes.CANCEL)
        self._flush()


@pytest.fixture(scope="module", params=[HYPERCORN, GRANIAN])
def h2_service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServiceProcess]:
    with _start(tmp_path_factory.mktemp("servers"), request.param) as service:
        yield service


def test_http_2_streams_of_one_connection_come_token_by_token(
    h2_service: ServiceProcess, name: str
) -> None:
    """Each at its own pace, and without the headers that HTTP/2 forbids (RFC 9113, 8.2.2)."""
    with H2Client(h2_service.port) as client:
        names = [f"{name}-a", f"{name}-b"]
        streams = [client.post(f"say {one}") for one in names]
        for stream in streams:
            headers = client.head(stream)
            assert headers[":status"] == "200"
            assert headers["content-type"] == "text/event-stream; charset=utf-8"
            assert not {"connection", "transfer-encoding", "keep-alive"} & set(headers)
        for turn in range(6):
            _tell(h2_service, names[turn % 2], f"word-{turn}")
            assert _content(client.frame(streams[turn % 2])) == f"word-{turn}"


def test_http_2_a_stream_ends_with_its_terminal_event(
    h2_service: ServiceProcess, name: str
) -> None:
    """END_STREAM comes behind it, and the connection goes on."""
    with H2Client(h2_service.port) as client:
        for message, event in ((f"moment {name}", "done"), (f"fail {name}", "error")):
            stream = client.post(message)
            assert last(client.rest(stream))[0] == event


def test_http_2_a_stream_that_is_reset_ends_its_responder_and_no_other(
    h2_service: ServiceProcess, name: str
) -> None:
    """A browser that stops one reply keeps its connection."""
    with H2Client(h2_service.port) as client:
        left, other = client.post(f"say {name}-left"), client.post(f"say {name}-other")
        client.head(left)
        client.head(other)
        client.reset(left)
        assert _closed(h2_service, f"{name}-left") == 1
        _tell(h2_service, f"{name}-other", "word")
        assert _content(client.frame(other)) == "word"
    assert _closed(h2_service, f"{name}-other") == 2


def test_http_2_a_stream_that_is_not_read_holds_up_no_other(
    h2_service: ServiceProcess, name: str
) -> None:
    """Flow control is the stream's own (RFC 9113, section 5.2)."""
    with H2Client(h2_service.port) as client:
        stuck, other = client.post(f"endless {name}-stuck"), client.post(f"say {name}-other")
        client.unread.add(stuck)
        client.head(stuck)
        for _ in range(3):
            _tell(h2_service, f"{name}-other", "word")
            assert _content(client.frame(other)) == "word"
        client.reset(stuck)
        assert _closed(h2_service, f"{name}-stuck") > 0
        _tell(h2_service, f"{name}-other", "word")
        assert _content(client.frame(other)) == "word"


@pytest.mark.parametrize("arguments", [GRANIAN])
def test_http_2_a_stream_that_is_not_read_slows_its_responder_and_is_given_up(
    tmp_path: Path, arguments: List[str], name: str
) -> None:
    """hypercorn (0.18) takes whatever is sent, so there no backpressure reaches the responder."""
    with _start(tmp_path, arguments) as service, H2Client(service.port) as client:
        stream = client.post(f"endless {name}")
        client.unread.add(stream)
        client.head(stream)
        assert _closed(service, name) * 4096 < 20_000_000
