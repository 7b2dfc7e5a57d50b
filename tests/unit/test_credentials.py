"""The credentials that settings name: which fit together, and what is said of those that do not."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Dict

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from omniforge_chat.access import issuer, make_credentials
from omniforge_chat.cli.environment import check_settings, told
from omniforge_chat.rules import SettingsError
from omniforge_chat.settings import Settings

from ..support.issuer import private_key

SECRET = "canary-0123456789-0123456789-0123456789"
ISSUER: Dict[str, Any] = {"jwt_issuer": "https://id.example.com/", "jwt_audience": "chat"}
JWKS = "https://id.example.com/jwks.json"
PEM = (
    private_key("ES256").public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
)

CONTRADICTIONS: Dict[str, Dict[str, Any]] = {
    "CHAT_JWT_ISSUER='': expected the issuer of tokens, as CHAT_JWT_JWKS is set": {
        "jwt_jwks": JWKS
    },
    "CHAT_JWT_ISSUER='': expected the issuer of tokens, as CHAT_JWT_AUDIENCE is set": {
        "jwt_audience": "chat"
    },
    "CHAT_JWT_ISSUER='': expected the issuer of tokens, as CHAT_JWT_SCOPE is set": {
        "jwt_scope": "chat"
    },
    "CHAT_JWT_AUDIENCE='': expected the audience of tokens, as CHAT_JWT_ISSUER is set": {
        "jwt_issuer": "me",
        "jwt_jwks": JWKS,
    },
    "CHAT_JWT_JWKS='': expected the address of the issuer's keys, or else CHAT_JWT_SECRET": ISSUER,
    "CHAT_JWT_SECRET='***': expected nothing, as CHAT_JWT_JWKS is set": {
        **ISSUER,
        "jwt_jwks": JWKS,
        "jwt_secret": SECRET,
    },
    "CHAT_JWT_SECRET='***': expected a secret of at least 32 bytes": {
        **ISSUER,
        "jwt_secret": SECRET[:31],
    },
    "CHAT_JWT_SECRET='***': expected a secret, and no public key": {
        **ISSUER,
        "jwt_secret": PEM.decode(),
    },
    "CHAT_JWT_SCOPE='chat mail': expected one scope, without white space": {
        **ISSUER,
        "jwt_jwks": JWKS,
        "jwt_scope": "chat mail",
    },
    "CHAT_JWT_JWKS='https:///jwks': expected an address such as": {
        **ISSUER,
        "jwt_jwks": "https:///jwks",
    },
    "CHAT_JWT_JWKS='https://***@[:1]/jwks': expected an address such as": {
        **ISSUER,
        "jwt_jwks": "https://ann:canary@[:1]/jwks",
    },
}


@pytest.mark.parametrize("line", CONTRADICTIONS)
def test_contradictory_settings_are_one_line_at_the_start(line: str) -> None:
    """A service that takes no token, or any, would be noticed too late."""
    settings = Settings(**CONTRADICTIONS[line])
    with pytest.raises(SettingsError) as caught:
        check_settings(settings)
    assert told(caught.value).startswith(line)
    assert "canary" not in repr((caught.value, caught.value.args))
    assert caught.value.__cause__ is None


def test_a_secret_may_have_any_bytes() -> None:
    """A variable of the environment need not be UTF-8."""
    assert make_credentials(Settings(**ISSUER, jwt_secret="\udcff" * 32))
    with pytest.raises(SettingsError, match="32 bytes"):
        make_credentials(Settings(**ISSUER, jwt_secret="\udcff" * 31))


@pytest.mark.parametrize("package", ["jwt", "cryptography", "httpx"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback would leave an operator to guess its name."""
    for name in [*sys.modules]:
        ours = name.startswith(("omniforge_chat.access.tokens", "omniforge_chat.access.issuer"))
        if ours or name.partition(".")[0] in ("jwt", package):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SettingsError, match=r"pip install 'omniforge-chat\[jwt\]'"):
        make_credentials(Settings(**ISSUER, jwt_jwks=JWKS))
    assert make_credentials(Settings(api_keys="ann:0123456789abcdef"))


@pytest.mark.parametrize(
    ("address", "warned"),
    [
        ("http://192.0.2.1/jwks.json", True),
        ("http://127.0.0.1:1/jwks.json", False),
        ("http://[::1]:1/jwks.json", False),
        ("http://localhost:1/jwks.json", False),
        ("https://192.0.2.1/jwks.json", False),
    ],
)
def test_keys_that_come_in_the_clear_are_a_warning(
    address: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can change them on their way can make tokens for everybody."""
    monkeypatch.setattr(issuer, "FETCH_SECONDS", 0.05)
    credentials = make_credentials(Settings(**ISSUER, jwt_jwks=address))
    assert credentials is not None
    states = [finding.state for finding in asyncio.run(credentials.check())]
    assert states == (["warning", "failed"] if warned else ["failed"])
