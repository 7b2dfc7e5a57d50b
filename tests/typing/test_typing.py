"""The types that people meet: the examples of the docs and the public names pass a strict check."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from ..support.docs import ROOT, write_examples
from ..support.process import environment


def test_the_examples_of_the_docs_and_the_public_names_pass_mypy_strict(tmp_path: Path) -> None:
    """People copy the first, and annotate what they write with the second."""
    write_examples(tmp_path)
    shutil.copy(Path(__file__).with_name("public_names.py"), tmp_path)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file="),
            *("--follow-imports=silent", "."),
        ],
        cwd=tmp_path,
        env=environment(MYPYPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 0)
