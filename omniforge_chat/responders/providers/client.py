"""The way to a provider: requests, and those that are sent again.

A request is sent again only if nothing of an answer was passed on, and if it either cannot have
been answered or was refused for the moment. Two limits hold for all of it, the wait for a free
connection included: the number of tries, and the deadline of the first frame.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
from typing import Any, Mapping, Union
from urllib.parse import urlencode

import anyio
import httpx
import msgspec

from ...errors import UpstreamError
from ...logs import logger
from .attempts import Attempts
from .body import BROKEN, Body, compression
from .connections import Connections, Pool
from .errors import UNREADABLE, Failure, describe, header, refused, silent
from .options import ProviderOptions
from .reasons import one_line
from .redaction import Redactor
from .stream import CUT, ProviderStream
from .substitutes import Draft, Substitutes

TRIES = 3
BACKOFF_SECONDS = 0.25
"""The longest wait before the second try; each further one waits up to twice as long."""

EVENTS = "text/event-stream"

MAX_DETAIL_CHARACTERS = 500
"""The longest description of a failure in the log: its reason, status, names and headers."""


class ProviderClient:
    """Sends POST requests to `path` at one provider, and opens the streams that answer them.

    All that is logged and shown is redacted. Raises SettingsError as Connections does.
    """

    def __init__(
        self,
        options: ProviderOptions,
        path: str,
        headers: Mapping[str, str],
        substitutes: Substitutes,
    ) -> None:
        query = f"?{urlencode(options.extra_query)}" if options.extra_query else ""
        self._url = f"{options.url}{path}{query}"
        ours = {
            "Accept": EVENTS,
            # A compressor may hold a token back until it has more to compress.
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            **headers,
        }
        theirs = options.extra_headers or {}
        given = {name.lower() for name in theirs}
        kept = {name: value for name, value in ours.items() if name.lower() not in given}
        self._headers = {**kept, **theirs}
        self._options = options
        # Infinite if they are off.
        self._first_chunk_timeout = options.first_chunk_timeout or math.inf
        self._idle_timeout = options.idle_timeout or math.inf
        self._connections = Connections(options)
        self.redact = Redactor((*options.secrets, *self._connections.secrets))
        self._substitutes = substitutes

    async def open(
        self, fields: Mapping[str, Any], request_id: str, attempts: Attempts
    ) -> ProviderStream:
        """Return the answer to these fields, as soon as its start shows that it is a stream.

        `attempts` are told of each request.

        Raises UpstreamError, or a class derived from it, after the last try.
        """
        # httpcore finishes its clean-up if a scope of anyio's cancels it, and not if the task is
        # cancelled. So the request has a task of its own, and a cancellation here ends its scope.
        scope = anyio.CancelScope()
        request = asyncio.ensure_future(self._request(fields, request_id, attempts, scope))
        try:
            await asyncio.wait([request])
        except asyncio.CancelledError:
            scope.cancel()
            await asyncio.shield(asyncio.ensure_future(_discard(request)))
            raise
        answer = request.result()
        if isinstance(answer, Failure):
            raise self._fail(request_id, answer)
        return answer

    async def aclose(self) -> None:
        """Close the connections of the running loop. The next request would open new ones."""
        await self._connections.aclose()

    async def _request(
        self,
        fields: Mapping[str, Any],
        request_id: str,
        attempts: Attempts,
        scope: anyio.CancelScope,
    ) -> Union[ProviderStream, Failure]:
        """Wait for room, and try until there is an answer, or a reason why there is none."""
        pool = self._connections.pool()
        scope.deadline = deadline = anyio.current_time() + self._first_chunk_timeout
        with scope:
            await pool.room.acquire()
            answer: Union[Body, Failure, None] = None
            try:
                draft = self._substitutes.draft(fields)
                answer = await self._try(pool, draft, request_id, attempts, deadline)
            finally:
                if not isinstance(answer, Body):
                    pool.room.release()
            if isinstance(answer, Failure):
                return answer
            return ProviderStream(
                answer,
                deadline=deadline,
                first_chunk_timeout=self._first_chunk_timeout,
                idle_timeout=self._idle_timeout,
                fail=functools.partial(self._fail, request_id),
                closed=pool.room.release,
            )
        return silent(self._first_chunk_timeout, begun=False)

    async def _try(
        self, pool: Pool, draft: Draft, request_id: str, attempts: Attempts, deadline: float
    ) -> Union[Body, Failure]:
        """Send the request up to TRIES times; after a stale connection, on a new one."""
        client, stale = pool.client, False
        for tried in range(1, TRIES + 1):
            answer = await self._offer(pool, client, draft, request_id, attempts)
            if not isinstance(answer, Failure):
                break
            wait = 0.0
            if not answer.stale:
                wait = BACKOFF_SECONDS * 2 ** (tried - 1) * random.uniform(0.5, 1.0)
                wait += answer.wait or 0.0  # so that not all come back at once
            again = answer.again or (answer.stale and not stale)
            if not again or tried == TRIES or anyio.current_time() + wait > deadline:
                break
            if answer.stale:
                client, stale = pool.fresh, True
            logger.info(
                "upstream tried again request_id=%s try=%d wait_ms=%d %s",
                *(request_id, tried + 1, 1000 * wait, self._detail(answer)),
            )
            await anyio.sleep(wait)
        return answer

    async def _offer(
        self,
        pool: Pool,
        client: httpx.AsyncClient,
        draft: Draft,
        request_id: str,
        attempts: Attempts,
    ) -> Union[Body, Failure]:
        """Send it, and once more for each field that the provider does not know."""
        while not pool.closed:
            further = attempts.begin(draft.fields)
            answer = await self._send(client, draft.encode(), further, attempts)
            if isinstance(answer, Body):
                for news in draft.accepted():
                    logger.info("upstream: from now on %s, which the provider asked for", news)
                return answer
            attempts.failed(answer.error())
            if not draft.revise(answer):
                return answer
            detail = self._detail(answer)
            logger.info("upstream sent again request_id=%s %s", request_id, detail)
        message = "The model provider cannot be reached any more"
        return Failure(UpstreamError, message, "the responder was closed")

    async def _send(
        self,
        client: httpx.AsyncClient,
        body: bytes,
        further: Mapping[str, str],
        attempts: Attempts,
    ) -> Union[Body, Failure]:
        """Send it once, with `further` headers: return the body of its answer, or why not."""
        first_step = ""

        async def trace(event: str, info: Mapping[str, Any]) -> None:
            nonlocal first_step
            first_step = first_step or event.split(".")[1]

        # httpx does not limit the reads: until the head has come `_request` does, and then the
        # stream, whose limit a comment of the provider's does not reset.
        limits = {
            "connect": self._options.connect_timeout,
            "read": None,
            "write": None,
            "pool": None,
        }
        request = client.build_request(
            "POST",
            self._url,
            content=body,
            headers=self._with(further) if further else self._headers,
            extensions={"timeout": limits, "trace": trace},
        )
        try:
            response = await client.send(request, stream=True, follow_redirects=False)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            message = "The model provider cannot be reached"
            again = not isinstance(error, httpx.ProxyError)  # the proxy has refused
            return Failure(UpstreamError, message, describe(error), again=again)
        except BROKEN as error:
            # Most likely the provider had closed this connection of the pool, and nobody has seen
            # the request. Two cases differ. On a new connection, whose first step is another one,
            # the provider may have begun to work. And if it has sent something that is no HTTP (the
            # same exception with other words), it has seen the request. If the transport does not
            # tell its steps, the connection counts as a new one.
            silent_end = isinstance(error, httpx.NetworkError) or "disconnected" in str(error)
            message = "The model provider closed the connection without an answer"
            if not silent_end:
                message = UNREADABLE
            stale = silent_end and first_step == "send_request_headers"
            return Failure(UpstreamError, message, describe(error), stale=stale)
        attempts.responded(response.status_code)
        return await self._judge(response)

    def _with(self, further: Mapping[str, str]) -> Mapping[str, str]:
        """Our headers with `further` ones, which replace none."""
        given = {name.lower() for name in self._headers}
        kept = {name: value for name, value in further.items() if name.lower() not in given}
        return {**self._headers, **kept}

    async def _judge(self, response: httpx.Response) -> Union[Body, Failure]:
        """Tell a stream from a refusal, by the status and by the start of the body."""
        body = Body(response, response.aiter_raw())
        encoding = compression(response.headers)
        opened = False
        try:
            if response.is_success:
                if encoding and response.headers.get("content-type", "").startswith(EVENTS):
                    detail = header(response.headers, "content-encoding", self.redact)
                    return Failure(UpstreamError, UNREADABLE, detail)
                if not encoding:
                    await body.read_start()
                    opened = body.is_stream
            if opened:
                return body
            text = await body.refusal()
            return refused(response.status_code, response.headers, text, self.redact)
        except BROKEN as error:
            return Failure(UpstreamError, CUT, describe(error))
        finally:
            if not opened:
                with anyio.CancelScope(shield=True):
                    await response.aclose()

    def _detail(self, failure: Failure) -> str:
        return one_line(failure.detail, self.redact, MAX_DETAIL_CHARACTERS)

    def _fail(self, request_id: str, failure: Failure) -> UpstreamError:
        """Log a failure; return the error that the client is told of."""
        error = msgspec.structs.replace(failure, message=self.redact(failure.message)).error()
        detail = self._detail(failure)
        if failure.status in (404, 405) and self._options.has_no_path:
            detail += " advice='most servers want a base URL with /v1 at its end'"
        if self._connections.proxy is not None:
            detail += f" proxy={self._connections.proxy}"
        logger.warning("upstream failed request_id=%s code=%s %s", request_id, error.code, detail)
        return error


async def _discard(request: asyncio.Future[Union[ProviderStream, Failure]]) -> None:
    """Close the answer to a request, if there still comes one."""
    await asyncio.wait([request])
    if not request.cancelled() and request.exception() is None:
        answer = request.result()
        if isinstance(answer, ProviderStream):
            await answer.aclose()
