"""What an observer hears of the chats of an app, and that it can do no harm."""

from __future__ import annotations

import asyncio
from typing import Any, List, Tuple, Type

import pytest

from omniforge_chat import (
    ChatEnd,
    ChatError,
    Observer,
    ReadEnd,
    Refusal,
    Settings,
    Turn,
    Usage,
    create_app,
)

from ..support.answers import last
from ..support.app import call
from ..support.away import KeptLine
from ..support.constants import CONVERSATION as ID
from ..support.line import Line, Script
from ..support.logs import Records
from ..support.responders import saying
from ..support.timeless import timeless


class Witness(Observer):
    """Notes all that it hears."""

    def __init__(self) -> None:
        self.heard: List[Tuple[str, Any]] = []

    def chat_began(self, turn: Turn, scope: Any) -> None:
        self.heard.append(("began", (turn, scope)))

    def first_chunk(self, turn: Turn, seconds: float) -> None:
        self.heard.append(("first", turn))

    def chat_ended(self, end: ChatEnd) -> None:
        self.heard.append(("ended", end))

    def chat_refused(self, refusal: Refusal) -> None:
        self.heard.append(("refused", refusal))

    def reply_read(self, end: ReadEnd) -> None:
        self.heard.append(("read", end))

    @property
    def names(self) -> List[str]:
        return [name for name, _ in self.heard]


def test_an_observer_hears_of_a_chat_from_its_beginning_to_its_end() -> None:
    """All that it needs for a number, a span or a bill is in what it hears."""
    witness = Witness()
    app = create_app(saying("one", "two", Usage(7)), settings=Settings(), observers=[witness])
    answer = call(app, {"message": "hi"}, headers={"X-Request-ID": "ref-1"})
    assert witness.names == ["began", "first", "ended"]
    (_, (turn, scope)), (_, first), (_, end) = witness.heard
    assert turn is first is end.turn
    assert (turn.message, turn.request_id, turn.dialect) == ("hi", "ref-1", "native")
    assert scope["path"] == "/api/v1/chat"
    assert (end.outcome, end.status, end.chunks, end.usage) == ("done", 200, 2, Usage(7))
    assert 0 <= end.first_chunk <= end.seconds
    assert end.sent_bytes == len(answer.body)
    assert (end.heartbeats, end.reply_id, end.away) == (0, "", None)


def test_a_reply_that_fails_at_once_has_no_first_chunk() -> None:
    """It began all the same, and ends once."""
    witness = Witness()
    failing = saying(ChatError("No", code="no_agent"))
    call(create_app(failing, settings=Settings(), observers=[witness]), {"message": "hi"})
    assert witness.names == ["began", "ended"]
    end = witness.heard[-1][1]
    assert (end.outcome, end.first_chunk, end.usage) == ("no_agent", None, None)


@pytest.mark.parametrize(
    ("body", "code", "dialect"),
    [
        ({"message": ""}, "validation_error", "native"),
        ({"message": "x" * 10_001}, "message_too_long", "native"),
    ],
)
def test_an_observer_hears_of_a_refusal(body: object, code: str, dialect: str) -> None:
    """A refused chat leaves its trace in numbers, too."""
    witness = Witness()
    app = create_app(saying("a"), settings=Settings(), observers=[witness])
    answer = call(app, body)
    assert witness.names == ["refused"]
    refusal = witness.heard[0][1]
    assert (refusal.error.code, refusal.dialect) == (code, dialect)
    assert refusal.request_id == answer.headers["x-request-id"]
    assert refusal.scope["method"] == "POST"


class Broken(Observer):
    """Fails whenever it is called."""

    def chat_began(self, turn: Turn, scope: Any) -> None:
        raise RuntimeError("began")

    def first_chunk(self, turn: Turn, seconds: float) -> None:
        raise RuntimeError("first")

    def chat_ended(self, end: ChatEnd) -> None:
        raise RuntimeError("ended")


def test_an_observer_that_fails_disturbs_nobody() -> None:
    """Whoever counts chats must not break them."""
    witness = Witness()
    app = create_app(saying("a"), settings=Settings(), observers=[Broken(), witness])
    with Records() as records:
        answer = call(app, {"message": "hi"})
    assert last(answer.frames)[0] == "done"
    assert witness.names == ["began", "first", "ended"]
    told = [record.getMessage() for record in records.all if record.exc_info]
    assert [line.partition(": ")[2] for line in told] == [
        "Broken.chat_began",
        "Broken.first_chunk",
        "Broken.chat_ended",
    ]


class Panic(BaseException):
    """As extension modules raise it."""


@pytest.mark.parametrize("error", [Panic, asyncio.CancelledError, SystemExit])
@pytest.mark.parametrize("method", ["chat_began", "first_chunk", "chat_ended"])
def test_what_is_no_exception_disturbs_nobody_either(
    method: str, error: Type[BaseException]
) -> None:
    """A stream would take a cancellation for its own, and others would miss the end of the chat."""

    def fail(self: object, *event: object) -> None:
        raise error

    witness = Witness()
    failing = type("Failing", (Observer,), {method: fail})()
    app = create_app(saying("a"), settings=Settings(), observers=[failing, witness])
    with Records() as records:
        answer = call(app, {"message": "hi"})
    assert last(answer.frames)[0] == "done"
    assert witness.names == ["began", "first", "ended"]
    assert isinstance(witness.heard[-1][1], ChatEnd)
    assert witness.heard[-1][1].outcome == "done"
    assert [bool(record.exc_info) for record in records.all if record.levelname == "ERROR"] == [
        True
    ]


class Awaited(Observer):
    async def chat_ended(self, end: ChatEnd) -> None:  # type: ignore[override]  # the mistake
        """Nobody would await it."""


@pytest.mark.parametrize("wrong", [None, Witness, object(), Awaited()])
def test_what_cannot_observe_is_refused_at_once(wrong: Any) -> None:
    """Else each chat would go uncounted, with a traceback or with nothing."""
    with pytest.raises(TypeError, match="must be"):
        create_app(saying("a"), settings=Settings(), observers=[wrong])


@timeless
async def test_heartbeats_are_among_the_bytes_that_were_sent() -> None:
    """Whoever pays for traffic pays for them, too."""
    witness = Witness()
    line = Line(Script("a", 35, "b"), observers=[witness], heartbeat_interval=15)
    await line.end()
    end = witness.heard[-1][1]
    assert (end.heartbeats, end.sent_bytes) == (2, len(line.body))


@timeless
async def test_an_observer_hears_of_a_reply_that_runs_on_and_of_those_who_read_it() -> None:
    """The reply ends once, however many came back for it."""
    witness = Witness()
    script = Script("Hel", 20, "lo", 20)
    body = {"message": "hi", "conversation_id": ID}
    line = KeptLine(script, body=body, observers=[witness])
    await line.until_away(10)
    follower = line.follow(f"{line.reply_id}.3")
    await line.at(25)
    await follower.leave()
    await line.end()
    assert witness.names == ["began", "first", "read", "ended"]
    read, end = witness.heard[2][1], witness.heard[3][1]
    assert (read.outcome, read.after, read.reply_id) == ("disconnected", 3, line.reply_id)
    assert (end.outcome, end.followers, end.away) == ("done", 1, pytest.approx(30))
    assert end.reply_id == line.reply_id
