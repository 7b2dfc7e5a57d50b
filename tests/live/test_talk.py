"""`omniforge-chat talk`, in a terminal and in scripts, with a real service at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, List, Tuple

import pytest
from starlette.types import Receive, Scope, Send

from omniforge_chat import ChatError, Finish, Settings, Thought, Turn, create_app
from omniforge_chat.cli import main

from ..support.constants import CONVERSATION, PATIENCE
from ..support.docs import DOCS, blocks
from ..support.process import MODULE, environment
from ..support.servers import ServiceThread, UvicornThread
from ..support.terminal import COMMAND, Terminal
from ..support.tls import make_certificate

EVIL = "\x1b[2J\x9b31m\x07\rshown\x7f"
"""A reply that a terminal would obey; only the word is shown, and what is left of the others."""
HARMLESS = "[2J31mshown"


def _frame(event: str, **data: Any) -> bytes:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n".encode()


_DONE = _frame("done", conversation_id=CONVERSATION, usage={"tokens": 1})
ANSWERS: Dict[str, Tuple[int, str, bytes]] = {
    "/cut": (200, "text/event-stream", _frame("chunk", content="half ")),
    "/proxy": (502, "text/html", b"<h1>Bad Gateway</h1>"),
    "/evil": (200, "text/event-stream", _frame("chunk", content=EVIL) + _DONE),
    "/evil-error": (200, "text/event-stream", _frame("error", code="bad", message=f"{EVIL}\nx")),
    "/lost": (
        200,
        "text/event-stream",
        _frame("done", conversation_id=CONVERSATION, usage={"tokens": 1}, history=0),
    ),
    "/busy": (503, "application/json", b'{"code": "overloaded", "message": "Full"}'),
}
"""Answers that our own service does not give, by the prefix at which they are given."""


class Service:
    """A chat that remembers, others below /forgetful and /placeholder that do not, and the ANSWERS.

    The reply depends on the message: "fail", "silent", "half", "endless", "think", "long"; to
    others it is the message and the number of earlier ones. `waits` is set when a reply waits,
    `closed` when it is over. `asked` are the headers of the requests.
    """

    def __init__(self) -> None:
        settings = Settings(history="memory", thoughts=True)
        self.app = create_app(self._respond, settings=settings)
        forgetful = create_app(self._respond, settings=Settings(thoughts=True))
        self.app.mount("/forgetful", forgetful)
        self.app.mount("/placeholder", create_app(settings=Settings()))
        self.waits = threading.Event()
        self.closed = threading.Event()
        self.asked: List[Dict[bytes, bytes]] = []

    async def _respond(self, turn: Turn) -> AsyncIterator[Any]:
        if turn.message == "fail":
            yield "half "
            raise ChatError("No more", code="own_code")
        if turn.message in ("silent", "half", "endless"):
            try:
                if turn.message != "silent":
                    yield "half "
                while turn.message == "endless":
                    await asyncio.sleep(0)
                    yield "x" * 1000
                self.waits.set()
                await asyncio.Event().wait()
            finally:
                self.closed.set()
        if turn.message == "think":
            for item in ("Y", Thought("Hm"), "es"):
                yield item
            return
        yield f"{turn.message}|{len(turn.history)}"
        if turn.message == "long":
            yield Finish("length")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.asked.append(dict(scope["headers"]))
            answer = ANSWERS.get(scope["path"].partition("/api/v1/chat")[0])
            if answer is not None:
                status, kind, body = answer
                headers = [(b"content-type", kind.encode()), (b"retry-after", b"3")]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
                return
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def service() -> Service:
    return Service()


@pytest.fixture(scope="module")
def server(service: Service) -> Iterator[UvicornThread]:
    with UvicornThread(service) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(service: Service) -> None:
    service.waits.clear()
    service.closed.clear()
    service.asked.clear()


# Scripts


class Script:
    """The command in this process, with standard streams of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def __call__(self, *arguments: str, given: bytes = b"", encoding: str = "utf-8") -> int:
        """The exit status. `given` is standard input; `encoding` is that of the streams."""
        streams = [io.TextIOWrapper(io.BytesIO(data), encoding) for data in (given, b"", b"")]
        for name, stream in zip(("stdin", "stdout", "stderr"), streams):
            self._patch.setattr(sys, name, stream)
        try:
            return main(["talk", *arguments])
        finally:
            for stream in streams[1:]:
                stream.seek(0)
            self.out, self.err = (stream.read() for stream in streams[1:])


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    for name in ("HOST", "PORT"):
        monkeypatch.delenv(name, raising=False)
    return Script(monkeypatch)


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["--once", "hi"], b"", "hi"),
        ([], b"hi\n", "hi"),
        (["--once", "-"], b"hi\r\n", "hi"),
        (["--once", "Sum up"], b"diff\n+1\n", "Sum up\n\ndiff\n+1"),
        (["--once", "-x y"], b"", "-x y"),
        ([], b"\xef\xbb\xbfh\xc3\xa9\n", "hé"),
        ([], b"h\xe9", "h\N{REPLACEMENT CHARACTER}"),
        (
            [],
            "\ufeff{}\r\n".format("\N{GRINNING FACE}" * 10_000).encode(),
            "\N{GRINNING FACE}" * 10_000,
        ),
        (["--once", "h\udce9"], b"", "h?"),  # as Python gives a byte that is no text
    ],
)
def test_a_script_sends_its_argument_and_standard_input(
    server: UvicornThread, script: Script, arguments: List[str], given: bytes, message: str
) -> None:
    """`git diff | omniforge-chat talk --once "Sum up"` is a sentence."""
    assert script(server.url, *arguments, given=given) == 0
    assert (script.out, script.err) == (f"{message}|0\n", "")


