"""The log: one line when a chat ends, a traceback where something broke, and never a message."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
from typing import Any, Coroutine, Iterator, List

import pytest

from omniforge_chat import ChatError, Settings, Usage, create_app
from omniforge_chat.core.responder import Responder
from omniforge_chat.logs import (
    CHAT,
    KEPT,
    READ,
    BatchingStreamHandler,
    JSONFormatter,
    TextFormatter,
    log_config,
    log_end,
    request_ended,
    trace_id,
    trace_id_in,
)
from omniforge_chat.logs.access import ACCESS_FIELDS
from omniforge_chat.logs.record import Ended, Form

from ..support.answers import last
from ..support.app import call
from ..support.constants import CONVERSATION, PATIENCE
from ..support.logs import Records
from ..support.responders import saying

FIELDS = [
    "request_id",
    "conversation_id",
    "outcome",
    "chunks",
    "tokens",
    "first_chunk_ms",
    "total_ms",
]
LOGGER = logging.getLogger("omniforge_chat")
REFERENCE = "ref-1"
SECRET = "xyzzy"


@pytest.fixture
def records() -> Iterator[Records]:
    with Records() as records:
        yield records


# How a chat ended


_done = saying("one", "two", Usage(tokens=7))
_failed = saying("12345678", RuntimeError("the cause"))
_refused = saying(ChatError("No such agent", code="no_agent"))


@pytest.mark.parametrize(
    ("responder", "outcome", "chunks", "tokens"),
    [
        pytest.param(_done, "done", 2, 7, id="done, with usage"),
        pytest.param(saying("12345678"), "done", 1, 2, id="done, estimated"),
        pytest.param(saying(), "done", 0, 1, id="done, with nothing said"),
        pytest.param(_failed, "processing_error", 1, 2, id="failed"),
        pytest.param(_refused, "no_agent", 0, 0, id="refused on purpose"),
    ],
)
def test_a_chat_s_end_is_one_line_with_what_an_operator_asks_for(
    records: Records, responder: Responder, outcome: str, chunks: int, tokens: int
) -> None:
    """Which, whose, how it ended, how much of it and how fast; and the usage is the client's."""
    app = create_app(responder, settings=Settings())
    body = {"message": "hi", "conversation_id": CONVERSATION}
    answer = call(app, body, headers={"X-Request-ID": REFERENCE})
    *troubles, ended = records.all
    assert len(troubles) == (1 if responder is _failed else 0)
    assert ended.levelno == logging.INFO
    fields = vars(ended)["chat"]
    assert list(fields) == FIELDS
    assert list(fields.values())[:5] == [REFERENCE, CONVERSATION, outcome, chunks, tokens]
    assert last(answer.frames)[1].get("usage", {"tokens": 0})["tokens"] == tokens
    assert fields["total_ms"] >= 0
    if chunks:
        assert 0 <= fields["first_chunk_ms"] <= fields["total_ms"]
    else:
        assert fields["first_chunk_ms"] is None


def test_what_is_refused_before_the_stream_is_no_chat(records: Records) -> None:
    """Anybody could fill the log with such lines; refusals are counted."""
    app = create_app(settings=Settings())
    for body in (b"{", {"message": 1}):
        assert call(app, body).status >= 400
    assert records.all != []
    assert [record for record in records.all if hasattr(record, "chat")] == []


# What is in it and what is not


def test_a_failure_has_its_traceback_under_the_same_request_id(records: Records) -> None:
    """The reference that the client has finds the cause."""
    app = create_app(_failed, settings=Settings())
    call(app, headers={"X-Request-ID": REFERENCE})
    failure, ended = records.all
    assert failure.levelno == logging.ERROR
    assert REFERENCE in failure.getMessage()
    assert failure.exc_info is not None
    assert isinstance(failure.exc_info[1], RuntimeError)
    assert REFERENCE in ended.getMessage()


@pytest.mark.parametrize("responder", [_done, _failed, _refused], ids=["done", "failed", "refused"])
@pytest.mark.parametrize("body", [{"message": SECRET}, {"message": [SECRET]}, SECRET.encode()])
def test_no_text_of_a_message_is_ever_logged(
    responder: Responder, body: object, caplog: pytest.LogCaptureFixture
) -> None:
    """What people say to an assistant is theirs; it does not belong in whatever keeps the logs."""
    caplog.set_level(logging.DEBUG)
    call(create_app(responder, settings=Settings()), body)
    assert caplog.records
    for record in caplog.records:
        assert SECRET not in JSONFormatter().format(record) + TextFormatter().format(record)


