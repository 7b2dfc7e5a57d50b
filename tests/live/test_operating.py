"""Commands for whoever runs a service: what they find in its stores, without the service."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import ContextManager, Dict, List, NamedTuple

import pytest

from ..support.answers import last
from ..support.command import Command, Done, command
from ..support.constants import CONVERSATION, PATIENCE
from ..support.issuer import NAME, IssuerServer, public_entry, token
from ..support.process import MODULE, ServiceProcess, environment, running
from ..support.stores import PostgresServer, RedisServer

__all__ = ["command"]

IN_REDIS = {"CHAT_HISTORY": "redis", "CHAT_REPLAY": "redis"}


@pytest.fixture
def nobody() -> str:
    """The address of a Redis that is not there, with a password."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"redis://:secret@127.0.0.1:{listener.getsockname()[1]}/0"


# check


def lines(done: Done) -> List[str]:
    """The lines of a check, without the one of the settings, which are fine."""
    first, *others = done.out.splitlines()
    assert first == "ok       settings  1 worker, responder placeholder"
    assert done.err == ""
    return others


def test_a_check_tells_what_each_store_is(command: Command, redis_server: RedisServer) -> None:
    """Before a deploy: the right server, and of which version."""
    info = redis_server.client.info()
    product = info.get("server_name", "redis")
    version = info[f"{product}_version"]
    done = command("check", **IN_REDIS, REDIS_URL=redis_server.url)
    found = f"{product} {version} at {redis_server.url}"
    assert lines(done) == [
        f"ok       history   {found}",
        f"ok       replay    {found}",
        "off      limits",
    ]
    assert done.status == 0
    assert redis_server.client.keys() == []


