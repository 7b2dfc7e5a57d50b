"""The values that the models make themselves."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat import models


@given(st.binary(min_size=16, max_size=16))
def test_the_id_of_a_conversation_has_all_of_its_random_bits(given_bytes: bytes) -> None:
    """Whoever guesses one reads the conversation of somebody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "urandom", lambda size: given_bytes[:size])
        made = models.new_conversation_id()
    assert made == str(uuid.UUID(bytes=given_bytes, version=4))
