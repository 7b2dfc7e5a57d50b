"""One request for a stream that may go on, on its way through the chat."""

from __future__ import annotations

from typing import Mapping, NamedTuple

from starlette.types import Receive, Scope, Send

from ..access import Pass
from .access import FREE


class Visit(NamedTuple):
    """`full` says whether every place was taken when it came."""

    scope: Scope
    headers: Mapping[bytes, bytes]
    receive: Receive
    send: Send
    passed: Pass = FREE
    full: bool = False
