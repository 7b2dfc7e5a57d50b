"""API keys: whose one is, and a file of them that changes, breaks and comes back."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import pytest

from omniforge_chat.access import Credentials, make_credentials, read_secret
from omniforge_chat.access import keys as keys_module
from omniforge_chat.access.key_file import new_key
from omniforge_chat.models import Allowance, Caller, Rate
from omniforge_chat.rules import SettingsError
from omniforge_chat.settings import Settings

from ..support.constants import PATIENCE
from ..support.logs import Records

needs_rights = pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() == 0, reason="everybody here may read everything"
)
needs_bits = pytest.mark.skipif(sys.platform == "win32", reason="it has no such bits")

ALICE, BOB = "alice-0123456789", "bob-0123456789-b"


@pytest.fixture(autouse=True)
def records() -> Iterator[Records]:
    """The log. No key is ever in it."""
    with Records() as found:
        yield found
        for record in found.all:
            assert ALICE not in record.getMessage()
            assert BOB not in record.getMessage()


def entry(name: str, key: str, **fields: Any) -> Dict[str, Any]:
    return {"name": name, "sha256": sha256(key.encode()).hexdigest(), **fields}


def write(path: Path, *entries: Dict[str, Any], mode: int = 0o600) -> None:
    """Replace the file as our own command does: all at once."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"version": 1, "keys": entries}))
    fresh.chmod(mode)
    fresh.replace(path)


def made(**settings: Any) -> Credentials:
    credentials = make_credentials(Settings(**settings))
    assert credentials is not None
    return credentials


def found(credentials: Credentials, *secrets: str) -> List[Optional[Caller]]:
    """Whose these are, each in an event loop of its own."""
    return [asyncio.run(credentials.find(secret)) for secret in secrets]


async def until(credentials: Credentials, secret: str, caller: Optional[Caller]) -> None:
    """Ask, as clients do, until `secret` is this caller's."""
    while await credentials.find(secret) != caller:  # noqa: ASYNC110 # it is all that is seen
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("headers", "secret"),
    [
        ({}, None),
        ({b"authorization": b"Bearer abc"}, "abc"),
        ({b"authorization": b"bearer   abc "}, "abc"),
        ({b"x-api-key": b"abc"}, "abc"),
        ({b"authorization": b"Bearer abc", b"x-api-key": b"other"}, "abc"),
        ({b"authorization": b"Basic abc"}, None),
        ({b"authorization": b"Basic abc", b"x-api-key": b"key"}, "key"),
        ({b"authorization": b"Bearer", b"x-api-key": b""}, None),
        ({b"authorization": b"Bearerabc"}, None),
        ({b"authorization": b"Bearer \xff"}, "\xff"),
    ],
)
def test_a_secret_is_where_clients_of_both_kinds_send_it(
    headers: Dict[bytes, bytes], secret: Optional[str]
) -> None:
    """OpenAI's clients send a bearer token, and those of Anthropic's format x-api-key."""
    assert read_secret(headers) == secret


def test_without_keys_nobody_is_asked() -> None:
    """The service on one's own machine needs none."""
    assert make_credentials(Settings()) is None


def test_keys_of_the_settings_have_their_owners() -> None:
    """A single machine needs no file."""
    credentials = made(api_keys=f"alice:{ALICE}, bob:{BOB}")
    alice, bob, nobody, almost = found(credentials, ALICE, BOB, "x" * 16, ALICE[:-1])
    assert alice == Caller("key:alice")
    assert bob == Caller("key:bob")
    assert nobody is almost is None


def test_keys_of_the_settings_hold_beside_those_of_the_file(tmp_path: Path) -> None:
    """Also after the file has changed."""
    path = tmp_path / "keys.json"
    write(path, entry("alice", ALICE))
    credentials = made(api_keys_file=str(path), api_keys=f"bob:{BOB}")
    assert found(credentials, ALICE, BOB) == [Caller("key:alice"), Caller("key:bob")]
    write(path, entry("carol", "carol-0123456789"))
    carol, alice, bob = found(credentials, "carol-0123456789", ALICE, BOB)
    assert (carol, alice, bob) == (Caller("key:carol"), None, Caller("key:bob"))


def test_a_key_of_the_settings_belongs_to_one_caller() -> None:
    """Else one of two would have the conversations of the other, and nobody was told."""
    with pytest.raises(SettingsError, match="each name and each key once") as caught:
        Settings(api_keys=f"alice:{ALICE},bob:{ALICE}")
    assert ALICE not in str(caught.value)


def test_a_secret_that_no_one_can_have_is_nobody_s() -> None:
    """Whatever a header can carry is an answer, and no failure."""
    credentials = made(api_keys=f"alice:{ALICE}")
    assert found(credentials, "", "\xff\xfe", "a" * 100_000, "a.b.c", "\0") == [None] * 5


def test_no_secret_is_in_a_repr_of_anything() -> None:
    """A repr gets into logs and into reports of errors."""
    settings = Settings(api_keys=f"alice:{ALICE}")
    credentials = make_credentials(settings)
    shown = repr((settings, credentials, vars(credentials)))
    assert ALICE not in shown
    assert sha256(ALICE.encode()).hexdigest() not in shown