def test_at_a_higher_level_the_line_is_not_even_made(caplog: pytest.LogCaptureFixture) -> None:
    """A host that does not want it does not pay for it."""
    caplog.set_level(logging.WARNING, logger="omniforge_chat")
    call(create_app(_done, settings=Settings()))
    assert caplog.records == []


# How it looks


def _record(exc_info: bool = False, **extra: object) -> logging.LogRecord:
    record = logging.LogRecord(
        "omniforge_chat",
        logging.INFO,
        "file.py",
        1,
        "chat %s\n\u2028 ended",
        ("one",),
        sys.exc_info() if exc_info else None,
    )
    record.created, record.msecs = 1_700_000_000.0, 42.0
    vars(record).update(extra)
    return record


def test_a_text_line_has_its_time_in_utc() -> None:
    """Logs of several machines are read together."""
    formatter = TextFormatter()
    line = formatter.format(_record())
    assert line.startswith("2023-11-14T22:13:20.042Z INFO omniforge_chat: chat one")
    assert formatter.format(_record(created=1_700_000_001.0)).startswith("2023-11-14T22:13:21.042Z")


def test_a_json_line_is_one_line_whatever_is_in_it() -> None:
    """Machines read line by line."""
    try:
        raise ValueError("several\nlines \ud83d")
    except ValueError:
        line = JSONFormatter().format(_record(exc_info=True))
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["time"] == "2023-11-14T22:13:20.042Z"
    assert fields["level"] == "INFO"
    assert fields["logger"] == "omniforge_chat"
    assert fields["message"] == "chat one\n\u2028 ended"
    assert "ValueError: several\nlines" in fields["traceback"]


def test_the_fields_of_a_chat_stand_beside_the_others() -> None:
    """A query asks for `outcome`, not for a piece of text."""
    fields = json.loads(JSONFormatter().format(_record(chat={"outcome": "done", "chunks": 3})))
    assert fields["message"] == "chat ended"
    assert (fields["outcome"], fields["chunks"]) == ("done", 3)
    assert re.search("chat one", TextFormatter().format(_record(chat={"outcome": "done"})))


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()])
@pytest.mark.parametrize("form", [CHAT, KEPT, READ, Form("access", ACCESS_FIELDS)])
@pytest.mark.parametrize("created", [1_700_000_000.0, 1_700_000_000.9996])
@pytest.mark.parametrize("level", ["INFO", "Info"])
def test_the_line_of_an_end_is_the_same_with_a_record_and_without(
    formatter: TextFormatter,
    form: Form,
    created: float,
    level: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host that adds a handler of its own goes on reading the same log."""
    monkeypatch.setattr(Ended, "constant", {})
    logging.addLevelName(logging.INFO, level)
    try:
        for each, value in itertools.product((form, form.traced), ("x", "\ud83d", 7, 0.5, None)):
            values = (value,) * len(each.fields)
            line = formatter.format_end(created, each, values)
            assert line == formatter.format(Ended(created, each, values))
            assert level in line
    finally:
        logging.addLevelName(logging.INFO, "INFO")


def test_a_formatter_that_is_set_before_a_line_is_written_makes_it(log: Log) -> None:
    """A host may set up its log when chats have ended already."""

    async def main() -> None:
        await _chats(1)
        log.handler.setFormatter(logging.Formatter("%(levelname)s of %(threadName)s"))
        await log.until_written()

    log.run(main())
    assert log.lines == ["INFO of MainThread"]


@pytest.mark.parametrize(("style", "kind"), [("text", TextFormatter), ("json", JSONFormatter)])
def test_a_service_logs_everything_in_one_format_to_standard_error(style: str, kind: type) -> None:
    """Also what the server and the libraries say."""
    config = log_config("WARNING", style)
    assert config["root"] == {"level": "WARNING", "handlers": ["stderr"]}
    assert config["formatters"]["line"]["()"] is kind
    assert not config["disable_existing_loggers"]


class Log(io.StringIO):
    """A standard error that counts the writes, and a handler that writes to it.

    In a service nothing else sees what is logged. In a host there are other handlers, for which
    there have to be records at once.
    """

    def __init__(self, *, in_a_host: bool = False) -> None:
        super().__init__()
        self.writes = 0
        self.flushed = threading.Event()
        self.handler = BatchingStreamHandler()
        self.handler.setStream(self)
        self.handler.setFormatter(TextFormatter())
        self._in_a_host = in_a_host

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Here goes what is logged. Not as a fixture: pytest adds handlers before each test."""
        level = LOGGER.level
        with pytest.MonkeyPatch.context() as patch:
            if self._in_a_host:
                # pytest's own handler raises where a line cannot be formatted.
                patch.setattr(LOGGER, "propagate", False)
                patch.setattr(LOGGER, "handlers", [self.handler, logging.NullHandler()])
            else:
                patch.setattr(logging.getLogger(), "handlers", [self.handler])
            LOGGER.setLevel(logging.INFO)
            try:
                yield
            finally:
                LOGGER.setLevel(level)

    def run(self, *works: Coroutine[Any, Any, None]) -> None:
        """Run each in an event loop of its own, with the log attached."""
        with self.attached():
            for work in works:
                asyncio.run(work)

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)

    def flush(self) -> None:
        super().flush()
        self.flushed.set()

    @property
    def lines(self) -> List[str]:
        return self.getvalue().splitlines()

    async def until_written(self) -> None:
        """Wait for the next time that lines are written."""
        self.flushed.clear()
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, self.flushed.wait, PATIENCE)


