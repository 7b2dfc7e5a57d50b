"""Texts that a terminal shows and does not obey."""

from __future__ import annotations

import re

_controls = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """`text` without the control characters but line feeds and tabs.

    A terminal obeys them: a model, or whoever has written into its context, could move the cursor,
    change the title or fill the clipboard (ECMA-48: C0, DEL and C1).
    """
    return _controls.sub("", text)