def test_a_check_tells_of_a_database(
    command: Command, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    """And how much is in it: an empty one is perhaps another one."""
    done = command("check", CHAT_HISTORY=postgres_server.url)
    where = re.sub("//.*@", "//***@", postgres_server.url)
    found = rf"ok       history   postgresql \d+\.\S+ at {re.escape(where)}; 0 conversations, in .*"
    assert re.fullmatch(found, lines(done)[0])
    assert done.status == 0
    file = tmp_path / "conversations.db"
    assert lines(command("check", CHAT_HISTORY="sqlite"))[0] == (
        f"ok       history   the service will make {file}"
    )
    assert not file.exists()
    with running(tmp_path, CHAT_HISTORY="sqlite") as service:
        service.reply("Hello")
    found = lines(command("check", CHAT_HISTORY="sqlite"))[0]
    assert re.fullmatch(rf"ok       history   sqlite 3\S+ at {file}; 1 conversation, in .*", found)


def test_a_check_tells_of_a_database_that_refuses(
    command: Command, postgres_server: PostgresServer
) -> None:
    """Without what it was refused with."""
    done = command("check", CHAT_HISTORY=postgres_server.url_of("postgres", "secret"))
    assert lines(done)[0].startswith("failed   history   postgresql://***@127.0.0.1:")
    assert "secret" not in done.out
    assert done.status == 1


def test_a_check_tells_which_stores_there_are_none_to_reach(command: Command) -> None:
    """A wrong file of variables is seen by that."""
    done = command("check", CHAT_REPLAY="memory")
    assert lines(done) == [
        "off      history",
        "ok       replay    in the memory of the process that serves",
        "off      limits",
    ]
    assert done.status == 0


def test_a_check_tells_where_callers_are_counted(
    command: Command, one_redis_server: RedisServer
) -> None:
    """A limit that each worker counts for itself is a larger one than its operator wrote."""
    limited = {"CHAT_RATE_LIMIT": "60/minute"}
    done = command("check", **limited)
    assert lines(done)[2] == "ok       limits    in the memory of the process that serves"
    done = command("check", **limited, CHAT_LIMITS="redis", REDIS_URL=one_redis_server.url)
    assert lines(done)[2].startswith("ok       limits    redis ")
    done = command("check", **limited, WEB_CONCURRENCY="2")
    [*_, line] = done.out.splitlines()
    assert line.startswith("warning  limits    each of 2 workers counts for itself, so a caller ")
    assert done.status == 1


def test_a_check_warns_of_a_server_that_deletes_conversations(
    command: Command, one_redis_server: RedisServer
) -> None:
    """It would do so without a word, and not before it is full."""
    one_redis_server.config(maxmemory="64mb", maxmemory_policy="allkeys-lru")
    done = command("check", CHAT_HISTORY="redis", REDIS_URL=one_redis_server.url)
    assert lines(done)[0].startswith("warning  history   redis ")
    assert "; its maxmemory-policy is allkeys-lru: if it is full, it deletes" in done.out
    assert done.status == 1


def test_a_check_tells_of_a_store_that_is_out_of_reach(command: Command, nobody: str) -> None:
    """And shows no password, as the output of a deploy is kept."""
    done = command("check", **IN_REDIS, REDIS_URL=nobody)
    found = f"{nobody.replace(':secret@', '***@')}: it cannot be reached; start it, or correct"
    for line, name in zip(lines(done), ("history", "replay ")):
        assert line.startswith(f"failed   {name}   {found}")
    assert done.status == 1


def test_a_check_tells_of_a_replica(command: Command, one_redis_server: RedisServer) -> None:
    """Nothing could be stored there."""
    with one_redis_server.replica() as replica:
        done = command("check", CHAT_HISTORY="redis", REDIS_URL=replica.url)
    assert ": it is a replica, which takes no writes; REDIS_URL must name" in lines(done)[0]
    assert done.status == 1


def test_a_check_tells_of_settings_with_which_no_service_would_start(command: Command) -> None:
    """As `--check` of the service does, and of nothing else, as nobody knows the stores then."""
    done = command("check", CHAT_HISTORY="memory", WEB_CONCURRENCY="2")
    assert done.out.startswith("failed   settings  CHAT_HISTORY='memory': expected off, or one")
    assert (done.status, len(done.out.splitlines())) == (1, 1)


def test_a_check_tells_of_a_package_that_is_missing(tmp_path: Path) -> None:
    """With the command that installs it."""
    missing = """raise ModuleNotFoundError("No module named 'redis'", name="redis")"""
    (tmp_path / "redis.py").write_text(missing)
    done = subprocess.run(
        [*MODULE, "check"],
        cwd=tmp_path,
        env=environment(CHAT_REPLAY="redis"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.stdout.startswith("failed   settings  REDIS_URL='redis://127.0.0.1:6379/0': ")
    assert done.stdout.endswith("the package redis: pip install 'omniforge-chat[redis]'\n")
    assert (done.returncode, done.stderr) == (1, "")


def test_a_check_reads_a_file_of_variables(command: Command, tmp_path: Path) -> None:
    """The one that the service is started with."""
    (tmp_path / "env").write_text("CHAT_HISTORY=redis\nREDIS_URL=redis://:secret@host:x/0\n")
    done = command("check", "--env-file", "env")
    assert done.out.startswith("failed   settings  REDIS_URL='redis://***@host:x/0': expected")
    assert command("check", "--env-file", "none").status == 1
    assert command("check", "now").status == 2


def test_a_check_looks_at_keys_and_at_the_issuer_of_tokens(
    command: Command, tmp_path: Path
) -> None:
    """Before the first client: who cannot be known is refused."""
    assert command("keys", "add", "ann", "--file", "keys.json").status == 0
    with IssuerServer() as issuer:
        issuer.shows(public_entry("ES256"))
        tokens = {"CHAT_JWT_ISSUER": NAME, "CHAT_JWT_AUDIENCE": "chat", "CHAT_JWT_JWKS": issuer.url}
        both = {"CHAT_API_KEYS_FILE": "keys.json", **tokens}
        done = command("check", **both)
        assert lines(done)[-2:] == [
            "ok       keys      1 key in keys.json",
            f"ok       tokens    1 key of {NAME} at {issuer.url}",
        ]
        assert done.status == 0
        issuer.says(b"<html>")
        (tmp_path / "keys.json").chmod(0o644)
        done = command("check", **both)
        assert lines(done)[-2:] == [
            "warning  keys      1 key in keys.json; every user of this machine may read it; "
            "chmod o= keys.json",
            f"failed   tokens    {issuer.url}: what it answers is no JSON",
        ]
        assert done.status == 1


def test_what_is_wrong_with_keys_and_tokens_is_a_warning_each_at_the_start(tmp_path: Path) -> None:
    """Each worker would say it again; and who starts a service looks at its first lines."""
    (tmp_path / "keys.json").write_text('{"version": 1, "keys": []}')
    (tmp_path / "keys.json").chmod(0o644)
    with IssuerServer() as issuer:
        issuer.says(b"<html>")
        variables = {
            "CHAT_API_KEYS_FILE": "keys.json",
            "CHAT_JWT_ISSUER": NAME,
            "CHAT_JWT_AUDIENCE": "chat",
            "CHAT_JWT_JWKS": issuer.url,
        }
        with running(tmp_path, "--workers", "2", **variables) as service:
            assert service.port  # it serves
            assert service.end() == 0
    keys = "keys: 0 keys in keys.json; every user of this machine may read it; chmod o= keys.json"
    tokens = f"tokens: {issuer.url}: what it answers is no JSON"
    for warning in (keys, tokens):
        assert [line for line in service.log if f" WARNING omniforge_chat: {warning}" in line]
    assert "".join(service.log).count("every user") == 1
    assert "".join(service.log).count("no JSON") == 1


def test_who_has_a_key_or_a_token_may_chat_as_long_as_it_holds(
    command: Command, tmp_path: Path
) -> None:
    """From the command that makes a key to the one that takes it back, without a restart."""
    file = {"CHAT_API_KEYS_FILE": "keys.json"}
    assert command("keys", "add", "root", **file).status == 0
    with IssuerServer() as issuer:
        issuer.shows(public_entry("ES256"))
        tokens = {"CHAT_JWT_ISSUER": NAME, "CHAT_JWT_AUDIENCE": "chat", "CHAT_JWT_JWKS": issuer.url}
        with running(tmp_path, **file, **tokens) as service:

            def status(name: str = "Accept", value: str = "*/*") -> int:
                with service.connect() as client:
                    client.post({"message": "hi"}, headers={name: value})
                    return client.head()[0]

            assert status() == 401
            key = command("keys", "add", "ann", **file).out.strip()
            assert status("Authorization", f"Bearer {key}") == 200
            assert status("X-API-Key", key) == 200
            assert status("Authorization", f"Bearer {token()}") == 200
            assert status("Authorization", f"Bearer {token(aud='mail')}") == 401
            issuer.stop()
            assert status("Authorization", f"Bearer {token()}") == 200
            assert command("keys", "remove", "ann", **file).status == 0
            deadline = time.monotonic() + PATIENCE
            while status("X-API-Key", key) != 401:
                assert time.monotonic() < deadline, "the key still holds"
            assert service.end() == 0
    assert key not in "".join(service.log)
    assert "eyJ" not in "".join(service.log)  # with which each token begins


# A service whose store is not there


def test_a_store_that_is_out_of_reach_at_the_start_is_one_warning(
    tmp_path: Path, nobody: str
) -> None:
    """The service runs: what needs no store goes on, and the rest when it is back."""
    with running(tmp_path, CHAT_REPLAY="redis", REDIS_URL=nobody) as service:
        assert service.reply("Hello")
        assert service.end() == 0
    warnings = [line for line in service.log if " WARNING " in line]
    assert len(warnings) == 1
    where = nobody.replace(":secret@", "***@")
    assert f" replay {where}: it cannot be reached; start it, or " in warnings[0]
    assert "secret" not in "".join(service.log)


def test_workers_that_count_callers_apart_are_one_warning(tmp_path: Path) -> None:
    """They serve nevertheless: a looser limit is better than none."""
    with running(tmp_path, CHAT_CALLER_STREAMS="5", WEB_CONCURRENCY="2") as service:
        assert service.reply("Hello")
        assert service.end() == 0
    [warning] = [line for line in service.log if " WARNING " in line]
    assert "limits each of 2 workers counts for itself" in warning


# conversations


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: show|delete"),
        (["list"], "invalid choice: 'list'"),
        (["show"], "the following arguments are required: ID"),
        (["show", "a b"], "argument ID: expected 1 to 128 visible ASCII characters"),
        (["delete", "x" * 129], "argument ID: expected 1 to 128 visible ASCII characters"),
        (["delete", "x", "--owner", "\udcff"], "argument --owner: expected text"),
        (["delete", "x", "--json"], "unrecognized arguments: --json"),
    ],
)
def test_arguments_that_cannot_be_used_are_told(
    command: Command, arguments: List[str], said: str
) -> None:
    """With the usage, and the status of a wrong command."""
    done = command("conversations", *arguments)
    assert said in done.err
    assert (done.status, done.out) == (2, "")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "CHAT_HISTORY=off: no conversation is stored"),
        (
            {"CHAT_HISTORY": "memory"},
            "CHAT_HISTORY=memory: conversations are in the memory of the one process that serves; "
            "only that can be asked, by GET or DELETE /api/v1/conversations/ID",
        ),
        (
            {"CHAT_HISTORY": "redis", "REDIS_URL": "redis://:secret@host:x"},
            "REDIS_URL='redis://***@host:x': expected an address that redis-py can use",
        ),
        ({"CHAT_HISTORY": "disk"}, "CHAT_HISTORY='disk': expected off, memory, redis, sqlite:PATH"),
    ],
)
@pytest.mark.parametrize("name", ["show", "delete"])
def test_settings_by_which_no_conversation_is_found_are_told(
    command: Command, name: str, variables: Dict[str, str], said: str
) -> None:
    """Another command's "there is none" would be taken for the truth."""
    done = command("conversations", name, CONVERSATION, **variables)
    (line,) = done.err.splitlines()
    assert line.startswith(f"omniforge-chat: {said}")
    assert (done.status, done.out) == (2, "")


