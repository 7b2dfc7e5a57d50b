"""The documentation is true: its tables say what the code says, its links lead somewhere, and its
examples run and print what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, List, NamedTuple, Set, Tuple

import pytest
from starlette.applications import Starlette

import omniforge_chat
from omniforge_chat import ChatError, Settings, chat_routes, create_app
from omniforge_chat.cli import main
from omniforge_chat.cli.flags import FLAGS
from omniforge_chat.core.sse import Decoder
from omniforge_chat.dialects import all_errors
from omniforge_chat.errors import RequestError
from omniforge_chat.responders import placeholder
from omniforge_chat.settings import variable
from omniforge_chat.stream.lifecycle import Lifecycle

from ..support.answers import last, text
from ..support.app import call
from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.docs import DOCS, PAGES, README, ROOT, blocks, transitions, write_examples
from ..support.process import MODULE, ServiceProcess, environment, running
from ..support.servers import UvicornThread

REPOSITORY = re.compile(r"^https://github\.com/omniforge/omniforge-chat/(?:blob|tree)/main/")
"""How the pages that are also read elsewhere, on PyPI, link to a file of the project."""

FIELDS = Settings.__struct_fields__


def page_name(page: Path) -> str:
    """A page as its tests are called."""
    return page.name


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(
        r"^( *)```.*?^\1```$", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def rows(page: Path, *columns: str) -> List[List[str]]:
    """The cells of every table of a page that begins with these columns, code marks removed."""
    found: List[List[str]] = []
    inside = False
    for line in page.read_text("utf-8").splitlines():
        cells = [cell.strip().strip("`") for cell in line.split("|")[1:-1]]
        if not cells:
            inside = False
        elif cells[: len(columns)] == list(columns):
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            found.append(cells)
    assert found, f"{page.name} has no table of {columns}"
    return found


def anchors(page: Path) -> Set[str]:
    """What a link to a heading of the page may have after `#`, as code hosts make it."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Tables


def test_the_table_of_settings_is_settings() -> None:
    """Whoever sets a variable has read its name and its default there, and nowhere else."""
    found = rows(DOCS / "configuration.md", "field", "variable", "default")
    assert [row[0] for row in found] == list(FIELDS)
    assert [row[1] for row in found] == [variable(field) for field in FIELDS]
    assert Settings.from_env({row[1]: row[2] for row in found}) == Settings.from_env({})


def test_a_default_in_a_sentence_is_that_of_settings() -> None:
    """`CHAT_DRAIN_TIMEOUT` (30): whoever sizes a proxy by it does not look it up again."""
    defaults = {variable(field): getattr(Settings(), field) for field in FIELDS}
    told = [
        (name, float(number))
        for page in DOCS.glob("*.md")
        for name, number in re.findall(r"`([A-Z_]+)` \((\d+)\)", prose(page))
        if name in defaults
    ]
    assert len(told) > 3
    assert told == [(name, defaults[name]) for name, _ in told]


def test_the_table_of_settings_says_which_limits_may_be_off() -> None:
    """`off` is refused where it would be dangerous, and a reader should not have to try."""
    for field, name, _, unit, *_ in rows(DOCS / "configuration.md", "field", "variable"):
        try:
            Settings.from_env({name: "off"})
            may_be_off = not isinstance(getattr(Settings(), field), (str, bool, tuple))
        except ValueError:
            may_be_off = False
        assert unit.endswith("or `off") == may_be_off, field


