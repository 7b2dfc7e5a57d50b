"""The fields of a request that one provider takes, learned from its refusals."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

import msgspec

from .errors import Failure

_encode = msgspec.json.Encoder().encode


class Dialect:
    """Knows which fields a provider has refused, for all requests to it.

    `substitutes` has each field that some servers do not know, and the name to send in its place;
    None leaves it out.
    """

    def __init__(self, substitutes: Mapping[str, Optional[str]]) -> None:
        self.substitutes = substitutes
        self.learned: Dict[str, Optional[str]] = {}

    def draft(self, fields: Mapping[str, Any]) -> Draft:
        """Begin a request, without the fields that were refused before."""
        return Draft(self, fields)


class Draft:
    """One request, until the provider has taken it."""

    def __init__(self, dialect: Dialect, fields: Mapping[str, Any]) -> None:
        self._dialect = dialect
        self._fields = dict(fields)
        self._replaced: Dict[str, Optional[str]] = {}
        for name, other in dialect.learned.items():
            self._replace(name, other)

    def encode(self) -> bytes:
        """The body."""
        return _encode(self._fields)

    def revise(self, failure: Failure) -> bool:
        """Replace the field that the provider does not know; False if it complains of another.

        No field is replaced twice, so that this comes to an end.
        """
        for name, other in self._dialect.substitutes.items():
            known = name in self._fields and name not in self._replaced.values()
            if known and failure.refuses(name):
                self._replaced[name] = other
                self._replace(name, other)
                return True
        return False

    def accepted(self) -> List[str]:
        """Keep what was learned, as the provider has taken the request; return what is new."""
        news = []
        for name, other in self._replaced.items():
            if other is not None and self._dialect.learned.get(other) == name:
                del self._dialect.learned[other]
            elif name not in self._dialect.learned:
                self._dialect.learned[name] = other
                news.append(f"{name} is {f'sent as {other}' if other else 'left out'}")
        return news

    def _replace(self, name: str, other: Optional[str]) -> None:
        if name in self._fields:
            value = self._fields.pop(name)
            if other is not None:
                self._fields[other] = value
