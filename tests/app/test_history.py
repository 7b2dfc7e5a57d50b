"""What a conversation remembers: the store, the window, and whole turns through the endpoint."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, AsyncIterator, Dict, List, Optional, Sequence, Tuple

import pytest

from omniforge_chat import ChatError, Message, Settings, Turn, create_app
from omniforge_chat.conversations.memory import MemoryHistory
from omniforge_chat.conversations.protocol import ABANDONED_SECONDS, History
from omniforge_chat.conversations.window import window
from omniforge_chat.errors import ConversationBusy, SettingsError

from ..support.answers import last, text
from ..support.app import Exchange, exchange
from ..support.constants import CONVERSATION, PATIENCE
from ..support.responders import PacedResponder
from ..support.servers import UvicornThread
from ..support.timeless import passing, settle, timeless


def said(user: str, assistant: str, *, complete: bool = True) -> Tuple[Message, Message]:
    return Message("user", user), Message("assistant", assistant, complete)


async def keep(history: History, conversation_id: str, *messages: Message) -> None:
    await history.begin_turn(conversation_id)
    await history.end_turn(conversation_id, messages)


async def contents(history: History, conversation_id: str) -> List[str]:
    messages = await history.begin_turn(conversation_id)
    await history.end_turn(conversation_id, ())
    return [message.content for message in messages]


def test_the_least_recently_used_conversation_goes_first() -> None:
    """Memory stays bounded however many conversations there are, and the live ones stay."""

    async def main() -> None:
        history = MemoryHistory(max_conversations=2)
        await keep(history, "a", *said("1", "2"))
        await keep(history, "b", *said("3", "4"))
        await contents(history, "a")
        await keep(history, "c", *said("5", "6"))
        assert await contents(history, "a") == ["1", "2"]
        assert await contents(history, "b") == []
        assert await contents(history, "c") == ["5", "6"]
        assert len(history) == 2

    asyncio.run(main())


def test_a_conversation_that_is_being_continued_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many others pass by while its reply is made, and however long that takes."""
    now = 1000.0
    monkeypatch.setattr("omniforge_chat.conversations.memory.monotonic", lambda: now)

    async def main() -> None:
        nonlocal now
        history = MemoryHistory(max_conversations=2, ttl=60)
        await keep(history, "a", *said("1", "2"))
        await history.begin_turn("a")
        for other in ("b", "c", "d"):
            await keep(history, other, *said("3", "4"))
        assert len(history) == 2
        now += 61
        await keep(history, "e", *said("5", "6"))
        await history.end_turn("a", said("7", "8"))
        assert await contents(history, "a") == ["1", "2", "7", "8"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "bounds", [{"max_messages": 4}, {"max_messages": 5}, {"max_characters": 4}]
)
def test_the_oldest_whole_turns_of_a_long_conversation_go(bounds: Dict[str, int]) -> None:
    """Half a turn would be an answer without its question."""

    async def main() -> None:
        history = MemoryHistory(**bounds)
        for number in ("1", "2", "3"):
            await keep(history, "a", *said(number, number))
        assert await contents(history, "a") == ["2", "2", "3", "3"]

    asyncio.run(main())


def test_a_turn_larger_than_the_bound_is_not_kept() -> None:
    """One enormous reply cannot take more than a conversation may."""

    async def main() -> None:
        history = MemoryHistory(max_characters=10)
        await keep(history, "a", *said("hi", "x" * 9))
        assert await contents(history, "a") == []

    asyncio.run(main())


