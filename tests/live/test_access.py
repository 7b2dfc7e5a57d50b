"""A service that asks who is there, and limits them: as it is started, by its variables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Mapping, Optional

import pytest

from ..support.answers import refusal
from ..support.process import ServiceProcess, running

KEYS = {"alice": "alice-0123456789", "bob": "bob-0123456789ab"}
VARIABLE = ",".join(f"{name}:{key}" for name, key in KEYS.items())


def chat(service: ServiceProcess, headers: Optional[Mapping[str, str]] = None) -> int:
    """The status of one chat, on a connection of its own, which it reads to the end."""
    with service.connect() as client:
        client.post({"message": "hi"}, headers=dict(headers or {}))
        status, head = client.head()
        if status == 200:
            client.frames()
        else:
            assert refusal(status, head, json.loads(client.content(head)))
        return status


def bearer(name: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


@pytest.mark.parametrize(
    ("host", "keys", "warns"),
    [("0.0.0.0", "", True), ("0.0.0.0", VARIABLE, False), ("127.0.0.1", "", False)],
)
def test_a_service_that_all_can_reach_and_that_asks_nobody_says_so(
    host: str, keys: str, warns: bool, tmp_path: Path
) -> None:
    """Nobody should find out by their bill."""
    with running(tmp_path, HOST=host, CHAT_API_KEYS=keys) as service:
        assert service.port
        told = [line for line in service.log if "may chat" in line]
        assert len(told) == warns
        assert all("WARNING" in line and "CHAT_API_KEYS_FILE" in line for line in told)
        assert chat(service, bearer("alice")) == 200
        assert chat(service) == (401 if keys else 200)


def test_metrics_need_a_key_that_may_read_them(tmp_path: Path) -> None:
    """Where callers are asked, whoever scrapes is one of them."""
    variables = {"CHAT_API_KEYS": VARIABLE, "CHAT_METRICS": "on"}
    with running(tmp_path, **variables) as service:
        for headers, status in (({}, 401), (bearer("alice"), 403)):
            with service.connect() as client:
                client.ask("/metrics", headers=headers)
                assert client.json()[0] == status
