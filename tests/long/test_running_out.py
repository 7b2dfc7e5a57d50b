"""A responder that uses up the descriptors of its process."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..support.process import COMMANDS, limited, running

pytest.importorskip("resource", reason="no limit of descriptors here")

RESPONDER = """
import asyncio, os

async def respond(turn):
    files = []
    try:
        while True:
            files.append(open(os.devnull))
    except OSError:
        yield "no more"
    while not os.path.exists("go"):
        await asyncio.sleep(0.01)
    for file in files:
        file.close()
"""


@pytest.mark.parametrize("wire", COMMANDS)
def test_running_out_is_one_line_and_it_recovers(tmp_path: Path, wire: str) -> None:
    """asyncio tells of each connection that waits, with a traceback, some MB a second.

    uvloop tells nobody, and resets the connections.
    """
    (tmp_path / "greedy.py").write_text(RESPONDER)
    command = limited(COMMANDS[wire], 64)
    with running(tmp_path, "--responder", "greedy:respond", command=command) as service:
        with service.connect() as client:
            client.post({"message": "hi"})
            client.head()
            client.frame()
            waiting = [service.connect() for _ in range(20)]
            for other in waiting:
                other.ask("/health")
            service.wait_for("WARNING .*refused: overloaded=.*limit of open files")
            (tmp_path / "go").touch()
            assert client.frames()[-1].event == "done"
        for other in waiting:
            if wire == "plain":
                assert other.json()[0] == 200
            other.close()
        with service.connect() as other:
            other.ask("/health")
            assert other.json()[0] == 200
        assert service.end() == 0
    assert "Traceback" not in "\n".join(service.log)
