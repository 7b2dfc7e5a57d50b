"""The service as a process: how it is started and configured, what it says, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Dict, List

import pytest

from omniforge_chat.cli import main
from omniforge_chat.server import listen
from omniforge_chat.server.signals import handle_signals

from ..support.answers import last, refusal
from ..support.constants import CONVERSATION, PATIENCE
from ..support.process import MODULE, environment, running

SCRIPT = [str(Path(sys.executable).with_name("omniforge-chat"))]
FACTORY = [sys.executable, "-m", "uvicorn", "--factory", "omniforge_chat:create_app"]

RESPONDERS = '''
from omniforge_chat import ChatError

async def one(turn):
    """Answer as the first."""
    yield "one"

async def two(turn):
    """Answer as the second."""
    yield "two"

async def broken(turn):
    """Answer half, and fail."""
    yield "half"
    raise RuntimeError("the cause")

async def coroutine(turn):
    """Answer nothing: no `yield`."""

class Model:
    """Answer as an object does."""

    async def reply(self, turn):
        """Answer."""
        yield "the model"

model = Model()
not_callable = 42
'''


RECALL = """
import logging

async def recall(turn):
    said = ", ".join(f"{m.role}: {m.content.partition(';')[0]}" for m in turn.history)
    yield f"{said or 'nothing'}; {turn.message}"

class Closable:
    async def __call__(self, turn):
        yield "hi"

    async def aclose(self):
        logging.getLogger("recall").info("closed after the chats")

