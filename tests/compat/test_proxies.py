"""Proxies in front of our server, configured as docs/deployment.md shows it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import statistics
import time
from pathlib import Path
from typing import Iterator

import pytest

from omniforge_chat import Settings, create_app

from ..support.constants import PATIENCE
from ..support.servers import ServiceThread
from . import checks
from .driving import Site, names
from .hello import respond
from .proxies import PROXIES, Proxy
from .table import Recorder, Subject

BUSY = "/busy"
"""The path of a chat with many heartbeats; the other one has none."""


@dataclasses.dataclass(frozen=True)
class Running:
    """A proxy that runs: what it is, the service behind it, and the chat in front of it."""

    proxy: Proxy
    subject: Subject
    service: ServiceThread
    site: Site

    def at(self, path: str) -> Site:
        return dataclasses.replace(self.site, path=path)


@contextlib.contextmanager
def behind(proxy: Proxy, directory: Path, config: str = "") -> Iterator[Running]:
    """A service and a proxy in front of it."""
    subject = proxy.subject()
    settings = Settings(
        heartbeat_interval=None,
        drain_timeout=0.2,
        cleanup_timeout=1.0,
        allowed_hosts=("localhost",),  # the name that clients ask for, and not that of the proxy
    )
    app = create_app(respond, settings=settings)
    app.mount(BUSY, create_app(respond, settings=Settings(heartbeat_interval=0.1)))
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(ServiceThread(app, settings))
        process = stack.enter_context(proxy.running(directory, service.port, config))
        site = Site(process.port, directly=Site(service.port))
        yield Running(proxy, subject, service, site)


@pytest.fixture(scope="module", params=PROXIES, ids=lambda proxy: proxy.title)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    with behind(request.param, tmp_path_factory.mktemp("proxy")) as running:
        yield running


def lateness(site: Site, words: int = 9) -> float:
    """Seconds from a word that is told to its chunk; the median."""
    name, times = next(names), []
    with site.stream(name) as client:
        for word in map(str, range(words)):
            site.tell(name, word)
            begun = time.monotonic()
            assert json.loads(client.frame().data) == {"content": word}
            times.append(time.monotonic() - begun)
    return statistics.median(times)


def test_tokens_are_neither_joined_nor_late(running: Running, record: Recorder) -> None:
    """Each comes on its own, through all buffers."""
    checks.streams(running.site)
    assert lateness(running.site) < 0.1
    record(running.subject, "streams")


def heard(running: Running, name: str) -> str:
    """When the end of the client of this stream was heard."""
    with Site(running.service.port).stream(name, "closed") as closed:
        closed.socket.settimeout(1.0)
        for word in range(20):
            with contextlib.suppress(socket.timeout):
                assert closed.frame().event == "chunk"
                return "when something is sent" if word else "at once"
            running.site.tell(name, str(word))
    raise AssertionError("it was never heard")


def test_the_end_of_a_client_reaches_the_responder(running: Running, record: Recorder) -> None:
    """Some proxies look only when they have something to send; a heartbeat is enough."""
    name = next(names)
    running.site.stream(name).close()
    record(running.subject, "leaving", heard(running, name))
    name = next(names)
    running.at(BUSY).stream(name).close()
    assert running.site.closed(name) == 0


def test_a_client_of_http_1_0_is_served(running: Running, record: Recorder) -> None:
    """It gets no chunk sizes within the text."""
    record(running.subject, "HTTP/1.0", checks.http_1_0(running.site))


def test_a_path_that_the_proxy_takes_off_is_known(running: Running, record: Recorder) -> None:
    """The document tells it, and the chat, the page and its script are there."""
    bots = running.at("/bots")
    for sent in ({}, {"X-Forwarded-Prefix": "/evil"}):
        assert checks.shown_path(bots, **sent) == "/bots"
        assert checks.shown_path(running.site, **sent) == "/"
    checks.streams(bots)
    for path, kind in (("/docs", "text/html"), ("/reader.js", "text/javascript")):
        status, headers, _ = bots.ask(path)
        assert (status, headers["content-type"].split(";")[0]) == (200, kind)
    record(running.subject, "prefix")


def test_each_response_has_a_request_id_of_its_own(running: Running, record: Recorder) -> None:
    """A cache would give one client the id of another."""
    checks.request_ids(running.site)
    checks.errors(running.site)
    record(running.subject, "X-Request-ID")


def test_heartbeats_keep_a_silent_reply(running: Running, tmp_path: Path, record: Recorder) -> None:
    """A reply without them is cut meanwhile, if the proxy has a limit at all."""
    proxy = running.proxy
    long, short = proxy.silence
    config = proxy.config().replace(long, short)
    if long:
        assert config != proxy.config()
    with behind(proxy, tmp_path, config) as quick:
        names_ = next(names), next(names)
        with quick.at(BUSY).stream(names_[0]) as kept:
            assert kept.piece() == b":\n"
            if long:
                with quick.site.stream(names_[1]) as silent:
                    silent.wait_closed()
                    assert quick.site.closed(names_[1]) == 0
            quick.site.tell(names_[0], "word")
            assert json.loads(kept.frame().data) == {"content": "word"}
    record(running.subject, "heartbeats")


def test_a_drain_is_told_and_then_the_proxy_answers(running: Running, record: Recorder) -> None:
    """The last one: it ends the service. /ready was asked before, and is not kept."""
    assert checks.ready(running.site) == (200, "ready")
    name = next(names)
    with running.site.stream(name) as client:
        running.service.terminate()
        checks.wait_until_draining(running.site)
        checks.refused_while_draining(running.site)
        checks.ended_by_the_drain(client)
    running.service.join()
    record(running.subject, "drain")
    status, headers, _ = running.site.ask("/health")
    record(
        running.subject, "down", f"{status}, {headers.get('content-type', 'no text').split(';')[0]}"
    )


def without(title: str, line: str) -> Proxy:
    """This proxy, if somebody leaves out a line of its configuration."""
    [proxy] = [proxy for proxy in PROXIES if proxy.title == title]
    assert proxy.config().count(line) == 1
    return dataclasses.replace(proxy, left_out=line)


def test_haproxy_needs_its_option_against_late_tokens(tmp_path: Path) -> None:
    """If this fails, HAProxy has become better, and the docs can be shorter."""
    with behind(without("HAProxy", "    option http-no-delay\n"), tmp_path) as running:
        assert lateness(running.site, 5) > 0.02


def test_haproxy_needs_its_option_to_hear_of_a_client_that_leaves(tmp_path: Path) -> None:
    """The same."""
    with behind(without("HAProxy", "    option abortonclose\n"), tmp_path) as running:
        name = next(names)
        running.site.stream(name).close()
        assert heard(running, name) == "when something is sent"


def test_lighttpd_needs_its_option_to_stream(tmp_path: Path) -> None:
    """Without it nothing comes before the end."""
    with behind(without("lighttpd", "server.stream-response-body = 1\n"), tmp_path) as running:
        name = next(names)
        with running.site.say(name) as client:
            running.site.tell(name, "word")
            client.socket.settimeout(0.3)
            with pytest.raises(socket.timeout):
                client.head()
            client.socket.settimeout(PATIENCE)
            running.site.tell(name, ".")
            assert client.head()[0] == 200
