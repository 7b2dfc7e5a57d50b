"""The way to Redis that the stores of an app share, against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Callable, Iterator, List, Tuple

import pytest

from omniforge_chat.rules import SettingsError
from omniforge_chat.stores import Script, SharedRedis, StoreUnavailable, StoreUnreadable, command

from ..support.logs import Records
from ..support.stores import RedisServer
from ..support.stores.redis import program
from ..support.stores.server import free_port
from ..support.stores.shared import PREFIX, shared, until
from ..support.tls import make_certificate

ECHO = Script("return {KEYS[1], ARGV[1]}")


def test_commands_and_scripts_get_their_answers(redis_server: RedisServer) -> None:
    """The stores of both rooms rest on it, with every server that is supported."""

    async def run() -> None:
        async with shared(redis_server.url) as redis:
            assert await redis.run(command("SET", "a", b"\x00\xff")) == b"OK"
            assert await redis.run(command("GET", "a")) == b"\x00\xff"
            assert await redis.run(command("GET", "b")) is None
            for _ in range(2):
                assert await redis.run(ECHO(["k"], 1)) == [b"k", b"1"]
                redis_server.flush()  # it does not know the script any more
            assert await redis.batch([]) == []

    asyncio.run(run())


def test_commands_are_in_doubt_if_another_one_of_theirs_is_refused(
    one_redis_server: RedisServer,
) -> None:
    """Whoever sends all of them again would count twice those that have run."""
    url = one_redis_server.user("half", "+@all", "-append")

    async def run() -> None:
        async with shared(url) as redis:
            good, bad = command("INCR", "mine"), command("APPEND", "mine", "0")
            for commands, in_doubt in (((bad,), False), ((good, bad), True), ((bad, good), True)):
                with pytest.raises(StoreUnavailable) as caught:
                    await redis.batch(commands)
                assert caught.value.in_doubt == in_doubt

    asyncio.run(run())
    assert one_redis_server.client.get("mine") == "2"


def test_everybody_gets_their_own_answers_however_many_leave(one_redis_server: RedisServer) -> None:
    """An answer that is left behind would be taken for that of the next command."""

    async def ask(redis: SharedRedis, number: int) -> List[bytes]:
        await asyncio.sleep(number % 7 / 1000)
        answers: List[bytes] = await redis.batch([command("ECHO", number), ECHO(["k"], number)])
        return answers

    async def run() -> None:
        async with shared(one_redis_server.url) as redis:
            tasks = [asyncio.ensure_future(ask(redis, number)) for number in range(300)]
            for task in tasks[::3]:
                asyncio.get_running_loop().call_later(0.003, task.cancel)
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            for number, answer in enumerate(answers):
                wanted = [b"%d" % number, [b"k", b"%d" % number]]
                assert answer == wanted or isinstance(answer, asyncio.CancelledError)
            assert sum(isinstance(answer, list) for answer in answers) >= 200

    asyncio.run(run())


def test_a_key_that_holds_something_else_hurts_only_its_command(
    one_redis_server: RedisServer,
) -> None:
    """No other conversation or reply feels it, and the server does not count as broken."""

    async def run() -> None:
        async with shared(one_redis_server.url) as redis:
            bad = command("LRANGE", "text", 0, -1)
            first, second, third = await redis.batch(
                [command("SET", "text", 1), bad, ECHO(["k"], 1)]
            )
            assert (first, third) == (b"OK", [b"k", b"1"])
            assert isinstance(second, StoreUnreadable)
            with pytest.raises(StoreUnreadable, match="WRONGTYPE"):
                await redis.run(bad)
            assert redis.available

    with Records() as log:
        asyncio.run(run())
    assert log.troubles == []


# A server that will not do


def closed(server: RedisServer) -> str:
    server.stop()
    return server.url


def refused_password(server: RedisServer) -> str:
    server.config(requirepass="right")
    return server.url_of("", "s3cret")


def missing_password(server: RedisServer) -> str:
    server.config(requirepass="s3cret")
    return server.url


def full(server: RedisServer) -> str:
    server.config(maxmemory=1)
    return server.url


def reader(server: RedisServer) -> str:
    return server.user("s3cret", "+@all", "-@write")


def without_scripts(server: RedisServer) -> str:
    return server.user("s3cret", "+@all", "-@scripting")


def without_one_command(server: RedisServer) -> str:
    return server.user("s3cret", "+@all", "-xrevrange")


def paused(server: RedisServer) -> str:
    server.pause()
    return server.url


def without_replicas(server: RedisServer) -> str:
    server.config(min_replicas_to_write=1)
    return server.url


def of_another_database(server: RedisServer) -> str:
    return server.url[:-1] + "99"


def with_tls(server: RedisServer) -> str:
    return server.url.replace("redis://", "rediss://")


Make = Callable[[RedisServer], str]

REFUSALS: List[Tuple[Make, str]] = [
    (refused_password, "it refuses the user name or the password in REDIS_URL"),
    (missing_password, "it wants a password; write it into REDIS_URL"),
    (full, "it is full; raise its maxmemory.*command not allowed"),
    (reader, r"has too few rights; give it .* ~test:\* and channels &test:\*"),
    (without_scripts, "has too few rights"),
    (without_one_command, "has too few rights"),
    (without_replicas, "it has fewer replicas than min-replicas-to-write"),
    (
        of_another_database,
        "it refuses the connection; correct REDIS_URL .*DB index is out of",
    ),
]
SILENCES: List[Tuple[Make, str]] = [
    (closed, "it cannot be reached; start it, or correct REDIS_URL"),
    (paused, "it does not answer; see whether it is overloaded or paused"),
    (with_tls, "it does not answer; .* and whether REDIS_URL is right"),
]


def named(value: object) -> str:
    return getattr(value, "__name__", "")


def is_named_once(url: str, sentence: str) -> None:
    """Whether each use fails, `check` says so, and the log has that in one line."""
    text = ""

    async def run() -> None:
        nonlocal text
        async with shared(url) as redis:
            with pytest.raises(StoreUnavailable) as refused:
                await redis.check()
            text = str(refused.value)
            assert log.all == []
            for _ in range(3):
                with pytest.raises(StoreUnavailable):
                    await redis.presence.begin()
                assert not redis.available

    with Records() as log:
        asyncio.run(run())
    assert re.search(sentence, text), text
    assert "\n" not in text
    [line] = log.troubles
    assert line == f"redis {re.sub('://.*@', '://***@', url)}: {text}"
    assert "s3cret" not in re.sub("User s3cret", "", line)  # whose password is the same


@pytest.mark.parametrize(("make", "sentence"), REFUSALS, ids=named)
def test_a_server_that_refuses_is_named_once_with_what_to_do(
    redis_server: RedisServer, make: Make, sentence: str
) -> None:
    """Whoever runs the service reads one line, and not one for each message of each user."""
    is_named_once(make(redis_server), sentence)


@pytest.mark.parametrize(("make", "sentence"), SILENCES, ids=named)
def test_a_server_that_does_not_answer_is_named_once_with_what_to_do(
    one_redis_server: RedisServer, make: Make, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, if there is none or it hangs."""
    monkeypatch.setattr("omniforge_chat.stores.driver.CONNECT_SECONDS", 0.1)
    monkeypatch.setattr("omniforge_chat.stores.driver.ANSWER_SECONDS", 0.1)
    is_named_once(make(one_redis_server), sentence)