closable = Closable()
"""


def refused(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What became of a service that could not start."""
    return subprocess.run(
        [*MODULE, *arguments],
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A current directory, with some responders in it."""
    (tmp_path / "mine.py").write_text(RESPONDERS)
    (tmp_path / "locked.pem").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    package = tmp_path / "product"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "answers.py").write_text(RESPONDERS)
    return tmp_path


# Starting


def test_it_serves_with_nothing_but_defaults(directory: Path) -> None:
    """Nothing to configure for the first look; only the port is another one here."""
    with running(directory) as service:
        reply = service.reply("Hello")
        assert reply.startswith('Thank you for your message. You said: "Hello".')
        assert service.wait_for(r"chat ended .*outcome=done")
        assert " on http://127.0.0.1:" in "\n".join(service.log)
        assert service.end() == 0


def test_flags_stand_over_the_environment_and_that_over_the_defaults(directory: Path) -> None:
    """What is nearer to the hand that starts it is what is meant."""
    variables = {"CHAT_RESPONDER": "mine:one", "LOG_FORMAT": "json"}
    with running(directory, **variables) as service:
        assert service.reply() == "one"
        assert all(json.loads(line) for line in service.log)
        assert service.end() == 0
    # What a flag replaces is not even read.
    variables["PORT"] = "nonsense"
    flags = ["--port", "0", "--responder", "mine:two", "--log-format", "text"]
    with running(directory, *flags, **variables) as service:
        assert service.reply() == "two"
        assert not any(line.startswith("{") for line in service.log)
        assert service.end() == 0


@pytest.mark.parametrize(
    ("command", "name", "reply"),
    [
        pytest.param(MODULE, "product.answers:two", "two", id="module"),
        pytest.param(SCRIPT, "mine:model.reply", "the model", id="script"),
    ],
)
def test_a_responder_is_found_from_the_current_directory(
    directory: Path, command: List[str], name: str, reply: str
) -> None:
    """Somebody's own generator function in a file is all that it takes."""
    with running(directory, "--responder", name, command=command) as service:
        assert service.reply() == reply
        assert service.end() == 0


def test_any_asgi_server_can_make_the_app_itself(directory: Path) -> None:
    """`uvicorn --factory` reads the same environment."""
    arguments = ["--port", "0"]
    variables = {"CHAT_RESPONDER": "mine:one", "CORS_ORIGINS": "https://app.example"}
    with running(directory, *arguments, command=FACTORY, **variables) as service:
        assert service.reply() == "one"
        with service.connect() as client:
            client.ask("/health", headers={"Origin": "https://app.example"})
            _, headers, _ = client.json()
            assert headers["access-control-allow-origin"] == "https://app.example"
            client.ask("/nowhere")
            assert refusal(*client.json())[:2] == (404, "not_found")


def test_the_script_is_the_same_as_the_module() -> None:
    """Two names for one thing."""
    found = [entry for entry in _scripts() if entry.name == "omniforge-chat"]
    assert [entry.value for entry in found] == ["omniforge_chat.cli:main"]


def _scripts() -> Any:
    if sys.version_info >= (3, 10):
        return entry_points(group="console_scripts")
    return entry_points()["console_scripts"]


def test_on_port_zero_each_service_takes_a_free_port_and_tells_it(directory: Path) -> None:
    """Tests and tools start as many as they like, and read where."""
    with running(directory) as one, running(directory) as other:
        assert one.port != other.port
        assert one.reply()
        assert other.reply()


def test_an_ipv6_address_is_served_and_told_as_a_url(directory: Path) -> None:
    """In a URL it stands in brackets."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with running(directory, "--host", "::1") as service:
        port = int(service.wait_for(r" on http://\[::1\]:(\d+)")[1])
        with socket.create_connection(("::1", port), timeout=PATIENCE) as client:
            client.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert client.recv(12) in (b"HTTP/1.1 200", b"HTTP/1.0 200")


def test_help_names_every_flag(directory: Path) -> None:
    """It is the first thing that is asked."""
    done = refused(directory, "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for flag in ("host", "port", "uds", "workers", "log-level", "responder", "reload", "check"):
        assert f"--{flag}" in done.stdout
    for command in ("talk", "conversations", "keys", "check"):
        assert f"`{command}` " in done.stdout


def test_a_command_comes_first(directory: Path) -> None:
    """The flags before it would be another program's."""
    done = refused(directory, "--port", "1", "talk")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("omniforge-chat: error: talk must come first\n")


# What cannot start


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {"PORT": "eighty"}, "PORT='eighty': expected a whole number"),
        (["--port", "70000"], {}, "PORT='70000': expected a whole number"),
        (["--port", ""], {}, "PORT='': expected a whole number"),
        (["--host", ""], {}, "HOST='': expected a host name"),
        (["--workers", "0"], {}, "WEB_CONCURRENCY='0': expected a whole number"),
        ([], {"WEB_CONCURRENCY": "two"}, "WEB_CONCURRENCY='two': expected a whole number"),
        (["--log-level", "loud"], {}, "LOG_LEVEL='loud': expected one of CRITICAL"),
        ([], {"LOG_FORMAT": "xml"}, "LOG_FORMAT='xml': expected text or json"),
        ([], {"CORS_ORIGINS": "app.example"}, "CORS_ORIGINS='app.example': expected"),
        ([], {"CHAT_BODY_TIMEOUT": "nan"}, "CHAT_BODY_TIMEOUT='nan': expected a number"),
        (["--responder", "mine"], {}, "CHAT_RESPONDER='mine': expected"),
        ([], {"CHAT_RESPONDER": "nowhere:one"}, "CHAT_RESPONDER='nowhere:one': expected"),
        (["--responder", "product.nowhere:one"], {}, "product.nowhere"),
        (["--responder", "mine:three"], {}, "three"),
        (["--responder", "mine:coroutine"], {}, "coroutine function"),
        (["--responder", "mine:not_callable"], {}, "not callable"),
        (["--responder", "openai"], {}, "OPENAI_API_KEY=None: expected a key"),
        ([], {"CHAT_RESPONDER": "anthropic"}, "ANTHROPIC_API_KEY=None: expected a key"),
        (
            ["--responder", "openai"],
            {"OPENAI_BASE_URL": "host:80"},
            "OPENAI_BASE_URL='***': expected",
        ),
        (
            ["--responder", "anthropic", "--workers", "2"],
            {"ANTHROPIC_BASE_URL": "http://256.1.1.1"},
            "ANTHROPIC_BASE_URL='http://256.1.1.1': expected an address",
        ),
        (
            ["--responder", "openai"],
            {"OPENAI_BASE_URL": "http://host", "CHAT_MAX_TOKENS": "many"},
            "CHAT_MAX_TOKENS='many': expected a whole number",
        ),
        ([], {"CHAT_API_KEYS": "ann:short"}, "CHAT_API_KEYS='***': expected NAME:KEY"),
        ([], {"CHAT_JWT_ISSUER": "me"}, "CHAT_JWT_AUDIENCE='': expected the audience of tokens"),
        (["--check"], {"CHAT_JWT_JWKS": "http://host/jwks"}, "CHAT_JWT_ISSUER='': expected the"),
        ([], {"CHAT_API_KEYS_FILE": "no.json"}, "CHAT_API_KEYS_FILE='no.json': expected a file of"),
        ([], {"CHAT_HISTORY": "disk"}, "CHAT_HISTORY='disk': expected off, memory, redis, sqlite:"),
        (
            ["--workers", "2"],
            {"CHAT_HISTORY": "memory"},
            "CHAT_HISTORY='memory': expected off, or one worker (WEB_CONCURRENCY=1)",
        ),
        ([], {"CHAT_HISTORY": "memory", "WEB_CONCURRENCY": "3"}, "each of 3 would know a part"),
        (
            ["--workers", "2"],
            {"CHAT_REPLAY": "memory"},
            "CHAT_REPLAY='memory': expected off, or one worker (WEB_CONCURRENCY=1): each of 2",
        ),
        (
            [],
            {"CHAT_HISTORY": "postgresql://host:port/chat"},
            "CHAT_HISTORY='postgresql://host:port/chat': expected a URL such as postgresql://USER",
        ),
        ([], {"REDIS_URL": "host:6379"}, "REDIS_URL='host:6379': expected redis://HOST:PORT/NUM"),
        (
            [],
            {"CHAT_REPLAY": "redis", "REDIS_URL": "redis://host:port/0"},
            "REDIS_URL='redis://host:port/0': expected an address that redis-py can use",
        ),
        (["--root-path", "//evil.example"], {}, "ROOT_PATH='//evil.example': expected a path"),
        (["--forwarded-allow-ips", "proxy"], {}, "FORWARDED_ALLOW_IPS='proxy': expected *, or"),
        (["--timeout-keep-alive", "0"], {}, "KEEP_ALIVE='0': expected a number of seconds"),
        ([], {"ACCESS_LOG": "maybe"}, "ACCESS_LOG='maybe': expected on or off"),
        (["--reload", "--workers", "2"], {}, "WEB_CONCURRENCY=2: expected 1, for --reload"),
        (["--fd", "3", "--uds", "x"], {}, "UDS='x': expected none, as --fd is given"),
        (
            ["--env-file", "none"],
            {},
            "--env-file='none': expected a file that can be read: No such",
        ),
        (["--ssl-certfile", "none"], {}, "SSL_CERTFILE='none': expected a file that can be read"),
        (["--ssl-certfile", "mine.py"], {}, "SSL_CERTFILE='mine.py': expected a certificate"),
        (
            ["--ssl-certfile", "mine.py"],
            {"SSL_KEYFILE": "none", "WEB_CONCURRENCY": "2"},
            "SSL_KEYFILE='none': expected a file that can be read",
        ),
        ([], {"SSL_KEYFILE": "mine.py"}, "SSL_CERTFILE='': expected a file, for SSL_KEYFILE"),
        ([], {"SSL_CERT_REQS": "2"}, "SSL_CERTFILE='': expected a file, for SSL_CERT_REQS"),
        ([], {"SSL_CIPHERS": "HIGH"}, "SSL_CERTFILE='': expected a file, for SSL_CIPHERS"),
        (
            ["--ssl-certfile", "mine.py", "--ssl-cert-reqs", "2"],
            {},
            "SSL_CA_CERTS='': expected a file with the authorities that SSL_CERT_REQS asks for",
        ),
        (
            ["--ssl-certfile", "locked.pem"],
            {},
            "SSL_KEYFILE_PASSWORD='': expected the password of the key",
        ),
    ],
)
def test_a_bad_setting_is_told_in_one_line_that_says_which_and_what_was_expected(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: List[str],
    variables: Dict[str, str],
    said: str,
) -> None:
    """Who reads it wants to mend the setting, not to read our source."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", [str(directory), *sys.path])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(os, "environ", environment(**variables))
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("omniforge-chat: ")
    assert said in line


def test_a_bad_setting_ends_the_process_without_a_traceback(directory: Path) -> None:
    """The same, as whoever starts it sees it."""
    done = refused(directory, "--workers", "2", PORT="eighty")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "omniforge-chat: PORT='eighty': expected a whole number from 0 to 65535\n"
    )


def test_a_missing_extra_ends_the_process_with_the_command_that_installs_it(
    directory: Path,
) -> None:
    """Whoever installed the package without it has never heard of extras."""
    missing = """raise ModuleNotFoundError("No module named 'httpx'", name="httpx")"""
    (directory / "httpx.py").write_text(missing)
    done = refused(directory, "--responder", "openai", OPENAI_API_KEY="sk-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "omniforge-chat: CHAT_RESPONDER='openai': expected one that can be imported; "
        "httpx is missing: pip install 'omniforge-chat[providers]'\n"
    )


def test_an_unknown_flag_ends_it_with_the_usage(directory: Path) -> None:
    """As every command does."""
    done = refused(directory, "--hots", "x")
    assert done.returncode == 2
    assert "usage: omniforge-chat" in done.stderr
    assert "--hots" in done.stderr


def test_an_error_inside_somebody_s_own_module_keeps_its_traceback(directory: Path) -> None:
    """That the name was right and the module is broken is theirs to see, with the line."""
    (directory / "broken.py").write_text("import a_module_that_is_not_there\n")
    done = refused(directory, "--responder", "broken:respond")
    assert done.returncode != 0
    assert 'broken.py", line 1' in done.stderr
    assert "a_module_that_is_not_there" in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_taken_port_ends_it_with_one_line(directory: Path, workers: str) -> None:
    """The most common reason of all, and no bug of anybody's."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = refused(directory, "--port", str(port), "--workers", workers)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"omniforge-chat: cannot listen on 127.0.0.1:{port}: Address already in use"
    ]