def test_what_the_file_does_not_limit_the_settings_do(tmp_path: Path) -> None:
    """An operator writes down the exceptions, and nothing else."""
    write(
        tmp_path / "keys.json",
        entry("plain", "0" * 20, created="2026-01-02T03:04:05Z"),
        entry("quick", "1" * 20, rate_limit="100/30s"),
        entry("free", "2" * 20, rate_limit="off", streams="off", tokens_per_day="off"),
        entry("small", "3" * 20, streams=1, tokens_per_day=10),
        entry("meter", "4" * 20, may=["metrics"]),
    )
    credentials = made(
        api_keys_file=str(tmp_path / "keys.json"), rate_limit=Rate(60, 60), caller_streams=4
    )
    callers = found(credentials, *(str(digit) * 20 for digit in range(5)))
    assert callers == [
        Caller("key:plain"),
        Caller("key:quick", allowance=Allowance(Rate(100, 30), 4, None)),
        Caller("key:free", allowance=Allowance()),
        Caller("key:small", allowance=Allowance(Rate(60, 60), 1, 10)),
        Caller("key:meter", frozenset({"metrics"})),
    ]


def test_ten_thousand_keys_are_looked_up_as_one(tmp_path: Path) -> None:
    """Each request looks for one."""
    keys = [f"key-{number:020}" for number in range(10_000)]
    path = tmp_path / "keys.json"
    write(path, *(entry(f"n{number}", key) for number, key in enumerate(keys)))
    credentials = made(api_keys_file=str(path))

    async def ask() -> None:
        for number in range(0, 10_000, 100):
            assert await credentials.find(keys[number]) == Caller(f"key:n{number}")
        assert await credentials.find("another") is None

    asyncio.run(ask())


def test_a_new_key_holds_at_once_and_a_removed_one_soon(tmp_path: Path) -> None:
    """Nobody restarts a service for that, and its streams with it."""
    path = tmp_path / "keys.json"
    write(path, entry("alice", ALICE))
    credentials = made(api_keys_file=str(path))

    async def change() -> None:
        assert await credentials.find(ALICE)
        assert await credentials.find(BOB) is None
        write(path, entry("bob", BOB))
        everybody = await asyncio.gather(*(credentials.find(BOB) for _ in range(20)))
        assert everybody == [Caller("key:bob")] * 20
        assert await credentials.find(ALICE) is None
        write(path, entry("alice", ALICE))
        await until(credentials, BOB, None)
        assert await credentials.find(ALICE)

    asyncio.run(asyncio.wait_for(change(), PATIENCE))


def test_a_removed_key_opens_nothing_though_nobody_has_asked_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stolen key that was removed at night must not be good for the first request of the day."""
    monkeypatch.setattr(keys_module, "LOOK_SECONDS", 0.0)  # as if that second were over
    path = tmp_path / "keys.json"
    write(path, entry("alice", ALICE), entry("bob", BOB))
    credentials = made(api_keys_file=str(path))
    write(path, entry("bob", BOB))

    async def ask() -> List[Optional[Caller]]:
        return await asyncio.gather(*(credentials.find(key) for key in [ALICE, BOB] * 10))

    assert asyncio.run(ask()) == [None, Caller("key:bob")] * 10


def test_a_file_that_hangs_lets_known_keys_wait_but_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be on a disk of the network. Then the last keys hold."""
    path = tmp_path / "keys.json"
    write(path, entry("alice", ALICE))
    credentials = made(api_keys_file=str(path))
    hanging, waits = threading.Event(), []
    wait_for = asyncio.wait_for

    async def waited(work: Any, seconds: float) -> Any:
        waits.append(seconds)
        return await wait_for(work, 0.01)

    def hang(path: str) -> None:
        hanging.wait(PATIENCE)
        raise OSError

    monkeypatch.setattr(keys_module, "read_keys", hang)
    monkeypatch.setattr(asyncio, "wait_for", waited)
    write(path, entry("bob", BOB))
    assert found(credentials, "unknown", ALICE, ALICE) == [None] + [Caller("key:alice")] * 2
    assert waits == [keys_module.READ_SECONDS]
    hanging.set()