def test_a_replica_is_refused_even_if_it_takes_writes(one_redis_server: RedisServer) -> None:
    """What is written there is lost at the next synchronization."""

    async def run(url: str) -> None:
        async with shared(url) as redis:
            with pytest.raises(StoreUnavailable, match=r"it is a replica.* must name the primary"):
                await redis.presence.begin()

    with one_redis_server.replica() as replica:
        for writes in ("yes", "no"):
            replica.config(replica_read_only=writes)
            asyncio.run(run(replica.url))


def test_a_cluster_is_refused() -> None:
    """Its servers send clients from one to the other, which nobody here would follow."""

    async def run() -> None:
        async with shared(server.url) as redis:
            with pytest.raises(StoreUnavailable, match="it is a cluster, which is not supported"):
                await redis.check()

    cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    with RedisServer(program("redis"), *cluster) as server:
        asyncio.run(run())


@contextlib.contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that gives these answers, whatever it is asked, and its URL."""

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    for answer in answers:
                        connection.recv(65536)
                        connection.sendall(answer)
                    connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def info(text: str) -> Tuple[bytes, ...]:
    data = text.encode()
    return b"+OK\r\n+OK\r\n", b"$%d\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        (
            info("redis_version:6.2.14\r\nrole:master"),
            "redis 6.2.14, which is too old; 7.0 or newer",
        ),
        (info("redis_version:255\r\nrole:slave"), "it is a replica"),
        ((b"+OK\r\n+OK\r\n", b"-LOADING Redis is loading\r\n"), "still loading its data; wait"),
        ((b"+OK\r\n+OK\r\n", b"-MASTERDOWN Link is down\r\n"), "replica that has lost its primary"),
        ((b"+OK\r\n+OK\r\n", b"-MISCONF errors\r\n"), "cannot write to its disk"),
        ((b"+OK\r\n+OK\r\n", b"-MOVED 1 127.0.0.1:1\r\n"), "it is a cluster"),
        ((b"-ERR max number of clients reached\r\n",), "too many clients; raise its maxclients"),
        ((b"+OK\r\n+OK\r\n", b"-BUSY Redis is busy\r\n"), "a script of another program blocks it"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "what answers there is no Redis"),
    ],
)
def test_what_no_server_here_would_say_has_its_sentence_too(
    answers: Tuple[bytes, ...], sentence: str
) -> None:
    """A server of version 6, or one that loads its data, is not at hand; its words are."""

    async def run(url: str) -> None:
        async with shared(url) as redis:
            with pytest.raises(StoreUnavailable, match=sentence):
                await redis.check()

    with answering(*answers) as url:
        asyncio.run(run(url))


def test_a_server_says_what_it_is(redis_server: RedisServer) -> None:
    """`check` prints it, and the log has it when the server is first used."""

    async def run() -> None:
        async with shared(redis_server.url) as redis:
            found = await redis.check()
            assert found.product == ("valkey" if "valkey" in redis_server.log.lower() else "redis")
            assert int(found.version.partition(".")[0]) >= 7
            assert found.warnings == ()
            redis_server.config(maxmemory="1gb", maxmemory_policy="allkeys-lru")
            [warning] = (await redis.check()).warnings
            assert "maxmemory-policy is allkeys-lru" in warning
            await redis.presence.begin()
            await redis.presence.begin()
            lines = [record.getMessage() for record in log.all]
            assert lines == [
                f"redis {redis.address}: {line}"
                for line in (f"{found.product} {found.version}", warning)
            ]

    with Records() as log:
        asyncio.run(run())


def test_a_user_who_may_not_ask_for_the_version_may_do_all_else(
    one_redis_server: RedisServer,
) -> None:
    """Many a company gives no rights that it calls dangerous; and no channels but its own."""
    user = one_redis_server.user("few", "+@all", "-@dangerous")
    rules = ("resetkeys", f"~{PREFIX}*", "resetchannels", f"&{PREFIX}*")
    server = one_redis_server.client
    server.execute_command("ACL", "SETUSER", "few", *rules)  # type: ignore[no-untyped-call]

    async def run() -> None:
        async with shared(user) as redis:
            found = await redis.check()
            assert found.version == "?"
            assert "its version cannot be told" in found.warnings[0]

    asyncio.run(run())


def test_that_the_server_is_back_is_told_once(
    one_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each change lets somebody see how long users had no memory."""
    monkeypatch.setattr("omniforge_chat.stores.health.QUIET_SECONDS", 0.2)

    async def works() -> bool:
        return bool(await redis.run(command("PING")))

    async def told() -> bool:
        return "it is back" in log.troubles[-1]

    redis = SharedRedis(one_redis_server.url, PREFIX)

    async def run() -> None:
        await redis.presence.begin()
        for _ in range(2):
            one_redis_server.stop()
            with pytest.raises(StoreUnavailable):
                await asyncio.gather(*(redis.run(command("PING")) for _ in range(9)))
            assert not redis.available
            one_redis_server.start()
            await until(works)
            await until(told)
            assert redis.available
        await redis.aclose()

    with Records() as log:
        asyncio.run(run())
    gone, back, *again = log.troubles
    assert "it cannot be reached" in gone
    assert re.search(r"it is back after \d+ s$", back)
    assert len(again) == 2


