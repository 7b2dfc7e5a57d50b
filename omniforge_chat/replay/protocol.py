"""The protocol of a store of replies, from which clients that come back are served.

A reply that is kept has a Recording: the stream that produces it adds its pieces, and at last the
event that ends it. Anybody who knows its id, and is its owner, may find it and read it from any
position, while it is produced and for some time after.

A position is a number of characters, thoughts included if they are shown: that which `Reply`
counts. So a store may join pieces, missed text comes as one piece, and a gap is arithmetic.

Nothing that a stream calls here waits. Nothing of a stream depends on the store: if that is out of
reach, its replies go on, and are stored when it is back.
"""

from __future__ import annotations

import inspect
from typing import (
    AsyncGenerator,
    Callable,
    NamedTuple,
    Optional,
    Protocol,
    Union,
    runtime_checkable,
)

from ..core.kept import Recorder
from ..models import Done, Error, Thought

Piece = Union[str, Thought]
Entry = Union[Piece, Done, Error]


class Recording(Recorder, Protocol):
    """One reply that is produced here, and kept."""

    stop: Callable[[], None]
    """What a stop calls. The stream sets it; until then a stop is remembered, and `stop` called at
    once."""

    @property
    def followers(self) -> int:
        """How many have come to read the reply, so far."""

    @property
    def followed_at(self) -> float:
        """When somebody was last reading it, on the monotonic clock; -inf if nobody ever was."""


class Kept(Protocol):
    """A reply that was found."""

    @property
    def conversation_id(self) -> str: ...

    @property
    def last(self) -> Union[Done, Error, None]:
        """The event that ended it; None while it is produced."""

    @property
    def characters(self) -> Optional[int]:
        """Its length so far, if that is known for certain.

        It is if the end of the reply is known, or if it is produced here, and is kept.
        """

    def read(self, after: int) -> AsyncGenerator[Entry, None]:
        """What comes behind the position `after`: missed text at once, then as it comes.

        The last item is the event that ended the reply; or an Error with the code `worker_lost`,
        `replay_gap` or `replay_unavailable`, of which the last says that the reply may go on.
        """


class Keyed(NamedTuple):
    """A request that was made with an Idempotency-Key: its fingerprint, and its reply."""

    fingerprint: bytes
    reply_id: str


@runtime_checkable
class Replay(Protocol):
    """A store of replies. An id of a reply, or of its conversation, is nothing without the owner.

    The coroutines raise ReplayUnavailable if the store cannot be reached.
    """

    def record(self, reply_id: str, conversation_id: str, owner: str) -> Optional[Recording]:
        """Begin to keep a reply; None if the store is known to be out of reach now."""

    async def find(self, reply_id: str, owner: str) -> Optional[Kept]:
        """A reply, or None if it is unknown, expired or somebody else's."""

    async def newest(self, conversation_id: str, owner: str) -> Optional[str]:
        """The id of the newest reply of a conversation that is kept, if there is one."""

    async def stop(self, reply_id: str, owner: str) -> Optional[bool]:
        """Stop a reply, wherever it is produced.

        Whether it was still running; None as in `find`.
        """

    async def forget(self, conversation_id: str, owner: str) -> None:
        """Stop the running reply of a conversation, and delete all of its replies."""

    async def keyed(self, owner: str, key: str) -> Optional[Keyed]:
        """The request that was made with this Idempotency-Key, if there is one."""

    async def begin_once(self, owner: str, key: str, keyed: Keyed) -> Optional[Keyed]:
        """Note a request under its Idempotency-Key; the earlier one, if there is one."""

    async def aclose(self) -> None:
        """Store what is not stored yet, within a few seconds, and let go of everything."""


def check_replay(replay: object) -> None:
    """Raises TypeError if `replay` is no Replay, but its class, say, or the name of a setting."""
    if inspect.isclass(replay) or not isinstance(replay, Replay):
        raise TypeError(f"replay is no store of replies: {replay!r}")
