"""The numbers of the service, as Prometheus reads them."""

from __future__ import annotations

from typing import Awaitable, Callable, List, Optional, Sequence

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp

from ..errors import RequestError
from ..observe import Exposition
from ..replay import RedisReplay, Replay
from ..request_id import RequestIDMiddleware, request_id
from ..settings import Settings
from ..stream.lifecycle import Lifecycle
from ..stream.refusals import Refusals
from .access import Access
from .hosts import AllowedHosts
from .paths import ChatRoute
from .responses import error_response


def metrics_routes(
    exposition: Exposition,
    settings: Settings,
    lifecycle: Lifecycle,
    replay: Optional[Replay],
    access: Access,
) -> List[Route]:
    """`GET /metrics`, if the app has it; else they are told at an address of their own.

    The numbers of streams, and of what is kept, are added to those of `exposition`.
    """
    gauges = exposition.metrics.gauges
    gauges["omniforge_open_streams"] = lambda: lifecycle.open_streams
    gauges["omniforge_max_streams"] = lambda: lifecycle.max_streams
    gauges["omniforge_detached_streams"] = lambda: lifecycle.detached_streams
    if isinstance(replay, RedisReplay):
        gauges["omniforge_replay_unstored_characters"] = lambda: replay.unstored
        gauges["omniforge_replay_behind_seconds"] = lambda: replay.behind
    return [_guarded(exposition, lifecycle, access)] if settings.metrics == "on" else []


def metrics_page(exposition: Exposition, hosts: Sequence[str], refusals: Refusals) -> ASGIApp:
    """An app that has nothing else, and answers to these `hosts`, or to any if there are none.

    It asks nobody who they are.
    """

    async def metrics(request: Request) -> Response:
        return await _answer(exposition, request)

    page = Router([_route(metrics)], redirect_slashes=False)
    return AllowedHosts(page, hosts, refusals, ()) if hosts else page


def _guarded(exposition: Exposition, lifecycle: Lifecycle, access: Access) -> Route:
    async def metrics(request: Request) -> Response:
        try:
            await access.check(request.scope, lifecycle, may="metrics")
        except RequestError as error:
            lifecycle.refusals.count(error, request_id(request.scope), request.scope)
            return error_response(error)
        return await _answer(exposition, request)

    return _route(metrics)


def _route(metrics: Callable[[Request], Awaitable[Response]]) -> Route:
    return ChatRoute("/metrics", metrics, middleware=[Middleware(RequestIDMiddleware)])


async def _answer(exposition: Exposition, request: Request) -> Response:
    try:
        text, kind = await exposition.render(request.headers.get("accept", ""))
    except OSError:  # wrong numbers would be worse than none
        headers = {"Cache-Control": "no-store"}
        return PlainTextResponse("The numbers of all workers cannot be had", 503, headers)
    return Response(text, headers={"Content-Type": kind, "Cache-Control": "no-store"})
