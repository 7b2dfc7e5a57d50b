"""The log: one line when a chat ends, a traceback where something broke, and never a message."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from datetime import datetime
from typing import Any, AsyncIterator, Callable, Iterator, List, TextIO, Union

import pytest

from omniforge_chat import ChatError, Settings, Turn, Usage, create_app
from omniforge_chat.core.reply import Responder
from omniforge_chat.logs import (
    BatchingStreamHandler,
    JSONFormatter,
    TextFormatter,
    chat_ended,
    log_config,
)

from ..support.answers import last
from ..support.app import exchange
from ..support.client import Client
from ..support.constants import CONVERSATION, PATIENCE
from ..support.logs import Records
from ..support.responders import PacedResponder
from ..support.servers import UvicornThread

FIELDS = [
    "request_id",
    "conversation_id",
    "outcome",
    "chunks",
    "tokens",
    "first_chunk_ms",
    "total_ms",
]
REFERENCE = "ref-1"
SECRET = "xyzzy"


@pytest.fixture
def records() -> Iterator[Records]:
    with Records() as records:
        yield records


def _ask(client: Client) -> None:
    client.post(
        {"message": SECRET, "conversation_id": CONVERSATION}, headers={"X-Request-ID": REFERENCE}
    )
    assert client.head()[0] == 200


# How a chat ended


async def _done(turn: Turn) -> AsyncIterator[Union[str, Usage]]:
    yield "one"
    yield "two"
    yield Usage(tokens=7)


async def _estimated(turn: Turn) -> AsyncIterator[str]:
    yield "12345678"


async def _silent(turn: Turn) -> AsyncIterator[str]:
    return
    yield ""


async def _failed(turn: Turn) -> AsyncIterator[str]:
    yield "12345678"
    raise RuntimeError("the cause")


async def _refused(turn: Turn) -> AsyncIterator[str]:
    raise ChatError("No such agent", code="no_agent")
    yield ""


@pytest.mark.parametrize(
    ("responder", "outcome", "chunks", "tokens"),
    [
        pytest.param(_done, "done", 2, 7, id="done, with usage"),
        pytest.param(_estimated, "done", 1, 2, id="done, estimated"),
        pytest.param(_failed, "processing_error", 1, 2, id="failed"),
        pytest.param(_refused, "no_agent", 0, 0, id="refused on purpose"),
    ],
)
def test_a_chat_s_end_is_one_line_with_what_an_operator_asks_for(
    records: Records, responder: Responder, outcome: str, chunks: int, tokens: int
) -> None:
    """Which, whose, how it ended, how much of it and how fast."""
    app = create_app(responder, settings=Settings())
    with UvicornThread(app) as server, server.connect() as client:
        _ask(client)
        client.frames()
        fields = records.chat(REFERENCE)
    assert list(fields) == FIELDS
    assert fields["request_id"] == REFERENCE
    assert fields["conversation_id"] == CONVERSATION
    assert fields["outcome"] == outcome
    assert fields["chunks"] == chunks
    assert fields["tokens"] == tokens
    assert fields["total_ms"] >= 0
    if chunks:
        assert 0 <= fields["first_chunk_ms"] <= fields["total_ms"]
    else:
        assert fields["first_chunk_ms"] is None
    assert len([record for record in records.all if record.levelno == logging.INFO]) == 1


@pytest.mark.parametrize("responder", [_done, _estimated, _silent, _failed])
def test_the_log_and_the_client_are_told_the_same_usage(
    records: Records, responder: Responder
) -> None:
    """Whoever adds up what was used comes to one sum, whichever of the two is read."""
    app = create_app(responder, settings=Settings())
    answer = exchange(app, headers={"X-Request-ID": REFERENCE})
    assert records.chat(REFERENCE)["tokens"] == last(answer.frames)[1]["usage"]["tokens"]


def test_an_empty_reply_is_done_and_has_no_first_chunk(records: Records) -> None:
    """A responder may have nothing to say."""
    exchange(create_app(_silent, settings=Settings()), headers={"X-Request-ID": REFERENCE})
    fields = records.chat(REFERENCE)
    assert (fields["outcome"], fields["chunks"]) == ("done", 0)
    assert fields["first_chunk_ms"] is None


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_client_that_left_is_told_apart_from_a_reply_that_ended(
    records: Records, tokens: int
) -> None:
    """It is no failure of ours, and no success either."""
    paced = PacedResponder()
    with UvicornThread(create_app(paced, settings=Settings())) as server:
        with server.connect() as client:
            _ask(client)
            for _ in range(tokens):
                paced.ask()
                client.frame()
        fields = records.chat(REFERENCE)
    assert fields["outcome"] == "disconnected"
    assert fields["chunks"] == tokens
    assert records.troubles == []


def test_a_client_that_reads_to_the_end_and_leaves_has_been_answered(records: Records) -> None:
    """Most clients close their connection with the last frame; their chats are done."""
    with UvicornThread(create_app(_done, settings=Settings())) as server:
        for _ in range(20):
            with server.connect() as client:
                _ask(client)
                assert last(client.frames())[0] == "done"
            assert records.chat(REFERENCE)["outcome"] == "done"


def test_what_is_refused_before_the_stream_is_no_chat(records: Records) -> None:
    """The answer says everything, and anybody could fill the log with such requests."""
    app = create_app(settings=Settings())
    for body in (b"", b"{", {"message": 1}, {"message": "x" * 10_001}):
        assert exchange(app, body).status >= 400
    assert records.all == []


# What is in it and what is not


def test_a_failure_has_its_traceback_under_the_same_request_id(records: Records) -> None:
    """The reference that the client has finds the cause."""
    app = create_app(_failed, settings=Settings())
    exchange(app, headers={"X-Request-ID": REFERENCE})
    failure, ended = records.all
    assert failure.levelno == logging.ERROR
    assert REFERENCE in failure.getMessage()
    assert failure.exc_info is not None
    assert isinstance(failure.exc_info[1], RuntimeError)
    assert REFERENCE in ended.getMessage()


def test_an_error_that_a_responder_raises_on_purpose_is_no_failure(records: Records) -> None:
    """It was meant for the client, and the client has it; the line of the chat's end tells it."""
    app = create_app(_refused, settings=Settings())
    exchange(app, headers={"X-Request-ID": REFERENCE})
    assert records.troubles == []
    assert records.chat(REFERENCE)["outcome"] == "no_agent"


