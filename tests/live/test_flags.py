"""What the flags of the command line do, each as one of uvicorn's users expects it."""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from omniforge_chat import Settings, create_app
from omniforge_chat.cli import main
from omniforge_chat.server import listen, make_server
from omniforge_chat.server.listener import listen_on_path, open_listener

from ..support.app import call
from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.process import MODULE, running
from ..support.servers import ServiceThread
from ..support.tls import connect, make_certificate


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that a service gets as --fd, so that a client may come before it serves."""
    with listen("127.0.0.1", 0) as made:
        yield made


def given(listener: socket.socket) -> Tuple[List[str], Dict[str, Any]]:
    """The flags and options for a service on that socket."""
    return ["--fd", str(listener.fileno())], {"pass_fds": [listener.fileno()]}


def healthy(client: Client) -> None:
    """The service answers."""
    client.ask("/health")
    assert client.json()[0] == 200


# Where it listens


def test_a_unix_socket_is_served_and_removed_at_the_end(tmp_path: Path) -> None:
    """It is how nginx reaches a service on its own machine."""
    path = tmp_path / "chat.sock"
    with socket.socket(socket.AF_UNIX) as stale:  # of a service that was killed
        stale.bind(str(path))
    path.chmod(0o660)
    flags = ["--uds", "chat.sock", "--access-log"]
    with running(tmp_path, *flags, FORWARDED_ALLOW_IPS="*") as service:
        service.wait_for("serving on unix:chat.sock$")
        with Client(path) as client:
            client.post({"message": "hi"})
            assert client.head()[0] == 200
            assert client.frames()[-1].event == "done"
            headers = {"X-Forwarded-Prefix": "/bots", "X-Forwarded-For": "192.0.2.7"}
            client.ask("/openapi.json", headers=headers)
            assert client.json()[2]["servers"][0]["url"] == "/bots"
        assert path.stat().st_mode & 0o777 == 0o660
        assert service.end() == 0
    assert not path.exists()
    assert not any("uvicorn.access" in line for line in service.log)
    chat, document = (line for line in service.log if "omniforge_chat: request " in line)
    assert "request method=POST path=/api/v1/chat status=200 bytes=" in chat
    assert "request method=GET path=/bots/openapi.json status=200 bytes=" in document
    assert " client=None request_id=" in chat
    assert " client=192.0.2.7 request_id=" in document


def test_a_unix_socket_of_another_service_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment may have replaced it by the end of this one."""
    at_exit: List[Any] = []
    monkeypatch.setattr("atexit.register", lambda *call: at_exit.append(call))
    path = tmp_path / "chat.sock"
    with listen_on_path(str(path)):
        path.rename(tmp_path / "ours")
        path.touch()
        ((remove, *arguments),) = at_exit
        remove(*arguments)
        assert path.exists()
        (tmp_path / "ours").rename(path)
        remove(*arguments)
        assert not path.exists()
        remove(*arguments)


