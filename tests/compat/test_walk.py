"""The page on deployment, typed line by line: from nothing to keys, limits, metrics and a page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Dict, List, Tuple

from ..support.client import Client
from ..support.docs import DOCS, ROOT
from ..support.missing import missing
from ..support.process import environment
from .driving import free_port
from .table import executable

CLONE = "https://github.com/omniforge/omniforge-chat"
HEADING = "## A service in ten minutes"
MARK = "--- line {} ---"


def typed() -> List[Tuple[str, str]]:
    """Each line behind `$` in that section, and what the page shows below it."""
    section = (
        (DOCS / "deployment.md").read_text("utf-8").partition(HEADING)[2].partition("\n## ")[0]
    )
    found: List[Tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, shown = found[-1]
                found[-1] = (command, f"{shown}{line}\n")
    return found


def fits(shown: str, said: str) -> bool:
    """Whether `said` has what the page shows, `...` in which stands for anything."""
    pattern = ".*".join(map(re.escape, shown.strip().split("...")))
    return re.search(pattern, said, re.DOTALL) is not None


def script(lines: List[Tuple[str, str]], ports: Dict[str, str]) -> str:
    """The lines, with free ports, and marks between what they say."""
    steps = ["trap 'echo failed' ERR\n"]
    for number, (command, _) in enumerate(lines):
        for usual, free in ports.items():
            command = re.sub(rf"\b{usual}\b", free, command)
        steps.append(f"echo '{MARK.format(number)}'\n{command}\n")
        if command.startswith("cd "):
            changes = " ".join(f"-e s/{usual}/{free}/" for usual, free in ports.items())
            steps.append(f"sed -i {changes} docs/deploy/prometheus-local.yml\n")
    return "".join([*steps, f"echo '{MARK.format(len(lines))}'\nsleep 600\n"])


def repository(directory: Path) -> Path:
    """A repository of the files that are here, to be cloned."""
    for name in ("omniforge_chat", "docs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, directory / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, directory)
    author = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *arguments], cwd=directory, check=True)
    return directory


def asked(port: str, path: str) -> Tuple[int, str]:
    """What a page answers."""
    with Client(int(port)) as client:
        client.ask(path)
        status, headers = client.head()
        return status, client.content(headers).decode()


def test_an_operator_who_types_what_the_page_says_has_a_guarded_and_watched_service(
    tmp_path: Path,
) -> None:
    """In ten minutes, and with that page alone."""
    for program in ("git", "curl", "prometheus", "bash"):
        if not executable(program):
            missing(program, "as root, .ci/programs installs Prometheus")
    lines = typed()
    ports = {usual: str(free_port()) for usual in ("8000", "9100", "9091")}
    variables = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository(tmp_path / 'origin')}.insteadOf",
        "GIT_CONFIG_VALUE_0": CLONE,
        "PORT": ports["8000"],
        **{name: value for name, value in os.environ.items() if name.startswith("PIP_")},
    }
    shell = subprocess.Popen(
        [executable("bash") or "bash"],
        cwd=tmp_path,
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    said: List[str] = []
    try:
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(script(lines, ports))
        shell.stdin.close()
        for line in shell.stdout:
            said.append(line)
            if line.strip() == MARK.format(len(lines)):
                break
        text = "".join(said)
        assert "failed\n" not in text, text
        for number, (command, shown) in enumerate(lines):
            start, end = MARK.format(number), MARK.format(number + 1)
            answer = text.partition(start)[2].partition(end)[0]
            assert fits(shown, answer), f"{command}: {answer}"
        key = (tmp_path / "omniforge-chat" / "alice.key").read_text("ascii").strip()
        assert key not in text
        assert 'omniforge_chats_total{dialect="native",outcome="done"} 1.0' in text
        status, page = asked(ports["9091"], "/consoles/omniforge-chat.html")
        assert (status, "OmniForge Chat" in page) == (200, True)
        status, rules = asked(ports["9091"], "/api/v1/rules")
        assert json.loads(rules)["data"]["groups"], "the alerts are watched for"
        assert asked(ports["8000"], "/")[0] == 200
    finally:
        os.killpg(shell.pid, signal.SIGTERM)
        if shell.stdout is not None:
            with shell.stdout:
                shell.stdout.read()  # to its end: until all that it has started has ended
        shell.wait()
        shutil.rmtree(tmp_path / "omniforge-chat", ignore_errors=True)
