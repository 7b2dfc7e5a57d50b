"""The way to a model provider: connections, requests, and which of them are sent again.

A request is sent again only while not one byte of an answer was passed on, and only where it cannot
have been answered, or was refused for the moment. The number of tries and the deadline of the first
frame bound it all, the wait for a free connection included.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import anyio
import msgspec

try:
    import httpx
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise ModuleNotFoundError(
        "httpx is missing: pip install 'omniforge-chat[providers]'", name="httpx"
    ) from None

from ...errors import SettingsError, UpstreamError, UpstreamTimeout
from ...logs import logger
from .errors import Failure, refused
from .stream import BROKEN, Exchange, describe

TRIES = 3
BACKOFF_SECONDS = 0.25
"""The longest wait before the second try; each further one waits up to twice as long."""

MAX_REFUSAL_BYTES = 64 * 1024
REFUSAL_SECONDS = 2.0
"""How much of a refusal's body is read, and for how long, to find the provider's reason."""

KEEPALIVE_CONNECTIONS = 20
"""Idle connections that are kept. The pool looks at each of them for every request."""
KEEPALIVE_SECONDS = 30.0


# The certificates that are trusted: read once, as that takes longer than many a request.
_tls = functools.lru_cache(maxsize=1)(httpx.create_ssl_context)


class _Pool(msgspec.Struct):
    """What one event loop has: the connections, and the room for replies that are read at once.

    `fresh` keeps no connection, for requests that must not meet a stale one again.
    """

    client: httpx.AsyncClient
    fresh: httpx.AsyncClient
    room: anyio.Semaphore
    closed: bool = False


class Upstream:
    """One address that answers POST requests with streams.

    The connections are opened at first use, and belong to the event loop that runs then; another
    loop gets its own. A `client` that is given is used as it is, and never closed. `secrets` are
    struck out of all that is logged and shown. Times are in seconds, infinite where a limit is off.

    Raises SettingsError where the variables that httpx reads keep it from making a client.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        secrets: Tuple[str, ...],
        first_chunk_timeout: float,
        idle_timeout: float,
        connect_timeout: float,
        max_connections: int,
        client: Optional[httpx.AsyncClient],
    ) -> None:
        self._url = url
        self._headers = dict(headers)
        self._secrets = secrets
        self._first_chunk_timeout = first_chunk_timeout
        self._idle_timeout = idle_timeout
        self._connect_timeout = connect_timeout
        self._max_connections = max_connections
        self._given = client
        if client is None:
            _check_environment()  # now, and not while an event loop waits for it
        self._pools: Dict[asyncio.AbstractEventLoop, _Pool] = {}

    async def open(self, body: bytes, request_id: str) -> Exchange:
        """The provider's answer to `body`, as soon as its head has come with status 200.

        Raises UpstreamError (or what is derived from it), after everything that was worth a try.
        """
        # The connections expect to be cancelled by a scope of anyio's, which lets them finish what
        # must not be torn. So a task of its own asks, and whoever cancels this one ends that scope.
        scope = anyio.CancelScope()
        asking = asyncio.ensure_future(self._ask(body, request_id, scope))
        try:
            await asyncio.wait([asking])
        except asyncio.CancelledError:
            scope.cancel()
            await asyncio.shield(asyncio.ensure_future(_leave(asking)))
            raise
        answer = asking.result()
        if isinstance(answer, Failure):
            raise self._fail(request_id, answer)
        return answer

    async def aclose(self) -> None:
        """Close the connections of the running loop. The next request would open new ones."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            pool.closed = True
            if self._given is None:
                both = asyncio.gather(pool.client.aclose(), pool.fresh.aclose())
                await asyncio.shield(both)

    async def _ask(
        self, body: bytes, request_id: str, scope: anyio.CancelScope
    ) -> Union[Exchange, Failure]:
        """The answer after as many tries as it takes, or why there is none."""
        pool = self._pool()
        scope.deadline = deadline = anyio.current_time() + self._first_chunk_timeout
        with scope:
            await pool.room.acquire()
            answer: Union[httpx.Response, Failure, None] = None
            try:
                answer = await self._try(pool, body, request_id, deadline)
            finally:
                if not isinstance(answer, httpx.Response):
                    pool.room.release()
            if isinstance(answer, Failure):
                return answer
            return Exchange(
                answer,
                deadline=deadline,
                first_chunk_timeout=self._first_chunk_timeout,
                idle_timeout=self._idle_timeout,
                fail=functools.partial(self._fail, request_id),
                closed=pool.room.release,
            )
        message = f"did not begin to answer within {self._first_chunk_timeout:g} seconds"
        return Failure(UpstreamTimeout, f"The model provider {message}", "silence")

    async def _try(
        self, pool: _Pool, body: bytes, request_id: str, deadline: float
    ) -> Union[httpx.Response, Failure]:
        """Send the request up to TRIES times; after a stale connection, on one that is new."""
        client, stale = pool.client, False
        for tried in range(1, TRIES + 1):
            if pool.closed:
                message = "The model provider cannot be reached any more"
                return Failure(UpstreamError, message, "the responder was closed")
            answer = await self._send(client, body)
            if not isinstance(answer, Failure):
                break
            wait = 0.0
            if not answer.stale:
                wait = BACKOFF_SECONDS * 2 ** (tried - 1) * random.uniform(0.5, 1.0)
                wait += answer.wait or 0.0  # all who were told the same do not come back as one
            again = answer.again or (answer.stale and not stale)
            if not again or tried == TRIES or anyio.current_time() + wait > deadline:
                break
            if answer.stale:
                client, stale = pool.fresh, True
            detail = self.strike(answer.detail)
            logger.info(
                "upstream tried again request_id=%s try=%d wait_ms=%d %s",
                *(request_id, tried + 1, 1000 * wait, detail),
            )
            await anyio.sleep(wait)
        return answer

    def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for other in list(self._pools):
                if other.is_closed():
                    self._pools.pop(other, None)
            pool = self._pools[loop] = _Pool(
                self._given or _new_client(min(KEEPALIVE_CONNECTIONS, self._max_connections)),
                self._given or _new_client(0),
                # Before the client and not in it: whoever leaves the queue of httpcore's pool in
                # the moment of being served leaves a connection there that nobody opens or closes.
                anyio.Semaphore(self._max_connections),
            )
        return pool

    async def _send(self, client: httpx.AsyncClient, body: bytes) -> Union[httpx.Response, Failure]:
        """One try: the open response, or why there is none."""
        first_step = ""

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal first_step
            first_step = first_step or event.split(".")[1]

        # Reads have no limit of httpx's: until the head has come the caller has set one, and after
        # that the exchange has its own, which a comment of the provider's does not reset.
        limits = {"connect": self._connect_timeout, "read": None, "write": None, "pool": None}
        request = client.build_request(
            "POST",
            self._url,
            content=body,
            headers=self._headers,
            extensions={"timeout": limits, "trace": trace},
        )
        try:
            response = await client.send(request, stream=True, follow_redirects=False)
            if response.status_code == 200:
                encoding = response.headers.get("content-encoding", "identity").lower()
                if encoding == "identity":
                    return response
                await response.aclose()
                message = "The model provider sent something that cannot be read"
                return Failure(UpstreamError, message, f"content_encoding={encoding}")
            body = await _start(response)
            return refused(response.status_code, response.headers, body, self.strike)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            message = "The model provider cannot be reached"
            return Failure(UpstreamError, message, describe(error), again=True)
        except BROKEN as error:
            # A connection out of the pool that the provider had closed already, most likely: nobody
            # has seen the request. On a new connection the provider may have begun to work for us,
            # and where what came is no HTTP (the same exception with other words), it has. A new
            # one begins with steps of its own; a transport that tells none is trusted with nothing.
            silent = isinstance(error, httpx.NetworkError) or "disconnected" in str(error)
            message = "The model provider closed the connection without an answer"
            stale = silent and first_step == "send_request_headers"
            return Failure(UpstreamError, message, describe(error), stale=stale)

    def _fail(self, request_id: str, failure: Failure) -> UpstreamError:
        """Log a failure, and make the error that the client is told of."""
        error = msgspec.structs.replace(failure, message=self.strike(failure.message)).error()
        detail = self.strike(failure.detail)
        logger.warning("upstream failed request_id=%s code=%s %s", request_id, error.code, detail)
        return error

    def strike(self, text: str) -> str:
        """`text` without the secrets."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


