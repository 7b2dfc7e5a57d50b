"""Frameworks that the chat is mounted in, as docs/hosts.md and docs/embedding.md show it."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Iterator

import pytest

from ..support.process import ServiceProcess
from . import checks
from .driving import Site, names, server, write_modules
from .table import Recorder, Subject, package


@dataclasses.dataclass(frozen=True)
class Host:
    """A host that runs: what it is, its process, and the chat in it."""

    subject: Subject
    process: ServiceProcess
    site: Site


HOSTS = {
    "Starlette, Mount": ("starlette", "drained"),
    "FastAPI, mount": ("fastapi", "fastapi_host"),
    "FastAPI, routes": ("fastapi", "fastapi_routes"),
    "Litestar": ("litestar", "litestar_host"),
    "BlackSheep": ("blacksheep", "blacksheep_host"),
    "Quart": ("quart", "quart_host"),
    "Falcon": ("falcon", "falcon_host"),
    "Sanic": ("sanic", "sanic_host"),
    "Django": ("django", "django_host"),
    "Flask": ("flask", "flask_host"),
}

DJANGO = "SECRET_KEY = 'x'\nALLOWED_HOSTS = ['*']\nROOT_URLCONF = 'urls'\n"


@pytest.fixture(scope="module", params=HOSTS)
def host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Host]:
    name, module = HOSTS[request.param]
    subject = package("host", name, title=request.param)
    directory: Path = tmp_path_factory.mktemp(module)
    write_modules(directory)
    (directory / "settings.py").write_text(DJANGO)
    (directory / "urls.py").write_text("urlpatterns = []\n")
    command = ["uvicorn", f"{module}:app", "--port", "PORT"]
    with server(directory, *command, DJANGO_SETTINGS_MODULE="settings") as process:
        path = "" if module == "fastapi_routes" else "/assistant"
        yield Host(subject, process, Site(process.port, path))


def test_each_token_arrives_before_the_responder_goes_on(host: Host, record: Recorder) -> None:
    """A host that gathers a response first makes no stream of it."""
    checks.streams(host.site)
    record(host.subject, "streams")


def test_a_client_that_leaves_ends_its_responder(host: Host, record: Recorder) -> None:
    """The host passes `receive` on."""
    checks.leaving(host.site)
    record(host.subject, "leaving")


def test_errors_have_the_one_shape(host: Host, record: Recorder) -> None:
    """The host does not put its own in their place."""
    checks.errors(host.site)
    record(host.subject, "errors")
    record(host.subject, "unknown path", checks.unknown(host.site, "/nowhere"))


def test_the_host_still_answers_what_is_its_own(host: Host) -> None:
    """The chat takes nothing beside its path."""
    assert checks.unknown(Site(host.site.port), "/elsewhere") == "the host"


def test_each_response_has_one_request_id(host: Host, record: Recorder) -> None:
    """It is the reference of the log."""
    checks.request_ids(host.site)
    record(host.subject, "X-Request-ID")


def test_a_trailing_slash_is_nothing(host: Host, record: Recorder) -> None:
    """Litestar puts one on each path that it mounts."""
    found = set()
    with host.site.connect() as client:
        client.post({"message": "tell x y"}, path=f"{host.site.path}/api/v1/chat/")
        found.add(client.head()[0])
    for path in ("/health/", "/ready/"):
        found.add(host.site.ask(path)[0])
    record(host.subject, "trailing slash", "yes" if found == {200} else f"no, {found}")


def test_the_document_tells_the_path_of_the_mount(host: Host, record: Recorder) -> None:
    """Clients that are made from it ask there."""
    if host.subject.name == "FastAPI, routes":  # FastAPI's own hides it
        record(host.subject, "openapi.json", "the host")
        return
    assert checks.shown_path(host.site) == "/assistant"
    record(host.subject, "openapi.json")


def test_a_signal_drains_before_the_server_stops(host: Host, record: Recorder) -> None:
    """The last one: it ends the host. The second signal hurries."""
    name = next(names)
    assert checks.ready(host.site) == (200, "ready")
    with host.site.stream(name) as client:
        host.process.process.send_signal(signal.SIGTERM)
        checks.wait_until_draining(host.site)
        checks.refused_while_draining(host.site)
        host.process.process.send_signal(signal.SIGTERM)
        checks.ended_by_the_drain(client)
    host.process.status()
    record(host.subject, "drain")
