"""A responder, and running it into a reply. The core knows nothing of HTTP.

The pieces of a responder are gathered in `Reply.ready`. Whoever drives `converse` takes them from
there when something is about to wait, and only then (driver.py). So a piece is on its way before
the responder waits for the next one. A responder that never waits is made to wait, at a bound in
characters and in time. So it neither hides from its own client nor starves the others.
"""

from __future__ import annotations

import inspect
from time import monotonic
from types import AsyncGeneratorType
from typing import Any, AsyncIterator, Callable, Protocol, Union

from ..logs import logger
from ..models import Finish, Thought, Turn, Usage
from .driver import checkpoint
from .reply import Reply

Item = Union[str, Thought, Usage, Finish]
"""A responder may yield these."""

Responder = Callable[[Turn], AsyncIterator[Item]]
"""Any async generator function of text. It takes the turn and yields pieces of the reply; it may
also yield Thoughts, a Usage and a Finish."""

BUFFER_BYTES = 16 * 1024
BUFFER_SECONDS = 0.005
"""How much is gathered at most before it goes out, in bytes of ASCII, and for how long. (Other
alphabets have up to four bytes a character, and control characters six in JSON.)"""

_FRAME_BYTES = 36
"""The bytes of a frame without the text of its piece."""

SILENT_ITEMS = 100
"""How many items without text are read before the event loop gets a turn."""


class Control(Protocol):
    """Whoever drives `converse` decides by this when it stops."""

    @property
    def stopped(self) -> bool:
        """Whether nothing that the responder still yields is read."""

    def responder_ended(self, decided: bool) -> None:
        """The responder has no more to say, and cleans up; `decided`: the reply has ended."""


async def converse(turn: Turn, responder: Responder, reply: Reply, control: Control) -> None:
    """Answer `turn`: `reply` gets the pieces as they come, and the error if there was one.

    No exception of the responder leaves it; only cancellation passes through. The responder is
    closed in every case.
    """
    ready = reply.ready
    items: Any = None
    room = silent = 0
    due = 0.0
    try:
        items = iterate(responder(turn))
        async for item in items:
            if control.stopped:
                break  # it swallowed its cancellation
            if type(item) is not str:
                item = reply.note(item)
            if not item:
                silent += 1
                if silent % SILENT_ITEMS == 0:
                    await checkpoint()
                continue
            now = monotonic()
            if not ready:
                reply.oldest_at = now
                due, room = now + BUFFER_SECONDS, BUFFER_BYTES
            ready.append(item)
            room -= len(item) + _FRAME_BYTES
            if room <= 0 or now > due:
                await checkpoint()
        else:
            reply.complete = not control.stopped  # or it swallowed its cancellation, and is cut
    except Exception as error:
        if control.stopped:
            logger.exception("responder failed to end request_id=%s", turn.request_id)
        else:
            reply.fail(error)
    finally:
        control.responder_ended(reply.ended)
        # A generator that has come to its end has closed itself.
        if not (reply.complete and type(items) is AsyncGeneratorType):
            await close(items, turn)


def iterate(reply: Any) -> Any:
    """The iterator of a responder's reply. Raises TypeError if it cannot be iterated."""
    if hasattr(reply, "__aiter__"):
        return reply.__aiter__()
    if inspect.iscoroutine(reply):
        reply.close()  # or Python warns that it was never awaited
    raise TypeError(
        f"the responder returned {type(reply).__name__}; "
        "write it as an async generator function, `async def` with `yield`"
    )


async def close(reply: Any, turn: Turn) -> None:
    """Close the responder. An exception of its cleanup is logged: the client has been answered."""
    aclose = getattr(reply, "aclose", None)
    if aclose is not None:
        try:
            await aclose()
        except Exception:
            logger.exception("responder failed to close request_id=%s", turn.request_id)
