"""What a conversation remembers: whole turns through the endpoint."""

from __future__ import annotations

import asyncio
import re
from typing import Any, AsyncIterator, Dict, List, Optional, Sequence, Tuple

import pytest

from omniforge_chat import (
    ChatError,
    Claim,
    Message,
    Observer,
    Refusal,
    Settings,
    Thought,
    Turn,
    create_app,
)
from omniforge_chat.app import ChatApp
from omniforge_chat.conversations.memory import MemoryHistory
from omniforge_chat.conversations.protocol import ABANDONED_SECONDS, History
from omniforge_chat.core.responder import Item
from omniforge_chat.errors import ConversationBusy

from ..support.answers import last, refusal, text
from ..support.app import HandDrivenRequest, call
from ..support.constants import CONVERSATION
from ..support.responders import saying
from ..support.timeless import passing, settle, timeless

SETTINGS = Settings()
CLAIM = Claim(CONVERSATION, "", "turn", "")
OTHER = "550e8400-e29b-41d4-a716-446655440001"


async def recall(turn: Turn) -> AsyncIterator[str]:
    """Says what it was told that was said before."""
    yield "|".join(f"{m.role[0]}{'' if m.complete else '~'}:{m.content}" for m in turn.history)
    yield f"[{turn.message}]"


def say(app: ChatApp, message: str, conversation_id: str = CONVERSATION) -> str:
    """The reply to one message of a conversation."""
    answer = call(app, {"message": message, "conversation_id": conversation_id})
    assert answer.status == 200
    return text(answer.frames)


async def contents(history: History) -> List[str]:
    """What is remembered of the conversation, which nobody has claimed."""
    messages = await history.begin_turn(CLAIM)
    await history.end_turn(CLAIM, (), 0)
    return [message.content for message in messages]


# What the next turn knows


def test_a_follow_up_question_carries_what_was_said_before() -> None:
    """It is what makes a conversation of single messages."""
    app = create_app(recall, settings=Settings(history="memory"))
    assert say(app, "one") == "[one]"
    assert say(app, "two") == "u:one|a:[one][two]"
    assert say(app, "three", OTHER) == "[three]"


def test_done_tells_how_many_earlier_messages_the_reply_knew() -> None:
    """So a client sees that a conversation was forgotten, which goes on as if it were new."""
    app = create_app(saying("Hi"), settings=Settings(history="memory", history_conversations=1))

    def known(app: ChatApp, *conversation_id: str) -> Optional[int]:
        fields = dict(zip(["conversation_id"], conversation_id))
        event, data = last(call(app, {"message": "hi", **fields}).frames)
        assert event == "done"
        number: Optional[int] = data.get("history")
        return number

    assert [known(app, CONVERSATION) for _ in range(3)] == [0, 2, 4]
    assert known(app) == 0
    assert known(app, CONVERSATION) == 0  # forgotten for the one before
    assert known(create_app(saying("Hi"), settings=SETTINGS), CONVERSATION) is None


@pytest.mark.parametrize("shown", [False, True])
def test_thoughts_are_never_remembered(shown: bool) -> None:
    """A model was not trained on its earlier ones; a reply of nothing else is no reply."""

    async def think(turn: Turn) -> AsyncIterator[Item]:
        yield Thought("hm")
        if turn.message != "two":
            yield "Hel"
            yield Thought("hm")
            yield "lo"

    history = MemoryHistory()
    app = create_app(think, settings=Settings(thoughts=shown), history=history)
    for message in ("one", "two", "three"):
        say(app, message)
    assert asyncio.run(contents(history)) == ["one", "Hello", "three", "Hello"]


def test_nothing_is_remembered_unless_it_is_asked_for() -> None:
    """What people say is not kept behind the back of whoever runs the service."""
    app = create_app(recall, settings=SETTINGS)
    assert say(app, "one") == "[one]"
    assert say(app, "two") == "[two]"


# A reply that is asked for again


FAILS = [ChatError("no more")]


