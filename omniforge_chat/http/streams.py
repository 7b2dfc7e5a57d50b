"""The streams that answer a chat: of a responder, or of the reply to an earlier request."""

from __future__ import annotations

from typing import Optional, Tuple

from msgspec.structs import replace
from starlette.types import Scope, Send

from ..conversations.protocol import Claim
from ..conversations.turn import ConversationTurn
from ..core.kept import KeptReply, Recorder
from ..core.reply import Reply
from ..core.responder import Responder
from ..dialects import Dialect, Request
from ..models import Turn
from ..observer import tell
from ..replay import Recording
from ..request_id import request_id
from ..settings import Settings
from ..stream.kept import KeptStream, KeptWholeReply
from ..stream.lifecycle import Lifecycle
from ..stream.response import ABORT, UNSENT, EventStream
from ..stream.whole import HeldBack, WholeReply
from .access import caller_of
from .idempotency import Attempt
from .replies import Found, Replies, headers_of
from .visit import Visit


class Streams:
    """Makes the streams for the chat of one dialect. `remembers` tells whether it has a store."""

    def __init__(
        self,
        dialect: Dialect,
        responder: Responder,
        settings: Settings,
        lifecycle: Lifecycle,
        replies: Optional[Replies],
        *,
        remembers: bool,
    ) -> None:
        self._dialect = dialect
        self._responder = responder
        self._settings = settings
        self._lifecycle = lifecycle
        self._replies = replies
        self._remembers = remembers

    def open(
        self,
        request: Request,
        conversation_id: str,
        conversation: Optional[ConversationTurn],
        claim: Optional[Claim],
        attempt: Optional[Attempt],
        visit: Visit,
    ) -> EventStream:
        """The response to a chat that nobody has answered yet; its `respond` has to be called.

        `claim` is None if neither conversations nor replies are kept, `attempt` if the request has
        no Idempotency-Key.
        """
        scope = visit.scope
        turn = Turn(
            request.message,
            conversation_id,
            request_id(scope),
            (request.history or ()) if conversation is None else conversation.earlier,
            conversation is not None,
            request.system,
            self._dialect.name,
            request.parameters,
            request.parts,
            caller_of(scope),
        )
        recording = None
        if claim is not None and self._replies is not None:
            recording = self._replies.replay.record(claim.turn_id, conversation_id, claim.owner)
        reply, send = self._reply(request, turn, claim, recording, visit.send)
        if self._remembers and conversation is None:
            reply.unremembered = True
        responder = self._responder
        if conversation is not None:
            responder = conversation.record(responder)
        extensions = scope.get("extensions", {})
        stream = (EventStream if recording is None else KeptStream)(
            reply,
            responder,
            self._settings,
            self._lifecycle,
            visit.receive,
            send,
            extensions.get(ABORT),
            extensions.get(UNSENT),
        )
        stream.headers = visit.passed.headers
        if claim is not None and recording is not None and isinstance(stream, KeptStream):
            self._keep(stream, request, claim, recording, attempt, scope)
        observers = self._lifecycle.observers
        observers.enter()
        if observers.chat_began:
            tell(observers.chat_began, turn, scope)
        return stream

    def _keep(
        self,
        stream: KeptStream,
        request: Request,
        claim: Claim,
        recording: Recording,
        attempt: Optional[Attempt],
        scope: Scope,
    ) -> None:
        grace = request.grace
        if grace is None:
            # With a key a client of any format can come back.
            resumable = self._dialect.resumable or attempt is not None
            grace = self._settings.replay_grace if resumable else 0.0
        headers = headers_of(claim.turn_id, self._dialect.path, scope)
        stream.keep(recording, claim.turn_id, grace=grace, headers=headers)

    def _reply(
        self,
        request: Request,
        turn: Turn,
        claim: Optional[Claim],
        recorder: Optional[Recorder],
        send: Send,
    ) -> Tuple[Reply, Send]:
        """The reply to a request, and the `send` that suits it."""
        thoughts = self._settings.thoughts
        if not request.whole:
            frames = request.frames(turn)
            if claim is None or recorder is None:
                return Reply(turn, frames, thoughts=thoughts), send
            return KeptReply(turn, frames, claim.turn_id, recorder, thoughts=thoughts), send
        document = request.document(turn)
        if recorder is None:
            whole = WholeReply(turn, document, thoughts=thoughts)
        else:
            whole = KeptWholeReply(turn, document, recorder=recorder, thoughts=thoughts)
        return whole, HeldBack(send, whole)

    def join(self, found: Found, request: Request, visit: Visit) -> EventStream:
        """The reply to an earlier request that had the same Idempotency-Key."""
        assert self._replies is not None
        turn = Turn(request.message, found.kept.conversation_id, request_id(visit.scope))
        reply: Reply
        if request.whole:
            reply = whole = WholeReply(turn, request.document(turn), thoughts=True)
            visit = replace(visit, send=HeldBack(visit.send, whole))
        else:
            reply = KeptReply(turn, request.frames(turn), found.reply_id, thoughts=True)
        replayed = (b"idempotency-replayed", b"true")
        path = self._dialect.path
        return self._replies.following(found, reply, path, visit, (replayed,))
