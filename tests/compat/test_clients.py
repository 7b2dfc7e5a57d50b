"""Other people's clients: each is shown each scene of tests/support/scenes.py."""

from __future__ import annotations

import json
import logging
import subprocess
import uuid
from functools import partial
from typing import Any, Callable, Iterator, List, Tuple

import pytest

from omniforge_chat import Message, Turn

from ..support.constants import CONVERSATION, PATIENCE
from ..support.node import READER
from ..support.process import environment
from ..support.scenes import CHAT, FAILURE, MANY, PIECES, Scenes
from ..support.servers import UvicornThread
from .clients import CLIENTS, TIMERS, WINDOW, Told, node, run_javascript
from .documented import DOCUMENTED, documented
from .table import MODULES, Recorder, npm_package

AS_DOCUMENTED = {"fetch-event-source", "eventsource"}
"""They ask again by themselves, unless they are used as docs/protocol.md shows it."""


class Stage:
    """A server of scenes, and the requests that each has cost."""

    def __init__(self, server: UvicornThread, scenes: Scenes, record: Recorder) -> None:
        self._server = server
        self._scenes = scenes
        self._record = record
        self.asked: List[str] = []
        self.turns: List[Turn] = []

    def run(
        self,
        ask: Callable[[str, str], Told],
        message: str,
        path: str,
        conversation: str = CONVERSATION,
    ) -> Told:
        """What `ask` has told; `asked` and `turns` are those of this run."""
        self._scenes.forget()
        body = json.dumps({"message": message, "conversation_id": conversation})
        told = ask(f"{self._server.url}{path}", body)
        self.asked = list(self._scenes.asked)
        self.turns = list(self._scenes.turns)
        return told

    def show(self, client: str, message: str, path: str = CHAT, **options: Any) -> Told:
        """What a client has told; it must have asked once."""
        stop = options.pop("stop", False)
        ask = partial(CLIENTS[client].ask, stop=stop)
        told = self.run(ask, message, path, **options)
        assert self.asked == [path]
        result = "as documented" if client in AS_DOCUMENTED else "yes"
        self._record(CLIENTS[client].subject(), "once", result)
        return told

    def wait_until_closed(self) -> None:
        """Wait until no stream is open."""
        self._server.until(lambda: self._scenes.app.open_streams == 0)


@pytest.fixture(scope="module")
def served() -> Iterator[Tuple[UvicornThread, Scenes]]:
    scenes = Scenes(history="memory", context_chars=10**6)
    with UvicornThread(scenes, lifespan="off") as server:
        yield server, scenes


@pytest.fixture
def stage(served: Tuple[UvicornThread, Scenes], record: Recorder) -> Stage:
    return Stage(*served, record)


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """Skips if its package is not there."""
    CLIENTS[request.param].subject()
    name: str = request.param
    return name


def text(told: Told) -> str:
    return "".join(value for name, value in told if name == "chunk")


def test_a_client_gets_all_of_a_reply(stage: Stage, record: Recorder, client: str) -> None:
    """In order, with lines of every length and characters that end lines elsewhere."""
    told = stage.show(client, "whole")
    assert text(told) == "".join(PIECES)
    assert [name for name, _ in told if name != "chunk"] == ["done"]
    assert told[-1] == ("done", CONVERSATION)
    record(CLIENTS[client].subject(), "text")


def test_a_heartbeat_reaches_nobody(stage: Stage, record: Recorder, client: str) -> None:
    """Handlers do not expect an event without data, fail, and some clients then ask again."""
    told = stage.show(client, "pause")
    assert told == [("chunk", "before "), ("chunk", "after"), ("done", CONVERSATION)]
    record(CLIENTS[client].subject(), "heartbeats")


def test_a_client_tells_an_error(stage: Stage, record: Recorder, client: str) -> None:
    """Behind the text that came before it."""
    told = stage.show(client, "fail")
    assert told[0] == ("chunk", "half ")
    name, value = told[1]
    if name == "failed":
        assert FAILURE["message"] in value
    else:
        assert (name, value) == ("error", FAILURE["code"])
    assert len(told) == 2
    record(CLIENTS[client].subject(), "error", "event" if name == "error" else "raises")


def test_a_client_does_not_take_a_cut_for_an_end(
    stage: Stage, record: Recorder, client: str
) -> None:
    """Neither `done` nor `error`, and perhaps an error of its own."""
    for path in ("/ended", "/broken"):
        told = stage.show(client, "whole", path)
        assert [name for name, _ in told if name not in ("chunk", "failed")] == []
    record(CLIENTS[client].subject(), "cut", "raises" if told[-1][0] == "failed" else "ends")


