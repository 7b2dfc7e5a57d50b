"""The chaos has teeth: it tells what must not be, and what was no fault of the service."""

from __future__ import annotations

from typing import Optional

import pytest

from omniforge_chat import Thought

from ..chaos.journal import Generation
from ..chaos.judge import Judge
from ..chaos.record import KILLED, LOST_ALL, Record
from ..chaos.run import DONE, Outcome, Run, World
from ..chaos.script import SHAPES, Script


@pytest.mark.parametrize("shape", SHAPES)
def test_a_piece_that_comes_twice_late_or_as_another_kind_is_noticed(shape: str) -> None:
    """Every reader holds each frame against the reply that it computes itself."""
    script = Script(f"{shape} 1")
    position = 0
    for _, piece in script.steps:
        text, kind = (piece.text, "thought") if isinstance(piece, Thought) else (piece, "chunk")
        other = "chunk" if kind == "thought" else "thought"
        assert script.has(position, kind, text)
        assert not script.has(position, other, text)
        assert not script.has(position + len(text), kind, text)
        position += len(text)
    assert position == len(script.text)


class Trial:
    """One run that was answered by process 7, from second 10 to second 20."""

    def __init__(self, key: Optional[str] = None) -> None:
        self.record = Record(volatile=False)
        self.world = World(1)
        self.run = Run("paced 1", key, "c", None)
        self.run.began = 9.0
        self.world.runs.append(self.run)
        self.made = [Generation("paced 1", "c", 7, 10.0, 20.0, True)]

    def happens(self, kind: str, when: float, pid: int = 0) -> None:
        fault = self.record.add(kind, pid)
        fault.began = fault.ended = when

    def ends(self, code: str, when: float) -> bool:
        """Whether somebody may be told this."""
        self.run.outcomes.append(Outcome(code, when))
        self.judge().judge()
        return not self.world.troubles

    def judge(self) -> Judge:
        return Judge(self.world, self.record, self.made)


def test_an_error_needs_a_cause_of_its_own() -> None:
    """A worker is lost if it was killed, and not because another one was, or Redis was away."""
    trial = Trial()
    trial.happens(KILLED, 12.0, pid=8)
    trial.happens(LOST_ALL, 12.0)
    assert not trial.ends("worker_lost", 13.0)
    trial = Trial()
    trial.happens(KILLED, 12.0, pid=7)
    assert not trial.ends("worker_lost", 11.0)
    trial = Trial()
    trial.happens(KILLED, 12.0, pid=7)
    assert trial.ends("worker_lost", 13.0)
    assert not Trial().ends("what is this", 13.0)


def test_a_reply_that_runs_is_found_again_soon_after_a_loss() -> None:
    """Its worker puts it in again; one that has ended is lost."""
    for when, may_be_lost in [(13.0, True), (19.0, False), (25.0, True)]:
        trial = Trial()
        trial.happens(LOST_ALL, 12.0)
        assert trial.ends("reply_not_found", when) is may_be_lost


def test_a_reply_is_made_once_for_each_key_unless_the_key_was_lost() -> None:
    """Somebody pays for it."""
    for key, lost, may_be in [("k", True, True), ("k", False, False), (None, True, False)]:
        trial = Trial(key)
        trial.made.append(trial.made[0]._replace(began=22.0, ended=23.0))
        if lost:
            trial.happens(LOST_ALL, 21.0)
        assert trial.ends(DONE, 30.0) is may_be


def test_two_replies_at_once_in_one_conversation_are_told() -> None:
    """The claim of a conversation is worth nothing otherwise."""
    trial = Trial()
    trial.made.append(Generation("short 2", "c", 8, 15.0, 16.0, True))
    assert not trial.ends(DONE, 20.0)


def test_a_conversation_that_lacks_a_reply_or_changes_it_is_told() -> None:
    """A reply that was reported done is remembered, as it was."""
    said = Script("paced 1").said
    for content, complete, fine in [
        (said, True, True),
        (said[:-1], True, False),
        (said[:-1], False, False),
        (said + "!", True, False),
    ]:
        trial = Trial()
        assert trial.ends(DONE, 20.0)
        asked = {"role": "user", "content": "paced 1", "complete": True}
        reply = {"role": "assistant", "content": content, "complete": complete}
        trial.judge().remembered("c", [asked, reply])
        assert (not trial.world.troubles) is fine
    trial = Trial()
    assert trial.ends(DONE, 20.0)
    trial.judge().remembered("c", [])
    assert trial.world.troubles