# Its address


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@host:port/0",
        "redis://:s3c#ret@host/0",
        "redis://h/0?socket_timeout=s3cret",
        "redis://h/0?s3cret=1",
        "redis://:s3/cret@h:x",
    ],
)
def test_an_address_that_cannot_be_used_is_named_without_its_secrets(url: str) -> None:
    """It is one line when the service starts, and logs are read by many."""
    with pytest.raises(SettingsError, match=r"redis_url=.*expected an address") as refused:
        SharedRedis(url, PREFIX)
    assert not re.search("s3|cret", str(refused.value))


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra, and not everybody who switches it on knows that."""
    monkeypatch.setitem(sys.modules, "redis.asyncio.connection", None)
    with pytest.raises(SettingsError, match=r"pip install 'omniforge-chat\[redis\]'"):
        SharedRedis("redis://127.0.0.1/0", PREFIX)


def test_options_in_the_address_change_no_answers(one_redis_server: RedisServer) -> None:
    """An address that another program uses, too, may have any of redis-py's."""

    async def run() -> None:
        url = f"{one_redis_server.url}?decode_responses=1&protocol=3&max_connections=1&timeout=1"
        async with shared(url) as redis:
            assert await redis.run(command("ECHO", "a")) == b"a"

    asyncio.run(run())


