"""What is checked of every host, server and proxy."""

from __future__ import annotations

import json
from typing import List, Tuple

from omniforge_chat.core.sse import Decoder, Frame

from ..support.answers import last, refusal
from ..support.client import Client, request
from .driving import Site, names


def streams(site: Site) -> None:
    """The headers come before the first token, and each token before the responder goes on."""
    name = next(names)
    with site.stream(name) as client:
        for word in ("one", "two", "three"):
            site.tell(name, word)
            assert json.loads(client.frame().data) == {"content": word}
        site.tell(name, ".")
        assert last(client.frames())[0] == "done"


def leaving(site: Site) -> None:
    """A client that leaves ends its responder, before the first token and after it."""
    for tokens in (0, 1):
        name = next(names)
        client = site.stream(name)
        for _ in range(tokens):
            site.tell(name, "word")
            client.frame()
        client.close()
        assert site.closed(name) == tokens


def http_1_0(site: Site) -> str:
    """No transfer coding, each token as it is said, and the end is the close (RFC 9112, 6.1)."""
    name = next(names)
    with site.connect() as client:
        asked = request({"message": f"say {name}"}, path=f"{site.path}/api/v1/chat")
        client.send(asked.replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        status, headers = client.head()
        assert status == 200
        if "transfer-encoding" in headers:
            return "no, chunk sizes in the text"
        decoder = Decoder()
        frames: List[Frame] = []
        for word in ("one", "two"):
            site.tell(name, word)
            frames.clear()
            while not frames:
                frames = decoder.feed(client.some())
            assert json.loads(frames[0].data) == {"content": word}
        site.tell(name, ".")
        rest = b"".join(iter(client.some, b""))
        [done] = decoder.feed(rest)
        assert done.event == "done"
    return "yes"


def errors(site: Site) -> None:
    """A request that is refused gets the one shape of errors."""
    chat = f"{site.path}/api/v1/chat"
    for body, kind, status in (
        (b"{", "application/json", 400),
        (b"{}", "application/json", 422),
        (b"{}", "text/plain", 415),
        (b" " * 200_000, "application/json", 413),
    ):
        with site.connect() as client:
            client.post(body, path=chat, headers={"Content-Type": kind})
            assert refusal(*client.json())[0] == status


def unknown(site: Site, path: str) -> str:
    """Who answers 404 there: the chat, or its host."""
    status, _, body = site.ask(path)
    assert status == 404
    try:
        return "the chat" if json.loads(body)["code"] == "not_found" else "the host"
    except (KeyError, ValueError):
        return "the host"


def request_ids(site: Site) -> None:
    """Each response has one: that of its own request, or a new one."""
    seen = set()
    for _ in range(2):
        status, headers, _ = site.ask("/health")  # `head` fails if a header is there twice
        assert status == 200
        seen.add(headers["x-request-id"])
    assert len(seen) == 2
    for own in ("mine", "yours"):
        assert site.ask("/health", **{"X-Request-ID": own})[1]["x-request-id"] == own


def shown_path(site: Site, **headers: str) -> str:
    """The path that the OpenAPI document gives for the service."""
    status, _, body = site.ask("/openapi.json", **headers)
    assert status == 200
    [server] = json.loads(body)["servers"]
    assert "/api/v1/chat" in json.loads(body)["paths"]
    return str(server["url"])


def ready(site: Site) -> Tuple[int, str]:
    """The status of /ready, and its word."""
    status, headers, body = site.ask("/ready")
    assert headers["cache-control"] == "no-store"
    return status, json.loads(body)["status"]


def wait_until_draining(site: Site) -> None:
    """Ask until /ready says so."""
    while ready(site) != (503, "draining"):
        pass


def refused_while_draining(site: Site) -> None:
    """A new chat is told that the service is going."""
    with site.connect() as client:
        client.post({"message": "say nothing"}, path=f"{site.path}/api/v1/chat")
        assert refusal(*client.json())[:2] == (503, "shutting_down")


def ended_by_the_drain(client: Client) -> None:
    """The last event of a stream that the drain ends."""
    event, data = last(client.frames())
    assert (event, data["code"]) == ("error", "shutting_down")
