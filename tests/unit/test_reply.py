"""The core: whatever a responder does, events that end with exactly one terminal event."""

from __future__ import annotations

import asyncio
import logging
from enum import Enum
from functools import partial
from typing import (
    Any,
    AsyncIterator,
    Callable,
    Iterator,
    List,
    NoReturn,
    Optional,
    Tuple,
    Type,
)

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import ChatError, Finish, Message, Turn, Usage
from omniforge_chat.core.responder import SILENT_ITEMS, converse
from omniforge_chat.errors import StreamError
from omniforge_chat.models import Chunk, Done, Error, Event
from omniforge_chat.responders import placeholder

from ..support.constants import CONVERSATION
from ..support.native import native_reply
from ..support.responders import Uncontrolled, events_of

REFERENCE = "ticket-17"
HIDDEN = f"Error generating response (reference {REFERENCE})"
SECRET = "password=hunter2"


TURN = Turn("hi", CONVERSATION, REFERENCE)


def answer(responder: Any, *, message: str = "hi") -> List[Event]:
    """All events of one turn, the last of which is the only terminal one."""
    events = asyncio.run(events_of(Turn(message, CONVERSATION, REFERENCE), responder))
    assert [type(event) for event in events[:-1]] == [Chunk] * (len(events) - 1)
    assert isinstance(events[-1], (Done, Error))
    return events


def saying(*items: object) -> Callable[[Turn], AsyncIterator[Any]]:
    """A responder that yields `items`, and raises those that are exceptions."""

    async def respond(turn: Turn) -> AsyncIterator[Any]:
        for item in items:
            if isinstance(item, BaseException):
                raise item
            yield item

    return respond


def estimate(tokens: int) -> Usage:
    return Usage(tokens, estimated=True)


def done(usage: Usage) -> Done:
    return Done(CONVERSATION, usage)


class Text(str):
    """What template engines and tokenisers yield for text."""

    __slots__ = ()

    def __str__(self) -> str:
        return "a text of another kind"


class Code(str, Enum):
    BUSY = "busy"


