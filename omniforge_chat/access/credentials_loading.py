"""Make the credentials that the settings name."""

from __future__ import annotations

import importlib
from typing import Optional

from ..rules import SettingsError
from ..settings import Settings, variable
from .credentials import Credentials, Source
from .keys import Keys

SHORTEST_SECRET = 32
"""In bytes: a shorter one is found by whoever has one token (RFC 7518, section 3.2)."""

_OF_TOKENS = ("jwt_issuer", "jwt_audience", "jwt_jwks", "jwt_secret", "jwt_scope")
_NEEDED = ("jwt", "cryptography", "httpx")


def make_credentials(settings: Settings) -> Optional[Credentials]:
    """The keys and tokens that `settings` name. None if they name none: nobody is asked then.

    It fetches nothing, but reads the file of keys. Raises SettingsError for settings that
    contradict each other, a file that cannot be used, and a package that is missing.
    """
    has_keys = bool(settings.api_keys or settings.api_keys_file)
    has_tokens = any(getattr(settings, field) for field in _OF_TOKENS)
    if not (has_keys or has_tokens):
        return None
    tokens = _make_tokens(settings) if has_tokens else None
    return Credentials(Keys(settings) if has_keys else None, tokens)


def _make_tokens(settings: Settings) -> Source:
    _check(settings)
    field = "jwt_jwks" if settings.jwt_jwks else "jwt_secret"
    shown = settings.jwt_jwks or "***"
    expected = "the packages of an extra: pip install 'omniforge-chat[jwt]'"
    try:
        jwt = importlib.import_module("jwt")
        if not getattr(getattr(jwt, "algorithms", None), "has_crypto", False):
            # PyJWT without cryptography, or another package of this name.
            raise SettingsError(field, shown, expected)
        module = importlib.import_module(".tokens", __package__)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        raise SettingsError(field, shown, expected) from None
    tokens: Source = module.Tokens(settings)
    return tokens


def _check(settings: Settings) -> None:
    """Raises SettingsError for settings of tokens that say too little, or contradict each other."""
    given = [field for field in _OF_TOKENS if getattr(settings, field)]
    because = f"as {variable(given[0])} is set"
    if not settings.jwt_issuer:
        raise SettingsError("jwt_issuer", "", f"the issuer of tokens, {because}")
    if not settings.jwt_audience:
        raise SettingsError("jwt_audience", "", f"the audience of tokens, {because}")
    if not (settings.jwt_jwks or settings.jwt_secret):
        other = variable("jwt_secret")
        expected = f"the address of the issuer's keys, or else {other}, {because}"
        raise SettingsError("jwt_jwks", "", expected)
    if settings.jwt_jwks and settings.jwt_secret:
        expected = f"nothing, as {variable('jwt_jwks')} is set, and a token is signed in one way"
        raise SettingsError("jwt_secret", "***", expected)
    length = len(settings.jwt_secret.encode("utf-8", "surrogateescape"))
    if settings.jwt_secret and length < SHORTEST_SECRET:
        raise SettingsError("jwt_secret", "***", f"a secret of at least {SHORTEST_SECRET} bytes")
    if len(settings.jwt_scope.split()) > 1:
        raise SettingsError("jwt_scope", settings.jwt_scope, "one scope, without white space")