@pytest.fixture(params=[False, True], ids=["service", "host"])
def log(request: pytest.FixtureRequest) -> Log:
    """The log of a service, and that of a host."""
    return Log(in_a_host=request.param)


async def _chats(*numbers: int) -> None:
    for number in numbers:
        log_end(CHAT, (f"ref-{number}", CONVERSATION, "done", 1, 1, 0.5, 1.5))


def test_the_lines_of_ended_chats_are_written_several_at_once_and_soon(log: Log) -> None:
    """A write for each costs a busy service as much as the chat."""

    async def main() -> None:
        await _chats(0, 1, 2)
        assert log.writes == 0
        await log.until_written()

    log.run(main())
    assert log.writes == 1
    assert [re.findall("request_id=(ref-[0-9])", line) for line in log.lines] == [
        ["ref-0"],
        ["ref-1"],
        ["ref-2"],
    ]
    assert log.lines[0].endswith(
        f"chat ended request_id=ref-0 conversation_id={CONVERSATION} outcome=done chunks=1 tokens=1"
        " first_chunk_ms=0.5 total_ms=1.5"
    )


def test_the_line_of_a_reader_waits_with_those_of_chats(log: Log) -> None:
    """After a cut there are as many readers as there were chats."""

    async def main() -> None:
        log_end(KEPT, ("ref-1", CONVERSATION, "done", 1, 1, 0.5, 1.5, "reply-1", 2, None))
        log_end(READ, ("ref-2", CONVERSATION, "reply-1", "done", 5, 1.5))
        assert log.writes == 0
        await log.until_written()

    log.run(main())
    assert log.writes == 1
    first, second = log.lines
    assert first.endswith(" total_ms=1.5 reply_id=reply-1 followers=2 away_ms=None")
    assert second.endswith(
        f"reply read request_id=ref-2 conversation_id={CONVERSATION} reply_id=reply-1 outcome=done"
        " after=5 total_ms=1.5"
    )


def test_any_other_line_takes_those_along_that_wait(log: Log) -> None:
    """The order of what happened is kept, and what went wrong is seen at once."""

    async def main() -> None:
        await _chats(1)
        LOGGER.error("reply failed")
        assert log.writes == 1

    log.run(main())
    first, second = log.lines
    assert "request_id=ref-1 " in first
    assert second.endswith("reply failed")


def test_no_more_lines_wait_than_a_few(log: Log) -> None:
    """They take memory, and would be lost if the process were killed."""
    log.run(_chats(*range(BatchingStreamHandler.MAX_LINES + 1)))
    assert log.writes == 1
    assert len(log.lines) == BatchingStreamHandler.MAX_LINES


def test_lines_that_wait_when_a_loop_has_ended_come_with_the_next_or_at_the_end(log: Log) -> None:
    """A timer that never fires must not hold them back."""
    log.run(_chats(1), _chats(2))
    assert log.writes == 0
    log.handler.flush()  # `logging.shutdown` does so when the process ends
    assert len(log.lines) == 2


