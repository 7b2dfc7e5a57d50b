"""Processes that share a database and die in the middle of a turn, or of a write."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, List, Set

from ..support.constants import PATIENCE
from ..support.docs import ROOT
from ..support.histories import InPostgres, InSQLite, Processes, Tables, turn
from ..support.process import environment
from ..support.stores import PostgresServer

CONVERSATIONS = ["a", "b", "c", "d"]

# It talks until it is killed. Each message has a text that is never used again, and its reply is
# made of it: whoever reads a conversation sees whether all of it is right. What it has ended, and
# what it has found, it tells. Leases are short, because it is killed often.
_TALK = """
import asyncio, itertools, os, random, sys
from omniforge_chat import Claim, ConversationBusy, HistoryUnavailable, Message, Settings
from omniforge_chat.conversations import make_history, sql
sql.LEASE_SECONDS, sql.RENEW_SECONDS, sql.AGAIN_SECONDS = 0.5, 0.1, 0.02
settings = Settings(history=sys.argv[1], history_messages=10**6, history_bytes=10**9)
history = make_history(settings)
numbers = itertools.count()

async def talk():
    while True:
        text = f"{os.getpid()}-{next(numbers)}"
        claim = Claim(random.choice(sys.argv[2]), "", text, text)
        try:
            earlier = await history.begin_turn(claim)
        except (ConversationBusy, HistoryUnavailable):
            await asyncio.sleep(0.005)
            continue
        if earlier:
            print("found", earlier[-1].content.split()[-1], flush=True)
        reply = Message("assistant", "x" * 2000 + f" {text}")
        await history.end_turn(claim, [Message("user", text), reply], 0)
        print("ended", text, flush=True)

async def main():
    await asyncio.gather(*(talk() for _ in range(3)))

asyncio.run(main())
"""


class Talker:
    """A process that talks."""

    def __init__(self, tables: Tables, out: Path) -> None:
        self._out = out
        with out.open("wb") as told:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _TALK, tables.setting, "".join(CONVERSATIONS)],
                cwd=ROOT,
                env=environment(),
                stdout=told,
                stderr=subprocess.PIPE,
            )

    def texts(self, word: str) -> List[str]:
        """What it has "found" or "ended"."""
        *lines, _ = self._out.read_text().split("\n")  # the last one may be cut
        return [line.split()[1] for line in lines if line.startswith(word)]

    def kill(self) -> None:
        """End it by SIGKILL. It must have had nothing to complain about."""
        self._process.send_signal(signal.SIGKILL)
        _, errors = self._process.communicate(timeout=PATIENCE)
        assert b"Traceback" not in errors, errors.decode()


def talk(tables: Tables, directory: Path, kills: int, each: Callable[[int], None]) -> List[Talker]:
    """Let three processes talk, and kill one of them so often; `each` is called every time."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    talkers = [Talker(tables, directory / str(number)) for number in range(3)]
    living = talkers[:]
    try:
        for number in range(kills):
            victim = moments.choice(living)
            deadline = time.monotonic() + PATIENCE
            while len(victim.texts("ended")) < 3:
                assert time.monotonic() < deadline, "it does not come to speak"
                time.sleep(0.005)
            time.sleep(moments.random() * 0.05)  # in any moment
            living.remove(victim)
            victim.kill()
            each(number)
            talkers.append(Talker(tables, directory / str(len(talkers))))
            living.append(talkers[-1])
    finally:
        for talker in living:
            talker.kill()
    return talkers


def assert_whole(tables: Tables, known: Set[str]) -> None:
    """All conversations are free soon, no turn is cut or doubled, and all of `known` are there."""
    processes = Processes(tables)
    found: List[str] = []

    async def test() -> None:
        history = processes(max_messages=10**6, max_bytes=10**9)
        for name in CONVERSATIONS:
            tables.execute(
                "UPDATE omniforge_conversations SET turn_until = 0 WHERE turn IS NOT NULL"
            )
            open_text = ""
            for message in await history.begin_turn(turn(name)):
                if message.role == "user":
                    found.append(message.content)
                    open_text = message.content
                else:
                    assert message.content == f"{'x' * 2000} {open_text}"
                    open_text = ""

    processes.run(test)
    assert len(found) == len({*found})
    assert known <= {*found}


def test_processes_that_are_killed_leave_a_sqlite_file_whole(tmp_path: Path) -> None:
    """In the middle of a write, too: a turn is there as a whole, or not at all."""
    file = InSQLite(tmp_path)
    talkers = talk(file, tmp_path, 6, lambda number: None)
    assert file.execute("PRAGMA integrity_check") == [("ok",)]
    assert file.execute("PRAGMA foreign_key_check") == []
    assert_whole(file, {text for talker in talkers for text in talker.texts("ended")})


def test_processes_and_a_server_that_are_killed_leave_postgresql_whole(
    postgres_cluster: PostgresServer, tmp_path: Path
) -> None:
    """What somebody has found once stays; turns that end meanwhile are stored later."""

    def restart(number: int) -> None:
        if number % 3 == 0:
            tables.server.restart(signal.SIGKILL if number else None)

    tables = InPostgres(postgres_cluster)
    talkers = talk(tables, tmp_path, 4, restart)
    assert_whole(tables, {text for talker in talkers for text in talker.texts("found")})
