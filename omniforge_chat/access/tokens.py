"""JWT (RFC 7519): tokens that an issuer has signed, and the callers that they name.

A token is checked once. Until it expires it is known by its hash then, as long as the keys of the
issuer are the same: a key that the issuer withdraws ends its tokens.
"""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from hashlib import sha256
from threading import Lock
from typing import Any, Callable, Dict, FrozenSet, List, NamedTuple, Optional, Tuple

import jwt

from ..errors import Forbidden
from ..logs import logger
from ..models import Caller, Parameters
from ..rules import SettingsError
from ..settings import Settings
from .credentials import Finding
from .issuer import Issuer
from .signing_keys import PUBLIC, SigningKey, fitting, of_secret

LEEWAY_SECONDS = 10
"""How far the clocks of the issuer and of this machine may differ."""

MOST_KNOWN = 10_000
"""How many checked tokens are known. The one that was not used for longest goes first."""

_FAULTS = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What a token can raise that somebody has made up."""


class _Known(NamedTuple):
    keys: Tuple[SigningKey, ...]
    until: int
    caller: Caller


class Tokens:
    """The tokens of the issuer that `settings` name.

    It may be used in several event loops and threads. `clock` tells seconds. Raises SettingsError
    if the secret is no secret, or the address of the issuer's keys is none.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audience = settings.jwt_audience
        self._name = settings.jwt_issuer
        self._scope = settings.jwt_scope
        self.issuer: Optional[Issuer] = None
        """Whose keys are fetched, if there is no secret."""
        self._secret: Tuple[SigningKey, ...] = ()
        if settings.jwt_jwks:
            self.issuer = Issuer(settings.jwt_jwks, clock=clock)
        else:
            try:
                self._secret = (of_secret(settings.jwt_secret),)
            except ValueError:
                expected = "a secret, and no public key, which is for the issuer's JWKS"
                raise SettingsError("jwt_secret", "***", expected) from None
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<Tokens of {self._name}>"

    async def find(self, token: str) -> Optional[Caller]:
        """Whom `token` names, or None if it does not hold.

        Raises Forbidden if it lacks the scope, and AccessUnavailable if the issuer is out of reach
        and the key of the token not known.
        """
        if self.issuer is not None:
            self.issuer.touch()
        digest = sha256(token.encode()).digest()
        caller = self._recall(digest)
        if caller is None:
            caller = await self._check(token, digest)
        if caller is not None and self._scope and self._scope not in _scopes(caller.claims):
            raise Forbidden("Your token lacks the scope that is needed here")
        return caller

    async def check(self) -> List[Finding]:
        """Whether the keys of the issuer can be fetched, and whether that is safe."""
        if self.issuer is None:
            return [Finding("ok", "tokens", f"of {self._name}, with a shared secret")]
        where, findings = self.issuer.name, []
        if self.issuer.is_exposed:
            advice = "whoever is between here and there can replace the keys; use https"
            findings.append(Finding("warning", "tokens", f"{where}: {advice}"))
        try:
            number = await self.issuer.check()
        except ValueError as fault:
            return [*findings, Finding("failed", "tokens", f"{where}: {fault}")]
        text = f"{number} key{'s' if number != 1 else ''} of {self._name} at {where}"
        return [*findings, Finding("ok", "tokens", text)]

    async def aclose(self) -> None:
        """Close what is open in this event loop."""
        if self.issuer is not None:
            await self.issuer.aclose()

    def _keys(self) -> Tuple[SigningKey, ...]:
        return self._secret if self.issuer is None else self.issuer.keys

    def _recall(self, digest: bytes) -> Optional[Caller]:
        with self._lock:
            known = self._known.get(digest)
            if known is None:
                return None
            if known.keys is self._keys() and time.time() < known.until:
                self._known.move_to_end(digest)
                return known.caller
            del self._known[digest]
            return None

    async def _check(self, token: str, digest: bytes) -> Optional[Caller]:
        try:
            head = jwt.get_unverified_header(token)
            # Extensions that must be understood (RFC 7515, section 4.1.11): we understand none.
            if "crit" in head:
                return None
            keys, candidates = await self._candidates(token, head)
            for key in candidates:
                with contextlib.suppress(jwt.InvalidSignatureError):
                    return self._accept(token, key, keys, digest)
        except _FAULTS as error:
            # Its text may quote the token.
            logger.debug("a token is refused: %s", type(error).__name__)
        return None

    async def _candidates(
        self, token: str, head: Dict[str, Any]
    ) -> Tuple[Tuple[SigningKey, ...], List[SigningKey]]:
        """All keys, and those that the token may be signed with."""
        algorithm, kid = head.get("alg"), head.get("kid")
        keys = self._keys()
        if not isinstance(algorithm, str):
            return keys, []
        found = fitting(keys, algorithm, kid)
        if not found and self.issuer is not None and algorithm in PUBLIC:
            # No request to the issuer for a token that would be refused whatever its key.
            self._read(token, None)
            keys = await self.issuer.renew()
            found = fitting(keys, algorithm, kid)
        return keys, found

    def _accept(
        self, token: str, key: SigningKey, keys: Tuple[SigningKey, ...], digest: bytes
    ) -> Optional[Caller]:
        """The caller whom `token` names, who is known from now on."""
        claims = self._read(token, key)
        if claims["sub"].startswith("key:"):
            return None  # the name of somebody with a key
        may = {"chat", "metrics"} & {"chat", *_scopes(claims)}
        caller = Caller(claims["sub"], frozenset(may), claims=Parameters(claims))
        with self._lock:
            self._known[digest] = _Known(keys, int(claims["exp"]) + LEEWAY_SECONDS, caller)
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return caller

    def _read(self, token: str, key: Optional[SigningKey]) -> Dict[str, Any]:
        """The claims of `token`; without a key its signature is not checked.

        Raises an error of PyJWT's, or another one of `_FAULTS`.
        """
        return jwt.decode(
            token,
            key.material if key is not None else "",
            sorted(key.algorithms) if key is not None else None,
            # All is checked by default; but nothing is if the signature is not.
            {
                "verify_signature": key is not None,
                "verify_exp": True,
                "verify_nbf": True,
                "verify_iat": True,
                "verify_aud": True,
                "verify_iss": True,
                "require": ["exp", "iss", "aud", "sub"],
            },
            audience=self._audience,
            issuer=self._name,
            leeway=LEEWAY_SECONDS,
        )


def _scopes(claims: Any) -> FrozenSet[str]:
    """The scopes in `scope` (RFC 8693, section 4.2), or in `scp`, as some issuers call it."""
    found: List[str] = []
    for name in ("scope", "scp"):
        value = claims.get(name)
        words = value.split() if isinstance(value, str) else value
        if isinstance(words, list):
            found.extend(word for word in words if isinstance(word, str))
    return frozenset(found)