@pytest.fixture
def errors(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Reads what the package has logged so far: at ERROR, under the request's id, and all of it."""

    def read() -> str:
        records = [record for record in caplog.records if record.name == "omniforge_chat"]
        for record in records:
            assert record.levelno == logging.ERROR
            assert f"request_id={REFERENCE}" in record.getMessage()
        caplog.clear()
        return "\n".join(map(caplog.handler.format, records))

    yield read
    assert read() == ""


Errors = Callable[[], str]


# A reply that completes


@pytest.mark.parametrize(
    ("items", "usage"),
    [
        pytest.param(["a", " b\n", "😀"], estimate(1), id="neither joined nor split"),
        pytest.param([], estimate(1), id="nothing"),
        pytest.param(["", ""], estimate(1), id="no text"),
        pytest.param([Usage(1)], Usage(1), id="no text, but reported"),
        pytest.param(["", "a", Text(), "b", ""], estimate(1), id="empty deltas"),
        pytest.param(["abc"], estimate(1), id="at least one"),
        pytest.param(["abcd", "efgh"], estimate(2), id="a quarter of the characters"),
        pytest.param(["abcd", "efg"], estimate(1), id="rounded down"),
        pytest.param(["😀" * 8], estimate(2), id="characters, not bytes"),
        pytest.param(["abcd", Usage(7)], Usage(7), id="reported"),
        pytest.param([Usage(7), "abcd"], Usage(7), id="reported before the text"),
        pytest.param(["abcd", Usage(0)], Usage(0), id="reported as nothing"),
        pytest.param([Usage(1), "a", Usage(2), Usage(3)], Usage(3), id="the last report counts"),
        pytest.param([Usage(2**70)], Usage(2**70), id="any number"),
    ],
)
def test_pieces_become_chunks_and_the_end_becomes_done_with_the_usage(
    items: List[object], usage: Usage, errors: Errors
) -> None:
    """One piece with text, one event. Without a report of the usage there is an estimate."""
    chunks = [Chunk(item) for item in items if isinstance(item, str) and item]
    assert answer(saying(*items)) == [*chunks, done(usage)]


def test_the_responder_gets_the_turn() -> None:
    """With the message as it was sent, and both ids."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield repr((turn.message, turn.conversation_id, turn.request_id))

    chunk, _ = answer(respond, message=" a\0 ")
    assert chunk == Chunk(repr((" a\0 ", CONVERSATION, REFERENCE)))


def test_a_subclass_of_str_is_the_text_it_holds(errors: Errors) -> None:
    """Not the text that its own `__str__` makes up; and the encoder takes plain text only."""
    chunk, busy, _ = answer(saying(Text("a"), Code.BUSY))
    assert (chunk, busy) == (Chunk("a"), Chunk("busy"))
    assert isinstance(chunk, Chunk)
    assert type(chunk.content) is str


@given(st.lists(st.text(), max_size=20))
def test_the_chunks_are_the_reply_whatever_its_pieces(pieces: List[str]) -> None:
    """Nothing is lost, added or put in another order, and the estimate follows from it."""
    *chunks, end = answer(saying(*pieces))
    assert chunks == [Chunk(piece) for piece in pieces if piece]
    assert end == done(estimate(max(1, sum(map(len, pieces)) // 4)))


class Countdown:
    """An async iterator that is no generator, and has no `aclose`."""

    def __init__(self, turn: Turn) -> None:
        self.left = 3

    def __aiter__(self) -> Countdown:
        return self

    async def __anext__(self) -> str:
        self.left -= 1
        if not self.left:
            raise StopAsyncIteration
        return str(self.left)


class Stream:
    """An async iterable whose iterator is another object, as the streams of SDKs are."""

    def __init__(self, iterator: AsyncIterator[Any]) -> None:
        self.iterator = iterator

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.iterator


@pytest.mark.parametrize(
    "responder",
    [Countdown, lambda turn: Countdown(turn), lambda turn: Stream(Countdown(turn))],
)
def test_any_async_iterable_is_a_reply(responder: Any, errors: Errors) -> None:
    """What an SDK hands out is seldom a generator."""
    assert answer(responder) == [Chunk("2"), Chunk("1"), done(estimate(1))]


@pytest.mark.parametrize(
    ("history", "remembered", "known"),
    [
        ((), False, None),
        ((), True, 0),
        ((Message("user", "a"), Message("assistant", "b")), True, 2),
    ],
)
def test_done_tells_how_much_the_reply_knew(
    history: Tuple[Message, ...], remembered: bool, known: Optional[int]
) -> None:
    """A conversation that was forgotten goes on as if it were new, and nobody would know."""
    reply = native_reply(Turn("hi", CONVERSATION, REFERENCE, history, remembered))
    end = reply.terminal()
    assert isinstance(end, Done)
    assert end.history == known


# Usage


@pytest.mark.parametrize(
    ("items", "usage"),
    [
        pytest.param([], None, id="nothing was produced"),
        pytest.param([""], None, id="nothing but an empty piece"),
        pytest.param(["abcdefgh"], estimate(2), id="an estimate of what was sent"),
        pytest.param(["abcdefgh", Usage(9)], Usage(9), id="the report"),
        pytest.param([Usage(9)], Usage(9), id="a report without text"),
    ],
)
def test_an_error_carries_the_usage_of_what_was_produced(
    items: List[object], usage: Optional[Usage]
) -> None:
    """What was generated has its price, also where the rest is missing."""
    assert answer(saying(*items, ChatError("no")))[-1] == Error("processing_error", "no", usage)


def test_what_was_sent_counts_and_what_is_ready_is_in_the_usage() -> None:
    """Whoever logs the end of a reply that was cut off has nothing else to go by."""
    reply = native_reply(TURN)
    asyncio.run(converse(TURN, saying("abcd", "", "efgh"), reply, Uncontrolled()))
    assert (reply.ready, reply.chunks, reply.characters) == (["abcd", "efgh"], 0, 0)
    assert reply.usage() == estimate(2)
    reply.sent()
    assert (reply.ready, reply.chunks, reply.characters) == ([], 2, 8)
    assert reply.usage() == estimate(2)
    assert reply.ended


def test_a_reply_of_nothing_has_cost_nothing_until_it_is_complete() -> None:
    """An error before the first token carries no usage."""
    reply = native_reply(TURN)
    assert reply.usage() is None
    assert not reply.ended
    reply.fail(ChatError("no"))
    assert reply.terminal() == Error("processing_error", "no")


# A reply that fails on purpose


class Refused(ChatError):
    """An error of a responder's own."""

    code = "quota_exceeded"


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (ChatError("Ask me tomorrow"), "processing_error", "Ask me tomorrow"),
        (ChatError("Slow down", code="rate_limited"), "rate_limited", "Slow down"),
        (Refused("Nothing left"), "quota_exceeded", "Nothing left"),
        (Refused("Nothing left", code="special"), "special", "Nothing left"),
        (ChatError(Text("marked up"), code=Code.BUSY), "busy", "marked up"),
        (ChatError(""), "processing_error", ""),
    ],
)
def test_a_chat_error_is_shown_as_it_is(
    raised: ChatError, code: str, message: str, errors: Errors
) -> None:
    """It was written for the client to see, and is no fault that the log has to tell of."""
    *chunks, end = answer(saying("a", raised))
    assert chunks == [Chunk("a")]
    assert end == Error(code, message, estimate(1))
    assert isinstance(end, Error)
    assert (type(end.code), type(end.message)) == (str, str)


