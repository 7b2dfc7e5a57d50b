"""The fields that one provider refuses, and those that it gets in their place."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional

import msgspec

from .errors import Failure

_encode = msgspec.json.Encoder().encode


class Substitutes:
    """Knows which fields a provider has refused, for all requests to it.

    `known` has each field that some servers do not know, and the name to send in its place; None
    leaves it out. `learned` has those of them that this provider has refused.
    """

    def __init__(self, substitutes: Mapping[str, Optional[str]]) -> None:
        self.known = substitutes
        self.learned: Dict[str, Optional[str]] = {}

    def draft(self, fields: Mapping[str, Any]) -> Draft:
        """Begin a request, without the fields that were refused before."""
        return Draft(self, fields)


class Draft:
    """One request, until the provider has taken it."""

    def __init__(self, substitutes: Substitutes, fields: Mapping[str, Any]) -> None:
        self._substitutes = substitutes
        self.fields = dict(fields)
        self._replaced: Dict[str, Optional[str]] = {}
        for name, other in substitutes.learned.items():
            self._replace(name, other)

    def encode(self) -> bytes:
        """The body."""
        return _encode(self.fields)

    def revise(self, failure: Failure) -> bool:
        """Replace the field that the provider does not know; False if it complains of another.

        No field is replaced twice, so that this comes to an end.
        """
        for name, other in self._substitutes.known.items():
            known = name in self.fields and name not in self._replaced.values()
            if known and failure.refuses(name):
                self._replaced[name] = other
                self._replace(name, other)
                return True
        return False

    def accepted(self) -> List[str]:
        """Keep what was learned, as the provider has taken the request; return what is new."""
        news = []
        for name, other in self._replaced.items():
            if other is not None and self._substitutes.learned.get(other) == name:
                del self._substitutes.learned[other]
            elif name not in self._substitutes.learned:
                self._substitutes.learned[name] = other
                news.append(f"{name} is {f'sent as {other}' if other else 'left out'}")
        return news

    def _replace(self, name: str, other: Optional[str]) -> None:
        if name in self.fields:
            value = self.fields.pop(name)
            if other is not None:
                self.fields[other] = value
