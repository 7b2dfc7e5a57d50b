"""The image of docs/deploy/Dockerfile, made without a container engine.

The steps of the first stage are run in a directory that stands for the root of the image, and what
the last stage does not copy is removed. Paths of the image are those below this directory. Only
what the Dockerfile uses is understood, and anything else fails.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import List, NamedTuple, Set, Tuple

from ..support.docs import DOCS, ROOT

DOCKERFILE = DOCS / "deploy" / "Dockerfile"
TAKEN_OVER = ("/opt", "/src", "/app", "/data", "/tmp")
"""The directories of the image that are below the directory of a test."""

# Whoever runs this is root. The command is not: it may read everything, and write to nothing but
# the root's /tmp. The capability to read stands for Python, which here lies in root's home.
_CONFINED = """
mount -o remount,ro,bind /
mount -t tmpfs tmpfs "$1"
cd "$2"
user=$3
shift 3
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs \
    --bounding-set=-all,+dac_read_search --inh-caps=+dac_read_search \
    --ambient-caps=+dac_read_search -- "$@"
"""


class Instruction(NamedTuple):
    """One instruction: its word, and the rest of it in one line, without options."""

    word: str
    rest: str


def stages(dockerfile: Path = DOCKERFILE) -> List[List[Instruction]]:
    """The instructions of each stage. The first is its FROM."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text("utf-8"), flags=re.MULTILINE)
    found: List[List[Instruction]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if found and word:  # before the first stage are arguments
            found[-1].append(Instruction(word, re.sub(r"^(--\S+ +)+", "", rest)))
    return found


def _sent(path: str) -> bool:
    """Whether a path of the checkout is in the context that .dockerignore leaves."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.lstrip("!")
        if line and line[0] != "#" and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            sent = line[0] == "!"
    return sent


class Image:
    """The image in a directory: its files, and what its last stage says."""

    def __init__(self, root: Path) -> None:
        self._root = root
        build, last = stages()
        for name in ("opt", "tmp"):
            (root / name).mkdir()
        self._directory = "/"
        for instruction in build[1:]:
            getattr(self, f"_{instruction.word.lower()}")(instruction)
        self._keep({i.rest for i in last if i.word == "COPY"})
        self.said = {i.word: i.rest for i in last}
        pairs: List[Tuple[str, str]] = re.findall(r"(\w+)=(\S+)", self.said["ENV"])
        path = {"PATH": os.environ["PATH"]}
        self.variables = {
            name: self.inside(re.sub(r"\$(\w+)", lambda m: path[m[1]], value))
            for name, value in pairs
        }
        # What is written to /tmp is looked for there.
        self.variables["TMPDIR"] = self.inside("/tmp")

    def inside(self, text: str) -> str:
        """The text with the paths of the image as they are here."""
        return re.sub(rf"(?<![\w.])(?={'|'.join(TAKEN_OVER)}\b)", str(self._root), text)

    def _workdir(self, instruction: Instruction) -> None:
        self._directory = instruction.rest
        Path(self.inside(self._directory)).mkdir(exist_ok=True)

    def _copy(self, instruction: Instruction) -> None:
        *sources, target = instruction.rest.split()
        to = Path(self.inside(self._directory)) / target
        for name in sources:
            source = ROOT / name
            assert _sent(name), f".dockerignore does not let {name} in"
            if source.is_dir():
                shutil.copytree(source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.mkdir(exist_ok=True)
                shutil.copy(source, to)

    def _run(self, instruction: Instruction) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(
            ["sh", "-ec", self.inside(instruction.rest)],
            cwd=self.inside(self._directory),
            env={**os.environ, "PATH": path},
            check=True,
        )

    def _keep(self, copied: Set[str]) -> None:
        """Remove what is not copied. Each path stays the same, as scripts have it in them."""
        kept = set()
        for source, target in (rest.split() for rest in copied):
            assert source == target
            kept.add(source)
        for name in (name for name in TAKEN_OVER if name != "/tmp"):
            if not any(path.startswith(name) for path in kept):
                shutil.rmtree(self.inside(name))

    def command(self, *command: str) -> List[str]:
        """A command as the image runs it; root leaves its rights and a root that can be written."""
        words = [shutil.which(command[0], path=self.variables["PATH"]) or command[0], *command[1:]]
        if not confines():
            return words
        user = self.said["USER"].split(":")[0]
        places = [self.inside("/tmp"), self.inside(self.said["WORKDIR"]), user]
        return ["unshare", "-m", "sh", "-ec", _CONFINED, "sh", *places, *words]

    def entry(self) -> List[str]:
        """The command of a container."""
        return self.command(*json.loads(self.said["ENTRYPOINT"]))

    def healthy(self, port: int) -> bool:
        """The result of the health check of a container that serves on this port."""
        command = self.command(*json.loads(self.said["HEALTHCHECK"].partition("CMD ")[2]))
        variables = {**os.environ, **self.variables, "PORT": str(port)}
        done = subprocess.run(command, env=variables, capture_output=True)
        return done.returncode == 0


def confines() -> bool:
    """Whether a test may take rights away: it needs root, and a kernel that lets it."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    return subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
