"""python -m tests.fuzz.guided SECONDS SEED TARGET...: inputs by atheris, for so long each.

atheris sees which lines of the package an input reaches. It keeps one that has reached something
new, and goes on from there. It has to load the package itself, so that it can count: no module that
is imported before may import it.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path
from time import monotonic

import atheris

from .target import Target

with atheris.instrument_imports(include=["omniforge_chat"]):
    from .faults import check, tell
    from .registry import TARGETS

_MAX_BYTES = 4096  # short inputs reach as many lines as long ones, and sooner


def search(target: Target, seconds: float, number: int, directory: str) -> None:
    """Try inputs for so long, and end the process, as libFuzzer does: status 1 for a fault."""
    until = monotonic() + seconds
    tries = 0

    def one(data: bytes) -> None:
        nonlocal tries
        tries += 1
        sound = check(target, data)
        if not sound or monotonic() > until:
            tell("guided", target, tries, sound=sound)
            os._exit(int(not sound))

    for index, data in enumerate(target.seeds):
        Path(directory, str(index)).write_bytes(data)
    options = [f"-max_len={_MAX_BYTES}", f"-seed={number % 2**31}", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, directory], one)
    atheris.Fuzz()


def main(seconds: str, number: str, *names: str) -> int:
    """The exit status."""
    logging.disable()
    faults = 0
    for name in names:
        with tempfile.TemporaryDirectory() as directory:
            child = os.fork()
            if not child:
                search(TARGETS[name], float(seconds), int(number), directory)
            faults += os.waitpid(child, 0)[1] != 0
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
