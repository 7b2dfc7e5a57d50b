"""The files of docs/deploy, as far as they can be checked by reading them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict

from ruamel.yaml import YAML

from omniforge_chat import Settings

from ..support.docs import DOCS, ROOT

DEPLOY = DOCS / "deploy"
_settings = Settings()
LONGEST_STOP = _settings.drain_timeout + 3 * _settings.cleanup_timeout + 1
"""Seconds that a stop takes at most: docs/deployment.md."""


def worker() -> Dict[str, Any]:
    """A worker of compose.yaml."""
    compose = YAML(typ="safe").load((DEPLOY / "compose.yaml").read_text("utf-8"))
    service: Dict[str, Any] = compose["services"]["chat-1"]
    return service


def dockerfile() -> str:
    build = worker()["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    return Path(ROOT, build["dockerfile"]).read_text("utf-8")


def test_the_image_has_every_extra_of_a_service() -> None:
    """Whoever sets CHAT_HISTORY in a container cannot install a driver there."""
    [extras] = re.findall(r"'/src\[(.*)\]'", dockerfile())
    [table] = re.findall(
        r"^\[project\.optional-dependencies\]\n(.*?)\n\n",
        (ROOT / "pyproject.toml").read_text("utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    known = re.findall(r"^(\w+) = ", table, re.MULTILINE)
    assert sorted([*extras.split(","), "client"]) == sorted(known)


def test_the_last_stage_of_the_image_installs_nothing() -> None:
    """So it has no compiler, no pip in its environment, and no source of ours."""
    _, last = dockerfile().split("\nFROM ")[-2:]
    assert not re.search(r"^(RUN|ADD) ", last, re.MULTILINE)
    assert all("--from=build" in line for line in re.findall(r"^COPY .*", last, re.MULTILINE))


def test_a_worker_of_compose_has_the_time_that_a_drain_takes() -> None:
    """Docker gives 10 seconds if nothing is said, and kills then."""
    given = re.fullmatch(r"(\d+)s", worker()["stop_grace_period"])
    assert given
    assert int(given[1]) > LONGEST_STOP