def test_a_long_message_of_an_error_is_shortened(caplog: pytest.LogCaptureFixture) -> None:
    """A client that reads line by line has a limit; the code, by which it decides, is whole."""
    end = answer(saying(Refused("\0" * 100_000)))[-1]
    assert end == Error("quota_exceeded", "\0" * 2_000 + "...")
    assert caplog.messages == [f"error message shortened request_id={REFERENCE}"]
    assert answer(saying(Refused("x" * 2_000)))[-1] == Error("quota_exceeded", "x" * 2_000)


@pytest.mark.parametrize(
    "items",
    [
        pytest.param([Finish("\0" * 3_000)], id="a reason"),
        pytest.param([Usage(10**17_000)], id="a number"),
        pytest.param([ChatError("no", code="x" * 17_000)], id="a code"),
        pytest.param([Usage(10**17_000), ChatError("no")], id="a number, then an error"),
    ],
)
def test_an_end_that_is_too_long_for_a_line_is_a_stream_error(
    items: List[object], errors: Errors
) -> None:
    """It is sent all the same, in a line that every client can read."""
    reply = native_reply(TURN)
    asyncio.run(converse(TURN, saying("abcd", *items), reply, Uncontrolled()))
    body = reply.frames(last=True)
    assert max(map(len, body.split(b"\n"))) < 16 * 1024
    assert reply.last == Error("stream_error", HIDDEN, estimate(1))
    assert "the end cannot be encoded" in errors()


async def _refuse() -> NoReturn:
    raise Refused("Nothing left")


async def _fail() -> NoReturn:
    raise LookupError(SECRET)


def grouping(*tasks: Callable[[], Any], depth: int = 1) -> Callable[[Turn], AsyncIterator[str]]:
    """A responder that runs `tasks` in a task group, in as many others as `depth` says."""

    async def run(depth: int) -> None:
        async with anyio.create_task_group() as group:
            for task in tasks if depth == 1 else [partial(run, depth - 1)]:
                group.start_soon(task)

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield "a"
        await run(depth)

    return respond


@pytest.mark.parametrize(
    ("tasks", "depth", "code", "message", "logged"),
    [
        pytest.param([_refuse], 1, "quota_exceeded", "Nothing left", False, id="on purpose"),
        pytest.param([_refuse], 3, "quota_exceeded", "Nothing left", False, id="deeper"),
        pytest.param([_fail, _refuse], 1, "quota_exceeded", "Nothing left", True, id="both"),
        pytest.param([_fail], 1, "processing_error", HIDDEN, True, id="a bug"),
        pytest.param([_fail], 3, "processing_error", HIDDEN, True, id="a bug deeper"),
    ],
)
def test_an_error_in_a_task_group_is_what_it_is_outside(
    tasks: List[Any], depth: int, code: str, message: str, logged: bool, errors: Errors
) -> None:
    """The group wraps what is raised in it, and that is no reason to hide, or to show, it."""
    end = answer(grouping(*tasks, depth=depth))[-1]
    assert end == Error(code, message, estimate(1))
    assert (SECRET in errors()) == logged


# A reply that fails


class Unspeakable(Exception):
    """An error that cannot be put into words."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)


class WithMembers(Exception):
    """An error with an attribute that exception groups have too, and another meaning."""

    exceptions: Any = 17


class Forgetful(ChatError):
    """A class of a responder's own that does not call its base."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    "raised",
    [
        ValueError(SECRET),
        KeyError(SECRET),
        AssertionError(SECRET),
        TimeoutError(SECRET),
        StopAsyncIteration(SECRET),
        StopIteration(SECRET),
        Unspeakable(SECRET),
        WithMembers(SECRET),
        Forgetful(),
        ChatError(ValueError(SECRET)),  # type: ignore[arg-type] # a mistake that people make
        ChatError("busy", code=SECRET.encode()),  # type: ignore[arg-type] # and another
    ],
)
def test_the_text_of_an_unexpected_exception_is_logged_and_not_shown(
    raised: Exception, errors: Errors
) -> None:
    """It may hold addresses and secrets. The reference is what client and log have in common."""
    chunk, end = answer(saying("a", raised))
    assert chunk == Chunk("a")
    assert end == Error("processing_error", HIDDEN, estimate(1))
    logged = errors()
    assert "Traceback" in logged
    assert type(raised).__name__ in logged
    assert "raise item" in logged


