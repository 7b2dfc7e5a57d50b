"""The two readers, when the connection of a reply breaks that the service keeps."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from omniforge_chat.core.kept import OVER
from omniforge_chat.reader import Chat, ChatFailed

from ..support.constants import CONVERSATION, PATIENCE
from ..support.cutting import CuttingProxy
from ..support.node import node, put_reader
from ..support.process import environment
from ..support.scenes import CHAT, CUTS, PARTS, PIECES, Scenes
from ..support.scripted import (
    BROKEN,
    REPLY,
    SILENT,
    STOPPED,
    Answer,
    Scripted,
    chunk,
    done,
    error,
    frame,
    refusal,
    stream,
)
from ..support.servers import UvicornThread


class Result(NamedTuple):
    """The pieces, the reason or the code of the end, and what was heard of resuming."""

    pieces: List[str]
    end: Optional[str]
    heard: List[bool]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


JAVASCRIPT = """
import { ChatFailed, chat, resume } from "./reader.mjs";
const { url, times, stop, leave, abort, reply: id, last, ...options } = JSON.parse(process.argv[1]);
const [later, results] = [setTimeout, []];
if (options.hurry) {
  globalThis.setTimeout = (run, ms, ...given) => later(run, ms / options.hurry, ...given);
}
for (let i = 0; i < times; i++) {
  const [pieces, heard, controller] = [[], [], new AbortController()];
  const onResume = (waiting) => heard.push(waiting);
  Object.assign(options, { url, onResume, lastId: last, signal: controller.signal });
  const reply = id ? resume(id, options) : chat(options.message ?? "hi", options);
  let end = null;
  try {
    for await (const piece of reply) {
      pieces.push(piece);
      if (pieces.length === leave) break;
      if (pieces.length === stop) reply.stop();
      if (pieces.length === abort) controller.abort("aborted");
    }
    if (reply.done) end = reply.done.finish_reason ?? "done";
  } catch (problem) {
    if (problem !== "aborted" && !(problem instanceof ChatFailed)) throw problem;
    end = problem.code ?? problem;
  }
  results.push([pieces, end, heard]);
}
console.log(JSON.stringify(results));
"""

Read = Callable[..., List[Result]]


def _python(url: str, times: int, plan: Any) -> List[Result]:
    results, message = [], plan.get("message", "hi")
    with httpx.Client(headers=plan.get("headers"), trust_env=False) as client:
        for _ in range(times):
            pieces: List[str] = []
            heard: List[bool] = []
            keys = {"key": plan.get("key"), "idempotency_key": plan.get("idempotencyKey")}
            chat = Chat(client, url, message, on_resume=heard.append, **keys)
            try:
                with chat as reply:
                    for piece in reply:
                        pieces.append(piece)
                        if len(pieces) == plan.get("leave"):
                            break
                        if len(pieces) == plan.get("stop"):
                            reply.stop()
                end = chat.done.get("finish_reason", "done") if chat.done else None
            except ChatFailed as problem:
                end = problem.code
            results.append(Result(pieces, end, heard))
    return results


def _javascript(directory: Path, url: str, times: int, plan: Any) -> List[Result]:
    put_reader(directory)
    ran = subprocess.run(
        [*node(JAVASCRIPT), json.dumps({"url": url, "times": times, **plan})],
        cwd=directory,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        timeout=2 * PATIENCE,
        check=True,
    )
    return [Result(*result) for result in json.loads(ran.stdout)]


@pytest.fixture(params=["reader.py", "reader.js"])
def ask(request: pytest.FixtureRequest, tmp_path: Path) -> Read:
    """What a reader makes of the chats at an address. The rest are its options."""

    def asking(url: str, times: int = 1, **plan: Any) -> List[Result]:
        if request.param == "reader.py":
            return _python(url, times, plan)
        return _javascript(tmp_path, url, times, plan)

    return asking


@pytest.fixture
def read(ask: Read) -> Read:
    """What a reader makes of an app, in as many chats as asked for. The rest are its options.

    `leave`, `stop` and `abort` are the number of pieces at which it does that.
    """

    def reading(app: Scripted, path: str = CHAT, times: int = 1, **plan: Any) -> Any:
        with UvicornThread(app, lifespan="off") as server:
            return ask(server.url + path, times, **plan)

    return reading


@pytest.fixture
def read_js(tmp_path: Path) -> Read:
    def reading(app: Scripted, times: int = 1, **plan: Any) -> List[Result]:
        with UvicornThread(app, lifespan="off") as server:
            return _javascript(tmp_path, server.url + CHAT, times, plan)

    return reading


ONE, TWO, THREE = chunk("one ", 4), chunk("two ", 8), chunk("three", 13)
WHOLE = "one two three"

NEVER = stream(THREE, done())
"""What a test must not ask for."""


def test_a_reply_that_is_cut_goes_on(read: Read) -> None:
    """Twice, by a break and by an end that is none; its message is sent once."""
    app = Scripted(stream(ONE, BROKEN), stream(TWO), stream(THREE, done()))
    [result] = read(app)
    assert result == Result(["one ", "two ", "three"], "stop", [True, False, True, False])
    assert app.requests == ["POST", f"GET {REPLY}.4", f"GET {REPLY}.8"]
    assert {asked.path for asked in app.asked[1:]} == {f"/api/v1/chat/replies/{REPLY}"}


def test_a_reply_is_whole_wherever_it_is_cut(read: Read) -> None:
    """Nothing is lost, and nothing is doubled: an event counts when all of it is there."""
    parts = [ONE, frame("thought", {"content": "Hm"}, 6), chunk("zwölf é😀", 14), done()]
    body = b"".join(parts)
    # A cut before the first whole event comes before `retry`, so its wait is a whole second.
    cuts = [0, len(ONE) - 1, *range(len(ONE), len(body))]
    app = Scripted()
    for number, cut in enumerate(cuts):
        whole = [i for i in range(len(parts) + 1) if len(b"".join(parts[:i])) <= cut][-1]
        app.answers += [
            stream(body[:cut], *[BROKEN] * (number % 2)),
            stream(b":\n", *parts[whole:]),
        ]
    results = read(app, times=len(cuts))
    assert {(result.text, result.end) for result in results} == {("one zwölf é😀", "stop")}
    assert app.requests.count("POST") == len(cuts) == len(app.requests) / 2


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (refusal(404, "reply_not_found"), "reply_not_found"),
        (refusal(400, "validation_error"), "validation_error"),
        (refusal(401, "unauthorized", **{"Retry-After": "0"}), "unauthorized"),
        (refusal(403, "forbidden", **{"Retry-After": "0"}), "forbidden"),
        (refusal(429, "rate_limited", **{"Retry-After": "43200"}), "rate_limited"),
        (refusal(503, "replay_unavailable", **{"Retry-After": "3600"}), "replay_unavailable"),
        (Answer([b"<p>"], 200, {"Content-Type": "text/html"}), "200"),
        (Answer([], 204), "cut"),
        (stream(error("own_code")), "own_code"),
        (stream(error("shutting_down")), "shutting_down"),
        (stream(error("worker_lost")), "worker_lost"),
        (stream(b"event: chunk\ndata: {}\n\n"), "unreadable"),
    ],
)
def test_an_answer_that_says_no_is_the_end(read: Read, answer: Answer, code: str) -> None:
    """To ask again would be of no use, and the user would wait for nothing."""
    app = Scripted(stream(ONE), answer)
    [result] = read(app)
    assert (result.pieces, result.end) == (["one "], code)
    assert app.requests == ["POST", f"GET {REPLY}.4"]


@pytest.mark.parametrize(
    "answer",
    [
        refusal(503, "replay_unavailable", **{"Retry-After": "0"}),
        refusal(500, "internal_error"),
        refusal(429, "rate_limited"),
        Answer([b"<h1>Bad Gateway</h1>"], 502, {"Content-Type": "text/html"}),
        stream(),
        stream(BROKEN),
        stream(error("replay_unavailable", 4)),
        stream(error("shutting_down", 4)),
    ],
)
def test_an_answer_that_may_be_another_one_soon_is_asked_for_again(
    read: Read, answer: Answer
) -> None:
    """A worker that goes, a proxy without one, a store that starts."""
    app = Scripted(stream(ONE), answer, answer, stream(TWO, THREE, done()))
    [result] = read(app)
    assert (result.text, result.end) == (WHOLE, "stop")
    assert app.requests == ["POST", *[f"GET {REPLY}.4"] * 3]


@pytest.mark.parametrize("status", [429, 503])
def test_the_seconds_of_a_refusal_are_waited(read: Read, status: int) -> None:
    """Or a service that is out of breath gets none."""
    app = Scripted(stream(ONE), refusal(status, "no", **{"Retry-After": "1"}), stream(TWO, done()))
    [result] = read(app)
    assert (result.text, result.heard) == ("one two ", [True, False])


def test_a_reader_gives_up_when_nothing_comes(read: Read) -> None:
    """After six tries in a row; whatever comes begins the count anew."""
    nothing = [refusal(500, "internal_error")] * 5
    app = Scripted(stream(ONE), *nothing, stream(TWO), *nothing, stream(), NEVER)
    [result] = read(app)
    assert (result.text, result.end) == ("one two ", "cut")
    assert result.heard == [True, False, True, False]
    assert app.requests == ["POST", *[f"GET {REPLY}.4"] * 6, *[f"GET {REPLY}.8"] * 6]


def test_a_reply_that_is_not_kept_is_not_asked_for(read: Read) -> None:
    """Frames of others have ids, too."""
    app = Scripted(Answer([ONE], 200, {"Content-Type": "text/event-stream"}), NEVER)
    [result] = read(app)
    assert result == Result(["one "], "cut", [])
    assert app.requests == ["POST"]


def test_a_message_that_is_refused_is_not_sent_again(read: Read) -> None:
    """Nothing of it is there to go on with."""
    headers = {"Retry-After": "0", "X-Reply-ID": REPLY}
    app = Scripted(refusal(503, "overloaded", **headers), NEVER)
    [result] = read(app)
    assert result == Result([], "overloaded", [])
    assert app.requests == ["POST"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a%2Fb/api/v1/chat", f"/a%2Fb/api/v1/chat/replies/{REPLY}"),
        ("/api/v1/chat/", f"/api/v1/chat/replies/{REPLY}"),
        ("/api/v1/chat?a=b/", f"/api/v1/chat/replies/{REPLY}?a=b/"),
    ],
)
def test_a_reply_is_asked_for_beside_its_chat(read: Read, path: str, expected: str) -> None:
    """Under the prefix of a mount or a proxy, wherever `Location` leads; with the same headers."""
    begun = stream(ONE)
    begun.headers["Location"] = "http://192.0.2.1/elsewhere"
    app = Scripted(begun, stream(TWO, SILENT))
    [result] = read(app, path, leave=2, headers={"Authorization": "me"}, idempotencyKey="key")
    assert result.pieces == ["one ", "two "]
    assert [asked.path for asked in app.asked] == [path, expected, expected]
    assert [asked.method for asked in app.asked] == ["POST", "GET", "DELETE"]
    assert {asked.headers["authorization"] for asked in app.asked} == {"me"}
    assert [asked.headers.get("idempotency-key") for asked in app.asked] == ["key", None, None]


def test_a_key_goes_with_each_request(read: Read) -> None:
    """With the stop, too. It comes in place of an Authorization among the headers."""
    app = Scripted(stream(ONE), stream(TWO, SILENT))
    read(app, leave=2, key="ofk_x", headers={"Authorization": "me", "X-Other": "other"})
    assert [asked.method for asked in app.asked] == ["POST", "GET", "DELETE"]
    assert {asked.headers["authorization"] for asked in app.asked} == {"Bearer ofk_x"}
    assert {asked.headers["x-other"] for asked in app.asked} == {"other"}


def test_a_reply_that_is_stopped_tells_its_end(read: Read) -> None:
    """Its usage has to be known, too; and its connection may break meanwhile."""
    app = Scripted(
        stream(ONE, STOPPED, TWO, done("stopped")),
        stream(ONE, STOPPED, TWO),
        stream(done("stopped")),
    )
    for result in read(app, times=2, stop=1):
        assert (result.text, result.end) == ("one two ", "stopped")
    assert app.requests == ["POST", "DELETE", "POST", "DELETE", f"GET {REPLY}.8"]


def test_a_reply_that_cannot_be_stopped_ends_all_the_same(read: Read) -> None:
    """Whoever has pressed the button has seen enough."""
    app = Scripted(stream(ONE, STOPPED, b":\n", TWO, SILENT))
    app.stopping = refusal(404, "reply_not_found")
    [result] = read(app, stop=1)
    assert result == Result(["one "], None, [])


def test_a_reply_that_is_not_kept_is_stopped_by_its_connection(read: Read) -> None:
    """As nobody would know which reply is meant."""
    headers = {"Content-Type": "text/event-stream"}
    app = Scripted(Answer([ONE + TWO, SILENT], 200, headers))
    [result] = read(app, stop=1)
    assert result == Result(["one "], None, [])
    assert app.requests == ["POST"]


def test_whoever_leaves_a_reply_stops_it(read: Read) -> None:
    """Otherwise it would go on, until the service no longer expects its client back."""
    app = Scripted(stream(ONE, SILENT))
    [result] = read(app, leave=1)
    assert result == Result(["one "], None, [])
    assert app.requests == ["POST", "DELETE"]


def test_a_reply_that_is_over_is_not_stopped(read: Read) -> None:
    """Whatever its end was."""
    app = Scripted(stream(ONE, done()), stream(error("own_code")))
    assert [result.end for result in read(app, times=2)] == ["stop", "own_code"]
    assert app.requests == ["POST", "POST"]


def test_an_abort_stops_a_reply_and_is_told_as_such(read_js: Read) -> None:
    """While it comes, and while it is waited for."""
    app = Scripted(stream(ONE, SILENT))
    [result] = read_js(app, abort=1)
    assert result == Result(["one "], "aborted", [])
    assert app.requests == ["POST", "DELETE"]


def test_a_reply_goes_on_in_another_page(read_js: Read) -> None:
    """By its id: behind the last event, or from its beginning."""
    app = Scripted(stream(TWO, done()), stream(ONE), stream(TWO, done()))
    [result] = read_js(app, reply=REPLY, last=f"{REPLY}.4")
    assert result == Result(["two "], "stop", [])
    [result] = read_js(app, reply=REPLY)
    assert result == Result(["one ", "two "], "stop", [True, False])
    assert app.requests == [f"GET {REPLY}.4", "GET", f"GET {REPLY}.4"]


def test_a_connection_that_died_in_silence_is_given_up(read_js: Read) -> None:
    """As one of a phone that has changed its network: nobody tells that it is dead."""
    app = Scripted(stream(ONE, SILENT), Answer([SILENT], 0), stream(TWO, done()))
    [result] = read_js(app, hurry=50)
    assert (result.text, result.end) == ("one two ", "stop")


def test_a_reply_that_was_over_before_the_cut_ends_so(read: Read) -> None:
    """Its last text had come, and its end had not."""
    app = Scripted(stream(ONE, TWO, BROKEN), stream(done()))
    [result] = read(app)
    assert (result.text, result.end) == ("one two ", "stop")
    assert f".{OVER}".encode() in done()


# A real service


def test_a_reply_of_the_service_goes_on(ask: Read) -> None:
    """Under a prefix, through a proxy that cuts it behind a part and within one."""
    scenes = Scenes(replay="memory")
    host = Starlette(routes=[Mount("/assistant", scenes)])
    with UvicornThread(host, lifespan="off") as server, CuttingProxy(server.port, CUTS) as proxy:
        [result] = ask(f"{proxy.url}/assistant{CHAT}", message="parts")
    assert result == Result(PARTS, "done", [True, False, True, False])
    assert proxy.cuts == 2
    assert scenes.generations == ["parts"]


def test_a_reply_that_has_ended_meanwhile_is_whole(ask: Read) -> None:
    """Its text comes as one piece, whatever is in it."""
    scenes = Scenes(replay="memory")
    with UvicornThread(scenes, lifespan="off") as server, CuttingProxy(server.port, [110]) as proxy:
        [result] = ask(proxy.url + CHAT, message="whole")
    assert (result.text, result.end) == ("".join(PIECES), "done")
    assert scenes.generations == ["whole"]


@pytest.mark.parametrize("way", ["stop", "leave"])
def test_a_reply_of_the_service_is_stopped(ask: Read, way: str) -> None:
    """At once: nobody waits for the time in which its client could come back."""
    scenes = Scenes(replay="memory", replay_grace=600)
    with UvicornThread(scenes, lifespan="off") as server:
        [result] = ask(server.url + CHAT, message="wait", **{way: 1})
        server.until(lambda: scenes.app.open_streams == 0)
    assert result == Result(["half "], "stopped" if way == "stop" else None, [])


def test_a_message_with_a_key_is_answered_once(ask: Read) -> None:
    """Whoever got no answer may send it again."""
    scenes = Scenes(replay="memory")
    with UvicornThread(scenes, lifespan="off") as server:
        results = ask(server.url + CHAT, 2, message="whole", idempotencyKey="mine")
    assert [(result.text, result.end) for result in results] == [("".join(PIECES), "done")] * 2
    assert scenes.generations == ["whole"]


def test_each_stream_of_a_kept_reply_tells_where_it_is() -> None:
    """Clients go on from there, also those that have joined it; a mount is a part of it."""
    host = Starlette(routes=[Mount("/a b", Scenes(replay="memory"))])
    fields = {"message": "whole", "conversation_id": CONVERSATION}
    with UvicornThread(host, lifespan="off") as server, httpx.Client(trust_env=False) as client:
        chat = f"{server.url}/a%20b{CHAT}"
        reply = client.post(chat, json=fields)
        place = f"/a%20b{CHAT}/replies/{reply.headers['x-reply-id']}"
        assert reply.headers["location"] == place
        again = {"Last-Event-ID": f"{reply.headers['x-reply-id']}.4"}
        for answer in (client.get(server.url + place), client.post(chat, headers=again)):
            assert (answer.status_code, answer.headers["location"]) == (200, place)
