"""The rules for HTTP/1.1 over real sockets, as other servers are asked for them."""

from __future__ import annotations

from typing import Any, Dict

import pytest

from omniforge_chat import Settings, create_app

from ..support.http_cases import seen_at
from ..support.servers import WIRES, ServiceThread


@pytest.mark.parametrize("wire", WIRES)
def test_our_own_server_keeps_each_rule(wire: Dict[str, Any]) -> None:
    """A check that it fails would say nothing about another server."""
    with ServiceThread(create_app(settings=Settings()), Settings(), **wire) as service:
        seen = seen_at(("127.0.0.1", service.port))
    assert set(seen.values()) == {"yes"}, seen
