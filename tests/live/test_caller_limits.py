"""Limits of callers in a service with proxies that may lie."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Dict, List, Tuple

from ..support.client import Client
from ..support.process import ServiceProcess, running


def answers(
    service: ServiceProcess, number: int, **headers: str
) -> List[Tuple[int, Dict[str, str]]]:
    """The heads of the answers to so many chats, each over a connection of its own, at once."""
    with contextlib.ExitStack() as stack:
        clients: List[Client] = [stack.enter_context(service.connect()) for _ in range(number)]
        for count, client in enumerate(clients):
            fields = {
                name.replace("_", "-"): value.format(count) for name, value in headers.items()
            }
            client.post({"message": "hi"}, headers=fields)
        return [client.head() for client in clients]


def test_a_forged_forwarded_address_is_no_other_caller(tmp_path: Path) -> None:
    """Else anybody who reaches the service had as many allowances as there are addresses."""
    forged = {"X_Forwarded_For": "192.0.2.{}"}
    limited = {"CHAT_RATE_LIMIT": "5/hour"}
    with running(tmp_path, **limited, FORWARDED_ALLOW_IPS="") as service:
        assert [status for status, _ in answers(service, 10, **forged)].count(200) == 5
    with running(tmp_path, **limited, FORWARDED_ALLOW_IPS="127.0.0.1") as service:
        assert [status for status, _ in answers(service, 10, **forged)].count(200) == 10
