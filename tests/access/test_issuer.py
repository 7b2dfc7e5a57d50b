"""The keys of an issuer: fetched when they are needed, changed, out of reach, and not what they
should be."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from omniforge_chat.access import issuer as issuers
from omniforge_chat.access.tokens import Tokens
from omniforge_chat.errors import AccessUnavailable
from omniforge_chat.models import Caller
from omniforge_chat.settings import Settings

from ..support.constants import PATIENCE
from ..support.issuer import AUDIENCE, NAME, IssuerServer, private_key, public_entry, token
from ..support.logs import Records
from ..support.loops import in_each_loop


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def records() -> Iterator[Records]:
    with Records() as found:
        yield found


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    """An issuer with one key."""
    with IssuerServer() as found:
        found.shows(public_entry("ES256"))
        yield found


def made(url: str, clock: Optional[Clock] = None) -> Tokens:
    settings = Settings(jwt_issuer=NAME, jwt_audience=AUDIENCE, jwt_jwks=url)
    return Tokens(settings, clock=clock or Clock())


async def outcome(tokens: Tokens, secret: str) -> str:
    """What a client gets: its name, 401 or 503."""
    try:
        caller = await tokens.find(secret)
    except AccessUnavailable as problem:
        wait = problem.retry_after or 0
        return "503" if 1 <= wait <= issuers.PAUSE_SECONDS else f"a wait of {wait}"
    return "401" if caller is None else caller.id


async def until(condition: Callable[[], object]) -> None:
    """Let other tasks run until it holds."""
    while not condition():  # noqa: ASYNC110 # it is seen from outside only
        await asyncio.sleep(0.005)


@in_each_loop
async def test_keys_are_fetched_once_for_many() -> None:
    """A service that starts under load must not double the load of its issuer."""
    with IssuerServer() as server:
        server.shows(public_entry("ES256"))
        tokens = made(server.url)
        assert not server.requests
        many = (outcome(tokens, token(sub=f"s{number}")) for number in range(50))
        assert await asyncio.gather(*many) == [f"s{number}" for number in range(50)]
        assert len(server.requests) == 1
        await tokens.aclose()


def test_unknown_names_of_keys_ask_the_issuer_once_in_a_while(server: IssuerServer) -> None:
    """Anybody can make them up, as many as they like."""
    clock = Clock()
    tokens = made(server.url, clock)

    async def ask() -> None:
        for rounds in (1, 2):
            for number in range(100):
                forged = token(head={"kid": f"unknown-{number}"})
                assert await outcome(tokens, forged) == "401"
            assert await outcome(tokens, token()) == "alice"
            assert len(server.requests) == rounds
            clock.now += issuers.PAUSE_SECONDS

    asyncio.run(ask())


def test_a_new_key_holds_as_soon_as_a_token_names_it(server: IssuerServer) -> None:
    """Issuers change their keys when they like, and nobody restarts a service for that."""
    clock = Clock()
    tokens = made(server.url, clock)

    async def ask() -> None:
        assert await outcome(tokens, token()) == "alice"
        clock.now += issuers.PAUSE_SECONDS
        server.shows(public_entry("ES256"), public_entry("RS256", "two"))
        new = (outcome(tokens, token("RS256", "two", sub=f"s{n}")) for n in range(10))
        assert await asyncio.gather(*new) == [f"s{number}" for number in range(10)]
        assert await outcome(tokens, token()) == "alice"
        assert len(server.requests) == 2

    asyncio.run(ask())


def test_a_key_that_is_withdrawn_ends_its_tokens(server: IssuerServer) -> None:
    """It may have been stolen; that its tokens were good once must not count."""
    clock = Clock()
    tokens = made(server.url, clock)
    stolen = token()

    async def ask() -> None:
        for _ in range(2):
            assert await outcome(tokens, stolen) == "alice"
        server.shows(public_entry("RS256", "two"))
        clock.now += issuers.PAUSE_SECONDS
        assert await outcome(tokens, token("RS256", "two")) == "alice"
        assert await outcome(tokens, stolen) == "401"

    asyncio.run(ask())


def test_old_keys_are_fetched_again_while_they_hold(server: IssuerServer) -> None:
    """Else a key that is withdrawn would hold until somebody names another one."""
    clock = Clock()
    tokens = made(server.url, clock)
    secret = token()

    async def ask() -> None:
        assert await outcome(tokens, secret) == "alice"
        server.shows(public_entry("ES256", "two"))
        clock.now += issuers.OLD_SECONDS - 1
        assert await outcome(tokens, secret) == "alice"
        assert len(server.requests) == 1
        clock.now += 1
        assert await outcome(tokens, secret) == "alice"
        while await outcome(tokens, secret) != "401":  # noqa: ASYNC110 # nothing else tells it
            await asyncio.sleep(0.005)
        assert len(server.requests) == 2

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))


def test_an_issuer_that_is_not_there_is_503_and_not_401(records: Records) -> None:
    """A client that gets 401 throws its token away; with 503 it comes again."""
    clock = Clock()
    with IssuerServer() as server:
        server.shows(public_entry("ES256"))
    tokens = made(server.url, clock)

    async def ask() -> None:
        many = await asyncio.gather(*(outcome(tokens, token()) for _ in range(20)))
        assert many == ["503"] * 20
        clock.now += issuers.PAUSE_SECONDS
        assert await outcome(tokens, token()) == "503"

    asyncio.run(ask())
    [line] = records.troubles
    assert line.startswith(f"issuer {server.url}: it cannot be reached (ConnectError")
    assert line.endswith("; no token can be checked")


def test_an_issuer_that_goes_leaves_its_keys(server: IssuerServer, records: Records) -> None:
    """Its downtime is not ours; only a token with an unknown key has to wait."""
    clock = Clock()
    tokens = made(server.url, clock)

    async def ask() -> None:
        assert await outcome(tokens, token()) == "alice"
        server.stop()
        clock.now += issuers.OLD_SECONDS
        for _ in range(3):
            assert await outcome(tokens, token(sub="bob")) == "bob"
            await until(lambda: records.troubles)
            assert await outcome(tokens, token("RS256", "two")) == "503"
            clock.now += issuers.PAUSE_SECONDS
        await tokens.aclose()

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    [line] = records.troubles
    assert line.endswith("; it goes on with the last 1 key")


@pytest.mark.parametrize("way", ["hangs", "drips"])
def test_an_issuer_that_hangs_is_waited_for_only_so_long(
    way: str, server: IssuerServer, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The known tokens of others do not wait at all."""
    clock = Clock()
    tokens = made(server.url, clock)
    known = token()

    async def ask() -> None:
        assert await outcome(tokens, known) == "alice"
        getattr(server, way)()
        clock.now += issuers.PAUSE_SECONDS
        waiting = asyncio.ensure_future(outcome(tokens, token("RS256", "two")))
        await until(lambda: len(server.requests) == 2)
        assert await outcome(tokens, known) == "alice"
        assert await outcome(tokens, token(sub="bob")) == "bob"
        assert not waiting.done()
        assert await waiting == "503"

    monkeypatch.setattr(issuers, "FETCH_SECONDS", 0.2)
    asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    [line] = records.troubles
    assert "no answer within 0.2 s" in line or "ReadTimeout" in line


