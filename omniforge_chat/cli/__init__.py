"""The command line: the service, and commands beside it.

The modules:

- `serve`: the service, if no command is named.
- `flags`: its flags, as the variables that they stand for.
- `check`: the settings of a service, and its stores.
- `conversations`: what is stored of a conversation, to be shown or deleted.
- `keys`: API keys, added, listed and removed.
- `talk`: a conversation with a service.
- `environment`: the settings of a command.
- `stores`: the stores that they name.
- `printable`: texts that a terminal does not obey.

They import much, which takes a while. So `main`, which imports nothing of it, takes care of the
signals that come meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module

TYPE_CHECKING = False  # see the package's `__init__`
if TYPE_CHECKING:
    from types import FrameType
    from typing import Dict, List, Optional

COMMANDS: Dict[str, str] = {
    "talk": "holds a conversation with a service, or sends it one message",
    "conversations": "shows or deletes a stored conversation",
    "keys": "adds, lists or removes API keys",
    "check": "checks the settings and reaches the stores",
}
"""Each command, and its help. Its module has a `run`: its arguments in, the exit status out."""

_BY_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run the command that the first argument names, or else the service.

    Returns the exit status.
    """
    given = sys.argv[1:] if arguments is None else arguments
    name = given[0] if given and given[0] in COMMANDS else "serve"

    def end_at_once(number: int, frame: Optional[FrameType]) -> None:
        # Nothing has begun: a service that is stopped is a success, a command is not.
        os._exit(0 if name == "serve" else 128 + number)

    # The kernel drops a signal to the first process of a container if nothing handles it.
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [signal.Signals[name] for name in names]
    before = {n: h for n in numbers if (h := signal.getsignal(n)) in _BY_DEFAULT}
    for number in before:
        signal.signal(number, end_at_once)
    try:
        rest = given if name == "serve" else given[1:]
        status: int = import_module(f".{name}", __name__).run(rest)
        return status
    finally:
        import_module("..stdio", __name__).flush_standard_streams()
        for number, handler in before.items():
            if signal.getsignal(number) is end_at_once:
                # Python's own handler would raise, with a traceback, among its exit functions.
                signal.signal(number, signal.SIG_DFL if arguments is None else handler)
