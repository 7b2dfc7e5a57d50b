"""Tokens: whom they name, and the many ways in which one is forged."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from omniforge_chat.access import Credentials, make_credentials, tokens
from omniforge_chat.errors import Forbidden
from omniforge_chat.models import Caller
from omniforge_chat.settings import Settings

from ..support.constants import PATIENCE
from ..support.issuer import AUDIENCE, NAME, IssuerServer, claims, private_key, public_entry, token
from ..support.logs import Records

SECRET = "canary-0123456789-0123456789-0123456789-0123456789-0123456789-0123456789"
CANARY = "canary"


@pytest.fixture
def records() -> Iterator[Records]:
    with Records() as found:
        yield found


@pytest.fixture
def issuer() -> Iterator[IssuerServer]:
    """An issuer with a key for ES256, "one", and one for RS256, "two"."""
    with IssuerServer() as server:
        server.shows(public_entry("ES256"), public_entry("RS256", "two"))
        yield server


def made(issuer: Optional[IssuerServer] = None, **settings: Any) -> Credentials:
    """The credentials of a service that takes tokens of the issuer, or else of the secret."""
    way = {"jwt_secret": SECRET} if issuer is None else {"jwt_jwks": issuer.url}
    credentials = make_credentials(
        Settings(jwt_issuer=NAME, jwt_audience=AUDIENCE, **{**way, **settings})
    )
    assert credentials is not None
    return credentials


def found(credentials: Credentials, secret: str) -> Optional[Caller]:
    return asyncio.run(credentials.find(secret))


def of_secret(
    algorithm: str = "HS256", head: Optional[Dict[str, Any]] = None, **fields: Any
) -> str:
    """A token that is signed with the shared secret."""
    return jwt.encode(claims(**fields), SECRET, algorithm, head)


def by_hand(
    head: Any, body: Any, key: bytes = SECRET.encode(), digest: Any = hashlib.sha256
) -> str:
    """A token with this head, signed with this key whatever the head says."""

    def encoded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    signed = f"{encoded(json.dumps(head).encode())}.{encoded(json.dumps(body).encode())}"
    return f"{signed}.{encoded(hmac.digest(key, signed.encode(), digest))}"


# Tokens that hold


@pytest.mark.parametrize(
    "algorithm",
    [
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
        *("ES256", "ES384", "ES512", "ES256K", "EdDSA", "Ed448"),
    ],
)
def test_a_token_of_each_kind_of_key_names_its_caller(algorithm: str) -> None:
    """An operator takes the issuer that there is."""
    with IssuerServer() as issuer:
        issuer.shows(public_entry(algorithm), public_entry("ES256", "another"))
        caller = found(made(issuer), token(algorithm))
    assert caller is not None
    assert caller.id == "alice"
    assert caller.may == {"chat"}
    assert caller.claims["iss"] == NAME


@pytest.mark.parametrize(
    ("algorithm", "length", "holds"),
    [
        ("HS256", 32, True),
        ("HS384", 48, True),
        ("HS384", 47, False),
        ("HS512", 64, True),
        ("HS512", 63, False),
    ],
)
def test_a_secret_is_as_long_as_the_hash(algorithm: str, length: int, holds: bool) -> None:
    """RFC 7518 asks for it: a shorter one could be found from one token."""
    secret = SECRET[:length]
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    signed = by_hand({"alg": algorithm}, claims(), secret.encode(), digest)
    assert (found(made(jwt_secret=secret), signed) is not None) == holds


def test_an_audience_may_be_one_of_several() -> None:
    """Issuers give one token for several services."""
    assert found(made(), of_secret(aud=["mail", AUDIENCE]))


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({}, {"chat"}),
        ({"scope": "openid metrics"}, {"chat", "metrics"}),
        ({"scp": ["metrics", 7]}, {"chat", "metrics"}),
        ({"scp": "metrics"}, {"chat", "metrics"}),
        ({"scope": "metricsystem", "scp": {"metrics": True}}, {"chat"}),
        ({"scope": 7}, {"chat"}),
    ],
)
def test_a_scope_lets_read_the_metrics(fields: Dict[str, Any], may: Any) -> None:
    """Not everybody who may chat may see how much others do."""
    caller = found(made(), of_secret(**fields))
    assert caller is not None
    assert caller.may == may


def test_a_token_without_the_scope_that_is_needed_is_forbidden() -> None:
    """It is known who asks: another token of theirs may do, and the same one never will."""
    credentials = made(jwt_scope="chat:write")
    assert found(credentials, of_secret(scope="chat:write openid"))
    for _ in range(2):
        with pytest.raises(Forbidden):
            found(credentials, of_secret(scope="chat:writer"))


def test_a_key_comes_before_a_token() -> None:
    """A service may take both, and a key may have dots."""
    credentials = made(api_keys="ann:0123456.89abcdef.01234567")
    assert found(credentials, "0123456.89abcdef.01234567") == Caller("key:ann")
    caller = found(credentials, of_secret())
    assert caller is not None
    assert caller.id == "alice"


def test_clocks_may_differ_a_little() -> None:
    """A token that was made this second comes from a machine whose clock is ahead."""
    now = int(time.time())
    assert found(made(), of_secret(nbf=now + 5, iat=now + 5, exp=now + 60))
    assert found(made(), of_secret(exp=now - 5))


def test_a_known_token_ends_when_it_expires() -> None:
    """That it was good once must not let it in for ever."""

    async def ask() -> None:
        credentials = made()
        last = of_secret(exp=int(time.time()) - tokens.LEEWAY_SECONDS + 1)
        asked = 0
        while await credentials.find(last):
            asked += 1
            await asyncio.sleep(0.01)
        assert asked > 0

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))


def test_so_many_tokens_are_known_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for a new token each time must not fill the memory."""
    monkeypatch.setattr(tokens, "MOST_KNOWN", 3)
    source = tokens.Tokens(Settings(jwt_issuer=NAME, jwt_audience=AUDIENCE, jwt_secret=SECRET))

    async def ask() -> None:
        each = [of_secret(sub=f"s{number}") for number in range(5)]
        first = await source.find(each[0])
        for one in each:
            await source.find(one)
            assert await source.find(each[0]) is first  # it was used a moment ago
        assert len(source._known) == 3

    asyncio.run(ask())