@in_each_loop
async def test_a_service_that_closes_does_not_wait_for_its_issuer() -> None:
    """Who waits gets 503, and comes to another worker."""
    with IssuerServer() as server:
        server.hangs()
        tokens = made(server.url)
        waiting = [asyncio.ensure_future(outcome(tokens, token())) for _ in range(3)]
        await until(lambda: server.requests)
        waiting[0].cancel()  # its client has left; the others still wait
        await asyncio.sleep(0)
        assert not waiting[1].done()
        await tokens.aclose()
        assert await asyncio.gather(*waiting[1:]) == ["503", "503"]


def _private() -> Dict[str, Any]:
    entry: Dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(
        private_key("RS256"), as_dict=True
    )
    return {**entry, "kid": "one", "key_ops": ["verify"]}


def _short() -> Dict[str, Any]:
    public = rsa.generate_private_key(65537, 1024).public_key()
    entry: Dict[str, Any] = jwt.get_algorithm_by_name("RS256").to_jwk(public, as_dict=True)
    return {**entry, "kid": "one"}


def _documents() -> Dict[str, Tuple[bytes, str]]:
    """What an issuer may answer with instead of keys, and what the log tells."""
    good = public_entry("RS256")
    none = "none of its keys can be used"
    sets: Dict[str, Tuple[List[Any], str]] = {
        "nothing": ([], none),
        "no objects": ([None, 7, "key", [good]], none),
        "a shared secret": ([{"kty": "oct", "k": "c2VjcmV0" * 8, "kid": "one"}], none),
        "a private key": ([_private()], none),
        "a short key": ([_short()], none),
        "a key to encrypt with": ([{**good, "use": "enc"}], none),
        "a key of another use": ([{**good, "key_ops": ["wrapKey"]}], none),
        "another algorithm": ([{**good, "alg": "RSA-OAEP"}], none),
        "an algorithm of another type": ([{**good, "alg": "HS256"}], none),
        "no algorithm at all": ([{**good, "alg": "none"}], none),
        "an algorithm that is a list": ([{**good, "alg": ["RS256"]}], none),
        "an unknown type": ([{**good, "kty": "PQ"}], none),
        "an unknown curve": ([{**public_entry("ES256"), "crv": "P-1"}], none),
        "a point beside its curve": ([{**public_entry("ES256"), "x": "AAAA"}], none),
        "a curve of the other type": ([{**public_entry("ES256"), "kty": "OKP"}], none),
        "a key without its parts": ([{"kty": "RSA", "kid": "one"}], none),
        "a name that is a number": ([{**good, "kid": 1}], none),
        "too many": ([good] * 101, "it has 101 keys"),
    }
    documents = {
        name: (json.dumps({"keys": entries}).encode(), told)
        for name, (entries, told) in sets.items()
    }
    return {
        **documents,
        "an empty answer": (b"", "what it answers is no JSON"),
        "a page": (b"<html>Sign in!</html>", "what it answers is no JSON"),
        "half a set": (json.dumps({"keys": [good]}).encode()[:-9], "what it answers is no JSON"),
        "endless brackets": (b"[" * 100_000, "what it answers is no JSON"),
        "no UTF-8": (b"\xff\xfe\xff", "what it answers is no JSON"),
        "a list": (json.dumps([good]).encode(), "what it answers is no JWKS"),
        "an object": (b'{"key": 1}', "what it answers is no JWKS"),
        "an object in place of a list": (b'{"keys": {}}', "what it answers is no JWKS"),
        "too much": (b" " * (issuers.MOST_BYTES + 1), "it answers more than"),
        "a bomb": (gzip.compress(b" " * 10_000_000), "what it answers is no JSON"),
    }