class Chats:
    """Chats in one conversation, which get the `replies`, one after the other."""

    def __init__(
        self,
        *replies: List[Any],
        history: Optional[History] = None,
    ) -> None:
        self._replies = iter(replies)
        self._known = ""
        self.app = create_app(self._respond, settings=Settings(history="memory"), history=history)

    async def _respond(self, turn: Turn) -> AsyncIterator[Item]:
        async for self._known in recall(turn):
            break
        async for item in saying(*next(self._replies))(turn):
            yield item

    def ask(self, message: str, *, regenerate: Optional[bool] = True, **fields: Any) -> str:
        """What the responder knew when it answered `message`."""
        body = {"message": message, "conversation_id": CONVERSATION, "regenerate": regenerate}
        body.update(fields)
        assert call(self.app, body).status == 200
        return self._known


def test_a_reply_that_is_asked_for_again_replaces_the_last_turn() -> None:
    """If a reply was cut, or not liked, the turn would be there twice."""
    chats = Chats(["a"], ["b"], ["c"], ["d"], ["e"], ["f"])
    assert chats.ask("one", regenerate=False) == ""
    assert chats.ask("two", regenerate=False) == "u:one|a:a"
    assert chats.ask("two") == "u:one|a:a"
    assert chats.ask("two") == "u:one|a:a"
    assert chats.ask("three", regenerate=False) == "u:one|a:a|u:two|a:d"
    again = {"message": "three", "conversation_id": CONVERSATION, "regenerate": True}
    assert last(call(chats.app, again).frames)[1]["history"] == 4


@pytest.mark.parametrize(
    ("message", "regenerate"), [("one", False), ("one", None), ("two", True), ("One", True)]
)
def test_any_other_message_is_one_more_turn(message: str, regenerate: Optional[bool]) -> None:
    """Also one that is not the last that was stored: its own turn was refused, or had no reply."""
    chats = Chats(["a"], ["b"], ["c"])
    chats.ask("one")
    assert chats.ask(message, regenerate=regenerate) == "u:one|a:a"
    assert chats.ask("end") == f"u:one|a:a|u:{message}|a:b"


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ({"edits": "two"}, "u:one|a:a"),
        ({"edits": "two", "regenerate": True}, "u:one|a:a"),
        ({"edits": "Two"}, "u:one|a:a|u:two|a:b"),
        ({"edits": "one"}, "u:one|a:a|u:two|a:b"),
        ({"edits": None}, "u:one|a:a|u:two|a:b"),
    ],
)
def test_an_edited_message_replaces_the_one_that_it_corrects(
    fields: Dict[str, Any], known: str
) -> None:
    """If that is the last: the model must not know of words that were taken back."""
    chats = Chats(["a"], ["b"], ["c"], ["d"])
    chats.ask("one")
    chats.ask("two")
    assert chats.ask("three", **{"regenerate": False, **fields}) == known
    assert chats.ask("end") == f"{known}|u:three|a:c"


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        pytest.param(["b"], "u:two|a:b", id="whole"),
        pytest.param(["b", *FAILS], "u:two|a~:b", id="cut"),
        pytest.param(FAILS, "u:one|a:a", id="nothing"),
    ],
)
def test_an_edited_message_counts_as_soon_as_it_has_a_reply(reply: List[Any], kept: str) -> None:
    """Also one that was cut: nobody wants the old words back. Until then the old turn stays, and
    a second try replaces it, in whichever words it is."""
    chats = Chats(["a"], reply, ["c"], ["d"])
    chats.ask("one")
    chats.ask("two", regenerate=False, edits="one")
    assert chats.ask("two", regenerate=True, edits="one") == ""
    assert chats.ask("end") == "u:two|a:c"
    chats = Chats(["a"], reply, ["c"])
    chats.ask("one")
    chats.ask("two", regenerate=False, edits="one")
    assert chats.ask("end") == kept
    chats = Chats(["a"], reply, ["c"])
    chats.ask("one")
    chats.ask("one", regenerate=False, edits="one")
    assert chats.ask("end") == kept.replace("two", "one")