def test_the_table_of_flags_is_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag that is not in the table is not found, one that is only there does not work."""
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = re.findall(r"^  (?:-h, )?(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
    listed = dict(rows(DOCS / "configuration.md", "flag", "variable"))
    assert [*listed, "--help"] == [*shown[1:], "--help"]
    assert listed == {flag: variable(FLAGS[flag][0]) if flag in FLAGS else "" for flag in listed}


def test_the_tables_of_errors_are_the_tree_of_errors() -> None:
    """Clients branch on these codes."""
    before = [row[:2] for row in rows(DOCS / "protocol.md", "status", "code")]
    assert sorted(before) == sorted([str(e.status), e.code] for e in all_errors(RequestError))
    listed = rows(DOCS / "protocol.md", "code", "when")
    within = {code for row in listed for code in row[0].split("`, `")}
    assert within == {e.code for e in all_errors(ChatError) if e.ends_stream}


def test_the_readme_names_every_code() -> None:
    """It is all that most people read."""
    page = README.read_text("utf-8")
    for error in all_errors(ChatError):
        assert f"`{error.code}`" in page


def test_the_plan_of_the_house_is_the_package() -> None:
    """A house whose plan lacks a room is not understood from its plan."""
    listed, room = set(), [""] * 8
    for line in blocks(DOCS / "design.md", "")[0].splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 2, line.split()[0]
        room[depth] = name if name.endswith("/") else ""
        listed.add("".join(room[:depth]) + name.rstrip("/"))
    package = Path(omniforge_chat.__file__).parent
    built = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*")
        if path.name not in ("__init__.py", "__pycache__", "py.typed")
        and "__pycache__" not in path.parts
        and path.suffix not in (".html", ".js")
    }
    assert listed == built


def test_the_table_of_a_stream_s_life_is_the_code() -> None:
    """Who changes a row changes it there, and prints the table anew."""
    assert transitions() in (DOCS / "design.md").read_text("utf-8")


# Links and commands


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_link_within_the_project_leads_somewhere(page: Path) -> None:
    """A file, and where the link names one, a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        path, _, anchor = REPOSITORY.sub(f"{ROOT}/", target).partition("#")
        if not re.match(r"[a-z]+:", path):
            linked = (page.parent / path) if path else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors(linked), target