@pytest.mark.parametrize(
    ("prefix", "message", "out", "err"),
    [
        ("", "fail", "half \n", "own_code: No more"),
        ("", "x" * 10_001, "", "message_too_long: message: Message exceeds"),
        ("/cut", "hi", "half \n", "cut: The stream ended before the reply did"),
        ("/proxy", "hi", "", "502: The chat did not answer: status 502 with text/html (from http:"),
        ("/nowhere", "hi", "", "not_found: Nothing is at /nowhere/api/v1/chat (from http:"),
        ("/busy", "hi", "", "overloaded: Full (try again in 3 s)"),
        ("/evil-error", "hi", "", f"bad: {HARMLESS} x"),
    ],
)
def test_a_script_hears_of_a_failure_in_one_line_and_by_its_status(
    server: UvicornThread, script: Script, prefix: str, message: str, out: str, err: str
) -> None:
    """A reply that is half there must not be taken for a whole one."""
    assert script(server.url + prefix, "--once", message) == 1
    assert script.out == out
    (line,) = script.err.splitlines()
    assert line.startswith(f"omniforge-chat: {err}")


def test_a_conversation_that_cannot_be_is_told(server: UvicornThread, script: Script) -> None:
    """A command line may hold bytes that are no text."""
    assert script(server.url, "--once", "hi", "--conversation-id", "\udcff") == 1
    assert script.err.startswith("omniforge-chat: validation_error: conversation_id: ")


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
@pytest.mark.parametrize("proxy", [False, True])
def test_a_name_that_no_resolver_takes_is_told(
    script: Script, monkeypatch: pytest.MonkeyPatch, host: str, proxy: bool
) -> None:
    """In one line; the codec of Python refuses it."""
    if proxy:
        monkeypatch.setenv("ALL_PROXY", f"http://{host}")
    url = "http://192.0.2.1" if proxy else f"http://{host}"
    assert script(url, "--once", "hi") == 1
    (line,) = script.err.splitlines()
    assert line.startswith(f"omniforge-chat: no answer from {url}/api/v1/chat: ")