@pytest.mark.parametrize("fields", [{"conversation_id": CONVERSATION}, {}])
@pytest.mark.parametrize("settings", [SETTINGS, Settings(history="memory")])
def test_without_an_earlier_turn_there_is_nothing_to_replace(
    fields: Dict[str, str], settings: Settings
) -> None:
    """Then it is a message as any other, and so it is without an id or without a memory."""
    app = create_app(saying("a"), settings=settings)
    for _ in range(2):
        answer = call(app, {"message": "one", "regenerate": True, **fields})
        event, data = last(answer.frames)
        assert (event, text(answer.frames), data.get("history", 0)) == ("done", "a", 0)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        pytest.param(["a"], ["b"], "a:b", id="whole by whole"),
        pytest.param(["a", *FAILS], ["b"], "a:b", id="cut by whole"),
        pytest.param(["a", *FAILS], ["b", *FAILS], "a~:b", id="cut by cut"),
        pytest.param(["a"], ["b", *FAILS], "a:a", id="whole by cut"),
        pytest.param(["a"], FAILS, "a:a", id="whole by nothing"),
        pytest.param(["a", *FAILS], FAILS, "a~:a", id="cut by nothing"),
    ],
)
def test_a_reply_is_never_replaced_by_less_than_it_was(
    first: List[Any], second: List[Any], kept: str
) -> None:
    """One that fails must not cost the one that was there."""
    chats = Chats(["before"], first, second, ["end"])
    for message in ("one", "two", "two"):
        chats.ask(message)
    assert chats.ask("end") == f"u:one|a:before|u:two|{kept}"


def test_a_turn_that_had_no_reply_does_not_cost_the_one_before_it() -> None:
    """It was not stored, so the last turn of the store is not the last of the client's."""
    chats = Chats(["a"], FAILS, ["b"], ["c"])
    for message in ("one", "two", "two"):
        chats.ask(message)
    assert chats.ask("end") == "u:one|a:a|u:two|a:b"


def test_a_turn_that_was_shortened_can_be_replaced() -> None:
    """The store no longer knows the whole message, which is the same all the same."""
    chats = Chats(["a"], ["b"], ["c"], history=MemoryHistory(max_bytes=4_096))
    assert chats.ask("x" * 9_000) == ""
    assert chats.ask("x" * 9_000) == ""
    assert chats.ask(f"{'x' * 8_999}y") != ""


@pytest.mark.parametrize("fields", [{}, {"regenerate": False, "edits": "Hi there"}])
@pytest.mark.parametrize("said", ["H", "Hi", "Hi ther"])
def test_a_turn_whose_message_is_only_the_beginning_of_another_stays(
    said: str, fields: Dict[str, Any]
) -> None:
    """It is whole: a text of a few characters is not a longer one without its middle."""
    chats = Chats(["a"], ["b"], ["c"])
    chats.ask(said)
    assert chats.ask("Hi there", **fields) == f"u:{said}|a:a"
    assert chats.ask("end") == f"u:{said}|a:a|u:Hi there|a:b"


def test_a_store_that_fails_to_replace_a_turn_keeps_it(caplog: pytest.LogCaptureFixture) -> None:
    """It gets both in one call, so that it can do all or nothing; and the client has the reply."""

    class Failing(MemoryHistory):
        async def end_turn(
            self, claim: Claim, messages: Sequence[Message], replaced: int = 0
        ) -> None:
            await super().end_turn(claim, () if replaced else messages)
            if replaced:
                raise ConnectionError("lost")

    chats = Chats(["a"], ["b"], ["c"], history=Failing())
    assert [chats.ask("one"), chats.ask("one"), chats.ask("two")] == ["", "", "u:one|a:a"]
    assert "history failed" in caplog.text