NO_TEXT = "a responder yields str, Thought, Usage or Finish, not "
NO_COUNT = "a whole number >= 0, not "
NO_BOOL: Any = "no"
COUNTS: List[Any] = [-1, 1.5, True, "7", None]


@pytest.mark.parametrize(
    ("item", "logged"),
    [
        *((b"bytes", f"{NO_TEXT}bytes"), (None, f"{NO_TEXT}NoneType"), (17, f"{NO_TEXT}int")),
        *(({"content": "a"}, f"{NO_TEXT}dict"), (["a"], f"{NO_TEXT}list")),
        *((Chunk("a"), f"{NO_TEXT}Chunk"), (str, f"{NO_TEXT}type")),
        *((Usage(count), f"{NO_COUNT}{count!r}") for count in COUNTS),
    ],
)
def test_what_a_responder_may_not_yield_is_a_stream_error(
    item: object, logged: str, errors: Errors
) -> None:
    """The log says what to write; the contract has no such thing for the client."""
    chunk, end = answer(saying("abcd", item, "not read any more"))
    assert chunk == Chunk("abcd")
    assert end == Error("stream_error", HIDDEN, estimate(1))
    assert logged in errors()


def test_a_stream_error_of_the_responder_is_not_shown(errors: Errors) -> None:
    """It tells of our side of the stream, not of anything that was meant for the client."""
    assert answer(saying(StreamError(SECRET))) == [Error("stream_error", HIDDEN)]
    assert SECRET in errors()


async def coroutine(turn: Turn) -> str:
    return "hi"


