"""What holds for all tests of the providers."""

from __future__ import annotations

import pytest

from omniforge_chat.responders.providers import client

from ..support.wires import WIRES, Wire


@pytest.fixture(params=WIRES, ids=lambda wire: wire.name)
def wire(request: pytest.FixtureRequest) -> Wire:
    found: Wire = request.param
    return found


@pytest.fixture(autouse=True)
def _no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tries of a test follow each other closely."""
    monkeypatch.setattr(client, "BACKOFF_SECONDS", 0.001)
