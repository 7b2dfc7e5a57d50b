"""Node.js, to run the JavaScript reader outside a browser."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import List

import pytest

import omniforge_chat

READER = Path(omniforge_chat.__file__).parent / "http" / "pages" / "reader.js"


def node(script: str) -> List[str]:
    """The command that runs a module of JavaScript."""
    if shutil.which("node") is None:
        assert "CI" not in os.environ, "CI has to try the JavaScript too, and there is no node"
        pytest.skip("no node here")
    return ["node", "--input-type=module", "--eval", script, "--"]


def put_reader(directory: Path) -> None:
    """Copy the reader there as reader.mjs, which every Node takes for a module."""
    shutil.copy(READER, directory / "reader.mjs")
