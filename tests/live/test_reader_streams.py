"""The two readers, fed with every answer of tests/support/streams.py in every way.

One process of Node.js reads all of them, and hands back what it has made of each.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import httpx
import pytest

from omniforge_chat.core.sse import Decoder
from omniforge_chat.reader import Chat, ChatFailed

from ..support.constants import PATIENCE
from ..support.node import node, put_reader
from ..support.process import environment
from ..support.streams import (
    DONE,
    DONE_DATA,
    REFUSALS,
    STREAMS,
    TWO,
    Outcome,
    prefixes,
    splits,
)

Headers = Dict[str, str]
STREAM: Headers = {"Content-Type": "text/event-stream; charset=utf-8"}


@dataclasses.dataclass(frozen=True)
class Case:
    """An answer in reads, the last of which ends it or breaks it off; and what it comes to."""

    reads: List[bytes]
    expected: Outcome
    status: int = 200
    headers: Headers = dataclasses.field(default_factory=lambda: STREAM)
    broken: bool = False


def _of_streams() -> Iterator[Tuple[str, Case]]:
    for name, stream in STREAMS.items():
        body, whole = stream.body, stream.outcome(len(stream.body))
        for reads in splits(body):
            yield name, Case(reads, whole)
        neighbours = TWO[0] + DONE[0]
        yield f"{name}, with neighbours", Case([body + neighbours], whole)
        yield f"{name}, with neighbours", Case([body, neighbours], whole)
        for number, prefix in enumerate(prefixes(body)):
            expected = stream.outcome(len(prefix))
            yield f"{name}, cut", Case([prefix], expected, broken=bool(number % 2))


def _of_refusals() -> Iterator[Tuple[str, Case]]:
    for name, refusal in REFUSALS.items():
        headers = {"Content-Type": refusal.content_type, "Retry-After": refusal.retry_after}
        sent = {key: value for key, value in headers.items() if value is not None}
        for reads in ([refusal.body], [refusal.body[i : i + 1] for i in range(len(refusal.body))]):
            yield name, Case(reads, refusal.outcome, refusal.status, sent)
        if refusal.code == str(refusal.status):  # nothing in its body is needed
            yield f"{name}, cut", Case([], refusal.outcome, refusal.status, sent, broken=True)


CASES = [*_of_streams(), *_of_refusals()]
NAMES = list(dict.fromkeys(name for name, _ in CASES))

Result = Tuple[Outcome, str, Any]
"""What a reader has made of an answer, the message of its failure, and the data of `done`."""

CHAT = """
import { ChatFailed, chat } from "./reader.mjs";
let input = "";
for await (const data of process.stdin.setEncoding("utf8")) input += data;
const results = [];
for (const [reads, status, headers, broken] of JSON.parse(input)) {
  const body = new ReadableStream({
    pull(controller) {
      if (reads.length) controller.enqueue(Buffer.from(reads.shift(), "base64"));
      else if (broken) controller.error(new TypeError("terminated"));
      else controller.close();
    },
  });
  globalThis.fetch = async () => new Response(status === 204 ? null : body, { status, headers });
  const pieces = [];
  const reply = chat("hi", { url: "http://127.0.0.1/" });
  let failure = { code: "done", message: "" };
  try {
    for await (const piece of reply) pieces.push(piece);
  } catch (error) {
    if (!(error instanceof ChatFailed)) throw error;
    failure = error;
  }
  const { code, message, status: refused = null, retryAfter = null } = failure;
  const seconds = Number.isNaN(retryAfter) ? "NaN" : retryAfter; // JSON would make it null
  results.push([[pieces, code, refused, seconds], message, reply.done ?? null]);
}
console.log(JSON.stringify(results));
"""

PARSE = """
import { EventStreamParser } from "./reader.mjs";
let input = "";
for await (const data of process.stdin.setEncoding("utf8")) input += data;
const results = [];
for (const [reads, text] of JSON.parse(input)) {
  const found = [];
  const parser = new EventStreamParser(({ event, data, id }) => found.push([event, data, id]));
  for (const read of reads) parser.push(text ? read : Buffer.from(read, "base64"));
  results.push([found, parser.retry ?? null]);
}
console.log(JSON.stringify(results));
"""


def _run(script: str, directory: Path, cases: object) -> Any:
    put_reader(directory)
    done = subprocess.run(
        node(script),
        cwd=directory,
        env=environment(),
        input=json.dumps(cases),
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return json.loads(done.stdout)


def _encoded(reads: List[bytes]) -> List[str]:
    return [base64.b64encode(read).decode() for read in reads]


def _read_by_javascript(directory: Path) -> List[Result]:
    cases = [(_encoded(c.reads), c.status, list(c.headers.items()), c.broken) for _, c in CASES]
    results = _run(CHAT, directory, cases)
    return [(Outcome(*outcome), message, done) for outcome, message, done in results]


class _Reads(httpx.SyncByteStream):
    def __init__(self, case: Case) -> None:
        self._case = case

    def __iter__(self) -> Iterator[bytes]:
        yield from self._case.reads
        if self._case.broken:
            raise httpx.ReadError("terminated")


def _read_by_python(directory: Path) -> List[Result]:
    results: List[Result] = []
    todo = iter(CASES)

    def answer(request: httpx.Request) -> httpx.Response:
        case = next(todo)[1]
        return httpx.Response(case.status, headers=case.headers, stream=_Reads(case))

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        for _ in CASES:
            pieces: List[str] = []
            code, message = "done", ""
            refused: Tuple[Optional[int], Optional[int]] = (None, None)
            with Chat(client, "http://127.0.0.1/", "hi") as reply:
                try:
                    pieces.extend(reply)
                except ChatFailed as error:
                    code, message = error.code, error.message
                    refused = (error.status, error.retry_after)
            results.append((Outcome(pieces, code, *refused), message, reply.done or None))
    return results


@pytest.fixture(scope="module", params=["reader.js", "reader.py"])
def results(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Dict[str, List[Tuple[Case, Result]]]:
    """What a reader makes of each case, by the case's name."""
    read = _read_by_javascript if request.param == "reader.js" else _read_by_python
    found: Dict[str, List[Tuple[Case, Result]]] = {name: [] for name in NAMES}
    for (name, case), result in zip(CASES, read(tmp_path_factory.mktemp("reader"))):
        found[name].append((case, result))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_makes_of_an_answer_what_it_says(
    results: Dict[str, List[Tuple[Case, Result]]], name: str
) -> None:
    """However it is cut: all its text, in order, and then how it ended."""
    for case, (outcome, message, done) in results[name]:
        assert outcome == case.expected, case.reads
        assert (done is not None) == (outcome.end == "done")
        assert (message == "") == (outcome.end == "done")
        assert "JSON at position" not in message
        if done is not None:
            assert {key: done[key] for key in DONE_DATA} == DONE_DATA


