"""What people write with the public names, for mypy to read. Nobody runs this.

An ignored error is a check, too: mypy also complains about an ignore that nothing needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, AsyncIterator, Dict, List, Sequence

from starlette.applications import Starlette
from starlette.types import ASGIApp

from omniforge_chat import (
    AnthropicResponder,
    ChatApp,
    ChatError,
    Claim,
    ConversationBusy,
    Finish,
    History,
    Item,
    Lifecycle,
    MemoryHistory,
    MemoryReplay,
    Message,
    OpenAIResponder,
    Replay,
    Responder,
    Settings,
    SettingsError,
    Turn,
    UpstreamError,
    Usage,
    chat_routes,
    create_app,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type

    from omniforge_chat import a_typing_error  # type: ignore[attr-defined]  # noqa: F401


class Store:
    """A store of somebody's own: it need not derive from History."""

    def __init__(self) -> None:
        self._said: Dict[str, List[Message]] = {}

    async def begin_turn(self, claim: Claim) -> List[Message]:
        if claim.conversation_id in self._said:
            raise ConversationBusy("Wait for the answer")
        return self._said.setdefault(claim.conversation_id, [])

    async def end_turn(self, claim: Claim, messages: Sequence[Message], replaced: int) -> None:
        self._said[claim.conversation_id].extend(messages)


class HalfAStore:
    """It cannot end a turn."""

    async def begin_turn(self, claim: Claim) -> List[Message]:
        return []


class OffTopic(ChatError):
    """An error of somebody's own."""

    code = "off_topic"


async def counted(turn: Turn) -> AsyncIterator[Item]:
    """A responder that is a function."""
    if not turn.history:
        raise OffTopic("no")
    newest = turn.history[-1]
    yield "..." if newest.shortened or not turn.remembered else newest.content
    yield Usage(tokens=1, prompt_tokens=1)
    yield Finish("length")


class Fallback:
    """A responder that is an object, around others."""

    def __init__(self, *responders: Responder) -> None:
        self._responders = responders

    async def __call__(self, turn: Turn) -> AsyncIterator[Item]:
        for respond in self._responders:
            try:
                async for item in respond(turn):
                    yield item
            except UpstreamError as error:
                assert_type(error.code, str)


async def one_value(turn: Turn) -> str:
    """A coroutine function, which returns one value."""
    return turn.message


def apps() -> List[ASGIApp]:
    history: History = Store()
    respond = Fallback(OpenAIResponder(), AnthropicResponder(), counted)
    app = create_app(respond, settings=Settings(max_streams=5), history=history)
    assert_type(app, ChatApp)
    assert_type(app.open_streams, int)
    create_app(counted, history=HalfAStore())  # type: ignore[arg-type]  # no end_turn
    create_app(one_value)  # type: ignore[arg-type]  # no generator
    try:
        Settings(port="x")  # type: ignore[arg-type]  # no int
    except SettingsError as error:
        assert_type((error.name, error.expected), "tuple[str, str]")
    lifecycle, replay = Lifecycle(max_streams=5), MemoryReplay(keep=60)
    kept: Replay = replay
    create_app(counted, replay=kept)
    create_app(counted, replay="memory")  # type: ignore[arg-type]  # the setting, and no store
    history = MemoryHistory(ttl=60)
    routes = chat_routes(counted, lifecycle=lifecycle, history=history, replay=replay)
    return [app, Starlette(routes=routes)]