def test_a_unix_socket_of_another_program_is_listened_on(tmp_path: Path) -> None:
    """systemd opens such ones, too; the kernel's limit for sends is TCP's alone."""
    path = tmp_path / "chat.sock"
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        with open_listener(Settings(), theirs.detach()) as opened, Client(path):
            opened.accept()[0].close()


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel has this limit")
def test_the_kernel_drops_who_takes_nothing_for_twice_the_limit_of_a_stream() -> None:
    """A client may vanish when all of its reply was handed over, and no stream waits for it."""
    settings = Settings(port=0, send_timeout=1.5)
    theirs = socket.create_server(("127.0.0.1", 0)).detach()
    for fd in (None, theirs):
        with open_listener(settings, fd) as opened:
            assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 3000


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A directory with a certificate for 127.0.0.1, and its key under a password."""
    make_certificate(tmp_path, "-passout", "pass:word")
    return tmp_path


def test_it_serves_tls_under_a_path(certificate: Path, listener: socket.socket) -> None:
    """Where nothing in front of it ends TLS; the variables come from a file."""
    pytest.importorskip("dotenv")
    (certificate / "env").write_text("SSL_KEYFILE_PASSWORD=word\nPORT=nonsense\nROOT_PATH=/bots/\n")
    flags, options = given(listener)
    flags += ["--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem"]
    with running(certificate, *flags, "--env-file", "env", **options) as service:
        front = service.wait_for(r"serving on https://127\.0\.0\.1:\d+(/.*)$")[1]
        assert front == "/bots/"
        with connect(listener.getsockname()[1], certificate) as client:
            client.ask(front)
            status, headers = client.head()
            assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        with connect(listener.getsockname()[1], certificate) as client:
            client.post({"message": "hi"})
            assert client.head()[0] == 200
            assert client.frames()[-1].event == "done"
            client.ask("/openapi.json")
            assert client.json()[2]["servers"][0]["url"] == "/bots"
        assert service.end() == 0


def test_a_key_that_cannot_be_read_is_told(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, before anything starts."""
    monkeypatch.chdir(certificate)
    flags = ["--ssl-certfile", "cert.pem", "--ssl-keyfile", "key.pem"]
    assert main([*flags, "--ssl-keyfile-password", "wrong"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "SSL_CERTFILE='cert.pem': expected a certificate that can be used, with its key" in line
    flags += ["--ssl-keyfile-password", "word", "--check"]
    for other, value in (("--ssl-ciphers", "none"), ("--ssl-ca-certs", "key.pem")):
        assert main([*flags, other, value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        name = other[2:].replace("-", "_").upper()
        assert line.startswith(f"omniforge-chat: {name}='{value}': expected ")
    assert main(flags) == 0
    assert "SSL_KEYFILE_PASSWORD=***" in capsys.readouterr().out


def test_an_idle_connection_is_kept_for_as_long_as_was_said() -> None:
    """A load balancer keeps it for a minute, and must be the first to drop it."""
    settings = Settings(keep_alive=0.05)
    with ServiceThread(create_app(settings=settings), settings) as service:
        with service.connect() as client:
            healthy(client)
            client.wait_closed()
        assert Settings().keep_alive > 60
        service.rest()


# How it ends


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_closed_standard_streams_are_no_failure(
    tmp_path: Path, listener: socket.socket, closed: str
) -> None:
    """Daemons close them, and libuv ends a process that closes a socket with their numbers."""
    (tmp_path / "loud.py").write_text(
        "import sys\nasync def respond(turn):\n    print('said')\n    yield 'hi'\n"
    )
    flags, options = given(listener)
    flags += ["--responder", "loud:respond"]
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *MODULE]
    with running(tmp_path, *flags, command=command, **options) as service:
        with Client(listener.getsockname()[1]) as client:
            client.post({"message": "hi"})
            client.head()
            assert client.frames()[-1].event == "done"
        assert service.end() == 0
    assert service.log == []


def test_a_reader_of_the_log_that_is_gone_is_no_failure(
    tmp_path: Path, listener: socket.socket
) -> None:
    """A pager that was closed, say."""
    flags, options = given(listener)
    with running(tmp_path, *flags, **options) as service:
        with Client(listener.getsockname()[1]) as client:
            healthy(client)
            service._stderr.close()
            client.post({"message": "hi"})
            client.head()
            assert client.frames()[-1].event == "done"
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE) == 0


# The path that a proxy shows


TRUSTED, STRANGER = ("127.0.0.1", 1), ("192.0.2.7", 1)


def shown(
    path: str, header: Optional[str] = None, root_path: str = "", client: Any = TRUSTED
) -> Tuple[int, Optional[str]]:
    """The status of a request, and the server that /openapi.json names."""
    settings = Settings(root_path=root_path)
    server = make_server(create_app(settings=settings), settings, log_config=None)
    headers = {} if header is None else {"X-Forwarded-Prefix": header}
    scope = {
        "path": root_path + path,  # as uvicorn does
        "raw_path": (root_path + path).encode(),
        "root_path": root_path,
    }
    asked: Any = server.config.loaded_app
    done = call(asked, method="GET", headers=headers, client=client, **scope)
    status, _, body = done.json()
    assert done.scope["raw_path"].decode() == done.scope["path"]
    assert done.scope["path"].startswith(done.scope["root_path"])
    return status, body["servers"][0]["url"] if status == 200 else None


@pytest.mark.parametrize(
    "prefix", ["/bots", "/bots/", "/api", "/api/v1", "/a/b.c~d-e_f", "/openapi"]
)
@pytest.mark.parametrize("way", ["header", "setting"])
@pytest.mark.parametrize("stripped", [True, False])
def test_a_prefix_is_known_whether_or_not_the_proxy_takes_it_off(
    prefix: str, way: str, stripped: bool
) -> None:
    """Both are common, and nobody knows which one their proxy does."""
    plain = prefix.rstrip("/")
    path = "/openapi.json" if stripped else f"{plain}/openapi.json"
    found = shown(path, prefix) if way == "header" else shown(path, root_path=plain)
    assert found == (200, plain)


@pytest.mark.parametrize("header", [None, "/bots"])
@pytest.mark.parametrize("path", ["/", "/bots", "/bots/"])
@pytest.mark.parametrize("page", [True, False])
def test_the_front_is_found_at_the_prefix_itself(
    page: bool, path: str, header: Optional[str]
) -> None:
    """With the last slash and without it, which people leave out."""
    root_path = "" if header else "/bots"
    settings = Settings(root_path=root_path, page=page)
    asked: Any = make_server(
        create_app(settings=settings), settings, log_config=None
    ).config.loaded_app
    given = root_path + path
    headers = {} if header is None else {"X-Forwarded-Prefix": header}
    scope = {"path": given, "raw_path": given.encode(), "root_path": root_path}
    done = call(asked, method="GET", headers=headers, client=TRUSTED, **scope)
    assert done.status == (200 if page else 307)


def test_the_chat_is_found_under_a_prefix_that_its_own_path_begins_with() -> None:
    """`/api` is the most common prefix of all."""
    settings = Settings(root_path="/api")
    asked: Any = make_server(
        create_app(settings=settings), settings, log_config=None
    ).config.loaded_app
    for path in ("/api/api/v1/chat", "/api/api/api/v1/chat"):  # taken off, and not
        done = call(asked, path=path, root_path="/api")
        assert done.status == 200
        assert done.scope["path"] == "/api/api/v1/chat"


def test_the_header_is_nearer_than_the_setting() -> None:
    """One service may be shown by several proxies."""
    assert shown("/openapi.json", "/one", root_path="/two") == (200, "/one")
    assert shown("/one/openapi.json", "/one", root_path="/two") == (200, "/one")
    assert shown("/openapi.json", "/two", root_path="/two") == (200, "/two")


@pytest.mark.parametrize(
    "header",
    [
        *("", "/", "bots", "//evil.example", "/a//b", "https://evil.example/a", "/a?b", "/a#b"),
        *("/a b", "/a\\b", "/a\x7f", "/a\tb", "/\xe9", "/%2e%2e", "/..", "/a/../b", "/./a"),
        *("/a, /b", "/a,/b", "/" + 256 * "a", "/<script>", '/"'),
    ],
)
def test_what_is_no_plain_path_is_no_prefix(header: str) -> None:
    """It ends up in a document that browsers follow."""
    assert shown("/openapi.json", header) == (200, "/")
    assert shown("/openapi.json", header, root_path="/bots") == (200, "/bots")


@pytest.mark.parametrize("client", [STRANGER, None])
def test_nobody_but_a_trusted_proxy_sets_the_prefix(client: Any) -> None:
    """Anybody could point a document that is cached at a path of theirs."""
    assert shown("/openapi.json", "/evil", client=client) == (200, "/")
    assert shown("/openapi.json", "/evil", root_path="/bots", client=client) == (200, "/bots")