def test_a_client_gets_many_chunks_and_the_next_turn_knows_them(
    stage: Stage, record: Recorder, client: str
) -> None:
    """If the service remembers, the id alone says which turns came before."""
    conversation = str(uuid.uuid4())
    told = stage.show(client, "many", conversation=conversation)
    assert text(told) == "".join(MANY)
    record(CLIENTS[client].subject(), "2,000 chunks")
    told = stage.show(client, "two", conversation=conversation)
    assert text(told) == "you said: two"
    assert stage.turns[-1].history == (Message("user", "many"), Message("assistant", "".join(MANY)))
    record(CLIENTS[client].subject(), "second turn")


def test_a_client_tells_a_refusal(stage: Stage, record: Recorder, client: str) -> None:
    """Whoever reads a stream by hand has to look at the status first."""
    told = stage.show(client, "")
    assert {name for name, _ in told} <= {"failed", "error", "other"}
    words = any("Message must not be empty" in value for _, value in told)
    result = "yes" if words else "raises, without its words" if told else "look at the status"
    record(CLIENTS[client].subject(), "refusal", result)


def test_a_client_that_stops_ends_the_responder(
    stage: Stage, record: Recorder, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody pays for text that nobody reads."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    told = stage.show(client, "wait", stop=True)
    assert told[0] == ("chunk", "half ")
    stage.wait_until_closed()
    ends = [record.chat["outcome"] for record in caplog.records if hasattr(record, "chat")]
    assert ends == ["disconnected"]
    record(CLIENTS[client].subject(), "stop")


# Clients that ask again by themselves


@pytest.mark.parametrize(
    ("message", "path", "ends"),
    [
        ("pause", CHAT, "done"),
        ("fail", CHAT, "failed"),
        ("", CHAT, "failed"),
        ("whole", "/broken", "failed"),
        ("whole", "/ended", "failed"),
        ("whole", "/proxy", "failed"),
    ],
)
@pytest.mark.parametrize("client", DOCUMENTED)
def test_a_client_that_is_used_as_documented_asks_once(
    stage: Stage, client: str, message: str, path: str, ends: str
) -> None:
    """After each end; its process ends, so nothing is left in it that would ask once more."""
    script = documented(client)
    told = stage.run(lambda url, body: run_javascript(script, url, body), message, path)
    assert stage.asked == [path]
    assert [name for name, _ in told if name != "chunk"] == [ends]
    if message == "pause":
        assert text(told) == "before after"
    if message == "fail":
        assert FAILURE["message"] in told[-1][1]


AGAIN = {
    "fetch-event-source": """
    import { fetchEventSource } from "@microsoft/fetch-event-source";
    const onmessage = ({ event }) => { if (event === "done") throw new Error("a mistake"); };
    let failures = 0;
    const onerror = (error) => { if (++failures === 3) throw error; };
    const options = { ...init, openWhenHidden: true, onmessage, onerror };
    await fetchEventSource(url, options).catch(failed);
    """,
    "eventsource": """
    import { EventSource } from "eventsource";
    const post = (url, { headers, ...own }) =>
      fetch(url, { ...own, ...init, headers: { ...headers, ...init.headers } });
    const source = new EventSource(url, { fetch: post });
    source.addEventListener("error", ({ code }) => { if (code) failed(code); });
    """,
}
"""Each used in the way that makes it ask again."""


@pytest.mark.parametrize(("client", "asks"), [("fetch-event-source", 3), ("eventsource", 2)])
def test_a_client_that_asks_again_with_an_id_gets_no_second_reply(
    stage: Stage, record: Recorder, client: str, asks: int
) -> None:
    """204 ends an EventSource; the other one asks until it is stopped, and gets nothing."""
    subject = CLIENTS[client].subject()
    told = stage.run(
        lambda url, body: run_javascript(WINDOW + TIMERS + AGAIN[client], url, body),
        "whole",
        "/identified",
    )
    assert stage.asked == ["/identified"] * asks
    assert stage.turns == []
    assert len(told) == 1
    result = "stops" if client == "eventsource" else "no second reply"
    record(subject, "Last-Event-ID", result)


# Our own


def test_the_types_of_the_reader_are_checked() -> None:
    """It is written in JavaScript, and its users' editors read its JSDoc."""
    npm_package("client", "typescript")
    options = ["--noEmit", "--allowJs", "--checkJs", "--strict", "--noUnusedLocals"]
    lib = ["--target", "es2022", "--module", "es2022", "--lib", "es2022,dom,dom.iterable"]
    done = subprocess.run(
        [node(), "typescript/bin/tsc", *options, *lib, str(READER)],
        cwd=MODULES,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=3 * PATIENCE,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)
