"""A Prometheus that scrapes four workers, and what its tool says of our metrics and alerts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Iterator, List
from urllib.parse import quote

from omniforge_chat import Turn, Usage
from omniforge_chat.errors import Overloaded
from omniforge_chat.observe import Exposition, Metrics
from omniforge_chat.observe.families import FAMILIES
from omniforge_chat.observer import ChatEnd, ReadEnd, Refusal, UpstreamCall, UpstreamEnd

from ..support.client import Client
from ..support.constants import PATIENCE
from ..support.docs import DOCS
from ..support.missing import missing
from ..support.process import running
from .driving import free_port
from .table import executable

DEPLOY = DOCS / "deploy"
RESPONDER = """
import os

async def respond(turn):
    yield str(os.getpid())
"""
CONFIGURATION = """
global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 1s}}
rule_files: [{alerts}]
scrape_configs:
  - job_name: omniforge-chat
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


def promtool(*arguments: object, text: str = "") -> str:
    """What it says, if it finds nothing wrong."""
    program = executable("promtool") or missing("promtool")
    done = subprocess.run(
        [program, *map(str, arguments)], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def told() -> str:
    """The text of a service in which everything has happened."""
    metrics, turn = Metrics(), Turn("hi", "c", "r")
    metrics.gauges.update({name: lambda: 1 for name, f in FAMILIES.items() if f.kind == "gauge"})
    metrics.chat_ended(ChatEnd(turn, "done", 200, 5, Usage(9, 4, 5), "stop", 0.5, 2.5, 1000, 2))
    metrics.chat_refused(Refusal(Overloaded("full"), "r", "", {}))
    metrics.reply_read(ReadEnd("r", "c", "reply", "done", 3, 1.0, 500, 1))
    call = UpstreamCall("openai", "gpt", "api.example", 443, 1, {}, turn)
    metrics.upstream_ended(UpstreamEnd(call, "done", 200, 1.0, 0.25, Usage(7, 3, 4)))
    metrics.store_answered("redis", 0.01, True)
    text, _ = asyncio.run(Exposition(metrics).render(""))
    return text.decode()


def test_promtool_finds_nothing_wrong_with_the_metrics() -> None:
    """Names, units and help follow Prometheus' conventions."""
    text = told()
    for name in FAMILIES:
        assert f"\n{name}" in text, name
    assert promtool("check", "metrics", text=text) == ""


def test_promtool_takes_the_alerts_and_they_come_when_they_should() -> None:
    """Neither on a quiet day, nor too late."""
    promtool("check", "rules", DEPLOY / "alerts.yaml")
    promtool("test", "rules", Path(__file__).parent / "alerts.yaml")


@contextlib.contextmanager
def prometheus(directory: Path, port: int) -> Iterator[int]:
    """One that scrapes the metrics on `port`: its own port."""
    program = executable("prometheus") or missing("prometheus", "as root, .ci/programs installs it")
    configuration = CONFIGURATION.format(alerts=DEPLOY / "alerts.yaml", port=port)
    (directory / "prometheus.yml").write_text(configuration)
    own = free_port()
    command = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{own}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield own
    finally:
        process.terminate()
        process.wait(PATIENCE)


def query(port: int, expression: str) -> List[float]:
    """The values that Prometheus answers; none before it is there."""
    try:
        with Client(port) as client:
            client.ask(f"/api/v1/query?query={quote(expression)}")
            status, headers = client.head()
            answer: Any = json.loads(client.content(headers)) if status == 200 else {}
    except OSError:
        return []
    found = answer.get("data", {}).get("result", [])
    return [float(each["value"][1]) for each in found]


def until(port: int, expression: str, value: float) -> None:
    deadline = time.monotonic() + PATIENCE
    while (found := query(port, expression)) != [value]:
        assert time.monotonic() < deadline, f"{expression}: {found}"
        time.sleep(0.05)


def test_a_prometheus_has_the_right_sums_of_four_workers(tmp_path: Path) -> None:
    """Whichever worker it met at each scrape, and though one of them was killed."""
    (tmp_path / "mine.py").write_text(RESPONDER)
    arguments = ("--workers", "4", "--responder", "mine:respond")
    with running(tmp_path, *arguments, CHAT_METRICS="127.0.0.1:0") as service:
        assert service.port
        metrics = int(service.wait_for(r"metrics on http://127\.0\.0\.1:(\d+)/")[1])
        with prometheus(tmp_path, metrics) as port:
            until(port, "omniforge_workers", 4)
            with ThreadPoolExecutor(4) as pool:
                pids = set(pool.map(lambda _: int(service.reply()), range(100)))
            assert len(pids) > 1
            until(port, "sum(omniforge_chats_total)", 100)
            os.kill(pids.pop(), signal.SIGKILL)
            service.wait_for("ended with status -9")
            until(port, "omniforge_workers", 4)
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda _: service.reply(), range(20)))
            until(port, "sum(omniforge_chats_total)", 120)
            until(port, "omniforge_chat_duration_seconds_count", 120)
            assert query(port, "resets(omniforge_chats_total[5m])") == [0]
            assert query(port, "omniforge_open_streams") == [0]
            assert query(port, "min_over_time(up[5m])") == [1]
            assert query(port, "count(ALERTS{alertstate='firing'})") == []
        assert service.end() == 0
