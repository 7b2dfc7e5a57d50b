"""Taking secrets out of texts."""

from __future__ import annotations

import html
import json
from typing import Iterable, Set
from urllib.parse import quote, quote_plus

MIN_BEGIN = 8
"""So many characters of a secret, at the end of a text that was cut there, are redacted too."""


class Redactor:
    """Puts stars in place of secrets: as they are, and as JSON, a URL or HTML writes them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: Set[str] = set()
        for secret in secrets:
            escaped = json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]
            urls = quote(secret, safe=""), quote(secret), quote_plus(secret)
            forms |= {secret, *escaped, *urls, html.escape(secret)}
        # The longer ones first, as one may contain another.
        self._forms = sorted(forms, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return `text` without the secrets."""
        for form in self._forms:
            text = text.replace(form, "***")
        for form in self._forms:
            for length in range(len(form) - 1, MIN_BEGIN - 1, -1):
                if text.endswith(form[:length]):
                    return f"{text[:-length]}***"
        return text
