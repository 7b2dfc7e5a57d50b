"""The way to a chat past the router."""

from __future__ import annotations

from typing import Awaitable, Optional, Sequence

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from .paths import leads_to


class DirectWay:
    """Calls a chat directly, past the router, because most requests are for its path.

    The router and Starlette's layers for errors take a good part of the time of a short chat, and
    some more calls for each token of a long one. The route still exists: for other methods, for
    tools that list the routes, and for a host that has put something around it.
    """

    def __init__(self, app: ASGIApp, router: Router, routes: Sequence[Route]) -> None:
        self._app = app
        self._router = router
        self._routes = routes
        self._by_path = {route.path: route for route in routes}

    # A plain function, but no app of ASGI 2: see RequestIDMiddleware.
    _asgi_single_callable = True

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._by_path.get(scope["path"]) or self._led_to(scope)
            if route is not None and self._is_first(route):
                # The router sets these too, for middleware that counts by route.
                scope.setdefault("router", self._router)
                endpoint: ASGIApp = route.endpoint
                scope["endpoint"] = endpoint
                scope["route"] = route
                scope.setdefault("path_params", {})
                return endpoint(scope, receive, send)
        return self._app(scope, receive, send)

    def _led_to(self, scope: Scope) -> Optional[Route]:
        return next((route for route in self._routes if leads_to(scope, route.path)), None)

    def _is_first(self, route: Route) -> bool:
        """Whether the router would come to the chat, with nothing of a host's before it."""
        router = self._router
        return (
            type(router) is Router  # else it is the host's
            and router.middleware_stack == router.app  # else the host has wrapped it
            and route.app == route.endpoint  # the same
            and router.routes[: len(self._routes)] == self._routes  # else one in front may match
        )