@pytest.mark.parametrize(
    "responder", [_done, _failed, _refused], ids=lambda responder: responder.__name__[1:]
)
@pytest.mark.parametrize("body", [{"message": SECRET}, {"message": [SECRET]}, SECRET.encode()])
def test_no_text_of_a_message_is_ever_logged(responder: Responder, body: object) -> None:
    """What people say to an assistant is theirs; it does not belong in whatever keeps the logs."""
    lines: List[str] = []

    class Everything(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(JSONFormatter().format(record) + TextFormatter().format(record))

    root, handler = logging.getLogger(), Everything(logging.DEBUG)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        exchange(create_app(responder, settings=Settings()), body)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert lines
    assert not [line for line in lines if SECRET in line]


def test_at_a_higher_level_the_line_is_not_even_made(caplog: pytest.LogCaptureFixture) -> None:
    """A host that does not want it does not pay for it."""
    caplog.set_level(logging.WARNING, logger="omniforge_chat")
    exchange(create_app(_done, settings=Settings()))
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
    line = TextFormatter().format(_record())
    assert line.startswith("2023-11-14T22:13:20.042Z INFO omniforge_chat: chat one")


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


@pytest.mark.parametrize(("style", "kind"), [("text", TextFormatter), ("json", JSONFormatter)])
def test_a_service_logs_everything_in_one_format_to_standard_error(style: str, kind: type) -> None:
    """Also what the server and the libraries say."""
    config = log_config("WARNING", style)
    assert config["root"] == {"level": "WARNING", "handlers": ["stderr"]}
    assert config["formatters"]["line"]["()"] is kind
    assert not config["disable_existing_loggers"]


class Lines(io.StringIO):
    """A standard error that counts the writes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


def _handler(stream: TextIO) -> BatchingStreamHandler:
    handler = BatchingStreamHandler()
    handler.setStream(stream)
    handler.setFormatter(TextFormatter())
    return handler


@contextlib.contextmanager
def _alone(handler: logging.Handler) -> Iterator[None]:
    """Nothing but `handler` sees what is logged, as in a service."""
    root, logger = logging.getLogger(), logging.getLogger("omniforge_chat")
    before, level = root.handlers[:], logger.level
    root.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before
        logger.setLevel(level)


@contextlib.contextmanager
def _beside_others(handler: logging.Handler) -> Iterator[None]:
    """A host has handlers of its own, for which there have to be records at once."""
    logger = logging.getLogger("omniforge_chat")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.propagate = False  # pytest's own handler raises where a line cannot be formatted
    logger.addHandler(handler)
    logger.addHandler(logging.NullHandler())
    try:
        yield
    finally:
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(level)


LoggingTo = Callable[[logging.Handler], contextlib.AbstractContextManager[None]]


@pytest.fixture(params=[_alone, _beside_others])
def logging_to(request: pytest.FixtureRequest) -> LoggingTo:
    found: LoggingTo = request.param
    return found


def _chat(number: int) -> None:
    chat_ended(f"ref-{number}", CONVERSATION, "done", 1, 1, 0.5, 1.5)


def test_the_lines_of_ended_chats_are_written_several_at_once_and_soon(
    logging_to: LoggingTo,
) -> None:
    """A write for each costs a busy service as much as the chat."""
    stream = Lines()
    handler = _handler(stream)

    async def main() -> None:
        for number in range(3):
            _chat(number)
        assert stream.writes == 0
        written = asyncio.Event()
        handler.flush = lambda: (BatchingStreamHandler.flush(handler), written.set())  # type: ignore[assignment,method-assign,func-returns-value]
        await asyncio.wait_for(written.wait(), PATIENCE)

    with logging_to(handler):
        asyncio.run(main())
    assert stream.writes == 1
    lines = stream.getvalue().splitlines()
    assert [re.findall("request_id=(ref-[0-9])", line) for line in lines] == [
        ["ref-0"],
        ["ref-1"],
        ["ref-2"],
    ]
    assert lines[0].endswith(
        f"chat ended request_id=ref-0 conversation_id={CONVERSATION} outcome=done chunks=1 tokens=1"
        " first_chunk_ms=0.5 total_ms=1.5"
    )


def test_any_other_line_takes_those_along_that_wait(logging_to: LoggingTo) -> None:
    """The order of what happened is kept, and what went wrong is seen at once."""
    stream = Lines()

    async def main() -> None:
        _chat(1)
        logging.getLogger("omniforge_chat").error("reply failed")
        assert [" ref-1 " in stream.getvalue().replace("=", " "), stream.writes] == [True, 1]
        assert stream.getvalue().splitlines()[-1].endswith("reply failed")

    with logging_to(_handler(stream)):
        asyncio.run(main())


def test_no_more_lines_wait_than_a_few(logging_to: LoggingTo) -> None:
    """They take memory, and would be lost if the process were killed."""
    stream = Lines()

    async def main() -> None:
        for number in range(BatchingStreamHandler.MAX_LINES + 1):
            _chat(number)
        assert stream.writes == 1
        assert len(stream.getvalue().splitlines()) == BatchingStreamHandler.MAX_LINES

    with logging_to(_handler(stream)):
        asyncio.run(main())


def test_lines_that_wait_when_a_loop_has_ended_come_with_the_next_or_at_the_end(
    logging_to: LoggingTo,
) -> None:
    """A timer that never fires must not hold them back."""
    stream = Lines()
    handler = _handler(stream)

    async def main(number: int) -> None:
        _chat(number)

    with logging_to(handler):
        asyncio.run(main(1))
        asyncio.run(main(2))
    assert stream.writes == 0
    handler.flush()  # `logging.shutdown` does so when the process ends
    assert len(stream.getvalue().splitlines()) == 2


def test_a_line_waits_for_no_loop_but_its_own(logging_to: LoggingTo) -> None:
    """Another thread's loop may be blocked, or be over before its timer is due."""
    stream = Lines()
    handler = _handler(stream)
    written = threading.Event()
    handler.flush = lambda: (BatchingStreamHandler.flush(handler), written.set())  # type: ignore[assignment,method-assign,func-returns-value]
    logged, over = threading.Event(), threading.Event()

    async def block() -> None:
        _chat(1)
        logged.set()
        over.wait(PATIENCE)

    async def main() -> None:
        _chat(2)
        assert await asyncio.get_running_loop().run_in_executor(None, written.wait, PATIENCE)

    with logging_to(handler):
        blocked = threading.Thread(target=lambda: asyncio.run(block()))
        blocked.start()
        assert logged.wait(PATIENCE)
        try:
            asyncio.run(main())
        finally:
            over.set()
            blocked.join(PATIENCE)
    assert len(stream.getvalue().splitlines()) == 2


def test_a_loop_that_ended_before_its_timer_does_not_keep_the_next_from_writing(
    logging_to: LoggingTo,
) -> None:
    """A service in a process where loops come and go has its lines in time."""
    stream = Lines()
    handler = _handler(stream)

    async def one() -> None:
        _chat(1)

    async def another() -> None:
        written = asyncio.Event()
        handler.flush = lambda: (BatchingStreamHandler.flush(handler), written.set())  # type: ignore[assignment,method-assign,func-returns-value]
        for number in (2, 3):
            written.clear()
            _chat(number)
            await asyncio.wait_for(written.wait(), PATIENCE)

    with logging_to(handler):
        asyncio.run(one())
        asyncio.run(another())
    assert len(stream.getvalue().splitlines()) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_writes_its_own_lines_and_no_others() -> None:
    """It is another process, with an id of its own, and its parent's lines are its parent's."""
    program = """
import asyncio, logging, os, sys
from logging.config import dictConfig
from omniforge_chat.logs import chat_ended, log_config

config = log_config("INFO", "text")
config["formatters"]["line"] = {"format": "%(process)d %(message)s"}
dictConfig(config)

async def main():
    chat_ended("parent", "c", "done", 1, 1, 0.5, 1.5)
    child = os.fork()
    if child == 0:
        chat_ended("child", "c", "done", 1, 1, 0.5, 1.5)
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


def test_a_record_factory_of_the_host_makes_the_records_of_chats_too(logging_to: LoggingTo) -> None:
    """Tracing puts its ids there, and a format that names them would lose every line without."""
    stream = Lines()
    handler = _handler(stream)
    handler.setFormatter(logging.Formatter("%(trace)s %(message)s %(chat)s"))
    before = logging.getLogRecordFactory()

    def make(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = before(*arguments, **options)
        record.trace = "trace-1"
        return record

    async def main() -> None:
        _chat(1)
        assert stream.writes == 0  # it waits as the others do
        handler.flush()

    logging.setLogRecordFactory(make)
    try:
        with logging_to(handler):
            asyncio.run(main())
    finally:
        logging.setLogRecordFactory(before)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("trace-1 chat ended request_id=ref-1")
    assert "'outcome': 'done'" in line


def _refuses(_: logging.LogRecord) -> bool:
    return False


@pytest.mark.parametrize("where", ["logger", "handler"])
def test_a_filter_sees_the_end_of_a_chat_as_any_other_record(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's, or an operator's, in the configuration of the service's own log."""
    stream = Lines()
    handler = _handler(stream)
    filtered = handler if where == "handler" else logging.getLogger("omniforge_chat")
    monkeypatch.setattr(filtered, "filters", [_refuses])

    async def main() -> None:
        _chat(1)
        handler.flush()

    with _alone(handler):
        asyncio.run(main())
    assert stream.getvalue() == ""


def test_what_takes_the_place_of_logging_s_own_way_sees_the_end_of_a_chat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sentry does so, to have each record as a breadcrumb."""
    seen = []
    handler = _handler(Lines())
    monkeypatch.setattr(logging.Logger, "callHandlers", lambda _, record: seen.append(record))

    async def main() -> None:
        _chat(1)

    with _alone(handler):
        asyncio.run(main())
    assert [record.chat["request_id"] for record in seen] == ["ref-1"]


def test_a_formatter_of_the_host_s_own_is_asked_in_the_thread_of_the_chat() -> None:
    """It may name the thread, or whatever belongs to it."""
    stream = Lines()
    handler = _handler(stream)
    handler.setFormatter(logging.Formatter("%(threadName)s %(chat)s"))

    async def main() -> None:
        _chat(1)

    with _alone(handler):
        thread = threading.Thread(target=lambda: asyncio.run(main()), name="the-chat-s")
        thread.start()
        thread.join(PATIENCE)
        handler.flush()
    assert stream.getvalue().startswith("the-chat-s {")


def test_a_line_says_when_the_chat_ended_and_not_when_it_was_written(
    logging_to: LoggingTo,
) -> None:
    """They may be a tenth of a second apart."""
    stream = Lines()
    handler = _handler(stream)
    handler.setFormatter(JSONFormatter())
    before = time.time()

    async def main() -> float:
        _chat(1)
        ended = time.time()
        while time.time() < ended + 0.01:
            pass
        handler.flush()
        return ended

    with logging_to(handler):
        after = asyncio.run(main())
    line = json.loads(stream.getvalue())
    said = datetime.fromisoformat(line["time"].replace("Z", "+00:00")).timestamp()
    assert before - 0.001 <= said <= after
    assert line["outcome"] == "done"


def test_the_record_of_a_chat_has_what_any_other_has(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a host's format asks for is there, and true."""
    caplog.set_level(logging.INFO)

    async def main() -> None:
        _chat(1)
        logging.getLogger("omniforge_chat").info("plain")

    asyncio.run(main())
    chat, plain = (vars(record) for record in caplog.records)
    assert set(chat) - {"chat"} == set(plain)
    for field in ("process", "processName", "thread", "threadName", "levelname", "name"):
        assert chat[field] == plain[field]
    assert chat.get("taskName") == plain.get("taskName")
    assert 0 <= plain["relativeCreated"] - chat["relativeCreated"] < 1000 * PATIENCE


def test_a_line_that_cannot_be_formatted_or_written_costs_no_other(
    logging_to: LoggingTo, capsys: pytest.CaptureFixture[str]
) -> None:
    """Logging never raises into what logs."""
    stream = Lines()
    logger = logging.getLogger("omniforge_chat")
    with logging_to(_handler(stream)):
        logger.error("%d", "no number")
        logger.error("fine")
    assert stream.getvalue().splitlines()[-1].endswith("fine")
    assert "Logging error" in capsys.readouterr().err
    stream.close()  # so that to flush it fails as well
    with logging_to(_handler(stream)):
        logger.error("nowhere to go")
        _chat(1)  # with no loop whose timer could come back to it
    assert "Logging error" in capsys.readouterr().err
