"""One request for a stream that may go on, on its way through the chat."""

from __future__ import annotations

from typing import Mapping

import msgspec
from starlette.types import Receive, Scope, Send

from ..access import Pass
from .access import FREE


class Visit(msgspec.Struct, frozen=True, gc=False):  # half the time of a NamedTuple
    """`full` says whether every place was taken when it came."""

    scope: Scope
    headers: Mapping[bytes, bytes]
    receive: Receive
    send: Send
    passed: Pass = FREE
    full: bool = False
