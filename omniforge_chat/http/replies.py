"""Replies that are kept: found by their ids, and read by clients that come back."""

from __future__ import annotations

from time import monotonic
from typing import AsyncGenerator, AsyncIterator, Callable, List, Optional, Tuple, Union
from urllib.parse import quote

from anyio import sleep
from starlette.types import Receive, Scope

from ..core.frames import Frames
from ..core.kept import OVER, KeptReply, Position, is_reply_id, read_position
from ..core.reply import Reply
from ..dialects import all_errors
from ..errors import ChatError, InvalidHeader, KeyReused, ReplyExpired, ReplyNotFound
from ..models import Done, Error, Thought, Turn
from ..replay import Entry, Kept, Keyed, Replay
from ..request_id import request_id
from ..settings import Settings
from ..stream.deadline import Deadline
from ..stream.kept import FollowingStream, without_limits
from ..stream.lifecycle import Lifecycle
from ..stream.response import ABORT, UNSENT
from .access import owner_of
from .body import late_body, read_body
from .idempotency import Attempt
from .paths import mount_path
from .visit import Visit

ASKED_HEADERS = ("Last-Event-ID", "Idempotency-Key")
ANSWERED_HEADERS = ("X-Reply-ID", "Location", "Idempotency-Replayed")
"""The headers of requests and responses that there are if replies are kept."""

JOIN_SECONDS = 1.0
JOIN_PAUSE = 0.05
"""How long a request waits for one that came before it to note their common Idempotency-Key, and
how often it looks."""

_STATUS = {error.code: error.status for error in all_errors(ChatError)}


class Unknown:
    """A reply that is not to be found, for a client that takes no status for an answer."""

    conversation_id = ""
    characters: Optional[int] = None
    last: Union[Done, Error, None] = Error(ReplyNotFound.code, "No such reply is kept")

    async def read(self, after: int) -> AsyncGenerator[Entry, None]:
        """See Kept."""
        assert self.last is not None
        yield self.last


class Found:
    """A kept reply, and the position from which a client wants it."""

    def __init__(self, kept: Kept, position: Position) -> None:
        self.kept = kept
        self.reply_id = position.reply_id
        self.after = position.characters

    @property
    def nothing_more(self) -> bool:
        """Whether the client has all of it."""
        kept = self.kept
        if self.after != OVER or isinstance(kept.last, Error):
            return False
        # It has the last frame. If another process has sent that, it may not be known here yet.
        return kept.last is not None or kept.characters is None

    def check(self) -> None:
        """Raises InvalidHeader for a position that the reply does not have."""
        kept = self.kept
        if isinstance(kept.last, Error) or self.nothing_more:
            return  # of one that has failed, a client may have had more than was kept
        known = kept.characters
        if known is not None and self.after > known:
            raise InvalidHeader("Last-Event-ID: the reply has not come so far")

    async def answer(self, reply: Reply) -> AsyncIterator[Union[str, Thought]]:
        """The rest of the reply; at last `reply` is given the event that ended it."""
        kept, after = self.kept, self.after
        if isinstance(kept.last, Error):
            known = kept.characters
            if after > (OVER - 1 if known is None else known):
                self._end(reply, kept.last)
                return
        entries = kept.read(after)
        try:
            async for entry in entries:
                if isinstance(entry, (Done, Error)):
                    self._end(reply, entry)
                    return
                yield entry
        finally:
            await entries.aclose()
        raise RuntimeError("the store of replies has not told how this one ended")

    def _end(self, reply: Reply, event: Union[Done, Error]) -> None:
        reply.given = event
        if isinstance(event, Error):
            reply.error = event
            reply.cause = (_STATUS.get(event.code, ChatError.status), None)


