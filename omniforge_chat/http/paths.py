"""The path of a request: which route it means, however servers and hosts write it.

By the ASGI specification `path` begins with `root_path`. uvicorn does that. Hypercorn, Granian and
Daphne take `root_path` from a setting and leave it out of `path`, because a proxy has removed it.
A host that mounts the app may do either, may add its own part to `root_path` alone, and Litestar
moves the slash at the beginning to the end. Each of these has one meaning only if the path ends
with that of a route, and nothing but a part of `root_path` is before it.
"""

from __future__ import annotations

from typing import Callable, Sequence, Tuple
from urllib.parse import unquote

from starlette.routing import Match, Route
from starlette.types import Scope

from ..dialects import Dialect, refusal
from ..errors import RequestError


def leads_to(scope: Scope, path: str) -> bool:
    """Whether a request with this `scope` is for the route at `path`, with or without a last slash.

    If its path is that of a route as it stands, it is that route, whatever `root_path` says.
    """
    given: str = scope["path"]
    if not given.startswith("/"):
        given = "/" + given
    if given.endswith("/"):
        given = given[:-1]
    if path == "/":
        path = ""
    if not given.endswith(path):
        return False
    before = given[: len(given) - len(path)]
    if not before:
        return True
    root_path = scope.get("root_path", "").rstrip("/")
    return before[0] == "/" and (root_path.endswith(before) or unquote(root_path).endswith(before))


def mount_path(scope: Scope, path: str) -> str:
    """The prefix of the app, without a last slash, as its route at `path` is asked.

    If `root_path` does not tell, the path that the client has sent does.
    """
    root_path: str = scope.get("root_path", "").rstrip("/")
    sent = unquote((scope.get("raw_path") or b"").decode("latin-1")).rstrip("/")
    return root_path or (sent[: -len(path)] if sent.endswith(path) else "")


def shape_at(
    scope: Scope, dialects: Sequence[Dialect]
) -> Callable[[RequestError], Tuple[bytes, str]]:
    """The form of errors at the path of a request: that of the format whose path it is."""
    for dialect in dialects:
        if leads_to(scope, dialect.path):
            return dialect.refusal
    root_path, path = scope.get("root_path", ""), scope["path"]
    for dialect in dialects:
        if dialect.base and path.startswith((dialect.base, root_path + dialect.base)):
            return dialect.refusal
    return refusal


class ChatRoute(Route):
    """A route that is found by each path that can only mean it."""

    def matches(self, scope: Scope) -> Tuple[Match, Scope]:
        """As Starlette has it, and if that finds nothing, as `leads_to` has it."""
        match, child_scope = super().matches(scope)
        if match == Match.NONE and scope["type"] == "http":
            path = self.path
            if self.param_convertors:  # each parameter is one part of the path
                parts = scope["path"].strip("/").split("/")[-path.count("/") :]
                path = "/" + "/".join(parts)
            if leads_to(scope, path):
                return super().matches({**scope, "path": path, "root_path": ""})
        return match, child_scope
