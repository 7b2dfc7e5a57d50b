"""The reply to a message, which anybody can compute from the message alone."""

from __future__ import annotations

import random
from itertools import groupby
from typing import Callable, Dict, Iterator, List, NamedTuple, Union

from omniforge_chat import Thought

ODDITIES = (
    "",
    "",
    "",
    "naïve",
    "汉字",
    "e\u0301",
    "\N{OK HAND SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "\u2028",
    "\x85",
    "\n",
    "\r\n",
    "\0",
    '"\\',
    "\n\ndata: no\n\n",
)
"""What may stand behind a word: all that a store or a frame could trip over."""


class Step(NamedTuple):
    """A pause in seconds, and then a piece of the reply."""

    pause: float
    piece: Union[str, Thought]


def _paced(dice: random.Random) -> Iterator[Step]:
    pause = dice.uniform(0.03, 0.1)
    for number in range(dice.randrange(20, 60)):
        yield Step(pause, f"{number}{dice.choice(ODDITIES)} ")


def _slow(dice: random.Random) -> Iterator[Step]:
    for number in range(dice.randrange(4, 12)):
        yield Step(dice.uniform(0.1, 1.0), f"{number}{dice.choice(ODDITIES)} ")


def _burst(dice: random.Random) -> Iterator[Step]:
    count = dice.randrange(50, 500)
    waits = {dice.randrange(count) for _ in range(3)}
    for number in range(count):
        yield Step(0.4 if number in waits else 0.0, f"{number}{dice.choice(ODDITIES)} ")


def _long(dice: random.Random) -> Iterator[Step]:
    for number in range(dice.randrange(2, 6)):
        piece = f"{number}{dice.choice(ODDITIES)} "
        yield Step(dice.uniform(0.0, 0.8), piece * dice.choice([100, 1_000, 5_000]))


def _thinking(dice: random.Random) -> Iterator[Step]:
    for number in range(dice.randrange(10, 40)):
        word = f"{number}{dice.choice(ODDITIES)} "
        yield Step(dice.uniform(0.02, 0.15), Thought(word) if dice.random() < 0.5 else word)
    yield Step(0.0, "so be it")


def _short(dice: random.Random) -> Iterator[Step]:
    yield Step(dice.choice([0.0, 0.2]), "yes")


SHAPES: Dict[str, Callable[[random.Random], Iterator[Step]]] = {
    "paced": _paced,
    "slow": _slow,
    "burst": _burst,
    "long": _long,
    "thinking": _thinking,
    "short": _short,
}
"""The kinds of replies; the first word of a message names one."""


class Script:
    """The reply to `message`.

    `text` is all of it, thoughts included, as positions count it; `kinds` has the name of each
    character's event; `said` is what a store of conversations remembers.
    """

    def __init__(self, message: str) -> None:
        make = SHAPES.get(message.partition(" ")[0], _paced)
        self.steps: List[Step] = list(make(random.Random(message)))
        pieces = [step.piece for step in self.steps]
        texts = [piece.text if isinstance(piece, Thought) else piece for piece in pieces]
        self.text = "".join(texts)
        self.said = "".join(piece for piece in pieces if isinstance(piece, str))
        self._thought = "".join(
            ("1" if isinstance(piece, Thought) else "0") * len(piece) for piece in pieces
        )

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return sum(step.pause for step in self.steps)

    def has(self, position: int, event: str, content: str) -> bool:
        """Whether `content` stands at `position`, and is all of this kind."""
        end = position + len(content)
        kind = {"chunk": "0", "thought": "1"}.get(event)
        kinds = [mark for mark, _ in groupby(self._thought[position:end])]
        return self.text[position:end] == content != "" and kinds == [kind]
