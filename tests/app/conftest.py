"""A service of which a test conducts each reply."""

from __future__ import annotations

from typing import Iterator

import pytest

from omniforge_chat import create_app

from ..support.conducted import Conductor
from ..support.servers import ServiceThread


@pytest.fixture(scope="module")
def conductor() -> Conductor:
    """Who answers."""
    return Conductor()


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, conductor: Conductor) -> Iterator[ServiceThread]:
    """A service with the SETTINGS of the module, which all of its tests share."""
    settings = request.module.SETTINGS
    with ServiceThread(create_app(conductor, settings=settings), settings) as service:
        yield service


@pytest.fixture
def service(served: ServiceThread) -> Iterator[ServiceThread]:
    """The same; nothing of any request may be left behind a test."""
    yield served
    served.rest()


@pytest.fixture
def port(service: ServiceThread) -> int:
    """Where it is."""
    return service.port


@pytest.fixture
def message(request: pytest.FixtureRequest) -> str:
    """A message that no other test sends."""
    return str(request.node.nodeid)
