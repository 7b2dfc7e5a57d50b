"""One message to answer, and what became of it for those who read the reply."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any, Counter, Dict, List, NamedTuple, Optional

from .script import Script

GRACE = 5.0
"""How long a reply goes on if nobody reads it: CHAT_REPLAY_GRACE."""

_GRACES: Dict[object, Any] = {None: GRACE, "cancel": 0.0, "continue": inf}

DONE, STOPPED = "done", "stopped"


class Outcome(NamedTuple):
    """What somebody was told at `when`. `over` says that the reply has ended so, for everybody."""

    code: str
    when: float
    over: bool = True


class Run:
    """One message, with the outcomes of all who read its reply.

    - `key` is its Idempotency-Key, if it has one, and `conversation_id` None until it is known.
    - `grace` is how long the reply goes on if nobody reads it, in seconds.
    - `body` is that of its request.
    - `absent` is the longest time so far in which nobody did.
    - `stops` tells that somebody may have stopped it.
    """

    def __init__(
        self,
        message: str,
        key: Optional[str],
        conversation_id: Optional[str],
        on_disconnect: object,
    ) -> None:
        self.message = message
        self.script = Script(message)
        self.key = key
        self.conversation_id = conversation_id
        self.grace = _GRACES.get(on_disconnect, on_disconnect)
        self.body: Dict[str, object] = {"message": message}
        if conversation_id is not None:
            self.body["conversation_id"] = conversation_id
        if on_disconnect is not None:
            self.body["on_disconnect"] = on_disconnect
        self.began = monotonic()
        self.outcomes: List[Outcome] = []
        self.stops = False
        self.log: List[str] = []
        self.absent = 0.0
        self._readers = 0
        self._left_at = self.began

    def note(self, who: str, text: str) -> None:
        """Add a line to its log."""
        self.log.append(f"{monotonic() - self.began:8.3f}  {who}: {text}")

    def told(self, code: str, *, over: bool = True) -> None:
        """Somebody was told this."""
        self.outcomes.append(Outcome(code, monotonic(), over))

    def has(self, code: str) -> bool:
        """Whether somebody was told this, as the end."""
        return any(outcome.code == code and outcome.over for outcome in self.outcomes)

    def came(self) -> None:
        """Somebody begins to read it."""
        if not self._readers:
            self.absent = max(self.absent, monotonic() - self._left_at)
        self._readers += 1

    def went(self) -> None:
        """And reads it no more."""
        self._readers -= 1
        self._left_at = monotonic()


class World:
    """What all readers share: the port to ask, their runs, and what went wrong."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.port = 0
        self.runs: List[Run] = []
        self.troubles: List[str] = []
        self.counts: Counter[str] = Counter()

    def trouble(self, text: str, run: Optional[Run] = None) -> None:
        """Something that must not be, and the story of its run."""
        lines = [text]
        if run is not None:
            lines += [f"    {run.message!r} key={run.key} in {run.conversation_id}"]
            lines += [f"    {line}" for line in run.log]
        self.troubles.append("\n".join(lines))
        self.counts["troubles"] += 1
