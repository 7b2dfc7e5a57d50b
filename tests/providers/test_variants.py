"""What servers send that others do not: each variant through the whole service, on a socket.

tests/support/variants.py tells how to write one down.
"""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from omniforge_chat.responders.providers.reasons import MAX_REASON_CHARACTERS

from ..support.relay import outcome, slowly
from ..support.variants import FOLDER, VARIANTS, Stage, Variant
from ..support.wires import KEY, Wire


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = Stage(tmp_path_factory.mktemp("stage"))
    yield made
    made.close()


def test_every_variant_has_a_name_of_its_own() -> None:
    """Or one hides another, and nobody sees which of them has failed."""
    names = [variant.name for variant in VARIANTS]
    assert sorted(set(names)) == sorted(names)
    assert {path.suffix for path in Path(FOLDER).iterdir()} == {".txt"}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_variant_is_read_as_it_was_meant(variant: Variant, stage: Stage) -> None:
    """No text is lost or doubled, and a reply that the provider gave up is never `done`."""
    found = stage.play(variant)
    log = found.pop("log")
    expected = variant.outcome()
    assert {name: found.get(name) for name in expected} == expected
    assert ("done" in found) == ("done" in expected)
    assert len(log) == ("error" in expected)
    if log:
        assert found["message"].startswith(variant.expected.get("message", "The model provider"))
        assert variant.expected["log"] in log[0]
        assert len(log[0]) < MAX_REASON_CHARACTERS + 200
        assert log[0].isprintable()
        assert KEY not in log[0]


FAMILIES = sorted({variant.family for variant in VARIANTS})
PLAIN = [variant for variant in VARIANTS if variant.is_plain]


@pytest.mark.parametrize("family", FAMILIES)
def test_variants_are_read_alike_in_all_pieces(family: str) -> None:
    """Several frames may come in one read, and one frame in several."""
    for variant in PLAIN:
        if variant.family == family:
            whole = b"".join(variant.parts)
            expected = outcome(variant.wire.reader(), variant.parts)
            for parts in ([whole], [whole[i : i + 1] for i in range(len(whole))]):
                assert outcome(variant.wire.reader(), parts) == expected, variant.name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_usual_frame_is_read_as_any_other(family: str) -> None:
    """It has a short way of its own, which must come to the same."""
    for variant in PLAIN:
        if variant.family == family:
            expected = outcome(slowly(variant.wire), variant.parts)
            assert outcome(variant.wire.reader(), variant.parts) == expected, variant.name


ODD: List[Any] = [None, True, 0, -1, 1.5, "", "x", "stop", [], {}, [None], ["x"], {"text": "t"}]
ODD += [float("nan"), 10**30, "\ud83d"]


def spoilt(document: Any, chance: random.Random) -> Any:
    """The document with something odd in some place of it."""
    if isinstance(document, (dict, list)) and document and chance.random() < 0.8:
        places: Any = document if isinstance(document, dict) else range(len(document))
        place = chance.choice(list(places))
        changed: Any = document.copy()
        changed[place] = spoilt(document[place], chance)
        return changed
    return chance.choice(ODD)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_stands_in_a_frame_is_read_or_is_a_failure(wire: Wire, seed: int) -> None:
    """No exception leaves a reader, and its short way still comes to the same."""
    chance = random.Random(seed)
    documents: List[Tuple[bytes, Any]] = []
    for variant in PLAIN:
        for part in variant.parts:
            name, found, data = part.partition(b"data: {")
            if variant.wire is wire and found and part.endswith(b"}\n\n"):
                with contextlib.suppress(ValueError):
                    documents.append((name, json.loads(b"{" + data)))
    for _ in range(150):
        frames = []
        for name, document in chance.choices(documents, k=4):
            data = json.dumps(spoilt(document, chance)).encode()
            frames.append(b"%sdata: %s\n\n" % (name, data))
        assert outcome(wire.reader(), frames) == outcome(slowly(wire), frames)