def test_a_line_waits_for_no_loop_but_its_own(log: Log) -> None:
    """Another thread's loop may be blocked, or be over before its timer is due."""
    logged, over = threading.Event(), threading.Event()

    async def block() -> None:
        await _chats(1)
        logged.set()
        over.wait()  # its timer would write the line if it ended by itself

    async def main() -> None:
        await _chats(2)
        await log.until_written()

    with log.attached():
        blocked = threading.Thread(target=lambda: asyncio.run(block()))
        blocked.start()
        assert logged.wait(PATIENCE)
        try:
            asyncio.run(main())
        finally:
            over.set()
            blocked.join(PATIENCE)
    assert len(log.lines) == 2


def test_a_loop_that_ended_before_its_timer_does_not_keep_the_next_from_writing(log: Log) -> None:
    """A service in a process where loops come and go has its lines in time."""

    async def main() -> None:
        for number in (2, 3):
            await _chats(number)
            await log.until_written()

    log.run(_chats(1), main())
    assert len(log.lines) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_writes_its_own_lines_and_no_others() -> None:
    """It is another process, with an id of its own, and its parent's lines are its parent's."""
    program = """
import asyncio, logging, os, sys
from logging.config import dictConfig
from omniforge_chat.logs import CHAT, log_config, log_end

config = log_config("INFO", "text")
config["formatters"]["line"] = {"format": "%(process)d %(message)s"}
dictConfig(config)

async def main():
    log_end(CHAT, ("parent", "c", "done", 1, 1, 0.5, 1.5))
    child = os.fork()
    if child == 0:
        log_end(CHAT, ("child", "c", "done", 1, 1, 0.5, 1.5))
        logging.getLogger("tool").warning("other %s", os.getpid())
        os._exit(0)
    os.waitpid(child, 0)
    logging.getLogger("tool").warning("parent %s", os.getpid())

asyncio.run(main())
"""
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    lines = [line.split(" conversation_id")[0] for line in done.stderr.splitlines()]
    child, parent = (line.split()[0] for line in (lines[0], lines[2]))
    assert child != parent
    assert lines == [
        f"{child} chat ended request_id=child",
        f"{child} other {child}",
        f"{parent} chat ended request_id=parent",
        f"{parent} parent {parent}",
    ]