def test_an_old_conversation_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has asked for in a day does not stay in memory."""
    now = 1000.0
    monkeypatch.setattr("omniforge_chat.conversations.memory.monotonic", lambda: now)

    async def main() -> None:
        nonlocal now
        history = MemoryHistory(ttl=60)
        await keep(history, "a", *said("1", "2"))
        now += 60
        assert await contents(history, "a") == ["1", "2"]
        now += 61
        assert await contents(history, "a") == []
        assert len(history) == 0

    asyncio.run(main())


def test_a_conversation_is_busy_until_its_turn_has_ended() -> None:
    """Two turns at once would each miss what the other says."""

    async def main() -> None:
        history = MemoryHistory()
        await history.begin_turn("a")
        with pytest.raises(ConversationBusy):
            await history.begin_turn("a")
        await history.begin_turn("b")
        await history.end_turn("a", ())
        await history.begin_turn("a")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("characters", "kept"), [(-5, ""), (0, ""), (3, ""), (4, "cd"), (7, "cd"), (8, "abcd")]
)
def test_the_window_is_the_newest_whole_turns_that_fit(characters: int, kept: str) -> None:
    """A model is sent what it can hold, and never an answer without its question."""
    messages = [*said("aa", "bb"), *said("cc", "dd")]
    assert "".join(message.content[0] for message in window(messages, characters)) == kept


async def recall(turn: Turn) -> AsyncIterator[str]:
    """Says what it was told that was said before."""
    yield "|".join(f"{m.role[0]}{'' if m.complete else '~'}:{m.content}" for m in turn.history)
    yield f"[{turn.message}]"


def converse(live: UvicornThread, message: str, conversation_id: str = CONVERSATION) -> str:
    with live.chat(message, conversation_id=conversation_id) as client:
        assert client.head()[0] == 200
        return text(client.frames())


def test_a_follow_up_question_carries_what_was_said_before() -> None:
    """It is what makes a conversation of single messages."""
    settings = Settings(history="memory")
    with UvicornThread(create_app(recall, settings=settings)) as live:
        assert converse(live, "one") == "[one]"
        assert converse(live, "two") == "u:one|a:[one][two]"
        other = "550e8400-e29b-41d4-a716-446655440001"
        assert converse(live, "three", other) == "[three]"


def test_nothing_is_remembered_unless_it_is_asked_for() -> None:
    """What people say is not kept behind the back of whoever runs the service."""
    with UvicornThread(create_app(recall, settings=Settings())) as live:
        assert converse(live, "one") == "[one]"
        assert converse(live, "two") == "[two]"


def test_only_the_turns_that_fit_the_context_are_sent() -> None:
    """A long conversation does not overflow the model's context."""
    settings = Settings(history="memory", context_chars=20)
    with UvicornThread(create_app(recall, settings=settings)) as live:
        converse(live, "one")
        assert converse(live, "two") == "u:one|a:[one][two]"
        assert converse(live, "three") == "[three]"


def test_the_message_itself_takes_of_the_context_too() -> None:
    """What is left for the past is what it does not need."""
    settings = Settings(history="memory", context_chars=20)
    with UvicornThread(create_app(recall, settings=settings)) as live:
        converse(live, "one")
        assert converse(live, "x" * 13) == f"[{'x' * 13}]"