@pytest.mark.parametrize(("message", "known"), [("x" * 4, "u:one|a:[one]|"), ("x" * 5, "")])
def test_only_the_turns_that_fit_beside_the_message_are_sent(message: str, known: str) -> None:
    """A long conversation does not overflow the model's context, of which the message takes too."""
    history = MemoryHistory()
    for turn in (["one", "[one]"], ["two", "[two]"]):
        said = Message("user", turn[0]), Message("assistant", turn[1])
        asyncio.run(history.begin_turn(CLAIM))
        asyncio.run(history.end_turn(CLAIM, said))
    app = create_app(recall, settings=Settings(context_chars=20), history=history)
    assert say(app, message) == f"{known}u:two|a:[two][{message}]"


@pytest.mark.parametrize("size", [24_000, 200_000])
@pytest.mark.parametrize("character", ["x", "😀"])
def test_a_reply_too_long_for_the_context_is_known_in_part(size: int, character: str) -> None:
    """ "Shorten that" is about the turn before it, of which something has to be known."""
    seen: List[Tuple[Message, ...]] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        seen.append(turn.history)
        yield f"<{character * size}>" if turn.message == "long" else "short"

    app = create_app(respond, settings=Settings(history="memory"))
    for message in ("first", "long", "shorten that", "shorten that"):
        say(app, message)
    assert [m.content for m in seen[1]] == ["first", "short"]
    user, reply = seen[2]
    assert (user.content, user.shortened) == ("long", False)
    assert (reply.content[:2], reply.content[-2:]) == (f"<{character}", f"{character}>")
    assert f"{character} [...] {character}" in reply.content
    assert (reply.complete, reply.shortened) == (True, True)
    assert 20_000 < len(reply.content) <= 24_000 - len("long") - len("shorten that")
    assert [m.content for m in seen[3]] == ["shorten that", "short"]  # the newest whole turns


@pytest.mark.parametrize(("context", "known"), [(8, 8), (9_000, 1_000), (10_500, 1_000), (0, 0)])
def test_a_long_message_leaves_room_for_the_newest_turn(context: int, known: int) -> None:
    """It may be what the message is about; and a context of 0 says that nothing is to be known."""
    app = create_app(recall, settings=Settings(history="memory", context_chars=context))
    say(app, "y" * 4_000)
    assert len(say(app, "x" * 10_000)) == known + 10_000 + len("[]") + (
        len("u:|a:") if known else 0
    )


@pytest.mark.parametrize(
    ("ends", "remembered"),
    [
        pytest.param(["half", ChatError("no more")], "u:end|a~:half", id="failed"),
        # No client could be sent it, and no model: it would fail every later turn.
        pytest.param(["half", "\ud83d", "more"], "u:end|a~:half", id="not text"),
        # A question without an answer would break the alternation that providers demand.
        pytest.param([ChatError("nothing")], "", id="nothing said"),
        # Whoever reloads the page goes on where the reply was.
        pytest.param(["half", None], "u:end|a~:half", id="left"),
    ],
)
@timeless
async def test_a_reply_that_was_cut_is_kept_as_far_as_it_got(
    ends: List[Any], remembered: str
) -> None:
    """The next turn knows what the user has read, and that it was not the end."""

    def respond(turn: Turn) -> AsyncIterator[Item]:
        return saying(*ends)(turn) if turn.message == "end" else recall(turn)

    app = create_app(respond, settings=Settings(history="memory"))
    first, chat = begin(app, "end")
    await settle()
    first.gone.set()
    await chat
    second, chat = begin(app, "go on")
    await chat
    assert text(second.frames) == f"{remembered}[go on]"


def begin(app: ChatApp, message: str = "one") -> Tuple[HandDrivenRequest, asyncio.Future[None]]:
    """A chat in the conversation, and the task in which the app answers it."""
    made = HandDrivenRequest({"message": message, "conversation_id": CONVERSATION})
    return made, asyncio.ensure_future(made.run(app))