def test_what_is_no_key_never_replaces_one(server: IssuerServer, records: Records) -> None:
    """The last good keys hold, the log has one line; without any, the answer is 503."""

    async def ask() -> None:
        for name, (document, told) in _documents().items():
            clock = Clock()
            server.says(document, Content_Encoding="gzip" if name == "a bomb" else "identity")
            fresh = made(server.url, clock)
            assert await outcome(fresh, token("RS256")) == "503", name
            server.shows(public_entry("RS256"))
            clock.now += issuers.PAUSE_SECONDS
            assert await outcome(fresh, token("RS256")) == "alice", name
            server.says(document)
            for _ in range(2):
                clock.now += issuers.PAUSE_SECONDS
                assert await outcome(fresh, token("RS256", head={"kid": "?"})) == "503", name
            assert await outcome(fresh, token("RS256", sub="bob")) == "bob", name
            first, back, second = records.troubles
            assert told in first, name
            assert "it is back, with 1 key" in back, name
            assert told in second, name
            records.all.clear()

    asyncio.run(asyncio.wait_for(ask(), PATIENCE))


def test_one_bad_key_does_not_spoil_the_others(server: IssuerServer) -> None:
    """Issuers list keys for encryption, too, and kinds that come after us."""
    server.shows(
        {"kty": "PQ", "kid": "new"},
        {**public_entry("RS256", "enc"), "use": "enc"},
        public_entry("ES256", use="sig", alg="ES256"),
    )
    assert asyncio.run(outcome(made(server.url), token())) == "alice"