@pytest.mark.parametrize(
    ("responder", "what"),
    [
        (coroutine, "coroutine"),
        (lambda turn: None, "NoneType"),
        (lambda turn: "text", "str"),
        (lambda turn: iter(["a"]), "list_iterator"),
        (lambda turn: ["a"], "list"),
    ],
)
def test_what_is_no_async_iterator_is_an_error_that_says_what_to_write(
    responder: Any, what: str, errors: Errors
) -> None:
    """A plain function is only known for what it returns when it is called."""
    assert answer(responder) == [Error("processing_error", HIDDEN)]
    logged = errors()
    assert f"the responder returned {what}" in logged
    assert "`async def` with `yield`" in logged


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ValueError(SECRET), Error("processing_error", HIDDEN)),
        (Refused("no"), Error("quota_exceeded", "no")),
    ],
)
def test_a_responder_that_fails_when_it_is_called_ends_like_any_other(
    raised: Exception, expected: Error, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain function may raise before there is anything to iterate."""

    def respond(turn: Turn) -> NoReturn:
        raise raised

    assert answer(respond) == [expected]
    assert (SECRET in caplog.text) == (SECRET in str(raised))


# Closing


class Watched:
    """A responder whose closing can be seen: how often it was closed, and with what in flight."""

    def __init__(self, *items: object, clean_up: Optional[BaseException] = None) -> None:
        self.items = items
        self.clean_up = clean_up
        self.waiting = anyio.Event()
        self.closed: List[Optional[Type[BaseException]]] = []

    async def __call__(self, turn: Turn) -> AsyncIterator[Any]:
        ended: Optional[Type[BaseException]] = None
        try:
            async for item in saying(*self.items)(turn):
                if item is Ellipsis:
                    self.waiting.set()
                    await anyio.sleep_forever()
                yield item
        except BaseException as error:
            ended = type(error)
            raise
        finally:
            self.closed.append(ended)
            if self.clean_up is not None:
                raise self.clean_up


@pytest.mark.parametrize(
    ("items", "ended"),
    [
        pytest.param(["a"], None, id="exhausted"),
        pytest.param(["a", ValueError("no")], ValueError, id="failed"),
        pytest.param(["a", ChatError("no")], ChatError, id="failed on purpose"),
        pytest.param(["a", b"b", "c"], GeneratorExit, id="yielded what is no text"),
        pytest.param(["a", Usage(-1), "c"], GeneratorExit, id="reported what is no count"),
        pytest.param(["a", Usage(1, estimated=NO_BOOL), "c"], GeneratorExit, id="no estimate"),
    ],
)
def test_a_reply_that_ended_has_closed_its_responder(
    items: List[object], ended: Optional[Type[BaseException]]
) -> None:
    """Its connection to a model is given back now, and not when the garbage is collected."""
    watched = Watched(*items)

    answer(watched)
    assert watched.closed == [ended]


@pytest.mark.parametrize("wrap", [lambda reply: reply, Stream])
def test_a_reply_that_is_stopped_is_not_read_any_further_and_closes_its_responder(
    wrap: Callable[[AsyncIterator[Any]], Any], errors: Errors
) -> None:
    """A responder that swallows its cancellation and goes on has nobody to talk to."""
    watched = Watched("a", "b")
    reply, control = native_reply(TURN), Uncontrolled()

    async def stopped(turn: Turn) -> AsyncIterator[Any]:
        async for item in watched(turn):
            if item == "b":
                control.stopped = True
            yield item

    asyncio.run(converse(TURN, lambda turn: wrap(stopped(turn)), reply, control))
    assert reply.ready == ["a"]
    assert not reply.ended


def test_a_responder_that_yields_nothing_for_ever_gives_the_loop_its_turns() -> None:
    """`while True: yield ""` must not stop everybody else."""
    reply = native_reply(TURN)
    items = 0

    async def nothing(turn: Turn) -> AsyncIterator[Any]:
        nonlocal items
        while True:
            items += 1
            yield (items % 2 and "") or Usage(1)

    async def run() -> None:
        task = asyncio.ensure_future(converse(TURN, nothing, reply, Uncontrolled()))
        for turns in range(1, 4):
            await asyncio.sleep(0)
            assert items == turns * SILENT_ITEMS
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(run())


def test_cancellation_closes_the_responder_and_decides_nothing(errors: Errors) -> None:
    """Nobody pays for tokens that nobody reads; what is told, who cancelled it knows."""

    async def run() -> None:
        watched = Watched("a", ...)
        reply = native_reply(TURN)
        async with anyio.create_task_group() as group:
            group.start_soon(converse, TURN, watched, reply, Uncontrolled())
            await watched.waiting.wait()
            group.cancel_scope.cancel()
        assert reply.ready == ["a"]
        assert not reply.ended
        assert watched.closed == [asyncio.CancelledError]

    asyncio.run(run())


def test_a_clean_up_that_fails_is_logged_and_not_shown(errors: Errors) -> None:
    """The client has been answered already, and the answer is the one that counts."""
    watched = Watched("abcd", b"", clean_up=LookupError(SECRET))
    assert answer(watched) == [Chunk("abcd"), Error("stream_error", HIDDEN, estimate(1))]
    assert watched.closed == [GeneratorExit]
    assert f"LookupError: {SECRET}" in errors()


def test_a_responder_that_goes_on_yielding_when_it_is_closed_is_logged(errors: Errors) -> None:
    """It is a bug that is easily written, with a `yield` in `finally`."""

    async def respond(turn: Turn) -> AsyncIterator[Any]:
        try:
            yield b"no text"
        finally:
            yield "goodbye"

    assert answer(respond) == [Error("stream_error", HIDDEN)]
    assert "async generator ignored GeneratorExit" in errors()


class Connection(Countdown):
    """An async iterator with an `aclose` of its own, which fails."""

    aclose: Any

    def __init__(self, turn: Turn, aclose: Any) -> None:
        super().__init__(turn)
        self.aclose = aclose


@pytest.mark.parametrize("aclose", [_fail, lambda: None, None, "no function"])
def test_an_iterator_that_cannot_be_closed_has_still_given_its_reply(
    aclose: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text was complete; what its clean-up thinks is for the log."""
    events = answer(lambda turn: Connection(turn, aclose))
    assert events == [Chunk("2"), Chunk("1"), done(estimate(1))]
    assert (f"request_id={REFERENCE}" in caplog.text) == (aclose is not None)


# The default responder


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("Hello", '"Hello". '),
        ("x" * 100, f'"{"x" * 100}". '),
        ("x" * 101, f'"{"x" * 100}...". '),
        ("😀" * 100, f'"{"😀" * 100}". '),
        ("😀" * 10_000, f'"{"😀" * 100}...". '),
        (' "a"\n\0 ', '" "a"\n\0 ". '),
    ],
)
def test_the_placeholder_says_back_up_to_a_hundred_characters(
    message: str, shown: str, errors: Errors
) -> None:
    """The contract gives its five pieces word for word: other clients are tested against them."""
    *chunks, _ = answer(placeholder, message=message)
    assert chunks == [
        Chunk("Thank you for your message. "),
        Chunk("You said: "),
        Chunk(shown),
        Chunk("This is a placeholder response. "),
        Chunk("Set CHAT_RESPONDER=openai or anthropic to connect a model."),
    ]
