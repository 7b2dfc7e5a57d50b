"""The key that says who the user is. It is in no argument, as `ps` shows those."""

from __future__ import annotations

from pathlib import Path
from typing import Mapping, Optional, Sequence, Tuple

VARIABLE = "OMNIFORGE_CHAT_KEY"
_HEADERS = ("authorization", "x-api-key")


def given_key(
    path: Optional[str], environ: Mapping[str, str], headers: Sequence[Tuple[str, str]]
) -> Optional[str]:
    """The key in the file, else in the variable, else None. A header that says it comes first.

    Raises OSError.
    """
    if any(name.lower() in _HEADERS for name, _ in headers):
        return None
    if path is not None:
        return Path(path).read_text("latin-1").strip()
    return environ.get(VARIABLE, "").strip() or None