# Tokens that do not


NOW = int(time.time())

WRONG: Dict[str, Dict[str, Any]] = {
    "expired": {"exp": NOW - 60},
    "without an end": {"exp": None},
    "an end that is none": {"exp": "tomorrow"},
    "an end beyond numbers": {"exp": float("inf")},
    "not yet valid": {"nbf": NOW + 3600},
    "made in the future": {"iat": NOW + 3600},
    "for somebody else": {"aud": "mail"},
    "for nobody": {"aud": None},
    "for a part of the name": {"aud": AUDIENCE[:-1]},
    "for others": {"aud": ["mail", "calendar"]},
    "for an object": {"aud": {AUDIENCE: True}},
    "of another issuer": {"iss": "https://evil.example/"},
    "of a part of the issuer": {"iss": NAME[:-1]},
    "of nobody": {"iss": None},
    "without a subject": {"sub": None},
    "with an empty subject": {"sub": ""},
    "with a key's subject": {"sub": "key:ann"},
    "with a subject that is a number": {"sub": 7},
    "with a subject that a log obeys": {"sub": "a\nb"},
    "with an endless subject": {"sub": "a" * 257},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_signed_token_with_wrong_claims_is_refused(wrong: str, records: Records) -> None:
    """The signature says who made it, and not for whom and until when."""
    body = {**claims(), **WRONG[wrong]}
    signed = by_hand({"alg": "HS256"}, {n: v for n, v in body.items() if v is not None})
    assert found(made(), signed) is None
    assert not records.troubles


def _pem() -> bytes:
    public = private_key("RS256", "two").public_key()
    pem: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def _der() -> bytes:
    public = private_key("RS256", "two").public_key()
    der: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der


def _attacks() -> Dict[str, str]:
    good = token("RS256", "two")
    head, body, signature = good.split(".")
    evil = private_key("RS256", "evil")
    theirs = public_entry("RS256", "evil")
    unsigned = by_hand({"alg": "none", "kid": "two"}, claims()).rpartition(".")[0] + "."
    return {
        "no signature": unsigned,
        "no signature, in capitals": by_hand({"alg": "NONE", "kid": "two"}, claims()),
        "no signature, but a good one's": f"{unsigned.rpartition('.')[0]}.{signature}",
        "a signature cut off": f"{head}.{body}.",
        "another body": f"{head}.{by_hand({}, claims(sub='bob')).split('.')[1]}.{signature}",
        "the public key as a secret": by_hand({"alg": "HS256", "kid": "two"}, claims(), _pem()),
        "its other form": by_hand({"alg": "HS256", "kid": "two"}, claims(), _der()),
        "the JWK as a secret": by_hand(
            {"alg": "HS256", "kid": "two"},
            claims(),
            json.dumps(public_entry("RS256", "two")).encode(),
        ),
        "an empty secret": by_hand({"alg": "HS256", "kid": "two"}, claims(), b""),
        "another algorithm of the key": jwt.encode(
            claims(), private_key("ES256"), "ES256", {"kid": "two"}
        ),
        "another's key": jwt.encode(claims(), evil, "RS256", {"kid": "two"}),
        "a key that it brings": jwt.encode(claims(), evil, "RS256", {"kid": "evil", "jwk": theirs}),
        "a name that is a path": token("RS256", "two", {"kid": "../../../../dev/null"}),
        "a name that is SQL": token("RS256", "two", {"kid": "' UNION SELECT 'secret"}),
        "a name that is a command": token("RS256", "two", {"kid": "|/bin/sh -c id"}),
        "a name with zeros": token("RS256", "two", {"kid": "two\0"}),
        "a name in capitals": token("RS256", "two", {"kid": "TWO"}),
        "a name that is long": token("RS256", "two", {"kid": "k" * 5000}),
        "a name that is empty": token("RS256", "two", {"kid": ""}),
        "a name that is a list": by_hand({"alg": "RS256", "kid": ["two"]}, claims()),
        "a name that is an object": by_hand({"alg": "RS256", "kid": {"$ne": ""}}, claims()),
        "an algorithm that is a list": by_hand({"alg": ["RS256"], "kid": "two"}, claims()),
        "no algorithm": by_hand({"kid": "two"}, claims()),
        "something that must be understood": token("RS256", "two", {"kid": "two", "crit": ["x"]}),
        "a body apart": by_hand({"alg": "RS256", "b64": False, "crit": ["b64"]}, claims()),
        "a head that is a list": by_hand([], claims()),
        "a body that is a list": by_hand({"alg": "RS256", "kid": "two"}, []),
        "a head without an end": f"{base64.urlsafe_b64encode(b'[' * 3000).decode()}.e30.e30",
        "too much": token("RS256", "two", padding="x" * 9000),
        "five parts": f"{good}.a.b",
        "nothing": "..",
        "another alphabet": "\xff.\xff.\xff",
    }


def test_a_forged_token_is_refused(issuer: IssuerServer, records: Records) -> None:
    """Each of these has opened some service."""
    credentials = made(issuer)

    async def ask() -> None:
        assert await credentials.find(token("RS256", "two"))
        for attack, forged in _attacks().items():
            for _ in range(2):
                assert await credentials.find(forged) is None, attack

    asyncio.run(ask())
    assert not records.troubles
    parts = {part for forged in _attacks().values() for part in forged.split(".") if len(part) > 9}
    for record in records.all:
        assert not any(part in record.getMessage() for part in parts)


def test_a_token_names_no_place_to_fetch_its_key_from(issuer: IssuerServer) -> None:
    """`jku` and `x5u` would let anybody be the issuer, and make this service a scanner."""
    with IssuerServer() as evil:
        evil.shows(public_entry("ES256", "evil"))
        for name in ("jku", "x5u"):
            forged = token("ES256", "evil", {"kid": "evil", name: evil.url})
            assert found(made(issuer), forged) is None
        assert not evil.requests


def test_a_token_that_would_be_refused_anyway_asks_nobody(issuer: IssuerServer) -> None:
    """Whoever sends junk must not make this service send requests."""
    credentials = made(issuer)
    for fields in WRONG.values():
        body = {n: v for n, v in {**claims(), **fields}.items() if v is not None}
        head = by_hand({"alg": "ES256", "kid": "x"}, body)
        if fields.keys() & {"exp", "nbf", "iat", "aud", "iss"}:
            assert found(credentials, head) is None
    for forged in (by_hand({"alg": "HS256"}, claims()), "a.b.c", "a" * 9000 + ".b.c"):
        assert found(credentials, forged) is None
    assert not issuer.requests


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_whatever_is_sent_is_an_answer(head: str, body: str, signature: str) -> None:
    """A failure would be a 500, and a traceback for each try."""
    credentials = made()
    pieces = (head, body, signature)
    parts = [base64.urlsafe_b64encode(piece.encode("utf-8", "ignore")) for piece in pieces]
    plain = ".".join(pieces).encode("latin-1", "ignore").decode("latin-1")
    for forged in (plain, b".".join(parts).decode(), b".".join(parts).decode().replace("=", "")):
        assert found(credentials, forged) is None


_json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.sampled_from(["exp", "iat", "nbf", "iss", "aud", "scope", "scp", "jti"]), _json)
def test_whatever_a_signed_token_claims_is_an_answer(name: str, value: object) -> None:
    """An issuer may have its own idea of a claim."""
    credentials = made()
    signed = by_hand({"alg": "HS256"}, {**claims(), name: value})
    caller = found(credentials, signed)
    assert caller is None or caller.id == "alice"


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    """A repr gets into logs and into reports of errors."""
    settings = Settings(jwt_issuer=NAME, jwt_audience=AUDIENCE, jwt_secret=SECRET)
    source = tokens.Tokens(settings)
    asyncio.run(source.find(of_secret()))
    assert CANARY not in repr((settings, source, source._secret[0]))