@timeless
async def test_a_second_chat_in_one_conversation_is_told_to_wait() -> None:
    """Otherwise two replies would be made from the same past, and one of them lost."""
    release = asyncio.Event()

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield turn.message
        await release.wait()

    app = create_app(respond, settings=Settings(history="memory"))
    first, first_chat = begin(app, "one")
    third: List[HandDrivenRequest] = []
    send = first.send

    async def send_and_go_on(message: Any) -> None:
        await send(message)
        if b"event: done" in message.get("body", b""):
            third.append(begin(app, "three")[0])

    first.send = send_and_go_on  # type: ignore[method-assign]
    await settle()
    second, second_chat = begin(app, "two")
    await second_chat
    assert refusal(*second.json())[:2] == (409, "conversation_busy")
    assert int(second.headers["retry-after"]) >= 1
    release.set()
    await first_chat
    await settle()
    # By the time the client sees `done` the next message is welcome.
    assert text(third[0].frames) == "three"


@pytest.mark.parametrize("history", ["memory", object(), MemoryHistory])
def test_what_is_no_history_is_refused_at_the_start(history: Any) -> None:
    """Each chat would fail for it."""
    with pytest.raises(TypeError, match="history has no `begin_turn` and `end_turn`"):
        create_app(recall, settings=SETTINGS, history=history)


class WithoutReplaced:
    """A store as they were before a turn could be replaced."""

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        return ()

    async def end_turn(self, claim: Claim, messages: Sequence[Message]) -> None: ...


def test_a_history_that_takes_other_arguments_is_refused_at_the_start() -> None:
    """Each turn would be lost, and only the log would say so."""
    history: Any = WithoutReplaced()
    wanted = re.escape("end_turn(claim, messages, replaced) of")
    with pytest.raises(TypeError, match=f"{wanted} .*: too many positional arguments"):
        create_app(recall, settings=SETTINGS, history=history)


# A store that is slow to end a turn


