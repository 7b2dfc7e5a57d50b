"""The image of docs/deploy/Dockerfile: its steps, its entry point, and `make image`.

No container engine runs here. The steps are run in a directory, and the service as the user of the
image, on a root that it cannot write to, if whoever runs this is root.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Dict, Optional

import pytest

from ..support.answers import last, text
from ..support.docs import ROOT
from ..support.process import running
from .driving import free_port
from .image import DOCKERFILE, Image, confines

RESPONDER = """
import asyncio, os, pathlib

async def respond(turn):
    try:
        pathlib.Path("written").touch()
        yield "may write"
    except OSError:
        yield f"{os.getuid()} may not write"
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    yield ", and has ended"
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image(tmp_path_factory.mktemp("image"))


def test_a_container_serves_is_healthy_and_drains(image: Image) -> None:
    """That is all that an orchestrator asks of it. `docker stop` sends STOPSIGNAL to the entry."""
    app = Path(image.inside(image.said["WORKDIR"]))
    (app / "slow.py").write_text(RESPONDER)
    port = free_port()
    variables = {
        **image.variables,
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "ALLOWED_HOSTS": "chat.example.com",
        "CHAT_RESPONDER": "slow:respond",
        "HTTP_PROXY": "http://127.0.0.1:1",
    }
    assert not image.healthy(port)
    with running(app, command=image.entry(), **variables) as service:
        service.wait_for("serving on")
        assert image.healthy(port)
        with service.connect() as client:
            client.post({"message": "hi"}, headers={"Host": "chat.example.com"})
            assert client.head()[0] == 200
            first = client.frame()
            service.process.send_signal(getattr(signal, image.said["STOPSIGNAL"]))
            service.wait_for("draining: 1 stream")
            (app / "go").touch()
            frames = [first, *client.frames()]
        assert last(frames)[0] == "done"
        who = "10001 may not write" if confines() else "may write"
        assert text(frames) == f"{who}, and has ended"
        assert service.status() == 0


def test_the_image_has_what_its_extras_need_and_no_pip(image: Image) -> None:
    """A service that lacks a driver says so only when its settings ask for it."""
    modules = "uvloop, httptools, httpx, redis, hiredis, psycopg, jwt, cryptography"
    command = image.command("python", "-c", f"import {modules}, prometheus_client")
    subprocess.run(command, env=image.variables, check=True)
    binaries = Path(image.inside("/opt/omniforge-chat/bin"))
    assert not list(binaries.glob("pip*"))
    assert not Path(image.inside("/src")).exists()


@pytest.mark.parametrize(
    ("engines", "built"),
    [
        ({"docker": 0, "podman": 0}, "docker build --file"),
        ({"docker": 1, "podman": 0}, "podman build --format docker --file"),
        ({"docker": 1, "podman": 1}, None),
    ],
)
def test_make_image_takes_the_engine_that_runs(
    engines: Dict[str, int], built: Optional[str], tmp_path: Path
) -> None:
    """A machine may have Docker's client and no daemon. Podman's own format has no HEALTHCHECK."""
    for name, status in engines.items():
        (tmp_path / name).write_text(
            f'#!/bin/sh\n[ "$1" = info ] && exit {status}\necho {name} "$@"\n'
        )
        (tmp_path / name).chmod(0o755)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["make", "--no-print-directory", "image"],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
    )
    if built is None:
        assert done.returncode != 0
        assert "make image needs Docker or Podman, and neither runs here." in done.stderr
    else:
        path = DOCKERFILE.relative_to(ROOT)
        assert done.stdout == f"{built} {path} --tag omniforge-chat .\n"