def is_address(url: str) -> bool:
    """Whether a request can be sent to `url`; the client itself tells only with the first one."""
    try:
        return bool(httpx.URL(url).host)
    except (httpx.InvalidURL, ValueError):  # the latter for what is no name by IDNA
        return False


def is_client(candidate: object) -> bool:
    """Whether it is a client for an event loop."""
    return isinstance(candidate, httpx.AsyncClient)


def _check_environment() -> None:
    """Raises SettingsError for variables of httpx's, which would fail every request."""
    try:
        _tls()
    except OSError as error:  # that of ssl is one, too
        name = "SSL_CERT_FILE" if "SSL_CERT_FILE" in os.environ else "SSL_CERT_DIR"
        expected = f"certificates that can be read; {describe(error)}"
        if error.filename and error.filename == os.environ.get("SSLKEYLOGFILE"):
            name, expected = "SSLKEYLOGFILE", "a file that can be written"
        raise SettingsError(name, os.environ.get(name), expected) from None
    try:
        _new_client(1)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        names = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
        found = [name for name in names if {name, name.lower()} & set(os.environ)]
        expected = f"a proxy that httpx can use; {type(error).__name__}"
        if isinstance(error, ImportError):
            expected = "a proxy that httpx can use; for SOCKS, pip install 'httpx[socks]'"
        raise SettingsError(" or ".join(found) or "proxy", "***", expected) from None


def _new_client(kept: int) -> httpx.AsyncClient:
    """A client that keeps so many idle connections."""
    limits = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=kept,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    return httpx.AsyncClient(limits=limits, verify=_tls())


async def _leave(asking: asyncio.Future[Union[Exchange, Failure]]) -> None:
    """Close what a request still comes to whose asker has left."""
    await asyncio.wait([asking])
    if not asking.cancelled() and asking.exception() is None:
        answer = asking.result()
        if isinstance(answer, Exchange):
            await answer.aclose()


async def _start(response: httpx.Response) -> bytes:
    """The start of a refusal's body, or of what there is of it."""
    body = bytearray()
    try:
        with anyio.move_on_after(REFUSAL_SECONDS):
            async for part in response.aiter_raw():
                body += part
                if len(body) >= MAX_REFUSAL_BYTES:
                    break
    except BROKEN:
        pass  # the status is known, and that is what counts
    finally:
        await response.aclose()
    return bytes(body[:MAX_REFUSAL_BYTES])