def test_a_proxy_that_is_not_there_is_no_missing_service(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one elsewhere: to start one here would be of no use."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert script("http://192.0.2.1", "--once", "hi") == 1
    (line,) = script.err.splitlines()
    assert line.startswith("omniforge-chat: no answer from http://192.0.2.1/api/v1/chat: ")
    assert "starts a service" not in line


def test_a_service_that_is_not_there_is_told_with_the_way_to_start_one(script: Script) -> None:
    """It is the first thing that goes wrong, and no password of an address is shown."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert script(f"http://me:word@127.0.0.1:{port}/bots", "--once", "hi") == 1
    (line,) = script.err.splitlines()
    assert f"no answer from http://***@127.0.0.1:{port}/bots/api/v1/chat: " in line
    assert "`omniforge-chat` starts a service" in line
    assert "word" not in line


def test_no_control_character_of_a_reply_is_printed(server: UvicornThread, script: Script) -> None:
    """The file that a script writes is shown in a terminal later."""
    assert script(f"{server.url}/evil", "--once", "hi") == 0
    assert (script.out, script.err) == (f"{HARMLESS}\n", "")


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "?? ??"), ("cp1252", "é? ??")])
def test_a_character_that_the_output_lacks_is_a_question_mark(
    server: UvicornThread, script: Script, encoding: str, shown: str
) -> None:
    """Code pages of Windows, and LANG=C."""
    assert script(server.url, "--once", "éل 😀你", encoding=encoding) == 0
    assert script.out == f"{shown}|0\n"


def test_thoughts_are_no_part_of_the_output(server: UvicornThread, script: Script) -> None:
    """A script wants the reply."""
    assert script(server.url, "--once", "think") == 0
    assert (script.out, script.err) == ("Yes\n", "")


def test_headers_and_the_conversation_are_sent(
    service: Service, server: UvicornThread, script: Script
) -> None:
    """A guarded service wants a token, and two scripts may go on with one conversation."""
    arguments = [server.url, "--conversation-id", CONVERSATION]
    arguments += ["--header", "Authorization: Bearer sesame", "--header", "X-Other:  a b "]
    for count in (0, 2):
        assert script(*arguments, "--once", "hi") == 0
        assert script.out == f"hi|{count}\n"
    assert service.asked[0][b"authorization"] == b"Bearer sesame"
    assert service.asked[0][b"x-other"] == b"a b"


def test_the_variables_of_the_service_are_its_address(
    server: UvicornThread, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a proxy in the environment is not asked for what is on this machine."""
    monkeypatch.setenv("PORT", str(server.port))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert script("--once", "hi") == 0
    assert script.out == "hi|0\n"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio leaves connections of TLS open")
def test_a_certificate_of_one_s_own_has_to_be_named(
    tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service inside of a company has it."""
    make_certificate(tmp_path, "-nodes")
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    settings = Settings(ssl_certfile=certificate, ssl_keyfile=key)
    with ServiceThread(create_app(settings=settings), settings) as service:
        url = f"https://127.0.0.1:{service.port}"
        assert script(url, "--once", "hi") == 1
        assert "certificate verify failed" in script.err
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        assert script(url, "--once", "hi") == 0
        assert script.out.startswith("Thank you")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "omniforge-chat: there is no message"),
        (["--once", " "], "omniforge-chat: there is no message"),
        (["--once"], "expected one argument"),
        (["--once", "hi", "ftp://host"], "argument URL: expected an address"),
        (["--once", "hi", "http://a.\N{SNOWMAN}.-x"], "omniforge-chat: httpx cannot use"),
        (
            ["--once", "hi", "--header", "Bearer sesame"],
            "argument --header: expected 'Name: value'",
        ),
        (["--once", "hi", "--header", "A: b\nC: d"], "argument --header: expected 'Name: value'"),
        (["--once", "hi", "--header", "content-length: 5"], "argument --header: the length"),
        (["--once", "hi", "--header", "Transfer-Encoding: x"], "argument --header: the length"),
        (["--onc", "hi"], "unrecognized arguments: --onc"),
    ],
)
def test_arguments_that_cannot_be_used_are_told(
    script: Script, arguments: List[str], said: str
) -> None:
    """With the status that every command has for it, and before anything is sent."""
    try:
        status: Any = script(*arguments)
    except SystemExit as ending:
        status = ending.code
    assert (status, script.out) == (2, "")
    assert said in script.err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "x", "PORT='x': expected a whole number"),
        ("SSL_CERT_FILE", "/nowhere", "httpx cannot use the address or the environment: "),
        ("ALL_PROXY", "nonsense://x", "httpx cannot use the address or the environment: "),
    ],
)
def test_an_environment_that_cannot_be_used_is_told(
    script: Script, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """In one line."""
    monkeypatch.setenv(name, value)
    assert script(*([] if name == "PORT" else ["http://192.0.2.1"]), "--once", "hi") == 2
    (line,) = script.err.splitlines()
    assert line.startswith(f"omniforge-chat: {said}")


def test_an_input_that_is_no_message_is_told(script: Script) -> None:
    """It is not read to its end, which may never come, and nothing of it is cut off in silence."""
    assert script("--once", "Sum up", given=b"x" * 40_006) == 2
    assert script.err == "omniforge-chat: standard input has more than 10000 characters\n"


def test_an_output_that_cannot_be_written_is_told(server: UvicornThread) -> None:
    """A full disk, for example: the reply is not there."""
    with open("/dev/full", "wb") as full:
        done = _run(server.url, "--once", "hi", stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"omniforge-chat: cannot read or write: No space left on device\n"


def test_streams_that_are_closed_are_no_failure(server: UvicornThread) -> None:
    """As a job that runs without a terminal may have them."""
    shell = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh", *_command(server.url, "--once", "hi")]
    done = subprocess.run(
        shell, env=environment(), stdout=subprocess.PIPE, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"hi|0\n")


def _command(*arguments: str) -> List[str]:
    return [*COMMAND, "talk", *arguments]


def _start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        _command(*arguments),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
    )


def _run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        _command(*arguments),
        **{"env": environment(), "stdin": subprocess.DEVNULL, **options},
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )


def test_a_reader_that_leaves_ends_it_without_a_word(
    service: Service, server: UvicornThread
) -> None:
    """`| head -1` has all that it wants, and nobody pays for the rest of the reply."""
    with _start(server.url, "--once", "endless") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"half "
        process.stdout.close()
        assert process.wait(PATIENCE) == 141
        assert process.stderr.read() == b""
    assert service.closed.wait(PATIENCE)


def test_a_reader_that_does_not_read_keeps_nothing_alive(
    service: Service, server: UvicornThread
) -> None:
    """Ctrl-C ends the reply at once, and another one the command."""
    unread, output = os.pipe()
    with _start(server.url, "--once", "endless", stdout=output) as process:
        server.until(lambda: not select.select([], [output], [], 0)[1])  # the pipe is full
        process.send_signal(signal.SIGINT)
        assert service.closed.wait(PATIENCE)

        try:
            # One that comes while the first is still handled has no effect, so it may take two.
            # With thousands a second, the process now and then got no further.
            for _ in range(int(PATIENCE)):
                process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                    break
        finally:
            process.kill()
            os.close(unread)
            os.close(output)
        assert process.stderr is not None
        # One that comes while Python itself ends finds no handler; a shell tells both as 130.
        assert process.returncode in (130, -signal.SIGINT)
        assert process.stderr.read() == b""


AT_THE_END = """
import atexit, os, signal, sys
atexit.register(os.kill, os.getpid(), signal.SIGINT)
from omniforge_chat.cli import main
sys.exit(main())
"""
"""The command, with Ctrl-C while Python itself ends."""


def test_ctrl_c_at_the_very_end_prints_no_traceback() -> None:
    """Whatever a module does at the exit of Python may be interrupted by it."""
    done = subprocess.run(
        [sys.executable, "-c", AT_THE_END, "talk", "--help"],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
    assert done.stdout.startswith(b"usage: ")


@pytest.mark.parametrize(
    ("message", "number", "status"),
    [("half", signal.SIGINT, 130), ("silent", signal.SIGINT, 130), ("half", signal.SIGTERM, 143)],
)
def test_a_signal_ends_a_script_and_its_reply(
    service: Service, server: UvicornThread, message: str, number: int, status: int
) -> None:
    """Before the first piece and behind it, and the text that came is there."""
    with _start(server.url, "--once", message) as process:
        assert process.stdout is not None
        shown = process.stdout.read(5) if message == "half" else b""
        assert service.waits.wait(PATIENCE)
        process.send_signal(number)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == status
    assert (shown + rest).strip() == (b"half" if message == "half" else b"")
    assert errors == b""
    assert service.closed.wait(PATIENCE)


# What it needs


@pytest.mark.parametrize("module", ["argparse", "httpx"])
def test_a_signal_is_heard_while_modules_are_imported(tmp_path: Path, module: str) -> None:
    """Without a traceback; and it is no success, as that of a service is."""
    (tmp_path / f"{module}.py").write_text("import os\nos.kill(os.getpid(), 2)\n")
    done = _run("--once", "hi", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, b"")


def test_without_httpx_it_tells_the_command_that_installs_it(tmp_path: Path) -> None:
    """Whoever runs a service without a model has none."""
    missing = """raise ModuleNotFoundError("No module named 'httpx'", name="httpx")"""
    (tmp_path / "httpx.py").write_text(missing)
    done = _run("--once", "hi", cwd=tmp_path)
    expected = b"omniforge-chat: talk needs httpx: pip install 'omniforge-chat[client]'\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_it_needs_no_server(server: UvicornThread) -> None:
    """It starts in half of the time."""
    code = (
        "import sys; from omniforge_chat.cli import main\n"
        f"assert main(['talk', '{server.url}', '--once', 'hi']) == 0\n"
        "found = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not found & {'uvicorn', 'starlette'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), stdin=subprocess.DEVNULL, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("arguments", [["--check"], ["talk", "--help"]])
def test_a_short_text_that_nobody_reads_is_no_failure(arguments: List[str]) -> None:
    """`omniforge-chat --check | grep -q openai` in a script."""
    unread, output = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [*MODULE, *arguments],
        env=environment(),
        stdout=output,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        check=False,
    )
    os.close(output)
    assert (done.returncode, done.stderr) == (0, b"")


# A terminal


def test_the_conversation_of_the_docs_is_one(server: UvicornThread) -> None:
    """It is what people expect to see."""
    [shown] = [code for code in blocks(DOCS / "clients.md", "console") if "(/help)" in code]
    url = f"{server.url}/placeholder"
    _, _, expected = shown.replace("http://127.0.0.1:8000", url).partition("talk\n")
    with Terminal("talk", url, NO_COLOR="1") as terminal:
        seen = terminal.prompt()
        for line in ("Hello", "/quit"):
            terminal.type(f"{line}\r")
            seen += terminal.until("\n> " if line == "Hello" else "\n")
        assert terminal.status() == 0
    assert seen.replace("\r\n", "\n") == expected


def test_a_conversation_in_a_terminal(service: Service, server: UvicornThread) -> None:
    """One after the other, as somebody would: Ctrl-C at each moment, and each command."""

    def rest() -> None:
        server.until(lambda: service.app.open_streams == 0)

    with Terminal("talk", server.url) as terminal:
        terminal.until(f"Talking to {server.url}/api/v1/chat")
        terminal.prompt()
        terminal.type("hello\r")
        terminal.until("\r\nhello|0\r\n")
        # Before the first piece.
        terminal.prompt()
        terminal.type("silent\r")
        assert service.waits.wait(PATIENCE)
        terminal.type("\x03")
        terminal.until("(Stopped)")
        assert service.closed.wait(PATIENCE)
        # Behind it.
        terminal.prompt()
        rest()
        terminal.type("half\r")
        terminal.until("\r\nhalf ")
        terminal.type("\x03")
        terminal.until("(Stopped)")
        # At the prompt: the line is gone, and the program is not.
        terminal.prompt()
        rest()
        terminal.type("never sent\x03")
        terminal.until("(Ctrl-C once more ends)")
        terminal.prompt()
        terminal.type("again\r")
        told = int(terminal.prompt().partition("again|")[2].split()[0])
        terminal.type("/retry\r")
        assert f"again|{told}\r\n" in terminal.prompt()
        # The history of the keyboard, of which /retry is the last.
        terminal.type("\x1b[A\x1b[A\r")
        assert f"again|{told + 2}\r\n" in terminal.prompt()
        terminal.type("fail\r")
        terminal.until("half \r\nomniforge-chat: own_code: No more\r\n")
        terminal.prompt()
        terminal.type("/new\r")
        terminal.until("(A new conversation)")
        terminal.type("/retry \r")
        terminal.until("(There is no message yet)")
        terminal.type("/what now\r")
        terminal.until("(There is no command /what; /help)")
        terminal.type("/help\r")
        terminal.until("/retry  ask for another reply")
        terminal.prompt()
        terminal.type("\x1b[200~two\nlines\x1b[201~\r")
        terminal.until("two\r\nlines|0\r\n")
        terminal.prompt()
        terminal.type("long\r")
        terminal.until("(The reply ended early: length)")
        terminal.prompt()
        terminal.type("  \r")
        terminal.prompt()
        terminal.type("no\udcfftext é\r")  # a byte that is no text
        terminal.until("no\N{REPLACEMENT CHARACTER}text é|4\r\n")
        terminal.prompt()
        terminal.type("\x04")
        assert terminal.status() == 0
        assert terminal.settings == terminal.before
    assert len(service.asked) == 10


def test_ctrl_c_stops_a_request_that_nobody_answers() -> None:
    """A service that hangs, before it has said anything at all."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with Terminal("talk", f"127.0.0.1:{listener.getsockname()[1]}") as terminal:
            terminal.prompt()
            terminal.type("hi\r")
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as sent:
                assert b"POST /api/v1/chat" in sent.readline()
                terminal.type("\x03")
                terminal.until("(Stopped)")
                sent.read()  # to its end
                terminal.prompt()
                terminal.type("\x04")
                assert terminal.status() == 0


def test_a_terminal_shows_thoughts_dim_and_that_nothing_is_remembered(
    server: UvicornThread,
) -> None:
    """Once is enough."""
    with Terminal("talk", f"{server.url}/forgetful") as terminal:
        terminal.prompt()
        terminal.type("think\r")
        terminal.until("Y\r\n\x1b[2mHm\x1b[22m\r\nes\r\n")
        terminal.until("(The service remembers nothing: each message stands alone)")
        terminal.prompt()
        terminal.type("/retry\r")
        terminal.until("es\r\n")
        assert "remembers" not in terminal.prompt()
        terminal.type("\x03")
        terminal.prompt()
        terminal.type("\x03")
        assert terminal.status() == 0
        assert terminal.settings == terminal.before


def test_a_terminal_tells_that_a_conversation_is_forgotten(server: UvicornThread) -> None:
    """A service that was started anew: the user would wonder at its replies."""
    forgotten = "(The service has forgotten this conversation)"
    with Terminal("talk", f"{server.url}/lost") as terminal:
        terminal.prompt()
        for line in ("one", "/retry", "two", "/new", "three"):
            terminal.type(f"{line}\r")
            assert (forgotten in terminal.prompt()) == (line == "two")
        terminal.type("/quit\r")
        assert terminal.status() == 0


def test_replies_go_to_a_file_and_all_else_to_the_terminal(server: UvicornThread) -> None:
    """`omniforge-chat talk > replies.txt`."""
    with Terminal("talk", server.url, stdout=subprocess.PIPE) as terminal:
        terminal.prompt()
        terminal.type("think\r")
        terminal.until("\x1b[2mHm\x1b[22m\r\n")
        terminal.prompt()
        terminal.type("\x04")
        assert terminal.status() == 0
        assert terminal.process.stdout is not None
        with terminal.process.stdout as kept:
            assert kept.read() == b"Yes\n"


def test_one_message_from_a_terminal_waits_for_no_input(server: UvicornThread) -> None:
    """Nobody types anything."""
    with Terminal("talk", server.url, "--once", "hi") as terminal:
        terminal.until("hi|0\r\n")
        assert terminal.status() == 0


def test_a_signal_leaves_the_terminal_as_it_was(server: UvicornThread) -> None:
    """A shell that does not echo looks broken. And nothing is dim if nobody wants that."""
    with Terminal("talk", server.url, TERM="dumb") as terminal:
        assert "\x1b[2m" not in terminal.prompt()
        terminal.type("think\r")
        terminal.until("Y\r\nThoughts: Hm\r\nes\r\n")
        terminal.prompt()
        assert terminal.settings != terminal.before
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.status() == 143
        assert terminal.settings == terminal.before
