"""Who asks, and whether they may have one more: found out before the body of a request is read."""

from __future__ import annotations

import inspect
from typing import Awaitable, Callable, Optional, Sequence, Tuple

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..access import Limiter, Pass, make_credentials, make_limiter, read_secret, subject_of
from ..errors import AccessUnavailable, Forbidden, RequestError, Unauthorized
from ..logs import logger
from ..models import Caller
from ..request_id import request_id
from ..settings import Settings
from ..stores import SharedRedis, make_redis
from ..stream.deadline import Deadline
from ..stream.lifecycle import Lifecycle
from .responses import internal_error

CALLER = "omniforge_chat.caller"
"""The key in the scope of a request under which its Caller is, once it is known."""

Authenticate = Callable[[HTTPConnection], Awaitable[Optional[Caller]]]
"""A function of a host that says who asks, or None. It may raise Forbidden."""

CREDENTIAL_HEADERS = ("Authorization", "X-API-Key")
LIMIT_HEADERS = ("RateLimit", "RateLimit-Policy")
"""The headers of requests and responses that there are if callers are known, or limited."""


class _Free:
    """The Pass of a request that nothing limits."""

    headers: Sequence[Tuple[bytes, bytes]] = ()

    async def produce(self) -> None:
        """See Pass."""

    def leave(self, tokens: int) -> None:
        """See Pass."""


FREE: Pass = _Free()


class Access:
    """Knows who may use one app, by keys and tokens or by what a host says, and how much.

    `authenticate` is the host's own function. Without one, a user is known whom Starlette's
    AuthenticationMiddleware has found. Pass one Access to `chat_routes`, and close it at the end;
    an app makes and closes its own. Limits in Redis get a connection of their own, unless `redis`
    is one. Raises TypeError if `authenticate` is no async function, and SettingsError.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        authenticate: Optional[Authenticate] = None,
        redis: Optional[SharedRedis] = None,
    ) -> None:
        if authenticate is not None and not _is_async(authenticate):
            raise TypeError("authenticate must be an async function of the connection")
        self._settings = settings
        self._authenticate = authenticate
        self._credentials = make_credentials(settings)
        self._own_redis: Optional[SharedRedis] = None
        if redis is None and settings.limits == "redis":
            redis = self._own_redis = make_redis(settings)
        self._limiter: Optional[Limiter] = make_limiter(
            settings, redis, callers_differ=authenticate is not None
        )
        self.has_keys = self._credentials is not None
        """Whether it knows callers by a key or a token in the headers of a request."""
        self.asks = authenticate is not None or self.has_keys
        """Whether only those may chat who are known."""
        self.limits = self._limiter is not None
        """Whether there may be a bound for anybody."""
        self.acts = self.asks or self.limits
        """Whether there is anything to do for a request."""

    async def check(
        self, scope: Scope, lifecycle: Lifecycle, may: str = "chat"
    ) -> Optional[Caller]:
        """Who asks; None if nobody needs to say. `caller_of` knows it from now on.

        Raises Unauthorized, Forbidden if they may not do what `may` says, and AccessUnavailable.
        """
        caller = self._known(scope)
        if caller is None and self.asks:
            # Nothing that asks somebody else may take for ever.
            deadline = Deadline(self._settings.body_timeout, _late, lifecycle)
            caller = await deadline.run(self._find(scope))
        if caller is not None:
            scope[CALLER] = caller
            if may not in caller.may:
                raise Forbidden("You may not do this here")
        return caller

    def _known(self, scope: Scope) -> Optional[Caller]:
        """Who asks, if nobody has to be asked for that. A host's function is, in any case."""
        if self._authenticate is not None:
            found: Optional[Caller] = scope.get(CALLER)
            return found
        try:
            return caller_of(scope)
        except Exception:  # whatever a user of a host's own class does
            reference = request_id(scope)
            logger.exception('scope["user"] cannot be a caller request_id=%s', reference)
            raise internal_error(scope) from None

    async def _find(self, scope: Scope) -> Caller:
        secret = read_secret(dict(scope["headers"]))
        caller: Optional[Caller] = None
        if self._authenticate is not None:
            caller = await _asked(self._authenticate, scope)
        if caller is None and self._credentials is not None and secret is not None:
            caller = await self._credentials.find(secret)
        if caller is not None:
            return caller
        if secret is None:
            raise Unauthorized("A key or a token is needed, as Authorization: Bearer")
        raise Unauthorized("The key or token is not valid")

    async def enter(self, scope: Scope, lifecycle: Lifecycle, *, reads: bool) -> Pass:
        """Let a request that asks for a stream go on; the `leave` of its Pass ends it.

        Whoever `reads` a kept reply does not begin one. Raises as `check` does, and RateLimited and
        LimitsUnavailable.
        """
        caller = await self.check(scope, lifecycle)
        limiter = self._limiter
        if limiter is None:
            return FREE
        allowance = self._settings.allowance
        if caller is not None and caller.allowance is not None:
            allowance = caller.allowance
        client = scope.get("client")
        subject = subject_of(None if caller is None else caller.id, client[0] if client else "")
        return await limiter.enter(subject, allowance, reads=reads)

    async def aclose(self) -> None:
        """Close what is open in this event loop."""
        if self._credentials is not None:
            await self._credentials.aclose()
        if self._limiter is not None:
            await self._limiter.aclose()
        if self._own_redis is not None:
            await self._own_redis.aclose()


def caller_of(scope: Scope) -> Optional[Caller]:
    """Who asks, as `Access` or a layer around the chat has found out, or None.

    Starlette's AuthenticationMiddleware is such a layer. Raises ValueError if the identity of its
    user is no id, and whatever the user raises.
    """
    known: Optional[Caller] = scope.get(CALLER)
    if known is not None:
        return known
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    try:
        identity = user.identity
    except (AttributeError, NotImplementedError):  # as Starlette's SimpleUser has it
        identity = user.display_name
    if identity is None:
        raise ValueError("the identity of an authenticated user must not be None")
    scopes = getattr(scope.get("auth"), "scopes", ())
    return Caller(str(identity), frozenset({"chat", *scopes}))


def owner_of(scope: Scope) -> str:
    """The id of who asks, or "". Conversations and replies belong to the owner."""
    caller = caller_of(scope)
    return "" if caller is None else caller.id


async def _asked(authenticate: Authenticate, scope: Scope) -> Optional[Caller]:
    try:
        caller = await authenticate(HTTPConnection(scope))
        if caller is not None and not isinstance(caller, Caller):
            raise TypeError(f"authenticate must return a Caller, not {type(caller).__name__}")
        return caller
    except RequestError:
        raise
    except Exception as error:
        known = {401: Unauthorized, 403: Forbidden}
        if isinstance(error, HTTPException) and error.status_code in known:
            problem = known[error.status_code](str(error.detail))  # a host's usual way
            challenge = Headers(error.headers or {}).get("WWW-Authenticate")
            if challenge is not None:
                problem.headers = {"WWW-Authenticate": challenge}
            raise problem from None
        logger.exception("authenticate failed request_id=%s", request_id(scope))
        raise internal_error(scope) from None


def _late(seconds: float) -> AccessUnavailable:
    return AccessUnavailable(f"It was not found out within {seconds:g} s who asks")


def _is_async(function: object) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004 # it may be an object
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