def test_a_second_chat_in_one_conversation_is_told_to_wait() -> None:
    """Otherwise two replies would be made from the same past, and one of them lost."""
    paced = PacedResponder()
    live = UvicornThread(create_app(paced, settings=Settings(history="memory")))
    with live, live.chat("one", conversation_id=CONVERSATION) as first:
        first.head()
        paced.ask()
        with live.chat("two", conversation_id=CONVERSATION) as second:
            status, headers, body = second.json()
            assert (status, body["code"]) == (409, "conversation_busy")
            assert int(headers["retry-after"]) >= 1
        paced.finish()
        assert last(first.frames())[0] == "done"
        # By the time the client sees `done` the next message is welcome.
        with live.chat("three", conversation_id=CONVERSATION) as third:
            assert third.head()[0] == 200
            paced.finish()
            assert last(third.frames())[0] == "done"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(None, id="failed"),
        # No client could be sent it, and no model: it would fail every later turn.
        pytest.param("\ud83d", id="not text"),
    ],
)
def test_a_reply_that_fails_is_kept_as_far_as_it_got(fault: Optional[str]) -> None:
    """The next turn knows what the user has read, and that it was not the end."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        if turn.message == "fail":
            yield "half"
            if fault is None:
                raise ChatError("no more")
            yield fault
            yield "more"
            return
        async for item in recall(turn):
            yield item

    settings = Settings(history="memory")
    with UvicornThread(create_app(respond, settings=settings)) as live:
        assert converse(live, "fail") == "half"
        assert converse(live, "go on") == "u:fail|a~:half[go on]"


@timeless
async def test_a_clean_up_without_end_does_not_cost_the_memory_of_the_turn() -> None:
    """The client has read it, however its responder ends."""
    history, settings = MemoryHistory(), Settings()

    async def stubborn(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "said"
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    made = Exchange({"message": "one", "conversation_id": CONVERSATION})
    chat = asyncio.ensure_future(made.run(create_app(stubborn, settings=settings, history=history)))
    await settle()
    made.gone.set()
    await chat
    await settle()
    assert await contents(history, CONVERSATION) == ["one", "said"]


@pytest.mark.parametrize(
    "bounds",
    [{"max_conversations": 0}, {"max_messages": "5"}, {"max_characters": -1}, {"ttl": None}],
)
def test_a_bound_of_no_use_is_named(bounds: Dict[str, Any]) -> None:
    """When the store is made, and not when the first conversation does not fit."""
    with pytest.raises(SettingsError, match=next(iter(bounds))):
        MemoryHistory(**bounds)


@pytest.mark.parametrize("history", ["memory", object(), MemoryHistory])
def test_what_is_no_history_is_refused_at_the_start(history: Any) -> None:
    """Each chat would fail for it."""
    with pytest.raises(TypeError, match="history has no `begin_turn` and `end_turn`"):
        create_app(recall, settings=Settings(), history=history)


def test_a_turn_that_produced_nothing_leaves_no_trace() -> None:
    """A question without an answer would break the alternation that providers demand."""

    async def fail(turn: Turn) -> AsyncIterator[str]:
        if turn.message == "fail":
            raise ChatError("nothing")
        async for item in recall(turn):
            yield item

    settings = Settings(history="memory")
    with UvicornThread(create_app(fail, settings=settings)) as live:
        assert converse(live, "fail") == ""
        assert converse(live, "go on") == "[go on]"


def test_a_reply_that_the_client_left_is_kept_as_far_as_it_got() -> None:
    """Whoever reloads the page goes on where the reply was."""
    closed = threading.Event()

    async def endless(turn: Turn) -> AsyncIterator[str]:
        if turn.message != "endless":
            async for item in recall(turn):
                yield item
            return
        try:
            yield "begun"
            await asyncio.Event().wait()
        finally:
            closed.set()

    settings = Settings(history="memory")
    with UvicornThread(create_app(endless, settings=settings)) as live:
        with live.chat("endless", conversation_id=CONVERSATION) as client:
            client.head()
            client.frame()
        assert closed.wait(PATIENCE)
        assert converse(live, "go on") == "u:endless|a~:begun[go on]"


class Distant(MemoryHistory):
    """A store that is far away: the end of a turn is on its way until the test lets it arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.arrives = asyncio.Event()

    async def end_turn(self, conversation_id: str, messages: Sequence[Message]) -> None:
        self.called.set()
        await self.arrives.wait()
        await super().end_turn(conversation_id, messages)


@pytest.mark.parametrize("patient", [True, False])
@timeless
async def test_a_client_that_leaves_while_its_turn_is_stored_loses_nothing(patient: bool) -> None:
    """Its reply was complete, and a claim that nobody ends would lock the conversation."""
    history, settings = Distant(), Settings()
    app = create_app(recall, settings=settings, history=history)
    made = Exchange({"message": "one", "conversation_id": CONVERSATION})
    chat = asyncio.ensure_future(made.run(app))
    await history.called.wait()
    made.gone.set()
    await settle()
    assert not chat.done()
    if not patient:
        # The stream has waited for as long as for any clean-up, and the store goes on without it.
        await passing(settings.cleanup_timeout)
        await settle()
        assert chat.done()
    history.arrives.set()
    await chat
    await settle()
    assert await contents(history, CONVERSATION) == ["one", "[one]"]


@timeless
async def test_a_store_that_hangs_does_not_hold_a_chat_that_never_began() -> None:
    """There is no stream then whose limits would act; its place has to be given back."""
    history, settings = Distant(), Settings()
    app = create_app(recall, settings=settings, history=history)
    made = Exchange({"message": "one", "conversation_id": CONVERSATION})
    made.scope["extensions"] = "what is no mapping"
    chat = asyncio.ensure_future(made.run(app))
    await asyncio.wait([chat], timeout=settings.cleanup_timeout + 1)
    assert isinstance(chat.exception(), AttributeError)
    assert app.open_streams == 0
    history.arrives.set()
    await settle()


