"""What servers send that others do not: each variant through the whole service, on a socket.

tests/support/variants.py tells how to write one down.
"""

from __future__ import annotations

from pathlib import Path
from typing import Iterator

import pytest

from omniforge_chat.responders.providers.reasons import MAX_REASON_CHARACTERS

from ..support.relay import read
from ..support.variants import FOLDER, VARIANTS, Stage, Variant
from ..support.wires import KEY


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


@pytest.mark.parametrize("family", sorted({variant.family for variant in VARIANTS}))
def test_variants_are_read_alike_in_all_pieces(family: str) -> None:
    """Several frames may come in one read, and one frame in several."""
    for variant in VARIANTS:
        if variant.family == family and variant.is_plain:
            whole = b"".join(variant.parts)
            found = []
            for parts in (variant.parts, [whole], [whole[i : i + 1] for i in range(len(whole))]):
                reader = variant.wire.reader()
                text = "".join(read(reader, *parts)) + reader.close()
                end = (reader.finish_reason, reader.complete, reader.ended, reader.usage)
                found.append((text, str(reader.problem), bool(reader.unreadable), *end))
            assert found[0] == found[1] == found[2], variant.name
