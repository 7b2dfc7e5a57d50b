"""redis-py, which is imported when a store needs it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from typing import Any, Dict, Tuple, Type

from ..rules import SettingsError
from .health import address_of

CONNECT_SECONDS = 1.0
"""How long a connection may take to be made."""

ANSWER_SECONDS = 1.0
"""How long the server may take for the next answer."""


class Driver:
    """redis-py, and the server that it is to reach.

    Raises SettingsError if the package is missing, or can make nothing of the address.
    """

    def __init__(self, url: str) -> None:
        try:
            connections = importlib.import_module("redis.asyncio.connection")
            exceptions = importlib.import_module("redis.exceptions")
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "redis":
                raise
            raise SettingsError(
                "redis_url",
                address_of(url),
                "the package redis: pip install 'omniforge-chat[redis]'",
            ) from None
        self.errors: Tuple[Type[Exception], ...] = (
            *(exceptions.RedisError, OSError, asyncio.TimeoutError),
        )
        """What a connection raises."""
        self.timeouts: Tuple[Type[Exception], ...] = (exceptions.TimeoutError, asyncio.TimeoutError)
        self.refusal: Type[Exception] = exceptions.ResponseError
        """What it raises if the server has answered; the next answer can be read."""
        self.unknown_script: Type[Exception] = exceptions.NoScriptError
        try:
            options: Dict[str, Any] = dict(connections.parse_url(url))
            self._class = options.pop("connection_class", connections.Connection)
            for of_a_pool in ("max_connections", "timeout"):
                options.pop(of_a_pool, None)
            # Answers are bytes and lists, whatever the version; and nothing is sent twice.
            self._options = {**options, "protocol": 2, "decode_responses": False, "retry": None}
            self.connection()
        except (TypeError, ValueError, *self.errors):
            # What it says may quote a part of the password.
            raise SettingsError(
                "redis_url", address_of(url), "an address that redis-py can use"
            ) from None

    def connection(self) -> Any:
        """A new connection, which is not open yet."""
        return self._class(
            **{
                **self._options,
                "socket_timeout": ANSWER_SECONDS,
                "socket_connect_timeout": CONNECT_SECONDS,
            }
        )

    async def close(self, connection: Any) -> None:
        """Close a connection, and see to it that the event loop may end after that."""
        with contextlib.suppress(*self.errors):
            await connection.disconnect()