def test_a_key_with_an_algorithm_has_only_that(server: IssuerServer) -> None:
    """The issuer says so, and the weaker ones of its type are for others."""
    server.shows(public_entry("RS256", alg="PS256"))
    tokens = made(server.url)
    key = private_key("RS256")

    def signed(algorithm: str) -> str:
        claims = jwt.decode(token("RS256"), options={"verify_signature": False})
        return jwt.encode(claims, key, algorithm, {"kid": "one"})

    async def ask() -> None:
        assert await outcome(tokens, signed("PS256")) == "alice"
        assert await outcome(tokens, signed("RS256")) == "401"

    asyncio.run(ask())


def test_a_token_without_a_name_is_tried_with_a_few_keys(server: IssuerServer) -> None:
    """Small issuers name no keys; and nobody can make us try a hundred for each token."""
    names = [f"k{number}" for number in range(6)]
    server.shows(*(public_entry("ES256", name) for name in names))
    tokens = made(server.url)

    async def ask() -> None:
        given = [await outcome(tokens, token("ES256", name, {})) for name in names]
        assert given == ["alice"] * 4 + ["401"] * 2

    asyncio.run(ask())


@pytest.mark.parametrize("status", [204, 304, 403, 404, 500, 503])
def test_a_refusal_of_the_issuer_is_told(
    status: int, server: IssuerServer, records: Records
) -> None:
    """Whoever runs the service can see whose fault it is."""
    server.says(b"" if status in (204, 304) else b'{"keys": []}', status)
    assert asyncio.run(outcome(made(server.url), token())) == "503"
    [line] = records.troubles
    assert f"it answers with the status {status}" in line


def test_no_redirect_is_followed(server: IssuerServer, records: Records) -> None:
    """Who can redirect a request could otherwise choose the keys, or what this service asks."""
    with IssuerServer() as evil:
        evil.shows(public_entry("ES256"))
        server.says(b"", 302, Location=evil.url)
        assert asyncio.run(outcome(made(server.url), token())) == "503"
        assert not evil.requests
    assert "the status 302" in records.troubles[0]


def test_no_password_is_in_the_log(server: IssuerServer, records: Records) -> None:
    """The address of the keys may have one, and what is wrong may quote it."""
    server.says(b"no", 403)
    url = server.url.replace("://", "://user:canary@") + "?key=canary"
    tokens = made(url)
    assert asyncio.run(outcome(tokens, token())) == "503"
    [finding] = asyncio.run(tokens.check())
    shown = [record.getMessage() for record in records.all]
    assert "canary" not in repr((shown, finding, tokens, tokens.issuer))
    assert any("://***@127.0.0.1" in line for line in shown)


def test_one_set_of_tokens_serves_several_loops_and_threads(server: IssuerServer) -> None:
    """An app may be served by several threads, and tested in many loops."""
    tokens = made(server.url)
    assert [asyncio.run(outcome(tokens, token(sub=f"s{n}"))) for n in range(3)] == [
        "s0",
        "s1",
        "s2",
    ]
    found: List[Optional[Caller]] = []

    def ask(number: int) -> None:
        found.append(asyncio.run(tokens.find(token(sub=f"t{number}"))))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert {caller.id for caller in found if caller} == {f"t{number}" for number in range(6)}
    assert len(server.requests) == 1


def test_a_loop_that_ends_in_a_fetch_leaves_nothing_behind(server: IssuerServer) -> None:
    """The next loop must not wait for a fetch that nobody makes."""
    tokens = made(server.url)
    answer = server.answer
    server.hangs()

    async def leave() -> asyncio.Task[str]:
        waiting = asyncio.ensure_future(outcome(tokens, token()))
        await until(lambda: server.requests)
        return waiting

    assert asyncio.run(leave()).cancelled()
    server.answer = answer
    assert asyncio.run(outcome(tokens, token())) == "alice"


def test_what_a_check_finds(server: IssuerServer, records: Records) -> None:
    """The operator sees before the first client whether tokens can be checked."""
    [good] = asyncio.run(made(server.url).check())
    assert good == ("ok", "tokens", f"1 key of {NAME} at {server.url}")
    server.says(b"<html>")
    [bad] = asyncio.run(made(server.url).check())
    assert bad == ("failed", "tokens", f"{server.url}: what it answers is no JSON")
    assert not records.all
