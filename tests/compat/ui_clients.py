"""Kits of user interfaces that speak formats of their own: useChat, assistant-ui, AG-UI.

A script of the folder `kits` drives each, in a page of Chromium or in Node.js. It has these
methods, of which the first five return what the user then sees:

| method | |
|---|---|
| say, show | send a message; with a picture |
| again | make the last reply anew |
| edit | put another message in the place of the first one |
| stop | stop the reply |
| begin | send a message, and wait until that much text of the reply is there |
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Protocol

from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from ..support.constants import PATIENCE
from ..support.process import environment
from ..support.scenes import Scenes
from .clients import node
from .table import MODULES, Subject, npm_package

KITS = Path(__file__).with_name("kits")
_PAGE = """<!doctype html><title>kit</title><link rel="icon" href="data:,">
<body><script type="module" src="/%s"></script>"""


class Site:
    """The scenes, and beside them the pages of the kits whose scripts are in `directory`."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.scenes = Scenes(cors_origins=("*",), **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"][1:]
        if name.endswith(".mjs"):
            response: Response = FileResponse(self.directory / name, media_type="text/javascript")
            await response(scope, receive, send)
        elif name.endswith(".html"):
            await HTMLResponse(_PAGE % f"{name[:-5]}.mjs")(scope, receive, send)
        else:
            await self.scenes(scope, receive, send)


def bundle(script: str, made: Path) -> None:
    """Write the script and all that it imports to `made`."""
    subprocess.run(
        [
            *(str(MODULES / "esbuild" / "bin" / "esbuild"), "--bundle", "--format=esm"),
            *("--loader=jsx", "--jsx=automatic", '--define:process.env.NODE_ENV="production"'),
            *("--log-level=error", f"--outfile={made}"),
        ],
        input=script.encode(),
        cwd=MODULES.parent,
        env=environment(),
        timeout=PATIENCE,
        check=True,
    )


class Talk(Protocol):
    """A conversation in a kit."""

    def do(self, method: str, *given: Any) -> Dict[str, Any]: ...


class Page:
    """In a page of Chromium."""

    def __init__(self, page: Any) -> None:
        self._page = page

    def do(self, method: str, *given: Any) -> Dict[str, Any]:
        call = "([method, given]) => kit[method](...given)"
        return dict(self._page.evaluate(call, [method, given]) or {})


class Program:
    """In a process of Node.js."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def do(self, method: str, *given: Any) -> Dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([method, *given]).encode() + b"\n")
        self._process.stdin.flush()
        assert select.select([self._process.stdout], [], [], PATIENCE)[0], "it does not answer"
        return dict(json.loads(self._process.stdout.readline()) or {})


def program(script: str, url: str) -> contextlib.AbstractContextManager[Program]:
    """A script in Node.js, which talks to `url`."""
    return running(node(), "--input-type=module", "--eval", script, "--", url)


@contextlib.contextmanager
def running(*command: str, **variables: str) -> Iterator[Program]:
    """A process that finds the packages of npm."""
    process = subprocess.Popen(
        command,
        cwd=MODULES.parent if MODULES.exists() else None,
        env=environment(**variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Program(process)
    finally:
        process.kill()
        process.communicate()


class Kit(NamedTuple):
    """A kit: its package, its script, and the name by which that imports the package."""

    package: str
    title: str
    script: str
    imports: str

    @property
    def subject(self) -> Subject:
        """Skips a test if the package is not there."""
        return npm_package("library", self.package, title=self.title)

    @property
    def in_browser(self) -> bool:
        return self.script != "ag-ui.js"

    @property
    def wire(self) -> str:
        return "AI SDK" if self.in_browser else "AG-UI"

    def read(self) -> str:
        """The script, which imports the package by its own name."""
        name = json.dumps(self.imports)
        source = (KITS / self.script).read_text("utf-8")
        assert name in source
        return source.replace(name, json.dumps(self.package))


ALL = {
    "ai-5": Kit("ai-5-react", "AI SDK 5, `useChat`", "use-chat.js", "@ai-sdk/react"),
    "ai-6": Kit("ai-6-react", "AI SDK 6, `useChat`", "use-chat.js", "@ai-sdk/react"),
    "ai-7": Kit("@ai-sdk/react", "AI SDK 7, `useChat`", "use-chat.js", "@ai-sdk/react"),
    "assistant-ui": Kit(
        "@assistant-ui/react-data-stream",
        "assistant-ui, `useDataStreamRuntime`",
        "assistant-ui.js",
        "@assistant-ui/react-data-stream",
    ),
    "ag-ui-0": Kit("ag-ui-0-client", "AG-UI 0, `HttpAgent`", "ag-ui.js", "@ag-ui/client"),
    "ag-ui-1": Kit("@ag-ui/client", "AG-UI 1, `HttpAgent`", "ag-ui.js", "@ag-ui/client"),
}