def test_the_readme_links_every_page() -> None:
    """What nobody links, nobody finds."""
    linked = set(re.findall(r"\]\(https://\S+/(docs/\w+\.md)\)", README.read_text("utf-8")))
    assert linked == {f"docs/{page.name}" for page in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_target_of_make_exists(page: Path) -> None:
    """Everywhere the first thing that a newcomer types."""
    made = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:\$ |`)make (?:[A-Z]+=\S+ )*([a-z-]+)", page.read_text("utf-8")):
        assert target in made


# Examples


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_in_the_docs_compiles(page: Path) -> None:
    """On every Python that is supported."""
    for code in blocks(page, "python"):
        compile(code, page.name, "exec")


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with the modules of README.md and docs/embedding.md, which can be imported."""
    names = write_examples(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


def reply(app: Any, path: str, message: str) -> str:
    """The whole text of a reply that is `done`."""
    answer = call(app, {"message": message}, path=path)
    assert answer.status == 200
    assert last(answer.frames)[0] == "done"
    return text(answer.frames)


def test_the_readme_s_curl_prints_what_it_shows() -> None:
    """It is the first thing that anybody compares."""
    console, *_ = (code for code in blocks(README, "console") if "curl" in code)
    command, _, shown = console.partition("'\nevent:")
    body = json.loads(command[command.index("-d '") + len("-d '") :])
    answer = call(create_app(settings=Settings()), body, path="/api/v1/chat")
    assert answer.body.decode() == f"event:{shown}"


class Console(NamedTuple):
    """A command of a page, and the lines of its output that the page shows."""

    command: str
    shown: List[str]

    def run(self, directory: Path, port: int, last_id: str = "") -> str:
        """The output, in which the shown lines are, one below the other; `...` is any."""
        command = self.command.replace(":8000/", f":{port}/")
        command = re.sub(r"(?<=Last-Event-ID: )[^']+", last_id, command)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        lines = iter(done.stdout.splitlines())
        for line in self.shown:
            # The id of the reply is another one each time, and so may be the word of the cut.
            pattern = re.escape(re.sub(r"(?<=^id: )[\w.-]+|(?<=\"content\":\")\w", "ANY", line))
            pattern = pattern.replace("ANY", r"[\w.-]+")
            assert line == "..." or any(re.fullmatch(pattern, each) for each in lines), line
        return done.stdout


def consoles(block: str) -> List[Console]:
    """The commands of a block of a console."""
    commands = re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    return [Console(command, shown.splitlines()) for command, shown in commands]


@contextlib.contextmanager
def started(line: str, directory: Path) -> Iterator[ServiceProcess]:
    """A service that this line starts; at the end Ctrl-C stops it.

    Its `make` installs nothing; `python -m tests.newcomer` runs the real one.
    """
    make = directory / "bin" / "make"
    make.parent.mkdir(exist_ok=True)
    make.write_text(f'#!/bin/sh\n[ "$*" = run ] && exec {" ".join(MODULE)}\n')
    make.chmod(0o755)
    path = f"{make.parent}:{environment()['PATH']}"
    with running(directory, command=["bash", "-c", line], PATH=path) as service:
        yield service
        os.killpg(service.process.pid, signal.SIGINT)
        assert service.status() == 0


def test_a_reply_of_the_readme_is_cut_and_continued_and_its_conversation_outlives_the_service(
    examples: Path,
) -> None:
    """Each line as it stands there: somebody pastes them, and believes all the rest or nothing."""
    page = README.read_text("utf-8")
    section = page[page.index("## Lose nothing") : page.index("## Put it into your app")]
    (start,), (cut, rest), (later,) = (
        consoles(f"{block}\n")
        for block in re.findall(r"```console\n(.*?)\n```", section, re.DOTALL)
    )
    with started(start.command, examples) as service:
        output = cut.run(examples, service.port)
        before = [frame for frame in Decoder().feed(f"{output}\n".encode()) if frame.data]
        assert 0 < len(before) < 20
        frames = Decoder().feed(rest.run(examples, service.port, before[-1].id).encode())
        assert text([*before, *frames]) == "a b c d e f g h i j k l m n o p q r s t "
    with started(start.command, examples) as service:
        later.run(examples, service.port)


def test_the_readme_s_responder_answers(examples: Path) -> None:
    """Under the name by which the README serves it."""
    app = create_app(settings=Settings(responder="hello:respond"))
    answer = call(app, {"message": "one two"}, path="/api/v1/chat")
    assert text(answer.frames) == "one two "
    assert last(answer.frames)[1]["usage"] == {"tokens": 42}
    answer = call(app, {"message": "the weather"}, path="/api/v1/chat")
    assert last(answer.frames)[1]["code"] == "off_topic"


@pytest.mark.parametrize(
    ("module", "path", "answer"),
    [
        ("host", "/assistant/api/v1/chat", "hi "),
        ("mounted", "/assistant/api/v1/chat", "hi "),
        ("two", "/assistant/api/v1/chat", "hi "),
        ("two", "/shout/api/v1/chat", "HI"),
        ("table", "/api/v1/chat", "hi "),
        ("drained", "/assistant/api/v1/chat", "hi "),
        ("kept", "/assistant/api/v1/chat", "hi "),
        ("users", "/assistant/api/v1/chat", "hi "),
        ("greeting", "/assistant/api/v1/chat", "Hello, Ada"),
    ],
)
def test_a_host_of_the_docs_answers(examples: Path, module: str, path: str, answer: str) -> None:
    """People copy these as they are."""
    assert reply(importlib.import_module(module).app, path, "hi") == answer


def test_the_users_of_the_docs_are_told_apart(examples: Path) -> None:
    """Each has replies of their own, and one without a token has none of theirs."""
    app = importlib.import_module("users").app
    ann = {"Authorization": "Bearer sesame"}
    location = call(app, path="/assistant/api/v1/chat", headers=ann).headers["location"]
    for headers, status in ((ann, 200), ({"Authorization": "Bearer open"}, 404), ({}, 404)):
        assert call(app, b"", method="GET", path=location, headers=headers).status == status


def test_the_lock_of_the_docs_locks_all_that_is_under_its_path(examples: Path) -> None:
    """It is for those whose dependencies do not."""
    app = importlib.import_module("locked").app
    for headers, status in (({}, 401), ({"X-API-Key": "é"}, 401), ({"X-API-Key": "sesame"}, 200)):
        assert call(app, path="/assistant/api/v1/chat", headers=headers).status == status
        for path in ("/health", "/openapi.json", "/docs", "/api/v1/chat/"):
            method = "POST" if "chat" in path else "GET"
            answer = call(app, method=method, path=f"/assistant{path}", headers=headers)
            assert answer.status == status


def test_the_lock_of_the_docs_goes_around_a_whole_app_too(examples: Path) -> None:
    """Its lifespan has no headers, and a server goes on without one that fails."""
    started: List[Starlette] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        started.append(app)
        yield

    app = Starlette(routes=chat_routes(placeholder), lifespan=lifespan)
    app.add_middleware(importlib.import_module("locked").Key)
    with UvicornThread(app) as server, Client(server.port) as client:
        client.ask("/health")
        assert client.json()[0] == 401
    assert started == [app]


@contextlib.contextmanager
def uvicorn(module: str, directory: Path) -> Iterator[Tuple[subprocess.Popen[bytes], int]]:
    """A uvicorn of its own that serves `module:app`, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", f"{module}:app", "--port", "0"],
        cwd=directory,
        env=environment(),
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        log: List[bytes] = []
        for line in process.stderr:
            log.append(line)
            found = re.search(rb"running on http://127\.0\.0\.1:(\d+)", line)
            if found:
                yield process, int(found[1])
                return
        raise AssertionError(f"it did not start: {log}")
    finally:
        process.kill()
        process.communicate()


def ask_until(port: int, path: str, status: int) -> Dict[str, Any]:
    """Ask for `path` until the answer has this status, and return its body."""
    while True:
        with Client(port) as client:
            client.ask(path)
            got, _, body = client.json()
            if got == status:
                assert isinstance(body, dict)
                return body


def test_the_host_that_drains_first_drains_first(examples: Path) -> None:
    """uvicorn alone would wait for the whole stream, and take nobody else meanwhile."""
    with uvicorn("drained", examples) as (process, port), Client(port) as client:
        client.post({"message": "a " * 4000}, path="/assistant/api/v1/chat")
        assert client.head()[0] == 200
        client.frame()
        process.send_signal(signal.SIGTERM)
        assert ask_until(port, "/assistant/ready", 503) == {"status": "draining"}
        process.send_signal(signal.SIGTERM)
        event, data = last(client.frames())
        assert (event, data["code"]) == ("error", "shutting_down")
        client.close()
        process.wait(PATIENCE)


def test_draining_the_routes_alone() -> None:
    """docs/embedding.md offers a lifecycle of one's own to those who have no app to call."""
    lifecycle = Lifecycle(max_streams=500)
    app = Starlette(routes=chat_routes(placeholder, lifecycle=lifecycle))
    asyncio.run(lifecycle.drain(30))
    answer = call(app, method="GET", path="/ready")
    assert answer.json()[2] == {"status": "draining"}


def test_the_time_that_kubernetes_gives_is_enough_for_the_defaults() -> None:
    """A drain that is cut short is a cut reply."""
    page = (DOCS / "deployment.md").read_text("utf-8")
    given = int(re.findall(r"terminationGracePeriodSeconds: (\d+)", page)[0])
    pause = int(re.findall(r'command: \[sleep, "(\d+)"\]', page)[0])
    defaults = Settings()
    needed = pause + defaults.drain_timeout + 3 * defaults.cleanup_timeout + 1
    assert given > needed
    assert f"you need more than {needed:.0f}" in page


def test_each_threat_has_its_test() -> None:
    """A promise whose test is gone is none."""
    for *_, cell in rows(DOCS / "security.md", "somebody", "tries to", "so the service", "test"):
        named = re.findall(r"(?:(tests/[\w/]+\.py)|`)::(\w+)|make (\w+)", cell)
        assert named, cell
        module = Path()
        for path, name, target in named:
            module = ROOT / path if path else ROOT / "Makefile" if target else module
            pattern = rf"^{target}:" if target else rf"^(async )?def {name}\("
            assert re.search(pattern, module.read_text("utf-8"), re.MULTILINE), cell
