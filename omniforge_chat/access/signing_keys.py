"""The keys that tokens are signed with. Each has the algorithms that fit it.

A token names an algorithm itself, and so does whoever forges one. It could say that there is no
signature ("none"), or that the public key of the issuer is a secret of HS256, which everybody then
knows. So the type of the key decides which algorithms may be used with it (RFC 8725, section 3.1),
and a token only chooses among these.
"""

from __future__ import annotations

import json
from typing import Any, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

import jwt

MOST_KEYS = 100
"""A set with more keys is refused: none of an issuer's has nearly as many."""

MOST_TRIED = 4
"""So many keys are tried for a token that does not name its key."""

SHORTEST_RSA = 2048
"""In bits (RFC 7518, section 3.3)."""

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {
    "P-256": "ES256",
    "P-384": "ES384",
    "P-521": "ES512",
    "secp256k1": "ES256K",
    "Ed25519": "EdDSA",
    "Ed448": "EdDSA",
}
PUBLIC = _RSA | frozenset(_CURVES.values())
"""The algorithms of which the verifier needs no secret."""


class SigningKey(NamedTuple):
    """What a signature is checked with. `material` is what PyJWT takes for it."""

    kid: Optional[str]
    algorithms: FrozenSet[str]
    material: Any

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid!r}: {', '.join(sorted(self.algorithms))}>"


def of_secret(secret: str) -> SigningKey:
    """The key that is a secret of the issuer and of this service.

    No hash is longer than the secret (RFC 7518, section 3.2). Raises ValueError for a public key,
    or one in JSON: somebody else may have it.
    """
    data = secret.encode("utf-8", "surrogateescape")  # as it is in the environment
    try:
        material = jwt.get_algorithm_by_name("HS256").prepare_key(data)
    except jwt.InvalidKeyError:
        raise ValueError("a public key") from None
    hashes = (bits for bits in (256, 384, 512) if len(data) * 8 >= bits)
    return SigningKey(None, frozenset(f"HS{bits}" for bits in hashes), material)


def of_document(document: bytes) -> Tuple[SigningKey, ...]:
    """The keys in a JWKS (RFC 7517, section 5) that are for signatures.

    Keys of other kinds are left out, and also those that are too short or private: everybody may
    read the document. Raises ValueError if none is left; its text quotes nothing.
    """
    try:
        found = json.loads(document)
        entries = found["keys"] if isinstance(found, dict) else None
    except (ValueError, RecursionError):
        raise ValueError("what it answers is no JSON") from None
    except KeyError:
        entries = None
    if not isinstance(entries, list):
        raise ValueError("what it answers is no JWKS")
    if len(entries) > MOST_KEYS:
        raise ValueError(f"it has {len(entries)} keys, and {MOST_KEYS} is the most")
    keys = tuple(key for key in map(_of_entry, entries) if key is not None)
    if not keys:
        raise ValueError("none of its keys can be used: RSA of 2048 bits, EC and OKP can")
    return keys


def _of_entry(entry: Any) -> Optional[SigningKey]:
    if not isinstance(entry, dict) or "d" in entry or not _is_for_signatures(entry):
        return None
    kid, name = entry.get("kid"), entry.get("alg")
    algorithms = _algorithms(entry)
    if name is not None:
        algorithms &= {name} if isinstance(name, str) else frozenset()
    if not algorithms or not isinstance(kid, (str, type(None))):
        return None
    try:
        material = jwt.PyJWK(entry, min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if algorithms <= _RSA and material.key_size < SHORTEST_RSA:
        return None
    return SigningKey(kid, algorithms, material)


def _is_for_signatures(entry: Any) -> bool:
    operations = entry.get("key_ops", ["verify"])
    is_verifier = isinstance(operations, list) and "verify" in operations
    return is_verifier and entry.get("use", "sig") == "sig"


def _algorithms(entry: Any) -> FrozenSet[str]:
    kind, curve = entry.get("kty"), entry.get("crv")
    if kind == "RSA":
        return _RSA
    algorithm = _CURVES.get(curve) if isinstance(curve, str) else None
    if algorithm is None or kind != ("OKP" if algorithm == "EdDSA" else "EC"):
        return frozenset()
    return frozenset({algorithm})


def fitting(keys: Sequence[SigningKey], algorithm: str, kid: Optional[str]) -> List[SigningKey]:
    """The keys that a token with this head may be signed with.

    A key without a name may be that of any token.
    """
    found = [
        key
        for key in keys
        if algorithm in key.algorithms and (kid is None or key.kid is None or key.kid == kid)
    ]
    return found[:MOST_TRIED]
