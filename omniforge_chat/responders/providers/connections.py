"""The connections to a provider: those of one event loop, and the environment that httpx reads."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Dict, Optional, Tuple

import anyio
import httpx
import msgspec

from ...logs import logger
from ...rules import SettingsError
from .address import is_loopback, without_secrets
from .errors import describe
from .options import ProviderOptions
from .proxy import credentials_in, proxy_for

KEEPALIVE_CONNECTIONS = 20
"""How many idle connections are kept. The pool looks at all of them for every request."""
KEEPALIVE_SECONDS = 30.0


# The trusted certificates, read once: that takes longer than a request.
_tls = functools.lru_cache(maxsize=1)(httpx.create_ssl_context)


class Pool(msgspec.Struct):
    """The connections of one event loop, and the room for replies that are read at once.

    `fresh` keeps no connection. It is for requests that must not meet a stale one again.
    """

    client: httpx.AsyncClient
    fresh: httpx.AsyncClient
    room: anyio.Semaphore
    closed: bool = False


class Connections:
    """A Pool for each event loop. Connections belong to the loop that they were opened in.

    `proxy` is the one in the environment that they go through, without its credentials, which are
    `secrets`. Raises SettingsError if a variable that httpx reads keeps it from making a client.
    """

    def __init__(self, options: ProviderOptions) -> None:
        self._options = options
        self.proxy: Optional[str] = None
        self.secrets: Tuple[str, ...] = ()
        self._direct = is_loopback(options.url)
        if options.client is None:
            _check_environment(self._direct)  # now, while no event loop waits for it
            proxy = None if self._direct else proxy_for(options.url)
            if proxy is not None:
                self.proxy = without_secrets(proxy).rstrip("/")
                self.secrets = credentials_in(proxy)
        self._pools: Dict[asyncio.AbstractEventLoop, Pool] = {}

    def pool(self) -> Pool:
        """The pool of the running loop, which is made at first use."""
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for other in list(self._pools):
                if other.is_closed():
                    self._pools.pop(other, None)
            if self.proxy is not None:
                logger.info(
                    "upstream url=%s is asked through proxy=%s", self._options.url, self.proxy
                )
            given, most = self._options.client, self._options.connections
            pool = self._pools[loop] = Pool(
                given or _new_client(min(KEEPALIVE_CONNECTIONS, most), self._direct),
                given or _new_client(0, self._direct),
                # Not in the client: a request that leaves the queue of httpcore's pool while it is
                # served leaves a connection there that nobody opens or closes.
                anyio.Semaphore(most),
            )
        return pool

    async def aclose(self) -> None:
        """Close the pool of the running loop. The next use would make a new one."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            pool.closed = True
            if self._options.client is None:
                both = asyncio.gather(pool.client.aclose(), pool.fresh.aclose())
                await asyncio.shield(both)


def _check_environment(direct: bool) -> None:
    """Raises SettingsError for a variable of httpx's that would fail every request."""
    try:
        _tls()
    except OSError as error:  # that of ssl is one, too
        name = "SSL_CERT_FILE" if "SSL_CERT_FILE" in os.environ else "SSL_CERT_DIR"
        expected = f"certificates that can be read; {describe(error)}"
        if error.filename and error.filename == os.environ.get("SSLKEYLOGFILE"):
            name, expected = "SSLKEYLOGFILE", "a file that can be written"
        raise SettingsError(name, os.environ.get(name), expected) from None
    try:
        _new_client(1, direct)
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        names = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
        found = [name for name in names if {name, name.lower()} & set(os.environ)]
        expected = f"a proxy that httpx can use; {type(error).__name__}"
        if isinstance(error, ImportError):
            expected = "a proxy that httpx can use; for SOCKS, pip install 'httpx[socks]'"
        raise SettingsError(" or ".join(found) or "proxy", "***", expected) from None


def _new_client(kept: int, direct: bool) -> httpx.AsyncClient:
    """Make a client that keeps this many idle connections, and uses no proxy if it is direct."""
    limits = httpx.Limits(
        max_connections=None,
        max_keepalive_connections=kept,
        keepalive_expiry=KEEPALIVE_SECONDS,
    )
    return httpx.AsyncClient(limits=limits, verify=_tls(), trust_env=not direct)
