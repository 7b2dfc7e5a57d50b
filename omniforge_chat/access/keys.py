"""API keys: found by their hash, in a file that may change while the service runs.

A key is looked up by its SHA-256 in a dict. How long that takes tells nothing of the keys: a hash
that begins like another one belongs to a key that does not (so no comparison in constant time is
needed). No key is kept as it is.

The file is looked at once a second, and for each key that is unknown, so that a new one holds at
once. A thread reads it if it has changed. Whoever has made this look waits for it, and also whoever
comes meanwhile, if the last look is older than a second: their key may be one that was removed.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from hashlib import sha256
from threading import Lock, Thread
from time import monotonic
from typing import Dict, List, Literal, Optional, Union

from .. import rules
from ..logs import logger
from ..models import Allowance, Caller
from ..rules import SettingsError
from ..settings import Settings, variable
from .credentials import Finding
from .key_file import Key, KeyFile, Signature, read_keys, signature_of

LOOK_SECONDS = 1.0
"""How long a key may hold that is not in the file any more."""

READ_SECONDS = 1.0
"""How long a request waits for the file. After that the last keys hold for one more look."""

_Callers = Dict[bytes, Caller]


class Keys:
    """The keys of `api_keys` and of `api_keys_file`.

    It may be used in several event loops and threads. Raises SettingsError if the file cannot be
    used now. If it cannot later, the last keys hold, and the log has a line.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = settings.api_keys_file
        self._allowance = settings.allowance
        self._own = _callers_in(settings.api_keys)
        self._callers: _Callers = self._own
        self._signature: Optional[Signature] = None
        self._looked = monotonic()
        self._fault = ""  # of the file, as the log has it
        self._lock = Lock()
        self._reading: Optional[Future[None]] = None
        self._warning = ""  # of the file, likewise
        if self._path:
            try:
                self._take(read_keys(self._path))
            except (OSError, ValueError) as error:
                expected = f"a file of `omniforge-chat keys`: {_told(error)}"
                raise SettingsError("api_keys_file", self._path, expected) from None

    def __repr__(self) -> str:
        return f"<Keys: {len(self._callers)}>"

    async def find(self, secret: str) -> Optional[Caller]:
        """Whose key `secret` is, or None."""
        digest = sha256(secret.encode()).digest()
        caller = self._callers.get(digest)
        # A file that could not be read is tried again once a second, whoever asks.
        is_new = caller is None and self._signature is not None
        if not self._path or not (is_new or monotonic() - self._looked >= LOOK_SECONDS):
            return caller
        reading = self._look()
        if reading is not None:
            try:
                await asyncio.wait_for(asyncio.wrap_future(reading), READ_SECONDS)
            except asyncio.TimeoutError:
                self._looked = monotonic()  # it hangs: not every request shall wait for it
        return self._callers.get(digest)

    async def check(self) -> List[Finding]:
        """How many keys there are, and whether others may read the file."""
        where = f" in {self._path}" if self._path else ""
        number = len(self._callers)
        text = f"{number} key{'s' if number != 1 else ''}{where}"
        if self._warning:
            return [Finding("warning", "keys", f"{text}; {self._warning}")]
        return [Finding("ok", "keys", text)]

    async def aclose(self) -> None:
        """Nothing is open."""

    def _look(self) -> Optional[Future[None]]:
        """The reading of the file, if it has changed."""
        with self._lock:
            if self._reading is not None and not self._reading.done():
                return self._reading
            now = monotonic()
            try:
                signature: Optional[Signature] = signature_of(os.stat(self._path))
            except OSError:
                signature = None
            if signature == self._signature:
                self._looked = now
                return None
            self._reading = Future()
            self._reading.set_running_or_notify_cancel()  # who waits for it cannot cancel it
            Thread(target=self._read, args=(self._reading, now), daemon=True).start()
            return self._reading

    def _read(self, reading: Future[None], now: float) -> None:
        try:
            self._reload()
        finally:
            self._looked = now
            reading.set_result(None)

    def _reload(self) -> None:
        warned = self._warning
        try:
            self._signature = signature_of(os.stat(self._path))  # a bad file is read once
            self._take(read_keys(self._path))
        except OSError as error:
            self._signature = None  # it may be readable the next time
            self._failed(error)
        except ValueError as error:
            self._failed(error)
        else:
            self._fault = ""
            logger.info("keys: %s is read again, and %d keys hold", self._path, len(self._callers))
            if self._warning and not warned:
                logger.warning("keys: %s: %s", self._path, self._warning)

    def _failed(self, error: Exception) -> None:
        fault = _told(error)
        if fault != self._fault:
            self._fault = fault
            logger.error(
                "keys: %s: %s; the last %d keys hold", self._path, fault, len(self._callers)
            )

    def _take(self, file: KeyFile) -> None:
        """Let the keys of `file` hold. Raises ValueError if one is in `api_keys`, too."""
        callers = {bytes.fromhex(key.sha256): self._caller(key) for key in file.keys}
        names = {caller.id for caller in self._own.values()}
        for caller in callers.values():
            if caller.id in names:
                raise ValueError(
                    f"{caller.id[len('key:') :]} is a name in {variable('api_keys')}, too"
                )
        self._callers = {**callers, **self._own}
        self._signature = file.signature
        advice = f"every user of this machine may read it; chmod o= {self._path}"
        self._warning = advice if file.is_open else ""

    def _caller(self, key: Key) -> Caller:
        allowance = None
        if (key.rate_limit, key.streams, key.tokens_per_day) != (None, None, None):
            others = self._allowance
            rate = others.rate if key.rate_limit is None else rules.RATE.read(key.rate_limit)
            streams = _count(key.streams, others.streams)
            tokens = _count(key.tokens_per_day, others.tokens_per_day)
            allowance = Allowance(rate, streams, tokens)
        return Caller(f"key:{key.name}", frozenset(key.may), allowance)


def _count(own: Union[int, Literal["off"], None], others: Optional[int]) -> Optional[int]:
    if own is None:
        return others
    return None if own == "off" else own


def _callers_in(text: str) -> _Callers:
    """The owners of the keys in `NAME:KEY,...`, by the hashes of these."""
    pairs = [part.strip().partition(":") for part in text.split(",") if part.strip()]
    return {sha256(key.encode()).digest(): Caller(f"key:{name}") for name, _, key in pairs}


def _told(error: Exception) -> str:
    """What is wrong with the file, in one line that quotes nothing of it."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
