"""The path under which a proxy shows the service."""

from __future__ import annotations

from typing import Any, Optional

from starlette.types import Receive, Scope, Send

from ..app import ChatApp
from ..rules import is_path


class ForwardedPrefix:
    """Sets `root_path` of each request as ASGI wants it: `path` begins with it.

    It is X-Forwarded-Prefix from a proxy that uvicorn trusts, if that is a path, and else the one
    of the settings. Most proxies that know of such a prefix take it off the path, and uvicorn puts
    that of the settings in front of every path. Here a path that still has it is left alone.
    """

    _asgi_single_callable = True  # it is no app of ASGI 2, see RequestIDMiddleware

    def __init__(self, app: Any, chat: ChatApp, root_path: str) -> None:
        self._app = app
        self._chat = chat
        self._root_path = root_path
        self._proxies = app.trusted_hosts

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Any:
        # A plain function: nothing is added to the way of a frame.
        if scope["type"] == "http":
            given = [value for name, value in scope["headers"] if name == b"x-forwarded-prefix"]
            if given or self._root_path:
                self._set(scope, self._forwarded(scope, given))
        return self._app(scope, receive, send)

    def _forwarded(self, scope: Scope, given: Any) -> Optional[str]:
        client = scope.get("client")
        if len(given) == 1 and (client[0] if client else None) in self._proxies:
            prefix = given[0].decode("latin-1").rstrip("/")
            if prefix and is_path(prefix):
                return str(prefix)
        return None

    def _set(self, scope: Scope, forwarded: Optional[str]) -> None:
        known = len(self._root_path)
        path, raw_path = scope["path"][known:], scope["raw_path"][known:]
        prefix = self._root_path if forwarded is None else forwarded
        scope["root_path"] = prefix
        if f"{path}/".startswith(f"{prefix}/") and not self._is_ours(path):
            scope["path"], scope["raw_path"] = path, raw_path
        else:
            scope["path"], scope["raw_path"] = prefix + path, prefix.encode("ascii") + raw_path

    def _is_ours(self, path: str) -> bool:
        """Whether it is the path of a route: then it has no prefix, whatever it begins with."""
        return any(path == getattr(route, "path", None) for route in self._chat.routes)