class Replies:
    """Finds kept replies, and answers requests with them."""

    def __init__(self, replay: Replay, settings: Settings, lifecycle: Lifecycle) -> None:
        self.replay = replay
        self._settings = without_limits(settings)
        self._lifecycle = lifecycle

    async def discard_body(self, receive: Receive) -> None:
        """Read the body of a request that needs none: until then nothing tells of its leaving.

        Raises PayloadTooLarge, RequestTimeout, or ClientDisconnect.
        """
        reading = read_body(receive, max_bytes=self._settings.max_history_body_bytes)
        await Deadline(self._settings.body_timeout, late_body, self._lifecycle).run(reading)

    async def find(self, reply_id: str, last_event_id: Optional[str], owner: str) -> Found:
        """A reply, from behind the frame with the id `last_event_id`.

        Raises InvalidHeader, ReplyNotFound and ReplayUnavailable.
        """
        position: Optional[Position] = Position(reply_id, 0)
        if last_event_id is not None:
            position = read_position(last_event_id)
        if position is None:
            raise InvalidHeader("Last-Event-ID: must be the id of a frame")
        kept = await self.replay.find(reply_id, owner) if is_reply_id(reply_id) else None
        if kept is None:
            raise ReplyNotFound("No such reply is kept")
        if position.reply_id != reply_id:
            raise InvalidHeader("Last-Event-ID: must be the id of a frame of this reply")
        found = Found(kept, position)
        found.check()
        return found

    async def find_for_post(self, last_event_id: str, owner: str) -> Found:
        """The same for a POST, which gets a stream in place of ReplyNotFound.

        A client that sends one with a Last-Event-ID would else send it again for ever.
        """
        position = read_position(last_event_id)
        reply_id = "" if position is None else position.reply_id
        try:
            return await self.find(reply_id, last_event_id, owner)
        except ReplyNotFound:
            if position is None or position.characters == OVER:
                raise
            return Found(Unknown(), position)

    async def joined(self, attempt: Attempt) -> Optional[Found]:
        """The reply to an earlier request with this key, or None if this is the first.

        Raises KeyReused, ReplyExpired and ReplayUnavailable.
        """
        return await self._joined(attempt, await self.replay.keyed(attempt.owner, attempt.key))

    async def joined_soon(self, attempt: Attempt) -> Optional[Found]:
        """The same, if the earlier request has claimed the conversation and notes its key now."""
        deadline = monotonic() + JOIN_SECONDS
        while True:
            found = await self.joined(attempt)
            if found is not None or monotonic() > deadline:
                return found
            await sleep(JOIN_PAUSE)

    async def begin_once(self, attempt: Attempt, reply_id: str) -> Optional[Found]:
        """Note that `reply_id` answers this request; the reply of an earlier one if it was first.

        Raises as `joined` does.
        """
        keyed = attempt.keyed(reply_id)
        earlier = await self.replay.begin_once(attempt.owner, attempt.key, keyed)
        return await self._joined(attempt, earlier)

    async def _joined(self, attempt: Attempt, keyed: Optional[Keyed]) -> Optional[Found]:
        if keyed is None:
            return None
        if keyed.fingerprint != attempt.fingerprint:
            raise KeyReused("Idempotency-Key: another request was sent with it")
        kept = await self.replay.find(keyed.reply_id, attempt.owner)
        if kept is None:
            raise ReplyExpired("The reply to this Idempotency-Key is no longer kept")
        return Found(kept, Position(keyed.reply_id, 0))

    def stream(
        self,
        found: Found,
        make_frames: Callable[[Turn], Frames],
        path: str,
        visit: Visit,
    ) -> FollowingStream:
        """The rest of a reply as a stream, for a request to the route at `path`."""
        turn = Turn("", found.kept.conversation_id, request_id(visit.scope))
        after = 0 if found.after == OVER else found.after
        reply = KeptReply(turn, make_frames(turn), found.reply_id, after=after, thoughts=True)
        return self.following(found, reply, path, visit)

    def following(
        self,
        found: Found,
        reply: Reply,
        path: str,
        visit: Visit,
        headers: Tuple[Tuple[bytes, bytes], ...] = (),
    ) -> FollowingStream:
        """The stream that answers with `reply`, which gets the rest of the one that was found."""
        scope = visit.scope
        extensions = scope.get("extensions", {})
        stream = FollowingStream(
            reply,
            lambda turn: found.answer(reply),
            self._settings,
            self._lifecycle,
            visit.receive,
            visit.send,
            extensions.get(ABORT),
            extensions.get(UNSENT),
        )
        own = headers_of(found.reply_id, path, scope)
        stream.follow(found.reply_id, found.after, [*own, *visit.passed.headers, *headers])
        return stream


PATH = "/api/v1/chat/replies/{reply_id}"


def reply_path(reply_id: str) -> str:
    """Where a reply is, below the prefix of the app."""
    return PATH.format(reply_id=reply_id)


def headers_of(reply_id: str, path: str, scope: Scope) -> List[Tuple[bytes, bytes]]:
    """The headers that name a reply, and the place of it, in a response of the route at `path`."""
    location = quote(mount_path(scope, path)) + reply_path(reply_id)
    return [(b"x-reply-id", reply_id.encode("ascii")), (b"location", location.encode("ascii"))]


def owner_and_id(scope: Scope) -> Tuple[str, Optional[str]]:
    """Who asks, and the Last-Event-ID of the request, or None."""
    value = dict(scope["headers"]).get(b"last-event-id")
    return owner_of(scope), None if value is None else value.decode("latin-1")