def _streams() -> List[bytes]:
    """Streams of every kind for the parser alone."""
    return [
        b"data: one\n\ndata: two\r\n\r\ndata: three\r\rdata: unfinished\n",
        b"\xef\xbb\xbfdata: \xef\xbb\xbf\n\n\xef\xbb\xbfdata: no field\n\n",
        b"event: a\ndata:  two spaces\ndata:no space\ndata\n\nevent: b\n\ndata: message\n\n",
        b": comment\nid: 1\nretry: 5\n data: no field\nData: none\ndata: a:b: c\n\n",
        b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\nid\ndata: c\n\nretry: 1\nretry: -2\nretry: 3x\n\n",
        "data: é😀\u2028\x85\x0b\n\n".encode() + b"data: \xff\xf0\x9f\x98\n\n",
        *(stream.body for stream in STREAMS.values() if len(stream.body) < 2000),
    ]


def test_the_parser_of_javascript_reads_a_stream_as_the_standard_has_it(tmp_path: Path) -> None:
    """At every split, as our own decoder does, which is held to the letter elsewhere; and text."""
    cases: List[Tuple[List[str], bool]] = []
    expected: List[Any] = []
    for stream in _streams():
        decoder = Decoder()
        frames = [[f.event, f.data, f.id] for f in decoder.feed(stream)]
        text = stream.decode("utf-8", "replace")
        cases += [(_encoded(reads), False) for reads in splits(stream)]
        cases += [([text[:i], text[i:]], True) for i in range(len(text))]
        cases.append((list(text), True))
        expected += [[frames, decoder.retry]] * (len(cases) - len(expected))
    for case, found, right in zip(cases, _run(PARSE, tmp_path, cases), expected):
        assert found == right, case