def stored(service: ServiceProcess, conversation_id: str = CONVERSATION) -> bytes:
    """The body of GET /api/v1/conversations/<id>."""
    with service.connect() as client:
        client.ask(f"/api/v1/conversations/{conversation_id}")
        status, headers = client.head()
        assert status == 200
        return client.content(headers)


class Store(NamedTuple):
    """A store that is shared: the variables by which a service and a command find it."""

    variables: Dict[str, str]
    redis: RedisServer

    def wait_for_reply(self, reply_id: str) -> None:
        """Wait until this reply is stored, which is a moment after its first piece was sent."""
        deadline = time.monotonic() + PATIENCE
        while not any(reply_id in key for key in self.redis.client.scan_iter()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def running(self, directory: Path, **options: str) -> ContextManager[ServiceProcess]:
        (directory / "mine.py").write_text(RESPONDER)
        return running(directory, CHAT_RESPONDER="mine:respond", **self.variables, **options)


RESPONDER = """
import asyncio

async def respond(turn):
    yield turn.message
    while turn.message == "wait":
        await asyncio.sleep(0.01)
    if turn.message == "fail":
        raise RuntimeError
    yield "!"
"""


@pytest.fixture(params=["redis", "sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Each store that processes share; replies are in Redis."""
    variables = {"CHAT_REPLAY": "redis", "CHAT_HISTORY": request.param}
    redis: RedisServer = request.getfixturevalue("one_redis_server")
    variables["REDIS_URL"] = redis.url
    if request.param == "postgresql":
        variables["CHAT_HISTORY"] = request.getfixturevalue("postgres_server").url
    return Store(variables, redis)


def test_a_conversation_is_shown_to_people(command: Command, store: Store, tmp_path: Path) -> None:
    """Of a service that need not run any more; a text can neither imitate a message nor a key."""
    with store.running(tmp_path) as service:
        service.reply("Hello\nassistant, now\x1b[2J", conversation_id=CONVERSATION)
        with service.connect() as client:
            client.post({"message": "fail", "conversation_id": CONVERSATION})
            client.head()
            assert last(client.frames())[0] == "error"
        assert service.end() == 0
    done = command("conversations", "show", CONVERSATION, **store.variables)
    assert re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME", done.out) == (
        "user, TIME\n    Hello\n    assistant, now[2J\n\n"
        "assistant, TIME\n    Hello\n    assistant, now[2J!\n\n"
        "user, TIME\n    fail\n\n"
        "assistant, TIME, cut\n    fail\n"
    )
    assert (done.status, done.err) == (0, "")


def test_a_conversation_is_shown_to_machines_as_the_service_does(
    command: Command, store: Store, tmp_path: Path
) -> None:
    """One document, whichever way a program gets it; and any terminal survives it."""
    with store.running(tmp_path) as service:
        service.reply("é😀\0\x9b2J", conversation_id=CONVERSATION)
        expected = stored(service)
        done = command("conversations", "show", CONVERSATION, "--json", **store.variables)
    assert json.loads(done.out) == json.loads(expected)
    assert "é😀" in done.out
    assert done.out.rstrip("\n").isprintable()
    assert (done.status, done.err) == (0, "")


def test_a_conversation_is_deleted_with_its_replies(
    command: Command, store: Store, tmp_path: Path
) -> None:
    """Somebody's right to be forgotten ends at no store; and a script may run twice."""
    with store.running(tmp_path) as service, service.connect() as client:
        client.post({"message": "Hello", "conversation_id": CONVERSATION})
        _, headers = client.head()
        assert last(client.frames())[0] == "done"
        store.wait_for_reply(headers["x-reply-id"])
        delete = ("conversations", "delete", CONVERSATION)
        done = command(*delete, **store.variables)
        assert done.out == f"{CONVERSATION}: deleted 2 messages and the replies that were kept\n"
        assert (done.status, done.err) == (0, "")
        client.ask(f"/api/v1/conversations/{CONVERSATION}")
        assert client.json()[0] == 404
        status, deadline = 200, time.monotonic() + PATIENCE
        while status != 404:  # the service hears of it a moment later
            assert time.monotonic() < deadline
            with service.connect() as reader:
                reader.ask(headers["location"])
                status, _ = reader.head()
        for again in (delete, ("conversations", "show", CONVERSATION)):
            done = command(*again, **store.variables)
            assert "No conversation with this id is stored" in done.err
            assert (done.status, done.out) == (1, "")


def test_a_running_reply_ends_with_its_conversation(
    command: Command, store: Store, tmp_path: Path
) -> None:
    """And it stores nothing, though it was answered by a process that nobody has told."""
    with store.running(tmp_path) as service, service.connect() as client:
        client.post({"message": "wait", "conversation_id": CONVERSATION})
        _, headers = client.head()
        client.frame()
        store.wait_for_reply(headers["x-reply-id"])
        done = command("conversations", "delete", CONVERSATION, **store.variables)
        assert done.out == f"{CONVERSATION}: deleted the replies that were kept\n"
        assert client.frames()[-1].event == "done"
        client.ask(f"/api/v1/conversations/{CONVERSATION}")
        assert client.json()[0] == 404


def test_a_conversation_belongs_to_its_owner(
    command: Command, store: Store, tmp_path: Path
) -> None:
    """One that nobody has been told of is nobody else's."""
    with store.running(tmp_path) as service:
        service.reply("Hello", conversation_id=CONVERSATION)
    for name in ("show", "delete"):
        done = command("conversations", name, CONVERSATION, "--owner", "Eve", **store.variables)
        assert "No conversation with this id is stored" in done.err
        assert (done.status, done.out) == (1, "")
    shown = command("conversations", "show", CONVERSATION, "--owner", "", **store.variables)
    assert shown.status == 0


@pytest.mark.parametrize("name", ["show", "delete"])
def test_a_file_that_is_not_there_is_told(command: Command, name: str, tmp_path: Path) -> None:
    """It is most often the wrong directory, and an empty file in it would only mislead."""
    done = command("conversations", name, CONVERSATION, CHAT_HISTORY="sqlite")
    file = tmp_path / "conversations.db"
    assert done == Done(1, "", f"omniforge-chat: there is no file {file}\n")
    assert not file.exists()


@pytest.mark.parametrize("name", ["show", "delete"])
def test_a_store_that_does_not_answer_is_told(command: Command, name: str, nobody: str) -> None:
    """It is no missing conversation, and its password is nobody's business."""
    variables = {"CHAT_HISTORY": "redis", "REDIS_URL": nobody}
    done = command("conversations", name, CONVERSATION, **variables)
    (line,) = done.err.splitlines()
    where = nobody.replace(":secret@", "***@")
    assert line.startswith(f"omniforge-chat: redis {where}: it cannot be reached; start it, or ")
    assert (done.status, done.out) == (1, "")


def test_replies_in_the_memory_of_a_service_are_told_of(
    command: Command, one_redis_server: RedisServer, tmp_path: Path
) -> None:
    """Whoever has to delete all of it waits for that, or restarts the service."""
    variables = {"CHAT_HISTORY": "redis", "REDIS_URL": one_redis_server.url}
    variables["CHAT_REPLAY"] = "memory"
    with Store(variables, one_redis_server).running(tmp_path) as service:
        service.reply("Hello", conversation_id=CONVERSATION)
        done = command("conversations", "delete", CONVERSATION, **variables)
    assert done.out == f"{CONVERSATION}: deleted 2 messages\n"
    assert "CHAT_REPLAY=memory: what the service keeps of this conversation's" in done.err
    assert done.status == 0


def test_nobody_needs_to_read_the_output(tmp_path: Path, one_redis_server: RedisServer) -> None:
    """`| head -1` ends it, without a traceback."""
    variables = {"CHAT_HISTORY": "redis", "REDIS_URL": one_redis_server.url}
    with Store(variables, one_redis_server).running(tmp_path) as service:
        service.reply("Hello", conversation_id=CONVERSATION)
    reader, writer = os.pipe()
    os.close(reader)
    for output, status, said in (
        (writer, 141, ""),
        (os.open("/dev/full", os.O_WRONLY), 1, "omniforge-chat: cannot write: No space left on"),
    ):
        done = subprocess.run(
            [*MODULE, "conversations", "show", CONVERSATION],
            cwd=tmp_path,
            env=environment(**variables),
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        os.close(output)
        assert done.returncode == status
        assert done.stderr.startswith(said)
        assert len(done.stderr.splitlines()) == (1 if said else 0)
