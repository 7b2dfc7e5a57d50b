"""Libraries that speak OpenAI's format.

A script of the folder `kits` drives each, in Python, in Node.js or in a page of Chromium. It has
these methods, which get messages as pairs of role and text, and return what the user then sees:

| method | |
|---|---|
| say | ask for a stream, and read it |
| leave | ask for one, and leave it behind its first text |
| whole | ask for a reply that is not streamed |
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Dict, List, NamedTuple

from ..support.constants import PATIENCE
from ..support.missing import missing
from ..support.process import environment
from .clients import node
from .table import MODULES, Subject, npm_package
from .ui_clients import KITS, Program, bundle, running

OPENAI_2 = Path(sys.prefix) / "openai2"
CHAINLIT = Path(sys.prefix) / "chainlit"
"""The packages of the groups `openai2` and `chainlit`, each in a directory of its own."""


def _in_node() -> List[str]:
    return [node(), "--input-type=module", "--eval"]


TOO_LARGE = "x" * 2**20


class Library(NamedTuple):
    """A library, and one of the ways to use it: a name that its script knows."""

    title: str
    package: str
    script: str
    way: str = ""
    directory: str = ""
    """The packages of Python that come before the usual ones."""

    refused: str = ""
    """A message that it sends and the service refuses."""

    hasty: bool = False
    """Whether it stops at the end of a stream, though it has not handled all pieces by then."""

    stop: str = "yes"
    """What the table says of its stop."""

    asks_again: int = 0
    """How often it repeats a request without a stream that has failed, whatever it is told."""

    @property
    def in_browser(self) -> bool:
        return self.script == "deep-chat.js"

    @property
    def _path(self) -> Dict[str, str]:
        return {"PYTHONPATH": self.directory} if self.directory else {}

    def begin(self, url: str) -> contextlib.AbstractContextManager[Program]:
        """Its script as a process, which talks to `url`."""
        script = KITS / self.script
        if script.suffix == ".py":
            return running(sys.executable, str(script), self.way, url, **self._path)
        code = f"const LIBRARY = {json.dumps(self.way)};\n{script.read_text('utf-8')}"
        return running(*_in_node(), code, "--", url)

    def run(self, code: str, url: str) -> str:
        """What a program prints that has the address of the docs, in place of which is `url`."""
        assert self.subject()
        assert "http://127.0.0.1:8000" in code
        code = code.replace("http://127.0.0.1:8000", url)
        python = [sys.executable, "-c"]
        return subprocess.run(
            [*(python if self.script.endswith(".py") else _in_node()), code],
            cwd=MODULES.parent,
            env=environment(**self._path),
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=True,
        ).stdout

    def bundle(self, made: Path) -> None:
        """Write its script, for a page, to `made`."""
        bundle((KITS / self.script).read_text("utf-8"), made)

    def subject(self) -> Subject:
        """Skips a test if its package is not there."""
        if self.script.endswith(".js"):
            return npm_package("library", self.package, title=self.title)
        return python_package(self.package, self.title, self.directory)


def python_package(name: str, title: str, directory: str) -> Subject:
    """A library of PyPI, in this directory if it is not ""."""
    places = [directory] if directory else sys.path
    found = next(iter(distributions(name=name, path=places)), None) or missing(name)
    return Subject("library", title, found.version)


PLAYER = "openai_player.py"
OLD = str(OPENAI_2)

ALL = {
    "openai-3": Library("openai 3 of PyPI", "openai", PLAYER, "openai"),
    "openai-3-async": Library("openai 3 of PyPI", "openai", PLAYER, "openai-async"),
    "openai-3-helper": Library("openai 3 of PyPI", "openai", PLAYER, "openai-helper"),
    "openai-2": Library("openai 2 of PyPI", "openai", PLAYER, "openai", OLD),
    "openai-2-async": Library("openai 2 of PyPI", "openai", PLAYER, "openai-async", OLD),
    "openai-2-helper": Library("openai 2 of PyPI", "openai", PLAYER, "openai-helper", OLD),
    "langchain": Library("LangChain, `ChatOpenAI`", "langchain-openai", PLAYER, "langchain"),
    "llama-index": Library(
        "LlamaIndex, `OpenAILike`",
        "llama-index-llms-openai-like",
        PLAYER,
        "llama-index",
        OLD,
        stop="if garbage is collected",
        asks_again=2,
    ),
    "pydantic-ai": Library(
        "Pydantic AI, `OpenAIChatModel`", "pydantic-ai-slim", PLAYER, "pydantic-ai"
    ),
    "openai-npm": Library("openai of npm", "openai", "openai-player.js", "openai"),
    "openai-npm-helper": Library("openai of npm", "openai", "openai-player.js", "openai-helper"),
    "ai-sdk": Library(
        "AI SDK, `createOpenAICompatible`",
        "@ai-sdk/openai-compatible",
        "openai-player.js",
        "ai-sdk",
        asks_again=2,
    ),
    "deep-chat": Library(
        "deep-chat",
        "deep-chat",
        "deep-chat.js",
        refused=TOO_LARGE,
        hasty=True,
    ),
}
