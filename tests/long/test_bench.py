"""The bench runs: what nobody runs between two releases is broken at the second."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from ..support.constants import PATIENCE


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
@pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="no uvloop here")
def test_the_bench_measures_what_it_says() -> None:
    """Each subject answers as the others do, or the exit status says that one was left out."""
    options = "--rounds 1 --seconds 0.2 --only short,long --subjects bare,omniforge,fastapi-stream"
    run = subprocess.run(
        [sys.executable, "-m", "tests.bench", *options.split()],
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )
    assert run.returncode == 0, run.stderr
    for row in ("short reply, req/s, of bare", "long reply, of fastapi-stream"):
        [line] = [line for line in run.stdout.splitlines() if f"| {row}" in line]
        assert "pass" in line or "FAIL" in line
