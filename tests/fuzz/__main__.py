"""Fuzzing, from the command line. Exit status 1 if a fault was found.

Each target is tried by hypothesis, and by atheris where that is installed. There is one process for
each core, with its share of the targets.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import List

from .faults import check
from .registry import TARGETS

ENGINES = ("blind", "guided") if find_spec("atheris") else ("blind",)


def fuzz(names: List[str], seconds: float, seed: int) -> bool:
    """Search for about so long in all: whether no fault was found."""
    count = max(1, (os.cpu_count() or 1) // len(ENGINES))
    running = []
    for engine in ENGINES:
        for share in filter(None, (names[i::count] for i in range(count))):
            options = [str(seconds / len(share)), str(seed), *share]
            command = [sys.executable, "-m", f"tests.fuzz.{engine}", *options]
            # On stderr, atheris names each module of the package.
            quiet = subprocess.DEVNULL if engine == "guided" else None
            running.append(subprocess.Popen(command, stderr=quiet))
    return not any([process.wait() for process in running])  # noqa: C419 # for all of them


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this one")
    parser.add_argument("--input", type=Path, help="a file: try it alone, with the one target")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    arguments = parser.parse_args()
    names: List[str] = arguments.target or list(TARGETS)
    if arguments.input is not None:
        logging.disable()
        data = arguments.input.read_bytes()
        return int(not all(check(TARGETS[name], data) for name in names))
    print(f"{' and '.join(ENGINES)}, {len(names)} targets, --seed {arguments.seed}", flush=True)
    return int(not fuzz(names, arguments.seconds, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
