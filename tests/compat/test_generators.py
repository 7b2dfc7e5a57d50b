"""Generators of clients: each makes one from the document in OpenAPI 3.1, and the client works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Iterator

import pytest

from omniforge_chat import Settings, create_app
from omniforge_chat.core.sse import Decoder
from omniforge_chat.models import Rate
from omniforge_chat.rules import DIALECTS

from ..support.answers import last, text
from ..support.app import call
from ..support.constants import PATIENCE
from ..support.process import environment
from ..support.responders import saying
from ..support.servers import UvicornThread
from .clients import node
from .table import MODULES, Recorder, npm_package, package

KEY = "ofk_0123456789abcdef"
ALL = Settings(
    dialects=DIALECTS,
    history="memory",
    replay="memory",
    api_keys=f"me:{KEY}",
    rate_limit=Rate(1_000, 60),
)
"""All that the document can have."""


@pytest.fixture(scope="module")
def service() -> Iterator[UvicornThread]:
    with UvicornThread(create_app(saying("Hello ", "there"), settings=ALL)) as live:
        yield live


def _document(directory: Path, version: str = "3.1") -> Path:
    answer = call(
        create_app(settings=ALL),
        method="GET",
        path="/openapi.json",
        query_string=f"version={version}".encode(),
    )
    path = directory / f"openapi-{version}.json"
    path.write_bytes(answer.body)
    return path


def _run(directory: Path, *command: str) -> str:
    """What the command prints on standard output; it must not fail."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def _check(printed: str) -> None:
    """What a client of either language prints: the replies to a good and to a bad message."""
    stream, refusal, health = json.loads(printed.splitlines()[-1])
    frames = Decoder().feed(stream.encode())
    assert text(frames) == "Hello there"
    assert last(frames)[0] == "done"
    assert refusal == [422, "validation_error"]
    assert health == "healthy"


USE_PYTHON = """
import json, sys
from made import AuthenticatedClient, Client
from made.api.default import chat, health
from made.models import ChatRequest, ChatResponse422

made = {"base_url": sys.argv[1], "raise_on_unexpected_status": True}
client = AuthenticatedClient(token=KEY, **made)
reply = chat.sync(client=client, body=ChatRequest(message="hi"))
refused = chat.sync_detailed(client=client, body=ChatRequest(message=""))
assert isinstance(refused.parsed, ChatResponse422)
told = [refused.status_code, refused.parsed.code]
nobody = chat.sync_detailed(client=Client(**made), body=ChatRequest(message="hi"))
assert nobody.parsed.code == "unauthorized"
print(json.dumps([reply, told, health.sync(client=client).status]))
"""


def test_the_client_of_openapi_python_client_chats(
    service: UvicornThread, tmp_path: Path, record: Recorder
) -> None:
    """A warning of its would be a part that the client lacks."""
    subject = package("generator", "openapi-python-client")
    (tmp_path / "config.yml").write_text("post_hooks: []\n", "utf-8")
    _run(
        tmp_path,
        *(sys.executable, "-m", "openapi_python_client", "generate", "--fail-on-warning"),
        *("--path", str(_document(tmp_path)), "--config", "config.yml", "--meta", "none"),
        *("--output-path", "made"),
    )
    record(subject, "generates")
    _check(_run(tmp_path, sys.executable, "-c", f"KEY = {KEY!r}{USE_PYTHON}", service.url))
    record(subject, "chat")
    record(subject, "refusal")


def _type_check(directory: Path, *files: str) -> None:
    options = ["--noEmit", "--strict", "--target", "es2022", "--module", "preserve"]
    allowed = ["--allowImportingTsExtensions", "--skipLibCheck"]
    tsc = str(MODULES / "typescript" / "bin" / "tsc")
    _run(directory, node(), tsc, *options, *allowed, *files)


USE_ORVAL = """
import { chat, health } from "./made.ts";

const mine = { headers: { Authorization: `Bearer ${KEY}` } };
const reply = await chat({ message: "hi" }, mine);
const refused = await chat({ message: "" }, mine);
const up = await health();
if (reply.status !== 200 || refused.status !== 422) throw new Error(String(refused.status));
const stream: string = reply.data;
const code: string | undefined = refused.data.code;
console.log(JSON.stringify([stream, [refused.status, code], up.data.status]));
"""


def test_the_client_of_orval_chats(
    service: UvicornThread, tmp_path: Path, record: Recorder
) -> None:
    """Its types tell a reply from a refusal by the status."""
    subject = npm_package("generator", "orval")
    output = {"target": "made.ts", "client": "fetch", "baseUrl": service.url}
    config = {"chat": {"input": str(_document(tmp_path)), "output": output}}
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    (tmp_path / "orval.config.mjs").write_text(f"export default {json.dumps(config)};", "utf-8")
    (tmp_path / "use.ts").write_text(f"const KEY = {KEY!r};{USE_ORVAL}", "utf-8")
    orval = str(MODULES / "orval" / "dist" / "bin" / "orval.mjs")
    printed = _run(tmp_path, node(), orval, "--config", "orval.config.mjs")
    assert "warn" not in printed.lower()
    record(subject, "generates")
    _type_check(tmp_path, "use.ts")
    _check(_run(tmp_path, node(), "use.ts"))
    record(subject, "chat")
    record(subject, "refusal")


USE_TYPES = """
import type { components, paths } from "./made-3.1.ts";
import type { components as newer } from "./made-3.2.ts";

type Responses = paths["/api/v1/chat"]["post"]["responses"];
const url = process.argv[2];
const ask = (body: components["schemas"]["ChatRequest"]) =>
  fetch(`${url}/api/v1/chat`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${KEY}` },
    body: JSON.stringify(body),
  });
const body: newer["schemas"]["ChatRequest"] = { message: "hi" };
const reply: Responses[200]["content"]["text/event-stream"] = await (await ask(body)).text();
const refused = await ask({ message: "", conversation_id: null });
const error: Responses[422]["content"]["application/json"] = await refused.json();
const up = await (await fetch(`${url}/health`)).json();
console.log(JSON.stringify([reply, [refused.status, error.code], up.status]));
"""


def test_a_client_with_the_types_of_openapi_typescript_chats(
    service: UvicornThread, tmp_path: Path, record: Recorder
) -> None:
    """In both versions `conversation_id` may be left out, and may be null."""
    subject = npm_package("generator", "openapi-typescript")
    cli = str(MODULES / "openapi-typescript" / "bin" / "cli.js")
    for version in ("3.1", "3.2"):
        document = _document(tmp_path, version)
        _run(tmp_path, node(), cli, document.name, "--output", f"made-{version}.ts")
    record(subject, "generates")
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    (tmp_path / "use.ts").write_text(f"const KEY = {KEY!r};{USE_TYPES}", "utf-8")
    (tmp_path / "node.d.ts").write_text("declare const process: { argv: string[] };", "utf-8")
    _type_check(tmp_path, "use.ts", "node.d.ts")
    _check(_run(tmp_path, node(), "use.ts", service.url))
    record(subject, "chat")
    record(subject, "refusal")