@timeless
async def test_a_store_that_hangs_does_not_keep_a_client_from_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has the whole reply, and nobody's limit for a model is for a store."""
    history, settings = Distant(), Settings()
    app = create_app(recall, settings=settings, history=history)
    made = Exchange({"message": "one", "conversation_id": CONVERSATION})
    chat = asyncio.ensure_future(made.run(app))
    await asyncio.wait([chat], timeout=settings.cleanup_timeout)
    assert chat.done()
    assert last(made.frames)[0] == "done"
    assert "history has not answered within 2.5 s" in caplog.text
    assert "responder" not in caplog.text
    history.arrives.set()
    await settle()
    assert await contents(history, CONVERSATION) == ["one", "[one]"]


class Slow(MemoryHistory):
    """A store that claims at once and answers late, when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.arrives = asyncio.Event()

    async def begin_turn(self, conversation_id: str) -> Sequence[Message]:
        messages = await super().begin_turn(conversation_id)
        await self.arrives.wait()
        return messages


@pytest.mark.parametrize("cause", ["time", "host", "drain"])
@timeless
async def test_a_claim_that_nobody_waited_for_is_given_back(cause: str) -> None:
    """The client has been refused, or is gone; its conversation must not be locked for that."""
    history, settings = Slow(), Settings()
    app = create_app(recall, settings=settings, history=history)
    made = Exchange({"message": "one", "conversation_id": CONVERSATION})
    chat = asyncio.ensure_future(made.run(app))
    await settle()
    if cause == "host":
        chat.cancel()
    if cause == "drain":
        await asyncio.wait_for(app.drain(1), 2)
        assert made.json()[2]["code"] == "shutting_down"
    await asyncio.wait([chat], timeout=settings.body_timeout + 1)
    assert chat.done()
    if cause == "time":
        assert made.status == 500
    with pytest.raises(ConversationBusy):
        await MemoryHistory.begin_turn(history, CONVERSATION)
    history.arrives.set()
    await settle()
    assert await contents(history, CONVERSATION) == []


@timeless
async def test_a_store_that_never_answers_is_left_at_last() -> None:
    """A task for each chat that was refused would stay for ever."""
    history, settings = Slow(), Settings()
    app = create_app(recall, settings=settings, history=history)
    made = Exchange({"message": "one", "conversation_id": CONVERSATION})
    await made.run(app)
    await passing(ABANDONED_SECONDS + 1)
    await settle()
    assert len(asyncio.all_tasks()) == 1


class Broken:
    """A store that has lost its network."""

    def __init__(self, *, fails_to_begin: bool) -> None:
        self._fails_to_begin = fails_to_begin

    async def begin_turn(self, conversation_id: str) -> Sequence[Message]:
        if self._fails_to_begin:
            raise ConnectionError("secret address")
        return ()

    async def end_turn(self, conversation_id: str, messages: Sequence[Message]) -> None:
        raise ConnectionError("secret address")


def test_a_history_that_cannot_be_read_refuses_the_chat() -> None:
    """An answer that has forgotten the conversation would look like a right one."""
    refused = exchange(create_app(recall, settings=Settings(), history=Broken(fails_to_begin=True)))
    assert refused.status == 500
    assert b"secret" not in refused.body


def test_a_history_that_is_cancelled_elsewhere_refuses_the_chat_as_well() -> None:
    """It is the store's failure; nobody has cancelled the request."""

    class Cancelled(MemoryHistory):
        async def begin_turn(self, conversation_id: str) -> Sequence[Message]:
            raise asyncio.CancelledError

    refused = exchange(create_app(recall, settings=Settings(), history=Cancelled()))
    assert refused.status == 500
    assert refused.json()[2]["code"] == "internal_error"


def test_a_history_that_cannot_be_written_does_not_spoil_the_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reply is there; what is lost is in the log."""
    answer = exchange(create_app(recall, settings=Settings(), history=Broken(fails_to_begin=False)))
    assert last(answer.frames)[0] == "done"
    assert "history failed" in caplog.text


def test_a_chat_that_never_begins_gives_its_conversation_free() -> None:
    """Whatever fails between the two, a server's own fault too, must not lock the conversation."""
    history = MemoryHistory()
    app = create_app(recall, settings=Settings(), history=history)

    async def main() -> None:
        broken = Exchange({"message": "hi", "conversation_id": CONVERSATION})
        broken.scope["extensions"] = "what is no mapping"
        with pytest.raises(AttributeError):
            await broken.run(app)
        assert await contents(history, CONVERSATION) == []

    asyncio.run(main())