def test_one_set_of_keys_serves_several_loops_and_threads(tmp_path: Path) -> None:
    """An app may be served by several threads, and tested in many loops."""
    path = tmp_path / "keys.json"
    write(path, entry("alice", ALICE))
    credentials = made(api_keys_file=str(path))
    write(path, entry("bob", BOB))
    callers: List[Optional[Caller]] = []
    threads = [
        threading.Thread(target=lambda: callers.extend(found(credentials, BOB))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert callers == [Caller("key:bob")] * 8


TROUBLES = {
    "half written": ('{"version": 1, "keys": [{"na', "truncated"),
    "empty": ("", "truncated"),
    "no JSON": (f"alice:{ALICE}", "malformed"),
    "no UTF-8": ("\udcff", "malformed"),
    "of the future": ('{"version": 2, "keys": []}', "$.version"),
    "without keys": ('{"version": 1}', "keys"),
    "a key that is no hash": (
        json.dumps({"version": 1, "keys": [{"name": "alice", "sha256": ALICE}]}),
        "$.keys[0].sha256",
    ),
    "a misspelt limit": (
        json.dumps({"version": 1, "keys": [entry("a", ALICE, ratelimit="1/day")]}),
        "ratelimit",
    ),
    "a wrong rate": (
        json.dumps({"version": 1, "keys": [entry("a", ALICE, rate_limit="60/fortnight")]}),
        "60/minute",
    ),
    "a wrong number": (
        json.dumps({"version": 1, "keys": [entry("a", ALICE, streams=0)]}),
        "$.keys[0].streams",
    ),
    "a name twice": (
        json.dumps({"version": 1, "keys": [entry("a", ALICE), entry("a", BOB)]}),
        "key number 2 has the name of another one",
    ),
    "a key twice": (
        json.dumps({"version": 1, "keys": [entry("a", ALICE), entry("b", ALICE)]}),
        "key number 2 has the sha256 of another one",
    ),
    "a name of the settings": (
        json.dumps({"version": 1, "keys": [entry("root", ALICE)]}),
        "root is a name in CHAT_API_KEYS, too",
    ),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_bad_file_is_refused_at_the_start(trouble: str, tmp_path: Path) -> None:
    """A service that takes no key, or one that takes all, would be noticed too late."""
    text, told = TROUBLES[trouble]
    path = tmp_path / "keys.json"
    path.write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises(SettingsError) as caught:
        make_credentials(Settings(api_keys_file=str(path), api_keys=f"root:{'r' * 16}"))
    assert caught.value.name == "api_keys_file"
    line = str(caught.value)
    assert told in line
    assert "\n" not in line
    assert ALICE not in line


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_file_that_turns_bad_leaves_the_last_keys(
    trouble: str, tmp_path: Path, records: Records
) -> None:
    """An editor that saves half a file must not lock everybody out; and the log tells it once."""
    text, told = TROUBLES[trouble]
    path = tmp_path / "keys.json"
    write(path, entry("bob", BOB))
    credentials = made(api_keys_file=str(path), api_keys=f"root:{'r' * 16}")

    async def break_and_mend() -> None:
        path.write_text(text, "utf-8", errors="surrogateescape")
        for _ in range(5):
            assert await credentials.find("unknown") is None
            assert await credentials.find(BOB) == Caller("key:bob")
        [line] = records.troubles
        assert told in line
        assert str(path) in line
        write(path, entry("alice", ALICE))
        await until(credentials, ALICE, Caller("key:alice"))
        assert len(records.troubles) == 1

    asyncio.run(asyncio.wait_for(break_and_mend(), PATIENCE))


def test_a_file_that_goes_away_leaves_the_last_keys(tmp_path: Path, records: Records) -> None:
    """Whoever deploys a new one may delete the old one first."""
    path = tmp_path / "keys.json"
    write(path, entry("bob", BOB))
    credentials = made(api_keys_file=str(path))
    path.unlink()
    assert found(credentials, "unknown", BOB, "unknown") == [None, Caller("key:bob"), None]
    [line] = records.troubles
    assert "No such file" in line


@pytest.mark.parametrize("path", ["missing.json", ".", "/proc/self/mem", "/dev/zero", "\ud800"])
def test_a_file_that_is_none_is_one_line(path: str) -> None:
    """The operator has made a mistake in the path, or has made no key yet."""
    with pytest.raises(SettingsError, match="omniforge-chat keys"):
        make_credentials(Settings(api_keys_file=path))


@needs_rights
def test_a_file_that_may_not_be_read_is_one_line(tmp_path: Path) -> None:
    """It belongs to another user than that of the service."""
    path = tmp_path / "keys.json"
    write(path, entry("bob", BOB), mode=0)
    with pytest.raises(SettingsError, match="Permission denied"):
        make_credentials(Settings(api_keys_file=str(path)))


@needs_bits
def test_a_file_that_everybody_may_read_is_a_warning(tmp_path: Path, records: Records) -> None:
    """Its hashes open nothing, but its names and limits are nobody's business."""
    path = tmp_path / "keys.json"
    write(path, entry("bob", BOB), mode=0o644)
    credentials = made(api_keys_file=str(path))
    [finding] = asyncio.run(credentials.check())
    assert finding.state == "warning"
    assert f"chmod o= {path}" in finding.text
    write(path, entry("bob", BOB), mode=0o640)
    assert found(credentials, "unknown") == [None]
    assert asyncio.run(credentials.check()) == [("ok", "keys", f"1 key in {path}")]
    for _ in range(2):
        write(path, entry("bob", BOB), mode=0o604)
        assert found(credentials, "unknown") == [None]
    assert records.about("every user", logging.WARNING)
    assert len(records.troubles) == 1


def test_a_key_of_ours_has_256_random_bits() -> None:
    """So a fast hash of it is enough."""
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) == 47 and key.startswith("ofk_") for key in keys)