@pytest.fixture
def here(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process is in that directory meanwhile, with the environment of a service."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(os, "environ", environment())
    return directory


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid", "a..b", "x86_64-conda-linux-gnu"])
def test_an_address_that_is_not_ours_ends_it_with_one_line(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """A wrong `HOST` is the other common reason, and it need not be of the user's own making."""
    assert main(["--host", host, "--port", "0"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"omniforge-chat: cannot listen on {host}:0: ")
    assert "HOST" not in line
    monkeypatch.setitem(os.environ, "HOST", host)
    assert main(["--port", "0"]) == 1
    (of_variable,) = capsys.readouterr().err.splitlines()
    assert of_variable == (
        f"{line} (the variable HOST, which conda and some shells set, too: unset it, or use --host)"
    )


def test_what_is_no_socket_is_not_listened_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody's file is removed for it."""
    (here / "taken").touch()
    with socket.socket(socket.AF_UNIX) as used, open(here / "taken") as file:
        used.bind(str(here / "used"))
        used.listen(0)
        for arguments, said in (
            (["--uds", "taken"], "taken: there is a file that is no socket"),
            *2 * [(["--uds", "used"], "used: Address already in use")],  # its backlog is full then
            (["--uds", "no/where"], "no/where: No such file or directory"),
            (["--uds", "x" * 200], f"{'x' * 200}: AF_UNIX path too long"),
            (["--fd", "999"], "the descriptor 999: Bad file descriptor"),
            (["--fd", "-1"], "the descriptor -1: Bad file descriptor"),
            (["--fd", str(2**40)], f"the descriptor {2**40}: Bad file descriptor"),
            (["--fd", str(file.fileno())], f"the descriptor {file.fileno()}: Socket operation on"),
        ):
            assert main(arguments) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith(f"omniforge-chat: cannot listen on {said}")
        assert (here / "taken").exists()
        assert (here / "used").exists()


def test_check_says_what_would_start_and_starts_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deployment asks before it replaces what runs."""
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        flags = ["--responder", "mine:one", "--port", str(port), "--ssl-keyfile-password", "secret"]
        assert main(["--check", *flags[:4]]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"omniforge-chat: would serve mine:one on 127.0.0.1:{port} with 1 worker",
            f"  PORT={port}",
            "  CHAT_RESPONDER=mine:one",
        ]
        assert main(["--check", *flags]) == 2
        assert "secret" not in capsys.readouterr().err
    monkeypatch.setenv("CHAT_DIALECTS", "openai, ag_ui")
    monkeypatch.setenv("CHAT_PAGE", "0")
    assert main(["--check"]) == 0  # as one would write them
    assert capsys.readouterr().out.splitlines()[1:] == [
        "  CHAT_DIALECTS=openai,ag_ui",
        "  CHAT_PAGE=off",
    ]
    assert main(["--check", "--uds", "x", "--workers", "2"]) == 0
    assert " on x with 2 workers" in capsys.readouterr().out
    assert not (here / "x").exists()


def test_the_version_is_that_of_the_package_and_of_what_serves(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is what a bug report needs."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    found = re.fullmatch(
        r"omniforge-chat \S+ \(uvicorn \S+, \w+ \S+, \w+\)\n", capsys.readouterr().out
    )
    assert found


# Ending


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        *((number, workers) for number in (signal.SIGTERM, signal.SIGINT) for workers in "12"),
        (signal.SIGHUP, "2"),
    ],
)
def test_a_signal_ends_it_as_a_success(directory: Path, number: int, workers: str) -> None:
    """An orchestrator tells the parent, and a terminal tells every process of the group at once."""
    with running(directory, "--workers", workers) as service:
        assert service.reply()
        tell = os.kill if number == signal.SIGTERM else os.killpg
        tell(service.process.pid, number)
        assert service.status() == 0
        assert "draining: " in "\n".join(service.log)
        assert "Traceback" not in "\n".join(service.log)
        with pytest.raises(ConnectionRefusedError):
            service.connect()


@pytest.fixture
def _no_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """It handles SIGTERM itself, before anything else."""
    for name in [name for name in os.environ if name.startswith("COVERAGE")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_coverage")
@pytest.mark.parametrize(
    ("module", "number"),
    [
        *(("argparse", number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)),
        *(("starlette", signal.SIGTERM), ("mine", signal.SIGTERM)),
    ],
)
def test_a_signal_is_heard_before_anything_is_imported(
    directory: Path, module: str, number: int
) -> None:
    """The kernel drops one that the first process of a container does not handle by then."""
    (directory / f"{module}.py").write_text(f"import os\nos.kill(os.getpid(), {number:d})\n")
    done = refused(directory, "--responder", "mine:one")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.usefixtures("_no_coverage")
def test_the_first_process_of_a_container_hears_a_signal_while_it_starts(directory: Path) -> None:
    """There is no second one."""
    if subprocess.run(["unshare", "--pid", "--fork", "true"], check=False).returncode:
        pytest.skip("no namespaces here")
    (directory / "starlette.py").write_text("import os\nos.kill(os.getpid(), 15)\nprint('lost')\n")
    command = ["unshare", "--pid", "--fork", *MODULE]
    with running(directory, command=command) as service:
        assert service.status() == 0
        assert service.log == []


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    """`nohup` means it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_signals(lambda *_: None, lambda: False):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_workers_start_ends_them_all(directory: Path) -> None:
    """A deployment that is undone at once leaves nothing behind."""
    with running(directory, "--workers", "3") as service:
        service.wait_for("Started server process")
        assert service.end() == 0


# Workers


def test_workers_end_with_a_parent_that_was_killed(directory: Path) -> None:
    """Nobody else would tell them, and they would hold the port."""
    with running(directory, "--workers", "2") as service:
        assert service.reply()
        # Its log ends when the last process that holds it has ended.
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(ConnectionRefusedError):
            service.connect()


# Remembering


def test_a_conversation_is_remembered_where_it_is_asked_for(directory: Path) -> None:
    """One variable, and follow-up questions work; without it nothing is kept."""
    (directory / "recall.py").write_text(RECALL)
    for history, second in (("memory", "user: one, assistant: nothing; two"), ("off", "two")):
        variables = {"CHAT_HISTORY": history, "CHAT_RESPONDER": "recall:recall"}
        with running(directory, "--workers", "1", **variables) as service:
            assert service.reply("one", conversation_id=CONVERSATION) == "nothing; one"
            assert service.reply("two", conversation_id=CONVERSATION).endswith(second)
            assert service.reply("three") == "nothing; three"
            assert service.end() == 0


def test_several_workers_and_the_next_service_share_a_file(directory: Path) -> None:
    """Whichever answers knows what the others were told, also after a crash of all of them."""
    (directory / "counting.py").write_text("async def count(turn): yield str(len(turn.history))")
    variables = {"CHAT_HISTORY": "sqlite", "CHAT_RESPONDER": "counting:count"}
    told: List[str] = []
    for number in (signal.SIGKILL, signal.SIGTERM):
        with running(directory, "--workers", "2", **variables) as service:
            told += [service.reply(conversation_id=CONVERSATION) for _ in range(8)]
            service.end(number)
    assert told == [str(2 * turns) for turns in range(16)]
    assert (directory / "conversations.db").exists()


def test_a_service_that_ends_closes_what_its_responder_holds_open(directory: Path) -> None:
    """Connections to a model, say: once in each process, after the last chat."""
    (directory / "recall.py").write_text(RECALL)
    with running(directory, "--workers", "2", "--responder", "recall:closable") as service:
        assert service.port
        service.wait_for("serving on")  # the other worker
        assert service.reply() == "hi"
        assert service.end() == 0
    assert "\n".join(service.log).count("closed after the chats") == 2


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_last_moment_makes_no_failure_of_a_stop(
    directory: Path, number: int, workers: str
) -> None:
    """Somebody who presses Ctrl-C twice, or a supervisor that asks again, sees a success too."""
    with running(directory, WEB_CONCURRENCY=workers) as service:
        assert service.reply()
        service.process.send_signal(signal.SIGTERM)
        for _ in range(int(workers)):
            service.wait_for("Finished server process")
        assert service.end(number) == 0


def test_a_limit_beyond_what_the_kernel_counts_is_its_longest(directory: Path) -> None:
    """TCP_USER_TIMEOUT is a number of milliseconds in 31 bits."""
    with running(directory, CHAT_SEND_TIMEOUT="2000000") as service:
        assert service.reply()
        assert service.end() == 0


# What it says


def test_json_logs_are_one_object_a_line_with_the_fields_of_the_chat(directory: Path) -> None:
    """For machines: nothing to parse but JSON, also what the server says itself."""
    with running(directory, LOG_FORMAT="json", LOG_LEVEL="debug") as service:
        with service.connect() as client:
            client.post({"message": "xyzzy"}, headers={"X-Request-ID": "ref-1"})
            _, headers = client.head()
            client.frames()
            client.post({"message": 1, "secret": "xyzzy"})
            client.json()
        service.wait_for("chat ended")
        assert service.end() == 0
    lines = [json.loads(line) for line in service.log]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    (ended,) = [line for line in lines if line["message"] == "chat ended"]
    assert ended["level"] == "INFO"
    assert ended["request_id"] == "ref-1"
    assert ended["conversation_id"] == headers["x-conversation-id"]
    assert ended["outcome"] == "done"
    assert ended["chunks"] == 5
    assert ended["tokens"] > 0
    assert 0 <= ended["first_chunk_ms"] <= ended["total_ms"]
    assert "xyzzy" not in "\n".join(service.log)


@pytest.mark.parametrize("style", ["text", "json"])
def test_a_failure_is_logged_with_its_traceback_under_the_request_id(
    directory: Path, style: str
) -> None:
    """The reference that the client was given finds the cause."""
    with running(directory, "--responder", "mine:broken", "--log-format", style) as service:
        with service.connect() as client:
            client.post({"message": "xyzzy"}, headers={"X-Request-ID": "ref-1"})
            client.head()
            event, data = last(client.frames())
            assert event == "error"
            assert "ref-1" in data["message"]
            assert "the cause" not in data["message"]
        service.wait_for("chat ended")
        assert service.end() == 0
    log = "\n".join(service.log)
    assert "xyzzy" not in log
    if style == "json":
        lines = [json.loads(line) for line in service.log]
        (failure,) = [line for line in lines if line["level"] == "ERROR"]
        assert "ref-1" in failure["message"]
        assert failure["traceback"].endswith("RuntimeError: the cause")
    else:
        assert re.search(r"ERROR omniforge_chat: .*ref-1", log)
        assert "\nRuntimeError: the cause" in log


def test_below_its_level_nothing_is_logged(directory: Path) -> None:
    """A service that is told to be quiet is."""
    with listen("127.0.0.1", 0) as listener:  # a client waits in it until the service is there
        port, fd = listener.getsockname()[1], listener.fileno()
        flags = ["--log-level", "warning", "--fd", str(fd)]
        with running(directory, *flags, PORT=str(port), pass_fds=[fd]) as service:
            assert service.reply()
            assert service.end() == 0
            assert service.log == []
