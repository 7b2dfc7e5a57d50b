"""The service's command line.

The modules:

- `command`: what the command does.
- `flags`: its flags, as the variables that they stand for.

They import the whole service, which takes a while. So `main`, which imports nothing of it, takes
care of the signals that come meanwhile.
"""

from __future__ import annotations

import os
import signal
from importlib import import_module

TYPE_CHECKING = False  # see the package's `__init__`
if TYPE_CHECKING:
    from types import FrameType
    from typing import List, Optional

_BY_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the service until a signal stops it.

    Returns the exit status: 0 after a stop, 1 if it cannot listen on the address, 2 for a bad
    setting.
    """
    # The kernel drops a signal to the first process of a container if nothing handles it.
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    before = {n: h for n in numbers if (h := signal.getsignal(n)) in _BY_DEFAULT}
    for number in before:
        signal.signal(number, _end_at_once)
    try:
        status: int = import_module(".command", __name__).run(arguments)
        return status
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is _end_at_once:
                signal.signal(number, handler)


def _end_at_once(number: int, frame: Optional[FrameType]) -> None:
    os._exit(0)  # nothing has begun
