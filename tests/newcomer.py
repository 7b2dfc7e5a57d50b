"""python -m tests.newcomer: `make run`, as a newcomer has it, with each responder of ours.

The environment is a new one, so that nothing is in it by chance: what the tests need, say, which
have httpx. CI runs this; `make test` does not, as it installs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import List

from .support.constants import PATIENCE
from .support.process import environment

ROOT = Path(__file__).parent.parent
INSTALLING = 240.0
"""Seconds that the first start may take, which installs."""

ENDS = {"placeholder": "done", "openai": "upstream_error", "anthropic": "upstream_error"}
"""How a chat ends by each responder, where the provider's address has nobody."""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _serve(responder: str, directory: str) -> str:
    """How a chat ends at `make run`, or why there was none."""
    port, nobody = _free_port(), f"http://127.0.0.1:{_free_port()}"
    process = subprocess.Popen(
        ["make", "run", f"VENV={directory}/venv", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        env=environment(
            CHAT_RESPONDER=responder,
            CHAT_HISTORY="memory",
            PORT=str(port),
            OPENAI_BASE_URL=nobody,
            ANTHROPIC_BASE_URL=nobody,
        ),
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + INSTALLING
        while process.poll() is None and time.monotonic() < deadline:
            try:
                return _chat(port)
            except ConnectionRefusedError:
                time.sleep(0.2)  # another process: there is nothing to await
        return "it does not serve"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # Ctrl-C
            process.wait(PATIENCE)


def _chat(port: int) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/chat",
        json.dumps({"message": "Hello"}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            events: List[str] = response.read().decode().strip().split("\n\n")
    except urllib.error.URLError as error:
        raise error.reason if isinstance(error.reason, OSError) else error from None
    name, data = (line.partition(": ")[2] for line in events[-1].split("\n"))
    end: str = json.loads(data).get("code", name)
    return end


def main() -> int:
    """The exit status."""
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        for responder, expected in ENDS.items():
            found = _serve(responder, directory)
            failures += found != expected
            print(f"CHAT_RESPONDER={responder} make run: {found} (expected {expected})", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
