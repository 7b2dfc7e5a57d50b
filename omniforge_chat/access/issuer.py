"""The public keys of an issuer, which it may change at any time: its JWKS, fetched by httpx.

| when | then |
|---|---|
| no key is known yet, or a token names another one | they are fetched, and the request waits |
| the keys are older than an hour | they are fetched while the old ones hold |
| a fetch fails | the old ones hold |

However many tokens ask for it, there is one fetch at a time, and at most one in ten seconds:
whoever makes up the names of keys must not make this service a load for the issuer.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import ssl
from time import monotonic
from typing import AsyncGenerator, Callable, Dict, Optional, Sequence, Tuple, cast

import anyio
import httpx

from ..errors import AccessUnavailable
from ..logs import logger
from ..rules import SettingsError, masked, without_passwords
from .signing_keys import SigningKey, of_document

FETCH_SECONDS = 5.0
"""How long a fetch may take in all."""

PAUSE_SECONDS = 10.0
"""The time from one fetch to the next, at least."""

OLD_SECONDS = 3600.0
"""How old the keys may become before they are fetched again."""

MOST_BYTES = 256 * 1024
"""The largest JWKS."""

_HEADERS = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}


class Issuer:
    """The keys at `url`; none until they are first needed.

    It may be used in several event loops and threads. Each loop has its own fetch. `clock` tells
    seconds. Raises SettingsError if no request could ever be made.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = monotonic) -> None:
        self.keys: Tuple[SigningKey, ...] = ()
        """The last ones. Another tuple after each change."""
        self.name = masked(url).partition("?")[0]
        """Its address, for people."""
        self._clock = clock
        self._document = b""
        self._tried = self._fetched = -math.inf
        self._fault = ""  # of the last fetch
        self._fetches: Dict[asyncio.AbstractEventLoop, asyncio.Task[None]] = {}
        try:
            self._url = httpx.URL(url)
            if not self._url.host:
                raise httpx.InvalidURL("no host")
        except httpx.InvalidURL:
            expected = "an address such as https://id.example.com/jwks.json"
            raise SettingsError("jwt_jwks", self.name, expected) from None
        self._is_near = _is_loopback(self._url.host)
        try:
            self._tls = (
                httpx.create_ssl_context()  # now, as it takes longer than a request
                if self._url.scheme == "https"
                else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            )
        except OSError as error:
            expected = f"certificates that can be read (SSL_CERT_FILE, SSL_CERT_DIR): {error}"
            raise SettingsError("jwt_jwks", self.name, expected) from None

    @property
    def is_exposed(self) -> bool:
        """Whether somebody between here and there could replace the keys."""
        return self._url.scheme == "http" and not self._is_near

    def touch(self) -> None:
        """The keys are used: if they are old, begin to fetch them."""
        if self.keys and self._clock() - self._fetched >= OLD_SECONDS:
            self._begin()

    async def renew(self) -> Tuple[SigningKey, ...]:
        """The keys after another fetch, if one is due.

        Raises AccessUnavailable if the last fetch failed, or none has ended yet.
        """
        fetch = self._begin()
        if fetch is not None:
            await asyncio.wait([fetch])  # others may wait for it, too
        if self._fault or not self.keys:
            problem = AccessUnavailable("It cannot be found out now who you are: try again later")
            left = self._tried + PAUSE_SECONDS - self._clock()
            problem.retry_after = math.ceil(max(1.0, left))
            raise problem
        return self.keys

    async def check(self) -> int:
        """How many keys there are now. Nothing is kept, and nothing logged.

        Raises ValueError, which says what is wrong.
        """
        try:
            return len(of_document(await self._read()))
        except Exception as error:
            raise ValueError(_told(error)) from None

    async def aclose(self) -> None:
        """End the fetch of this event loop."""
        fetch = self._fetches.get(asyncio.get_running_loop())
        if fetch is not None:
            fetch.cancel()
            await asyncio.wait([fetch])

    def _begin(self) -> Optional[asyncio.Task[None]]:
        """The fetch of this loop, which begins now if it may."""
        loop = asyncio.get_running_loop()
        fetch = self._fetches.get(loop)
        if fetch is None and self._clock() - self._tried >= PAUSE_SECONDS:
            for other in list(self._fetches):
                if other.is_closed():
                    self._fetches.pop(other, None)
            self._tried = self._clock()
            fetch = self._fetches[loop] = loop.create_task(self._fetch())
            fetch.add_done_callback(lambda _: self._fetches.pop(loop, None))
        return fetch

    async def _fetch(self) -> None:
        try:
            document = await self._read()
            keys = of_document(document)
        except asyncio.CancelledError:
            self._tried = -math.inf  # it is as if it had never begun
            raise
        except Exception as error:  # whatever it is, the old keys hold
            self._failed(_told(error))
        else:
            if self._fault:
                self._fault = ""
                logger.warning("issuer %s: it is back, with %s", self.name, _count(keys))
            self._fetched = self._clock()
            if document != self._document:
                self._document, self.keys = document, keys
                logger.info("issuer %s: it has %s now", self.name, _count(keys))

    def _failed(self, fault: str) -> None:
        if not self._fault:
            rest = "no token can be checked"
            if self.keys:
                rest = f"it goes on with the last {_count(self.keys)}"
            logger.warning("issuer %s: %s; %s", self.name, fault, rest)
        self._fault = fault

    async def _read(self) -> bytes:
        """The document. Raises ValueError, OSError, or an error of httpx's."""
        document = b""
        with anyio.fail_after(FETCH_SECONDS):
            async with (
                httpx.AsyncClient(
                    verify=self._tls,
                    trust_env=not self._is_near,  # no proxy reaches what is on this machine
                    follow_redirects=False,  # the keys are those of this address, and of no other
                    timeout=FETCH_SECONDS,
                ) as client,
                client.stream("GET", self._url, headers=_HEADERS) as response,
            ):
                if response.status_code != 200:
                    raise ValueError(f"it answers with the status {response.status_code}")
                # Not decoded, as a few bytes could become many.
                pieces = cast("AsyncGenerator[bytes, None]", response.aiter_raw())
                try:
                    async for piece in pieces:
                        document += piece
                        if len(document) > MOST_BYTES:
                            raise ValueError(f"it answers more than {MOST_BYTES} bytes")
                finally:
                    await pieces.aclose()
        return document


def _count(keys: Sequence[SigningKey]) -> str:
    return f"{len(keys)} key{'s' if len(keys) != 1 else ''}"


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _told(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, TimeoutError):
        return f"no answer within {FETCH_SECONDS:g} s"
    text = " ".join(without_passwords(str(error)).split())[:200]
    if isinstance(error, ValueError):
        return text
    return f"it cannot be reached ({type(error).__name__}: {text})".replace(": )", ")")
