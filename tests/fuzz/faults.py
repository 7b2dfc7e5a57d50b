"""One try of a target, within a limit of time; and a fault, made short and printed."""

from __future__ import annotations

import hashlib
import shlex
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Optional, Tuple

from .target import Target

SECONDS = 2.0
"""CPU time that one input may take. The usual one takes a thousandth of it, the longest a tenth."""

SHRINKING = 20.0
"""Seconds that it takes at most to look for a shorter input."""

FOLDER = Path(".fuzz")
"""Where inputs are kept that have found a fault."""

_SHOWN_BYTES = 2000


class TooSlow(KeyboardInterrupt):
    """An input takes too long. It is no Exception, and event loops pass no other kind on."""


def _give_up(number: int, frame: object) -> None:
    raise TooSlow(f"it takes more than {SECONDS:g} seconds of CPU time")


def attempt(target: Target, data: bytes) -> Optional[BaseException]:
    """Run `target` with `data`: what was raised, if anything was."""
    signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        target.run(data)
    except (Exception, TooSlow) as error:
        return error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    return None


def _kind(error: BaseException) -> Tuple[object, ...]:
    """What two faults have in common that are one: the class, and the line that raised."""
    if isinstance(error, TooSlow):
        return (TooSlow,)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error), last.filename, last.lineno


def shrunk(target: Target, data: bytes, error: BaseException) -> bytes:
    """A shorter input with the same fault, if one is found soon."""
    until = time.monotonic() + SHRINKING
    size = len(data)
    while size:
        at = 0
        while at < len(data) and time.monotonic() < until:
            shorter = data[:at] + data[at + size :]
            found = attempt(target, shorter)
            if found is not None and _kind(found) == _kind(error):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def report(target: Target, data: bytes, error: BaseException) -> None:
    """Print a fault, its input, and the command that tries it again."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{target.name}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    shown = repr(data) if len(data) <= _SHOWN_BYTES else f"{data[:_SHOWN_BYTES]!r}..."
    again = [sys.executable, "-m", "tests.fuzz", "--target", target.name, "--input", str(path)]
    print(f"\n=== {target.name}: {type(error).__name__}")
    print("".join(traceback.format_exception(type(error), error, error.__traceback__)).rstrip())
    print(f"input, {len(data)} bytes: {shown}")
    print(f"again: {shlex.join(again)}", flush=True)


def check(target: Target, data: bytes) -> bool:
    """Whether `target` bears `data`. If not, it is told with the shortest input that is found."""
    error = attempt(target, data)
    if error is None:
        return True
    data = shrunk(target, data, error)
    report(target, data, attempt(target, data) or error)
    return False


def tell(engine: str, target: Target, tries: int, *, sound: bool) -> None:
    """Print the end of a search."""
    end = "" if sound else ", and a fault"
    print(f"{target.name:22} {engine:7} {tries:9,} inputs{end}", flush=True)
