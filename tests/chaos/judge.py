"""The rules: what may become of a reply, given all that has happened.

Texts are checked as they come, by `client.py`. Here it is about everything else: whether each
outcome had its cause, whether replies were made twice, and what the conversations remember.
"""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import Callable, Dict, List, Mapping, Sequence

from .journal import Generation
from .record import CUT, HUNG, KILLED, TERMINATED, Record
from .run import DONE, GRACE, STOPPED, Outcome, Run, World
from .script import Script

SETTLES = 4.0
"""Seconds after which a trouble of Redis is no excuse any more."""

TOLD = 9.0
"""The same for those who read: they are told when it lasts for five seconds."""

PUT_IN = 2.0
"""Seconds within which a reply that runs is in Redis again, if that has lost it."""

YOUNG = 0.5
"""Seconds within which a reply is stored."""

Rule = Callable[[Run, Outcome], bool]


class Judge:
    """Looks at all runs when they are over."""

    def __init__(self, world: World, record: Record, generations: Sequence[Generation]) -> None:
        self._world = world
        self._record = record
        self._of_message: Dict[str, List[Generation]] = defaultdict(list)
        self._of_conversation: Dict[str, List[Generation]] = defaultdict(list)
        for generation in generations:
            self._of_message[generation.message].append(generation)
            self._of_conversation[generation.conversation_id].append(generation)
        self._rules: Mapping[str, Rule] = {
            DONE: lambda run, outcome: any(made.whole for made in self._made(run)),
            STOPPED: lambda run, outcome: run.stops,
            "broken": self._broken,
            "no ids": self._troubled,
            "another reply": self._repeated,
            "stop of nothing": self._not_stopped,
            "reply_not_found": self._gone,
            "reply_expired": self._gone,
            "replay_gap": self._gone,
            "validation_error": self._gone,  # the id of its last frame, if Redis has lost that
            "replay_unavailable": self._told,
            "history_unavailable": self._troubled,
            "conversation_busy": self._busy,
            "shutting_down": self._shutting_down,
            "worker_lost": self._lost,
            "abandoned": self._abandoned,
        }

    def judge(self) -> None:
        """Tell the world of its troubles."""
        for run in self._world.runs:
            for outcome in run.outcomes:
                rule = self._rules.get(outcome.code)
                if rule is None or not rule(run, outcome):
                    self._trouble(f"{outcome.code} has no excuse", run, outcome.when)
            made = self._made(run)
            if len(made) > 1 and not (run.key and self._was_lost(made[0])):
                self._trouble(f"it was made {len(made)} times", run, made[-1].began)
        for generations in self._of_conversation.values():
            self._one_at_a_time(generations)

    def _trouble(self, text: str, run: Run, when: float) -> None:
        for made in self._made(run):
            ended = made.ended - run.began
            run.log.append(f"made by {made.pid}: {made.began - run.began:.3f} to {ended:.3f}")
        began = self._record.began
        run.log.append(f"it began at {run.began - began:.2f}, and it is about {when - began:.2f}")
        self._world.trouble(text, run)

    def _made(self, run: Run) -> List[Generation]:
        return self._of_message[run.message]

    # Rules

    def _broken(self, run: Run, outcome: Outcome) -> bool:
        kinds = (KILLED, TERMINATED, CUT)
        return self._record.any(kinds, outcome.when - 1.0, outcome.when)

    def _troubled(self, run: Run, outcome: Outcome) -> bool:
        return self._away(outcome.when - SETTLES, outcome.when)

    def _told(self, run: Run, outcome: Outcome) -> bool:
        return self._away(outcome.when - TOLD, outcome.when)

    def _away(self, since: float, until: float) -> bool:
        """Whether Redis may have seemed to be away: it was, or who asked it was asleep."""
        return self._record.troubled(since, until) or self._record.any([HUNG], since, until)

    def _busy(self, run: Run, outcome: Outcome) -> bool:
        """Somebody speaks, or has just died, or it is said for the first time."""
        when = outcome.when
        return self._record.troubled(when - SETTLES, when) or any(
            each.began < when + SETTLES and self._ended(each) > when - SETTLES
            for each in self._of_conversation.get(run.conversation_id or "", ())
        )

    def _ended(self, generation: Generation) -> float:
        """When it was over, perhaps with its process."""
        return min(generation.ended, self._record.killed_at(generation.pid))

    def _repeated(self, run: Run, outcome: Outcome) -> bool:
        return any(map(self._was_lost, self._made(run)))

    def _was_lost(self, generation: Generation) -> bool:
        """Whether Redis has lost it, or its worker had no time to store anything of it."""
        killed = self._record.killed_at(generation.pid)
        return self._record.lost_data(generation.began) or killed < generation.began + YOUNG

    def _lost(self, run: Run, outcome: Outcome) -> bool:
        """Its producer was killed, or others had to think so."""
        record, made, when = self._record, self._made(run), outcome.when
        # If its worker has ended in good order, but could not store that, nobody knows.
        unknown = record.lost_data(run.began) or record.troubled(run.began - SETTLES, when)
        if any(
            record.killed_at(each.pid) < when
            or record.hung(each.pid, run.began, when)
            or (unknown and record.terminated(each.pid))
            for each in made
        ):
            return True
        return not made and record.any([KILLED], run.began - 1.0, outcome.when)

    def _gone(self, run: Run, outcome: Outcome) -> bool:
        """It was stored and lost, or its producer could not store it."""
        record, when = self._record, outcome.when
        if self._lost(run, outcome):
            return True
        if any(record.any([HUNG], each.began - 1.0, when, each.pid) for each in self._made(run)):
            return True  # before it was stored
        # If it was made again, perhaps it is the first one that is gone, which is over.
        runs = [each.began < when < self._ended(each) for each in self._made(run)]
        if runs and all(runs) and not self._away(when - PUT_IN, when):
            return False  # its worker has put it in again
        if record.lost_data(run.began):
            return True
        unsaved = any(record.terminated(each.pid) for each in self._made(run))
        never = not self._made(run)
        return (unsaved or never) and record.troubled(run.began - SETTLES, outcome.when)

    def _not_stopped(self, run: Run, outcome: Outcome) -> bool:
        """What has just begun is not stored yet, and not known to others by its conversation."""
        just = any(outcome.when - each.began < YOUNG for each in self._made(run))
        return just or self._gone(run, outcome)

    def _shutting_down(self, run: Run, outcome: Outcome) -> bool:
        record = self._record
        if outcome.over:
            return any(record.terminated(each.pid) for each in self._made(run))
        return record.any([TERMINATED], outcome.when - 1.0, outcome.when)

    def _abandoned(self, run: Run, outcome: Outcome) -> bool:
        # Nobody sees those who read it while Redis is away, or who ask a worker that hangs.
        since, record = outcome.when - GRACE - SETTLES, self._record
        blind = record.troubled(since, outcome.when) or record.any([HUNG], since, outcome.when)
        return run.absent >= run.grace - 0.5 or blind

    def _one_at_a_time(self, generations: Sequence[Generation]) -> None:
        """The claim of a conversation holds."""
        record = self._record
        for before, after in zip(generations, generations[1:]):
            hung = record.hung(before.pid, before.began, after.began)
            excused = record.lost_data(before.began) or hung
            if after.began < self._ended(before) and not excused:
                self._world.trouble(f"two at once in one conversation: {before} and {after}")

    # Conversations

    @property
    def conversations(self) -> List[str]:
        """The ids of all of them."""
        known = {run.conversation_id for run in self._world.runs} | {*self._of_conversation}
        return sorted(each for each in known if each is not None)

    def remembered(self, conversation_id: str, messages: Sequence[Mapping[str, object]]) -> None:
        """Check what a conversation has: each turn once, each reply as far as it was said."""
        made = [each.message for each in self._of_conversation[conversation_id]]
        runs = [run for run in self._world.runs if run.conversation_id == conversation_id]
        asked: List[str] = []
        complete: List[str] = []
        about = f"conversation {conversation_id}"
        for message in messages:
            content = str(message["content"])
            if message["role"] == "user":
                asked.append(content)
                continue
            said = Script(asked[-1]).said if asked else ""
            if content != said if message["complete"] else not said.startswith(content):
                self._world.trouble(f"{about}: {asked[-1:]} was answered with {content[-40:]!r}")
            if message["complete"]:
                complete.append(asked[-1])
        # If claims are lost, turns of one conversation may end in another order than they began.
        kept, began = (
            [each for each in asked if each in made],
            [each for each in made if each in asked],
        )
        if kept != began and not self._record.lost_data(-inf):
            self._world.trouble(f"{about} has {asked}, and not {made}")
        if {*asked} - {*made} - {run.message for run in runs}:
            self._world.trouble(f"{about} has {asked}, of others")
        for run in runs:
            if run.has(DONE) and run.message not in complete and not self._may_be_forgotten(run):
                self._trouble("its conversation has lost the reply", run, inf)

    def _may_be_forgotten(self, run: Run) -> bool:
        """Whether a reply that was done may not be remembered: it was lost, or never stored."""
        record = self._record
        done = min(outcome.when for outcome in run.outcomes if outcome.code == DONE)
        unsaved = any(
            record.killed(each.pid) or record.terminated(each.pid) for each in self._made(run)
        )
        return record.lost_data(run.began) or (unsaved and record.troubled(run.began, done))
