"""Who sees what when something fails: two workers on one Redis, all of them real processes.

Each test is a row of the table of failures in docs/scaling.md: what the client sees that asked,
what one that comes back at the other worker, what new chats, and what the conversation keeps.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

from ..support.constants import PATIENCE
from ..support.fleet import Chat, Fleet, ask, fleet
from ..support.process import ServiceProcess
from ..support.stores import RedisServer
from ..support.stores.redis import program


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(RedisServer(program("redis"), durable=True))
        directory = tmp_path_factory.mktemp("fleet")
        yield stack.enter_context(fleet(directory, redis, CHAT_REPLAY_GRACE="1"))


@pytest.fixture
def shared(two: Fleet) -> Fleet:
    """Two workers for tests that leave them alive, and a Redis that is up."""
    two.redis.heal()
    for worker in two.workers:
        _until_kept(two, worker, True)
    return two


@contextlib.contextmanager
def pair(directory: Path) -> Iterator[Tuple[Fleet, RedisServer]]:
    """Two workers and a Redis for one test."""
    server = RedisServer(program("redis"), durable=True)
    with server as redis, fleet(directory, redis) as running:
        yield running, redis


def is_busy(running: Fleet, worker: int, chat: Chat) -> bool:
    """Whether another chat of the same conversation is refused for now."""
    another = running.chat(running.workers[worker], "x", conversation_id=chat.conversation_id)
    if another.status == 409:
        assert another.refusal() == (409, "conversation_busy")
        return True
    assert another.end() == "done"
    return False


def until_free(running: Fleet, worker: int, chat: Chat) -> None:
    """Wait until the conversation of a chat takes another one."""
    deadline = time.monotonic() + PATIENCE
    while is_busy(running, worker, chat):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_connection_breaks(shared: Fleet) -> None:
    """The reply goes on, and is whole at any worker; its conversation is claimed until it ends."""
    first, second = shared.workers
    chat = shared.chat(first, "one ? two").until("one ")
    chat.client.reset()
    later = shared.resume(second, chat)
    assert is_busy(shared, 1, chat)
    shared.go(chat)
    assert later.end() == "done"
    assert chat.text + later.text == "one two "
    for worker in shared.workers:
        assert shared.resume(worker, later).status == 204
        again = shared.resume(worker, chat, whole=True)
        assert (again.end(), again.text) == ("done", "one two ")
    shared.until_messages(second, chat, [("one ? two", True), ("one two", True)])
    assert not is_busy(shared, 0, chat)


def test_two_follow_one_reply(shared: Fleet) -> None:
    """All who read it get all of it, the client that asked as well."""
    first, second = shared.workers
    chat = shared.chat(first, "one ? two").until("one ")
    followers = [shared.resume(worker, chat, whole=True) for worker in (first, second, second)]
    for follower in followers:
        follower.until("one ")
    shared.go(chat)
    for each in (chat, *followers):
        assert (each.end(), each.text) == ("done", "one two ")


def test_nobody_comes_back(shared: Fleet) -> None:
    """After the grace the reply is cancelled, and kept as incomplete."""
    first, second = shared.workers
    chat = shared.chat(first, "one ?").until("one ")
    chat.client.close()
    shared.wait_over(chat)
    shared.until_messages(second, chat, [("one ?", True), ("one", False)])
    late = shared.resume(second, chat, whole=True)
    assert (late.end(), late.text) == ("abandoned", "one ")
    assert not is_busy(shared, 1, chat)


def test_stop_and_done_race(shared: Fleet) -> None:
    """Whichever comes first, there is one end, for everybody the same, and one turn."""
    first, second = shared.workers
    for _ in range(12):
        chat = shared.chat(first, "one ? two").until("one ")
        follower = shared.resume(second, chat, whole=True).until("one ")
        stopping = threading.Thread(
            target=ask, args=(second, f"/api/v1/chat/replies/{chat.reply_id}", "DELETE")
        )
        stopping.start()
        shared.go(chat)
        end = chat.end()
        assert (follower.end(), follower.text) == (end, chat.text)
        stopping.join(PATIENCE)
        assert (end, chat.text) in [
            ("done", "one two "),
            ("stopped", "one "),
            ("stopped", "one two "),
        ]
        asked, (said, complete) = shared.messages(second, chat)
        assert (asked, said) == (("one ? two", True), chat.text.strip())
        # A stop may come when all was said, and before that is stored.
        assert complete is (end == "done") or said == "one two"


def test_the_producer_is_killed(tmp_path: Path) -> None:
    """Who comes back gets what was stored, and is told; others go on, and the conversation too."""
    with pair(tmp_path) as (running, redis):
        first, second = running.workers
        assert running.chat(second, "before").end() == "done"
        chat = running.chat(first, "one ?").until("one ")
        follower = running.resume(second, chat, whole=True).until("one ")
        first.process.kill()
        with pytest.raises((EOFError, ConnectionResetError)):
            chat.until("one and more")
        assert follower.end() == "worker_lost"
        assert redis.client.exists(_life_of(redis, chat)), "only when its lease was over"
        late = running.resume(second, chat)
        assert (late.end(), late.text) == ("worker_lost", "")
        assert running.chat(second, "elsewhere").end() == "done"
        assert running.messages(second, chat) == [("one ?", True)]
        assert not is_busy(running, 1, chat)
        expected = [("one ?", True), ("x", True), ("x", True)]
        running.until_messages(second, chat, expected)


def _life_of(redis: RedisServer, chat: Chat) -> str:
    """The key of the life of the worker that makes a reply."""
    found: Any = redis.client.xrange(f"omniforge:r:{{{chat.reply_id}}}", "0-1", "0-1")
    [(_, first)] = found
    return f"omniforge:w:{{{first['w']}}}"


def test_the_producer_hangs(tmp_path: Path) -> None:
    """When its lease is over, others take it for dead; what it writes after that is refused."""
    with pair(tmp_path) as (running, redis):
        first, second = running.workers
        assert running.chat(second, "before").end() == "done"
        chat = running.chat(first, "one ? two").until("one ")
        follower = running.resume(second, chat, whole=True).until("one ")
        first.process.send_signal(signal.SIGSTOP)
        redis.client.delete(_life_of(redis, chat))  # as if five seconds had passed
        assert follower.end() == "worker_lost"
        until_free(running, 1, chat)
        assert running.messages(second, chat) == [("one ? two", True), ("x", True), ("x", True)]
        first.process.send_signal(signal.SIGCONT)
        running.go(chat)
        assert (chat.end(), chat.text) == ("done", "one two ")
        first.wait_for(f"lost a turn conversation_id={chat.conversation_id}")
        assert running.messages(second, chat) == [("one ? two", True), ("x", True), ("x", True)]
        late = running.resume(second, chat, whole=True)
        assert (late.end(), late.text) == ("worker_lost", "one ")


def test_the_producer_is_terminated(tmp_path: Path) -> None:
    """All who read are told, and what came is kept before the process ends."""
    with pair(tmp_path) as (running, _):
        first, second = running.workers
        chat = running.chat(first, "one ?").until("one ")
        follower = running.resume(second, chat, whole=True).until("one ")
        idle = running.connect(first)
        first.process.send_signal(signal.SIGTERM)
        first.wait_for("draining")
        idle.post({"message": "hi"})
        assert Chat(idle, "").refusal() == (503, "shutting_down")
        assert first.end() == 0  # the second signal ends the drain
        assert (chat.end(), follower.end()) == ("shutting_down", "shutting_down")
        late = running.resume(second, chat, whole=True)
        assert (late.end(), late.text) == ("shutting_down", "one ")
        assert running.messages(second, chat) == [("one ?", True), ("one", False)]
        assert not is_busy(running, 1, chat)


def test_redis_is_away_at_the_start(tmp_path: Path) -> None:
    """Replies go on without ids; but a conversation is not forgotten in silence."""
    with RedisServer(program("redis")) as redis:
        redis.stop()
        with fleet(tmp_path, redis, workers=1) as strict:
            [worker] = strict.workers
            assert strict.chat(worker, "hi").refusal() == (503, "history_unavailable")
            status, body = ask(worker, f"/api/v1/chat/replies/{'x' * 22}")
            assert (status, body["code"]) == (503, "replay_unavailable")
            worker.wait_for("redis.*cannot be reached")
            assert worker.end() == 0
            assert sum("ERROR" in line for line in worker.log) == 1
        with fleet(tmp_path, redis, workers=1, CHAT_HISTORY_REQUIRED="off") as lenient:
            [worker] = lenient.workers
            _until_kept(lenient, worker, False)
            redis.start()
            _until_kept(lenient, worker, True)


def _until_kept(running: Fleet, worker: ServiceProcess, kept: bool) -> None:
    """Wait until a worker keeps replies, or does not; all of them are whole."""
    deadline = time.monotonic() + PATIENCE
    while True:
        chat = running.chat(worker, "one")
        if chat.status == 200:
            assert (chat.end(), chat.text) == ("done", "one ")
            if (chat.reply_id is not None) is kept:
                assert (chat.last_id != "") is kept
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("how", ["is stopped", "hangs"])
def test_redis_is_away_in_the_middle(shared: Fleet, how: str) -> None:
    """The client that asked notices nothing; all is stored when Redis is back."""
    running, redis = shared, shared.redis
    first, second = running.workers
    chat = running.chat(first, "one ? two").until("one ")
    follower = running.resume(second, chat, whole=True).until("one ")
    if how == "hangs":
        redis.pause()
    else:
        redis.stop()
    running.go(chat)
    assert (chat.end(), chat.text) == ("done", "one two ")
    assert running.chat(second, "hi").refusal() == (503, "history_unavailable")
    assert running.resume(second, chat).refusal() == (503, "replay_unavailable")
    if how == "hangs":
        assert follower.end() == "replay_unavailable"
    redis.heal()
    if how != "hangs":
        assert (follower.end(), follower.text) == ("done", "one two ")
    running.until_messages(second, chat, [("one ? two", True), ("one two", True)])
    late = running.resume(second, follower)
    assert late.status == 204 or (late.end(), follower.text + late.text) == ("done", "one two ")
    assert not is_busy(running, 1, chat)


@pytest.mark.parametrize("lost", ["all", "its newest writes"])
def test_redis_has_lost(shared: Fleet, lost: str) -> None:
    """Running replies are put in again, and are whole; of ended ones there is what Redis kept."""
    running, redis = shared, shared.redis
    first, second = running.workers
    ended = running.chat(first, "ended")
    assert ended.end() == running.resume(second, ended, whole=True).end() == "done"
    mark = redis.written()
    chats = [running.chat(first, "one ? two").until("one ") for _ in range(2)]
    follower = running.resume(second, chats[0], whole=True).until("one ")
    if lost == "all":
        redis.flush()
    else:
        redis.lose_newest(0.0, mark)
    for chat in chats:
        running.go(chat)
        assert (chat.end(), chat.text) == ("done", "one two ")
    assert (follower.end(), follower.text) == ("done", "one two ")
    for chat in chats:
        running.until_messages(second, chat, [("one ? two", True), ("one two", True)])
        _until_whole(running, chat)
    late = running.resume(second, ended, whole=True)
    if lost == "all":
        assert late.refusal() == (404, "reply_not_found")
        assert running.messages(second, ended) == []
    else:
        assert (late.end(), late.text) == ("done", "ended ")
        assert running.messages(second, ended) == [("ended", True), ("ended", True)]


def _until_whole(running: Fleet, chat: Chat) -> None:
    """Wait until the other worker has all of a reply: the server was away for a moment."""
    seen: List[object] = []
    deadline = time.monotonic() + PATIENCE
    while seen[-1:] != [("done", "one two ")]:
        assert time.monotonic() < deadline, seen
        late = running.resume(running.workers[1], chat, whole=True)
        seen.append((late.end(), late.text) if late.status == 200 else late.refusal())
