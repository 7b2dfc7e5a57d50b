"""The service under `python -OO`, which has no docstrings and no assertions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import openapi_spec_validator

from ..support.answers import refusal
from ..support.process import ServiceProcess, running


def _get(service: ServiceProcess, path: str) -> Any:
    with service.connect() as client:
        client.ask(path)
        return client.json()


def test_the_whole_service_works_without_docstrings(tmp_path: Path) -> None:
    """Some images set PYTHONOPTIMIZE; the words of the document are docstrings."""
    command = [sys.executable, "-OO", "-m", "omniforge_chat"]
    with running(tmp_path, command=command, CHAT_HISTORY="memory") as service:
        assert "placeholder" in service.reply()
        for path in ("/health", "/ready"):
            assert _get(service, path)[0] == 200
        for version in ("3.1", "3.2"):
            status, _, document = _get(service, f"/openapi.json?version={version}")
            assert status == 200
            if version == "3.1" or sys.version_info >= (3, 10):
                openapi_spec_validator.validate(document)
        with service.connect() as client:
            client.ask("/docs")
            status, headers = client.head()
            assert status == 200
            assert client.content(headers).startswith(b"<!doctype html>")
            client.post({"message": ""})
            assert refusal(*client.json())[:2] == (422, "validation_error")
        for path, refused in (("/nowhere", 404), ("/api/v1/chat", 405)):
            assert refusal(*_get(service, path))[0] == refused
        assert service.end() == 0