@timeless
async def test_a_clean_up_without_end_does_not_cost_the_memory_of_the_turn() -> None:
    """The client has read it, however its responder ends."""

    async def stubborn(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "said"
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()

    history = MemoryHistory()
    made, chat = begin(create_app(stubborn, settings=SETTINGS, history=history))
    await settle()
    made.gone.set()
    await chat
    await settle()
    assert await contents(history) == ["one", "said"]


class Distant(MemoryHistory):
    """A store that is far away: the end of a turn is on its way until the test lets it arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.called = asyncio.Event()
        self.arrives = asyncio.Event()

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int = 0) -> None:
        self.called.set()
        await self.arrives.wait()
        await super().end_turn(claim, messages, replaced)


@pytest.mark.parametrize("patient", [True, False])
@timeless
async def test_a_client_that_leaves_while_its_turn_is_stored_loses_nothing(patient: bool) -> None:
    """Its reply was complete, and a claim that nobody ends would lock the conversation."""
    history = Distant()
    made, chat = begin(create_app(recall, settings=SETTINGS, history=history))
    await history.called.wait()
    made.gone.set()
    await settle()
    assert not chat.done()
    if not patient:
        # The stream has waited for as long as for any clean-up, and the store goes on without it.
        await passing(SETTINGS.cleanup_timeout)
        await settle()
        assert chat.done()
    history.arrives.set()
    await chat
    await settle()
    assert await contents(history) == ["one", "[one]"]


@timeless
async def test_a_chat_that_never_begins_holds_neither_its_place_nor_its_conversation() -> None:
    """There is no stream whose limits would act on a store that hangs, whatever failed before."""
    history = Distant()
    app = create_app(recall, settings=SETTINGS, history=history)
    body = {"message": "one", "conversation_id": CONVERSATION}
    broken = HandDrivenRequest(body, extensions="what is no mapping")
    chat = asyncio.ensure_future(broken.run(app))
    await asyncio.wait([chat], timeout=SETTINGS.cleanup_timeout + 1)
    assert isinstance(chat.exception(), AttributeError)
    assert app.open_streams == 0
    history.arrives.set()
    await settle()
    assert await contents(history) == []


@timeless
async def test_a_store_that_hangs_does_not_keep_a_client_from_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has the whole reply, and nobody's limit for a model is for a store."""
    history = Distant()
    made, chat = begin(create_app(recall, settings=SETTINGS, history=history))
    await asyncio.wait([chat], timeout=SETTINGS.cleanup_timeout)
    assert chat.done()
    assert last(made.frames)[0] == "done"
    assert "history has not answered within 2.5 s" in caplog.text
    assert "responder" not in caplog.text
    history.arrives.set()
    await settle()
    assert await contents(history) == ["one", "[one]"]


# A store that is slow to begin one


class Slow(MemoryHistory):
    """A store that claims at once and answers late, when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.arrives = asyncio.Event()

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        messages = await super().begin_turn(claim)
        await self.arrives.wait()
        return messages


@pytest.mark.parametrize("cause", ["time", "host", "drain"])
@timeless
async def test_a_claim_that_nobody_waited_for_is_given_back(cause: str) -> None:
    """The client has been refused, or is gone; its conversation must not be locked for that."""
    history = Slow()
    app = create_app(recall, settings=SETTINGS, history=history)
    made, chat = begin(app)
    await settle()
    if cause == "host":
        chat.cancel()
    if cause == "drain":
        await asyncio.wait_for(app.drain(1), 2)
        assert made.json()[2]["code"] == "shutting_down"
    await asyncio.wait([chat], timeout=SETTINGS.body_timeout + 1)
    assert chat.done()
    if cause == "time":
        assert refusal(*made.json())[:2] == (503, "history_unavailable")
    with pytest.raises(ConversationBusy):
        await MemoryHistory.begin_turn(history, CLAIM)
    history.arrives.set()
    await settle()
    assert await contents(history) == []


@timeless
async def test_where_memory_is_not_required_a_late_store_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each chat waits for it in vain, and nothing else tells of that."""
    settings = Settings(history_required=False)
    history = Slow()
    made, chat = begin(create_app(recall, settings=settings, history=history))
    await asyncio.wait([chat], timeout=SETTINGS.body_timeout + 1)
    assert last(made.frames)[1]["remembered"] is False
    history.arrives.set()
    await settle()
    assert f"history has not answered within {SETTINGS.body_timeout:g} s" in caplog.text


@timeless
async def test_a_store_that_never_answers_is_left_at_last() -> None:
    """A task for each chat that was refused would stay for ever."""
    await begin(create_app(recall, settings=SETTINGS, history=Slow()))[1]
    await passing(ABANDONED_SECONDS + 1)
    await settle()
    assert len(asyncio.all_tasks()) == 1


# A store that fails


class Broken:
    """A store that has lost its network, or fails as it is told."""

    def __init__(self, fault: Optional[BaseException] = None) -> None:
        self._fault = fault

    async def begin_turn(self, claim: Claim) -> Sequence[Message]:
        if self._fault is not None:
            raise self._fault
        return ()

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        raise ConnectionError("secret address")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(ConnectionError("secret address"), id="no network"),
        # It is the store's failure; nobody has cancelled the request.
        pytest.param(asyncio.CancelledError(), id="cancelled elsewhere"),
    ],
)
def test_a_history_that_cannot_be_read_refuses_the_chat(fault: BaseException) -> None:
    """An answer that has forgotten the conversation would look like a right one."""
    refused: List[Tuple[str, str]] = []

    class Counting(Observer):
        def chat_refused(self, refusal: Refusal) -> None:
            refused.append((refusal.error.code, refusal.dialect))

    broken = Broken(fault)
    app = create_app(recall, settings=SETTINGS, history=broken, observers=[Counting()])
    answer = call(app)
    status, code, message = refusal(*answer.json())
    assert (status, code) == (500, "internal_error")
    assert "secret" not in message
    assert refused == [("internal_error", "native")]


def test_a_history_that_cannot_be_written_does_not_spoil_the_reply(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The reply is there; what is lost is in the log."""
    answer = call(create_app(recall, settings=SETTINGS, history=Broken()))
    assert last(answer.frames)[0] == "done"
    assert "history failed" in caplog.text
