"""Replies in Redis when workers die, and when the server is away, full, or has lost its data."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from itertools import count
from time import monotonic
from types import SimpleNamespace
from typing import Any, Awaitable, Callable, Dict, Iterator, List, Sequence
from uuid import uuid4

import msgspec
import pytest

from omniforge_chat.errors import ReplayUnavailable, ReplyExpired
from omniforge_chat.http.idempotency import Attempt
from omniforge_chat.http.replies import Replies
from omniforge_chat.replay import Keyed, requests, writer
from omniforge_chat.replay.live import MAX_BYTES
from omniforge_chat.replay.redis import RedisReplay
from omniforge_chat.replay.writer import AT_ONCE
from omniforge_chat.settings import Settings
from omniforge_chat.stores import Verdict
from omniforge_chat.stores.presence import Presence
from omniforge_chat.stream.lifecycle import Lifecycle

from ..support.constants import PATIENCE
from ..support.logs import Records
from ..support.process import environment
from ..support.replays import (
    DONE,
    GAP,
    LOST,
    UNAVAILABLE,
    Reader,
    code,
    found,
    recorded,
    reply_id,
    until,
    whole,
)
from ..support.stores import RedisServer
from ..support.stores.workers import workers

Test = Callable[[RedisReplay, RedisReplay], Awaitable[None]]

PREFIX = "test:"
KIB = 1024


def in_two_workers(server: RedisServer, test: Test, **options: Any) -> None:
    """Run a test with two workers: one produces, and one reads."""

    async def run() -> None:
        async with workers(server.url, prefix=PREFIX, **options) as [here, there]:
            await asyncio.wait_for(test(here, there), PATIENCE)
        assert not asyncio.all_tasks() - {asyncio.current_task()}

    asyncio.run(run())


@pytest.fixture
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that hangs, and a store that is away, are given up sooner."""
    monkeypatch.setattr("omniforge_chat.replay.following.PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr("omniforge_chat.stores.presence.LEASE_SECONDS", 1.0)


async def let_go_of(replay: RedisReplay, name: str, recording: object) -> None:
    """Wait until the worker that produces a reply does not hold all of it."""
    kept: object = recording
    while kept is recording:
        await asyncio.sleep(0.01)
        kept = await replay.find(name, "")


# The worker

PRODUCER = """
import asyncio, sys
from omniforge_chat.replay.redis import RedisReplay
from omniforge_chat.stores import SharedRedis, presence

async def produce(url, prefix, name, lease):
    presence.LEASE_SECONDS = float(lease)
    recording = RedisReplay(SharedRedis(url, prefix)).record(name, "c", "")
    number = 0
    while True:
        recording.add([f"{number} "])
        number += 1
        await asyncio.sleep(0.002)

asyncio.run(produce(*sys.argv[1:]))
"""


@pytest.fixture
def producer(one_redis_server: RedisServer) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Starts processes that count, without an end, in a reply."""
    started: List[subprocess.Popen[bytes]] = []

    def start(name: str, lease: float = 5.0) -> subprocess.Popen[bytes]:
        arguments = [one_redis_server.url, PREFIX, name, str(lease)]
        command = [sys.executable, "-c", PRODUCER, *arguments]
        started.append(subprocess.Popen(command, env=environment()))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(PATIENCE)


def counted(characters: int) -> str:
    """So much of what a producer says."""
    text = ""
    for number in count():
        if len(text) >= characters:
            return text[:characters]
        text += f"{number} "
    raise AssertionError


async def produced(replay: RedisReplay, name: str) -> None:
    """Wait until there is a reply."""
    while await replay.find(name, "") is None:
        pass


def test_who_reads_a_reply_whose_worker_is_killed_gets_what_there_is_and_hears_so(
    one_redis_server: RedisServer, producer: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """No client waits for ever, and none takes the half for the whole."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name = reply_id()
        process = producer(name)
        await produced(there, name)
        readers = [Reader((await found(there, name)).read(after)) for after in (0, 0, 5)]
        await until(lambda: len(readers[2].text) > 500)
        process.send_signal(signal.SIGKILL)
        killed = monotonic()
        ends = [await reader.end() for reader in readers]
        assert [getattr(end, "code", "") for end in ends] == [LOST] * 3
        assert monotonic() - killed < PATIENCE / 4
        text = readers[0].text
        assert text == counted(len(text))
        assert [reader.text for reader in readers] == [text, text, text[5:]]
        for worker in (here, there):
            kept = await found(worker, name)
            assert (getattr(kept.last, "code", ""), kept.characters) == (LOST, len(text))
            assert await worker.stop(name, "") is False
        assert await whole(there, name, 5) == [text[5:], ends[0]]
        assert await whole(there, name, len(text) + 9) == [ends[0]]  # the first client had more

    in_two_workers(one_redis_server, test)


def test_a_stop_of_a_reply_whose_worker_is_dead_ends_it(
    one_redis_server: RedisServer, producer: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """Also if nobody reads it, who would have found out."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name = reply_id()
        process = producer(name)
        await produced(there, name)
        process.kill()
        process.wait(PATIENCE)
        await until_answered(there, name)
        assert await code(there, name) == LOST

    async def until_answered(replay: RedisReplay, name: str) -> None:
        while True:
            try:
                assert await replay.stop(name, "") is False
                return
            except ReplayUnavailable:
                pass  # it is not certain yet that it is dead

    in_two_workers(one_redis_server, test)


def test_what_a_worker_writes_that_was_taken_for_dead_is_refused(
    in_haste: None,
    one_redis_server: RedisServer,
    producer: Callable[..., subprocess.Popen[bytes]],
) -> None:
    """Clients were told that it is lost, so nothing may come behind that."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name = reply_id()
        process = producer(name, 1.0)
        await produced(there, name)
        reader = Reader((await found(there, name)).read(0))
        await until(lambda: len(reader.text) > 100)
        process.send_signal(signal.SIGSTOP)
        assert getattr(await reader.end(), "code", "") == LOST
        length = one_redis_server.client.xlen(f"{PREFIX}r:{{{name}}}")
        process.send_signal(signal.SIGCONT)
        other = reply_id()  # that it goes on is seen from its next life
        await asyncio.sleep(0.5)
        assert one_redis_server.client.xlen(f"{PREFIX}r:{{{name}}}") == length
        assert await there.find(other, "") is None

    in_two_workers(one_redis_server, test)


def test_a_worker_that_closes_stores_what_it_has(one_redis_server: RedisServer) -> None:
    """A rolling deploy loses nothing that a client has seen."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        running, recording = recorded(here, "Hello")
        ended, last = recorded(here, "Hello")
        await found(there, running)
        recording.add([" you"])
        last.add([" you"])
        last.end(DONE)
        await here.aclose()
        assert await whole(there, ended) == ["Hello you", DONE]
        reader = Reader((await found(there, running)).read(0))
        await reader.until("Hello you")
        assert here.record(reply_id(), "c", "") is None
        await reader.leave()

    in_two_workers(one_redis_server, test)


# The server


def test_a_server_that_hangs_hurts_no_stream_and_loses_nothing(
    one_redis_server: RedisServer,
) -> None:
    """Whoever streams does not notice; whoever resumes gets all of it, a little later."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        reader = Reader((await found(there, name)).read(0))
        await reader.until("Hello")
        one_redis_server.pause()
        recording.add([" you"])
        await until(lambda: here.record(reply_id(), "c", "") is None)
        began = monotonic()
        for _ in range(1000):
            recording.add(["!"])
        assert monotonic() - began < 1.0
        own = Reader((await found(here, name)).read(0))
        await own.until("Hello you" + 1000 * "!")
        with pytest.raises(ReplayUnavailable):
            await there.find(name, "")
        one_redis_server.resume()
        await reader.until("Hello you" + 1000 * "!")
        recording.end(DONE)
        assert await reader.end() == await own.end() == DONE
        await until(lambda: here.record(reply_id(), "c", "") is not None)

    in_two_workers(one_redis_server, test)


def test_who_reads_hears_if_the_server_stays_away(
    in_haste: None, one_redis_server: RedisServer
) -> None:
    """They may try again, perhaps at the worker that has it."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        kept = await found(there, name)
        reader = Reader(kept.read(0))
        await reader.until("Hello")
        one_redis_server.stop()
        assert getattr(await reader.end(), "code", "") == UNAVAILABLE
        late = Reader(kept.read(0))
        assert getattr(await late.end(), "code", "") == UNAVAILABLE
        one_redis_server.start()
        recording.end(DONE)
        await until(lambda: here.record(reply_id(), "c", "") is not None)
        assert await whole(there, name) == ["Hello", DONE]

    in_two_workers(one_redis_server, test)


@pytest.mark.parametrize("loss", ["flush", "restart", "earlier"])
def test_a_running_reply_that_the_server_has_lost_is_put_in_again(
    redis_server: RedisServer, loss: str
) -> None:
    """All of it after an empty start, and the newest part after a failover that has lost that."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello", " you")
        silent, waiting = recorded(here, "Hello")
        key = f"{PREFIX}r:{{{name}}}"
        reader = Reader((await found(there, name)).read(0))
        await reader.until("Hello you")
        client: Any = redis_server.client  # its types do not know the option
        dump = client.execute_command("DUMP", key, NEVER_DECODE=True)
        recording.add([" and"])
        await reader.until("Hello you and")
        if loss == "flush":
            redis_server.flush()
        elif loss == "restart":
            redis_server.restart()
        else:
            client.restore(key, 60_000, dump, replace=True)
        for _ in range(3):
            recording.add([" me"])
            await asyncio.sleep(0.05)
        await reader.until("Hello you and me me me")
        recording.end(DONE)
        assert await reader.end() == DONE
        waiting.end(DONE)
        for worker, other in ((there, name), (there, silent)):
            while await worker.find(other, "") is None:
                pass
        assert await whole(there, name) == ["Hello you and me me me", DONE]
        assert await whole(there, silent) == ["Hello", DONE]

    in_two_workers(redis_server, test)


def test_who_reads_a_reply_whose_end_the_server_has_lost_hears_so(
    one_redis_server: RedisServer,
) -> None:
    """Its worker lives, but has let go of it once it was stored: nothing would ever come."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        await found(there, name)
        key = f"{PREFIX}r:{{{name}}}"
        client: Any = one_redis_server.client  # its types do not know the option
        dump = client.execute_command("DUMP", key, NEVER_DECODE=True)
        recording.end(DONE)
        assert await whole(there, name) == ["Hello", DONE]
        client.restore(key, 60_000, dump, replace=True)
        kept = await found(there, name)
        reader = Reader(kept.read(0))
        assert getattr(await reader.end(), "code", "") == GAP
        assert reader.text == "Hello"
        assert await code(here, name) == GAP

    in_two_workers(one_redis_server, test)


def test_a_silent_reply_that_the_server_has_lost_is_put_in_for_who_reads_it(
    one_redis_server: RedisServer,
) -> None:
    """A model may think for a minute: its worker is told that the reply is missing."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, _ = recorded(here, "Hello")
        reader = Reader((await found(there, name)).read(0))
        await reader.until("Hello")
        one_redis_server.flush()
        key = f"{PREFIX}r:{{{name}}}"
        await until(lambda: one_redis_server.client.exists(key))
        await reader.leave()

    in_two_workers(one_redis_server, test)


def test_who_reads_what_is_lost_for_good_hears_so(
    in_haste: None, one_redis_server: RedisServer
) -> None:
    """Nobody waits for a reply that its worker has stored, and no longer holds."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "x" * 10 * KIB)
        kept = await found(there, name)
        await let_go_of(here, name, recording)
        reader = Reader(kept.read(0))
        await reader.until("x" * 10 * KIB)
        one_redis_server.flush()
        recording.add(["!"])
        assert getattr(await reader.end(), "code", "") == GAP
        assert await code(there, name) == GAP
        recording.end(DONE)

    in_two_workers(one_redis_server, test, total_bytes=16 * KIB)


def test_a_full_server_keeps_no_new_reply_and_says_so_once(redis_server: RedisServer) -> None:
    """Streams go on without ids, and whoever operates it knows what to do."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        await found(there, name)
        redis_server.config(maxmemory=1)
        recording.add([" you"])
        await until(lambda: here.record(reply_id(), "c", "") is None)
        await asyncio.sleep(0.5)
        redis_server.config(maxmemory=0)
        recording.end(DONE)
        await until(lambda: here.record(reply_id(), "c", "") is not None)
        assert await whole(there, name) == ["Hello you", DONE]

    with Records() as log:
        in_two_workers(redis_server, test)
    assert len([text for text in log.troubles if "maxmemory" in text]) == 1, log.troubles


def test_a_deleted_reply_ends_though_its_worker_does_not_hear_of_it(
    one_redis_server: RedisServer,
) -> None:
    """Else its worker would put in again what was deleted."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        stopped: List[int] = []
        recording.stop = lambda: stopped.append(1)
        await found(there, name)
        one_redis_server.client.client_kill_filter(_type="pubsub")
        await there.forget("c", "")
        recording.add([" you"])
        await until(lambda: stopped)
        assert [await each.find(name, "") for each in (here, there)] == [None, None]

    in_two_workers(one_redis_server, test)


# The bounds


def test_any_number_of_replies_is_stored(one_redis_server: RedisServer) -> None:
    """After an outage all that run have something to send at once."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        replies = [recorded(here, "Hello") for _ in range(5000)]
        await found(there, replies[0][0])
        for _, recording in replies:
            recording.add([" you"])
            recording.end(DONE)
        for name, _ in replies[::500]:
            *texts, last = await whole(there, name)
            assert ("".join(map(str, texts)), last) == ("Hello you", DONE)

    in_two_workers(one_redis_server, test)


def test_a_reply_that_is_deleted_while_a_round_is_prepared_stays_deleted(
    one_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round lets others go on in between, and was to store the reply for the first time."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        conversation = str(uuid4())
        name = reply_id()
        assert here.record(name, conversation, "") is not None
        others = [recorded(here, "Hello") for _ in range(AT_ONCE)]
        deletions: List[asyncio.Future[None]] = []

        async def give_way(seconds: float) -> None:
            if not deletions:
                deletions.append(asyncio.ensure_future(here.forget(conversation, "")))
                await asyncio.wait(deletions)

        monkeypatch.setattr(writer, "asyncio", SimpleNamespace(sleep=give_way))
        await found(there, others[-1][0])
        await deletions[0]
        assert await here.find(name, "") is None
        assert await there.find(name, "") is None

    in_two_workers(one_redis_server, test)


def test_a_reply_that_is_too_long_is_not_kept_anywhere(one_redis_server: RedisServer) -> None:
    """Who reads it hears so, at every worker; and it can still be stopped."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        stopped: List[int] = []
        recording.stop = lambda: stopped.append(1)
        reader = Reader((await found(there, name)).read(0))
        await reader.until("Hello")
        recording.add(["x" * MAX_BYTES])
        assert getattr(await reader.end(), "code", "") == GAP
        assert [await code(worker, name) for worker in (here, there)] == [GAP, GAP]
        assert await there.stop(name, "") is True
        await until(lambda: stopped)
        recording.end(DONE)

    in_two_workers(one_redis_server, test)


def test_what_cannot_be_stored_is_bounded(one_redis_server: RedisServer) -> None:
    """If the server is away for long, the longest replies are kept no more, and not all of them."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        short, small = recorded(here, "Hello")
        long, large = recorded(here, "Hello")
        for name in (short, long):
            await found(there, name)
        one_redis_server.pause()
        small.add([" you"])
        for _ in range(20):
            large.add(["x" * KIB])
        one_redis_server.resume()
        small.end(DONE)
        assert await whole(there, short) == ["Hello you", DONE]
        assert await code(there, long) == GAP

    in_two_workers(one_redis_server, test, total_bytes=16 * KIB)


def test_what_was_let_go_of_is_read_from_the_store(one_redis_server: RedisServer) -> None:
    """A worker does not hold the text of all that it has produced."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here)
        for number in range(30):
            recording.add([f"{number:04} " * 200])
            await asyncio.sleep(0.01)
        text = "".join(f"{number:04} " * 200 for number in range(30))
        await let_go_of(here, name, recording)
        reader = Reader((await found(here, name)).read(5))
        await reader.until(text[5:])
        assert (await found(here, name)).characters == len(text)
        await until(lambda: recording.followers == 1)
        recording.add(["!"])
        recording.end(DONE)
        assert await reader.end() == DONE
        assert reader.text == text[5:] + "!"

    in_two_workers(one_redis_server, test, total_bytes=40 * KIB)


def test_an_ended_reply_that_cannot_be_stored_is_given_up(
    monkeypatch: pytest.MonkeyPatch, one_redis_server: RedisServer
) -> None:
    """And the log says so; the memory of a process does not grow with an outage."""
    monkeypatch.setattr("omniforge_chat.replay.writer.GIVE_UP_SECONDS", 0.1)

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        _, recording = recorded(here, "Hello")
        one_redis_server.stop()
        recording.end(DONE)
        await until(lambda: any("could not be stored" in text for text in log.troubles))

    with Records() as log:
        in_two_workers(one_redis_server, test)


def test_everything_that_is_stored_expires(one_redis_server: RedisServer) -> None:
    """Nothing of a service that is gone stays in the store."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        running, _ = recorded(here, "Hello")
        name, recording = recorded(here, "Hello")
        recording.end(DONE)
        forgotten, _ = recorded(here, "Hello", conversation_id="other")
        too_long, _ = recorded(here, "x" * (MAX_BYTES + 1))
        for each in (running, name, forgotten, too_long):
            await found(there, each)
        await there.forget("other", "")
        await there.begin_once("", "key", Keyed(b"1", name))
        client = one_redis_server.client
        lives = {key: client.pttl(key) for key in client.scan_iter()}
        assert len(lives) >= 7
        assert all(life > 0 for life in lives.values()), lives
        await asyncio.sleep(0.4)
        assert await there.find(name, "") is None
        assert await there.find(running, "") is not None

    in_two_workers(one_redis_server, test, keep=0.3)


def test_a_storm_of_unknown_ids_leaves_nothing_behind(one_redis_server: RedisServer) -> None:
    """Whoever guesses ids fills neither the store nor the memory of a worker."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        await here.keyed("", "k")  # it is connected
        tasks, keys = len(asyncio.all_tasks()), one_redis_server.client.dbsize()
        began = monotonic()
        names = [reply_id() for _ in range(300)]
        assert await asyncio.gather(*(here.find(name, "") for name in names)) == [None] * 300
        assert await asyncio.gather(*(here.stop(name, "") for name in names)) == [None] * 300
        assert monotonic() - began < PATIENCE / 4
        assert len(asyncio.all_tasks()) == tasks
        assert one_redis_server.client.dbsize() == keys

    in_two_workers(one_redis_server, test)


def test_all_who_read_here_share_what_is_asked_of_the_server(one_redis_server: RedisServer) -> None:
    """A crowd that comes back costs the server no more than one."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        readers = [Reader((await found(there, name)).read(0)) for _ in range(50)]
        for reader in readers:
            await reader.until("Hello")
        one_redis_server.client.config_resetstat()
        for number in range(10):
            recording.add([f" {number}"])
            await readers[-1].until("Hello" + "".join(f" {n}" for n in range(number + 1)))
        stats = one_redis_server.client.info("commandstats")
        assert stats["cmdstat_xread"]["calls"] < 50
        recording.end(DONE)
        for reader in readers:
            assert await reader.end() == DONE

    in_two_workers(one_redis_server, test)


def test_a_worker_shows_its_life_while_a_crowd_reads_what_is_stored(
    one_redis_server: RedisServer,
) -> None:
    """They come at once when a balancer was started anew. If they kept the connection busy, others
    would take the worker for dead, and all of its own replies with it."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "x" * 1_000_000)
        recording.end(DONE)
        await there.keyed("", "k")  # it is connected
        kept = [await found(there, name) for _ in range(40)]
        worst, began = 0.0, monotonic()
        crowd = [Reader(each.read(0)) for each in kept]
        while not all(reader.got for reader in crowd):
            asked = monotonic()
            await there.keyed("", "k")
            worst = max(worst, monotonic() - asked)
        assert worst < (monotonic() - began) / 2
        for reader in crowd:
            assert await reader.end() == DONE

    in_two_workers(one_redis_server, test)


def test_a_slow_reader_gets_all_of_it_though_others_were_faster(
    monkeypatch: pytest.MonkeyPatch, one_redis_server: RedisServer
) -> None:
    """What is held here for those who read is bounded, so the slow one asks the store again."""
    monkeypatch.setattr("omniforge_chat.replay.following.PATIENCE_SECONDS", 0.2)

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        kept = await found(there, name)
        slow, text = kept.read(0), "Hello"
        got = [await slow.__anext__()]
        quick = Reader(kept.read(0))
        for _ in range(4):
            recording.add(["x" * 50 * KIB])
            text += "x" * 50 * KIB
            await quick.until(text)
        await asyncio.sleep(0.3)
        recording.end(DONE)
        assert await quick.end() == DONE
        got += [entry async for entry in slow]
        assert "".join(map(str, got[:-1])) == text
        assert got[-1] == DONE

    in_two_workers(one_redis_server, test)


# What others do to the keys


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client, key: (client.delete(key), client.set(key, "text")),
        lambda client, key: client.xadd(key, {"t": b"\xff\xfe"}, id="900-0"),
        lambda client, key: client.xadd(key, {"what": "else"}, id="900-0"),
        lambda client, key: client.xadd(key, {"e": "[1, 2]"}, id="18446744073709551615-0"),
    ],
    ids=["another type", "no text", "no field", "no end"],
)
def test_an_unreadable_reply_is_told_by_its_key_and_hurts_no_other(
    one_redis_server: RedisServer, spoil: Callable[[Any, str], Any]
) -> None:
    """Somebody else's program, or a version of ours that is not made yet."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name, recording = recorded(here, "Hello")
        good, other = recorded(here, "Hello")
        reader = Reader((await found(there, name)).read(0))
        good_reader = Reader((await found(there, good)).read(0))
        for each in (reader, good_reader):
            await each.until("Hello")
        spoil(one_redis_server.client, key_of(name))
        recording.add([" you"])
        assert getattr(await reader.end(), "code", "") in (UNAVAILABLE, GAP)
        with pytest.raises(ReplayUnavailable):
            await asyncio.gather(there.find(name, ""), code(there, name))
        own = await whole_of(here, name, recording)
        assert own == ["Hello you", DONE]  # it is still held here
        other.add([" you"])
        await good_reader.until("Hello you")
        other.end(DONE)
        assert await good_reader.end() == DONE

    async def whole_of(replay: RedisReplay, name: str, recording: Any) -> List[Any]:
        reader = Reader((await found(replay, name)).read(0))
        await reader.until("Hello you")
        recording.end(DONE)
        await reader.end()
        return [reader.text, reader.got[-1]]

    def key_of(name: str) -> str:
        return f"{PREFIX}r:{{{name}}}"

    with Records() as log:
        in_two_workers(one_redis_server, test)
    assert any("r:{" in text for text in log.troubles), log.troubles


def test_a_key_that_was_noted_in_doubt_is_taken_back(one_redis_server: RedisServer) -> None:
    """A request was refused as the server did not answer: the next one must not find its reply."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        first, second = Keyed(b"1", reply_id()), Keyed(b"1", reply_id())
        assert await here.keyed("", "k") is None
        one_redis_server.pause()
        with pytest.raises(ReplayUnavailable):
            await here.begin_once("", "k", first)
        one_redis_server.resume()
        while True:
            try:
                if await there.begin_once("", "k", second) is None:
                    break
            except ReplayUnavailable:
                pass
        assert await here.keyed("", "k") == second

    in_two_workers(one_redis_server, test)


def test_an_unreadable_request_refuses_its_retries_alone(one_redis_server: RedisServer) -> None:
    """It is not known whether there was a reply to it: no second one is made in silence."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        keyed = Keyed(b"1", reply_id())
        await here.begin_once("", "k", keyed)
        [key] = one_redis_server.client.keys(f"{PREFIX}i:*")
        one_redis_server.client.set(key, "nonsense")
        for attempt in (there.keyed("", "k"), there.begin_once("", "k", keyed)):
            with pytest.raises(ReplayUnavailable):
                await attempt
        assert await there.begin_once("", "other", keyed) is None

    in_two_workers(one_redis_server, test)


NOTER = """
import asyncio, os, signal, sys
from omniforge_chat.replay import Keyed
from omniforge_chat.replay.redis import RedisReplay
from omniforge_chat.stores import SharedRedis

async def note(url, prefix, name, stored):
    replay = RedisReplay(SharedRedis(url, prefix))
    assert await replay.begin_once("", "k", Keyed(b"1", name)) is None
    if stored == "stored":
        recording = replay.record(name, "c", "")
        recording.add(["Hello"])
        while recording.stored < 5:
            await asyncio.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(note(*sys.argv[1:]))
"""


async def noted_and_killed(server: RedisServer, name: str, stored: str) -> None:
    """A worker notes the key "k" for a reply, stores that or not, and is killed."""
    arguments = [sys.executable, "-c", NOTER, server.url, PREFIX, name, stored]
    process = await asyncio.create_subprocess_exec(*arguments, env=environment())
    assert await process.wait() == -signal.SIGKILL


def test_a_key_whose_worker_is_killed_before_the_reply_is_stored_is_free_again(
    one_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all retries would be told for a day that a reply has expired which never was."""
    monkeypatch.setattr(requests, "LIVING_SECONDS", 0.0)

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        for look_first in (True, False):
            await noted_and_killed(one_redis_server, reply_id(), "not stored")
            if look_first:
                both = [here.keyed("", "k"), there.keyed("", "k")]
                assert await asyncio.gather(*both) == [None, None]
            mine, other = Keyed(b"1", reply_id()), Keyed(b"1", reply_id())
            begun = [here.begin_once("", "k", mine), there.begin_once("", "k", other)]
            answers = tuple(await asyncio.gather(*begun))
            assert answers in [(None, mine), (other, None)]
            winner = answers[0] or mine
            assert await there.keyed("", "k") == await here.keyed("", "k") == winner
            [key] = one_redis_server.client.keys(f"{PREFIX}i:*")
            one_redis_server.client.delete(key)

    in_two_workers(one_redis_server, test)


def test_a_key_whose_reply_was_stored_is_kept_when_the_worker_is_dead_and_the_reply_expired(
    one_redis_server: RedisServer,
) -> None:
    """The client may have had that reply: a late retry must not make a second one in silence."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        name = reply_id()
        await noted_and_killed(one_redis_server, name, "stored")
        assert await there.keyed("", "k") == Keyed(b"1", name)
        assert await code(there, name) == LOST
        while await there.find(name, "") is not None:
            pass
        replies = Replies(there, Settings(), Lifecycle(max_streams=1))
        for joined in (replies.joined, lambda attempt: replies.begin_once(attempt, "new")):
            with pytest.raises(ReplyExpired):
                await joined(Attempt("", "k", b"1"))
        [key] = one_redis_server.client.keys(f"{PREFIX}i:*")
        assert 0 < one_redis_server.client.pttl(key) <= 86_400_000

    in_two_workers(one_redis_server, test, keep=0.5)


def test_a_key_whose_worker_dies_while_others_wait_for_the_reply_is_free_again(
    one_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They came a moment before, when it was still alive."""
    verdicts = Presence.verdicts
    looks: List[Verdict] = []

    async def alive_at_first(self: Presence, workers: Sequence[str]) -> Dict[str, Verdict]:
        found = await verdicts(self, workers)
        looks.append(found[workers[0]])
        return found if len(looks) > 1 else dict.fromkeys(workers, Verdict.ALIVE)

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        await noted_and_killed(one_redis_server, reply_id(), "not stored")
        monkeypatch.setattr(Presence, "verdicts", alive_at_first)
        assert await there.keyed("", "k") is None
        assert len(looks) > 1

    in_two_workers(one_redis_server, test)


def test_a_key_whose_worker_lives_is_kept_before_the_reply_is_stored(
    one_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reply is to come, however long the worker takes to begin it."""
    monkeypatch.setattr(requests, "LIVING_SECONDS", 0.0)

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        keyed = Keyed(b"1", reply_id())
        assert await here.begin_once("", "k", keyed) is None
        assert await here.keyed("", "k") == keyed
        for _ in range(3):
            assert await there.keyed("", "k") == keyed
            assert await there.begin_once("", "k", Keyed(b"1", reply_id())) == keyed

    in_two_workers(one_redis_server, test)


def test_a_key_that_an_older_version_noted_is_kept(one_redis_server: RedisServer) -> None:
    """It does not tell which worker noted it."""

    async def test(here: RedisReplay, there: RedisReplay) -> None:
        keyed = Keyed(b"1", reply_id())
        await here.begin_once("", "k", Keyed(b"2", reply_id()))
        [key] = one_redis_server.client.keys(f"{PREFIX}i:*")
        one_redis_server.client.set(key, msgspec.msgpack.encode(keyed))
        assert await there.keyed("", "k") == keyed
        assert await there.begin_once("", "k", Keyed(b"1", reply_id())) == keyed

    in_two_workers(one_redis_server, test)