def test_a_unix_socket_is_an_address_too(one_redis_server: RedisServer) -> None:
    """On one machine it needs no port; a refused password is one there, too."""
    path = one_redis_server.directory / "socket"
    with RedisServer(program("redis"), "--unixsocket", str(path), password="right"):

        async def run() -> None:
            async with shared(f"unix://:right@{path}") as redis:
                assert await redis.run(command("ECHO", "a")) == b"a"
            async with shared(f"unix://:wrong@{path}") as redis:
                with pytest.raises(StoreUnavailable, match="it refuses the user name or"):
                    await redis.check()

        asyncio.run(run())


def test_tls_is_spoken_with_a_server_that_can_be_trusted(tmp_path: Path) -> None:
    """Between machines anybody may listen, and answer."""
    make_certificate(tmp_path, "-nodes")
    port = free_port()
    options = {
        "--tls-port": str(port),
        "--tls-cert-file": str(tmp_path / "cert.pem"),
        "--tls-key-file": str(tmp_path / "key.pem"),
        "--tls-ca-cert-file": str(tmp_path / "cert.pem"),
        "--tls-auth-clients": "no",
    }

    async def run() -> None:
        url = f"rediss://127.0.0.1:{port}/0"
        async with shared(f"{url}?ssl_ca_certs={tmp_path / 'cert.pem'}") as redis:
            await redis.check()
        async with shared(url) as redis:
            with pytest.raises(StoreUnavailable, match=r"it cannot be reached.*certificate"):
                await redis.check()

    arguments = [part for option in options.items() for part in option]
    with RedisServer(program("redis"), *arguments):
        asyncio.run(run())


# Loops and processes


def test_each_event_loop_has_connections_of_its_own(one_redis_server: RedisServer) -> None:
    """A host may run several, one after the other or at once, and may close none of them."""
    redis = SharedRedis(one_redis_server.url, PREFIX)
    workers = set()

    async def run() -> None:
        await redis.presence.begin()
        workers.add(redis.presence.worker)
        assert await redis.run(ECHO(["k"], 1)) == [b"k", b"1"]

    for _ in range(3):
        asyncio.run(run())
    threads = [threading.Thread(target=asyncio.run, args=(run(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert len(workers) == 6
    while len(one_redis_server.client.client_list()) > 1:
        pass  # that of the test


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_has_connections_of_its_own(one_redis_server: RedisServer) -> None:
    """Two processes on one connection would read each other's answers."""
    redis = SharedRedis(one_redis_server.url, PREFIX)

    async def worker() -> str:
        await redis.presence.begin()
        assert await redis.run(ECHO(["k"], 1)) == [b"k", b"1"]
        await redis.aclose()
        return redis.presence.worker

    async def run() -> None:
        await redis.presence.begin()
        mine = redis.presence.worker
        child = os.fork()
        if child == 0:
            asyncio.events._set_running_loop(None)
            code = 1
            with contextlib.suppress(BaseException):
                code = int(asyncio.run(worker()) == mine)
            os._exit(code)
        _, status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, child, 0)
        assert status == 0
        assert await redis.run(ECHO(["k"], 1)) == [b"k", b"1"]
        await redis.aclose()

    asyncio.run(run())
