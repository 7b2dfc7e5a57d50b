"""Texts that a terminal shows and does not obey, and the complaints of a command."""

from __future__ import annotations

import re
import sys

_controls = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` without the control characters but line feeds and tabs.

    A terminal obeys them: a model, or whoever has written into its context, could move the cursor,
    change the title or fill the clipboard (ECMA-48: C0, DEL and C1).
    """
    return _controls.sub("", text)


def complain(text: str) -> None:
    """Print `text` as one line of the command, to standard error."""
    line = " ".join(printable(text).split())
    print(f"omniforge-chat: {line}", file=sys.stderr, flush=True)
