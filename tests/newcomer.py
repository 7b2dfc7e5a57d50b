"""python -m tests.newcomer: `make run`, as a newcomer has it, with each responder of ours.

The environment is a new one, so that nothing is in it by chance: what the tests need, say, which
have httpx. CI runs this; `make test` does not, as it installs.
"""

from __future__ import annotations

import sys
import tempfile

from .support.answers import last
from .support.docs import ROOT
from .support.process import running

INSTALLING = 240.0
"""Seconds that the first start may take, which installs."""

ENDS = {"placeholder": "done", "openai": "upstream_error", "anthropic": "upstream_error"}
"""How a chat ends by each responder, where the models' address has nobody."""

NOBODY = "http://127.0.0.1:1"


def _chat(responder: str, directory: str) -> str:
    """How a chat ends at `make run`."""
    with (
        running(
            ROOT,
            command=["make", "run", f"VENV={directory}/venv", f"PYTHON={sys.executable}"],
            patience=INSTALLING,
            CHAT_RESPONDER=responder,
            CHAT_HISTORY=f"sqlite:{directory}/conversations.db",
            CHAT_REPLAY="memory",
            OPENAI_BASE_URL=NOBODY,
            ANTHROPIC_BASE_URL=NOBODY,
        ) as service,
        service.connect() as client,
    ):
        client.post({"message": "Hello"})
        assert client.head()[0] == 200
        event, data = last(client.frames())
        end: str = data.get("code", event)
        return end


def main() -> int:
    """The exit status."""
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        for responder, expected in ENDS.items():
            found = _chat(responder, directory)
            failures += found != expected
            print(f"CHAT_RESPONDER={responder} make run: {found} (expected {expected})", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