def test_a_record_factory_of_the_host_makes_the_records_of_chats_too(log: Log) -> None:
    """Tracing puts its ids there, and a format that names them would lose every line without."""
    log.handler.setFormatter(logging.Formatter("%(trace)s %(message)s %(chat)s"))
    before = logging.getLogRecordFactory()

    def make(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = before(*arguments, **options)
        record.trace = "trace-1"
        return record

    logging.setLogRecordFactory(make)
    try:
        log.run(_chats(1))
    finally:
        logging.setLogRecordFactory(before)
    assert log.writes == 0  # it waits as the others do
    log.handler.flush()
    (line,) = log.lines
    assert line.startswith("trace-1 chat ended request_id=ref-1")
    assert "'outcome': 'done'" in line


@pytest.mark.parametrize("where", ["logger", "handler"])
def test_a_filter_sees_the_end_of_a_chat_as_any_other_record(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's, or an operator's, in the configuration of the service's own log."""
    log = Log()
    filtered = log.handler if where == "handler" else LOGGER
    monkeypatch.setattr(filtered, "filters", [lambda record: False])
    log.run(_chats(1))
    log.handler.flush()
    assert log.lines == []


def test_what_takes_the_place_of_logging_s_own_way_sees_the_end_of_a_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sentry does so, to have each record as a breadcrumb."""
    seen: List[Any] = []
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda _, record: seen.append(record))
    Log().run(_chats(1))
    assert [record.chat["request_id"] for record in seen] == ["ref-1"]


def test_a_formatter_of_the_host_s_own_is_asked_in_the_thread_of_the_chat() -> None:
    """It may name the thread, or whatever belongs to it."""
    log = Log()
    log.handler.setFormatter(logging.Formatter("%(threadName)s %(chat)s"))
    thread = threading.Thread(target=lambda: log.run(_chats(1)), name="the-chat-s")
    thread.start()
    thread.join(PATIENCE)
    log.handler.flush()
    assert log.getvalue().startswith("the-chat-s {")


def test_a_line_says_when_the_chat_ended_and_not_when_it_was_written(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be a tenth of a second apart."""
    log.handler.setFormatter(JSONFormatter())
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.042)
    log.run(_chats(1))
    monkeypatch.undo()
    log.handler.flush()
    line = json.loads(log.getvalue())
    assert line["time"] == "2023-11-14T22:13:20.042Z"
    assert line["outcome"] == "done"


def test_the_record_of_a_chat_has_what_any_other_has(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a host's format asks for is there, and true."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        await _chats(1)
        LOGGER.info("plain")

    asyncio.run(main())
    chat, plain = (vars(record) for record in caplog.records)
    assert set(chat) - {"chat"} == set(plain)
    for field in ("process", "processName", "thread", "threadName", "levelname", "name"):
        assert chat[field] == plain[field]
    assert chat.get("taskName") == plain.get("taskName")
    assert 0 <= plain["relativeCreated"] - chat["relativeCreated"] < 1000 * PATIENCE


def test_a_line_that_cannot_be_formatted_or_written_costs_no_other(
    log: Log, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logging never raises into what logs."""
    with log.attached():
        LOGGER.error("%d", "no number")
        log_end(CHAT, ("ref-1", CONVERSATION, "done", 1, 1, 0.5, 1.5))  # with no loop for a timer
        assert " request_id=ref-1 " in log.lines[-1]
        assert "Logging error" in capsys.readouterr().err
        log.close()  # so that to flush it fails as well
        LOGGER.error("nowhere to go")
    assert "Logging error" in capsys.readouterr().err


# The trace of a request

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_the_lines_of_a_chat_in_a_trace_name_it_last(log: Log) -> None:
    """Without a trace a line stays as tools know it, field by field."""

    async def traced(form: Form, *values: Any) -> None:
        trace_id.set(TRACE)
        log_end(form, values)
        LOGGER.warning("upstream failed")

    async def main() -> None:
        ended = (CONVERSATION, "done", 1, 1, 0.5, 1.5)
        log_end(CHAT, ("ref-0", *ended))
        await asyncio.create_task(traced(CHAT, "ref-1", *ended))
        await asyncio.create_task(traced(KEPT, "ref-1", *ended, "reply", 2, None))
        await asyncio.create_task(traced(READ, "ref-1", CONVERSATION, "r", "done", 5, 1.5))
        LOGGER.warning("upstream failed")

    log.run(main())
    plain, *lines, last = log.lines
    assert TRACE not in plain
    assert TRACE not in last
    assert len(lines) == 6
    assert all(line.endswith(f" trace_id={TRACE}") for line in lines)


def test_a_request_is_an_object_of_its_fields_in_json(log: Log) -> None:
    """As the end of a chat is."""
    log.handler.setFormatter(JSONFormatter())

    async def main() -> None:
        request_ended("GET", "/", 200, 5, 1.5, None, "ref-1", caller="key:a", trace=TRACE)

    log.run(main())
    log.handler.flush()
    line = json.loads(log.lines[0])
    assert (line.pop("level"), line.pop("logger")) == ("INFO", "omniforge_chat")
    del line["time"]
    assert line == {
        "message": "request",
        "method": "GET",
        "path": "/",
        "status": 200,
        "bytes": 5,
        "ms": 1.5,
        "client": None,
        "request_id": "ref-1",
        "caller": "key:a",
        "trace_id": TRACE,
    }


def test_json_has_the_trace_as_a_field_of_its_own() -> None:
    """Whoever stores lines joins them with spans by it."""
    formatter = JSONFormatter()
    record = logging.LogRecord("omniforge_chat", logging.INFO, "", 0, "draining", (), None)
    assert "trace_id" not in json.loads(formatter.format(record))
    record.trace_id = TRACE
    assert json.loads(formatter.format(record))["trace_id"] == TRACE


@pytest.mark.parametrize(
    ("traceparent", "valid"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-01", True),
        (f"01-{TRACE}-b7ad6b7169203331-01-more", True),
        (f"00-{TRACE}-b7ad6b7169203331-01-more", False),
        (f"ff-{TRACE}-b7ad6b7169203331-01", False),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-01", False),
        (f"00-{TRACE}-b7ad6b7169203331-01\n", False),
        ("", False),
    ],
)
def test_only_a_valid_traceparent_counts(traceparent: str, valid: bool) -> None:
    """Anybody may send one, and it goes into the log as it is."""
    assert trace_id_in(traceparent.encode()) == (TRACE if valid else "")
