"""Other people's clients and a service that keeps replies, behind a proxy that cuts them twice."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from ..support.constants import CONVERSATION, PATIENCE
from ..support.cutting import CuttingProxy
from ..support.docs import DOCS, blocks
from ..support.scenes import CHAT, CUTS, PARTS, Scenes
from ..support.servers import UvicornThread
from .clients import CLIENTS, Told, run_javascript
from .documented import DOCUMENTED, documented
from .table import Recorder, package
from .ui_clients import ALL, Site, bundle

BODY = json.dumps({"message": "parts", "conversation_id": CONVERSATION})


def text(told: Told) -> str:
    return "".join(value for name, value in told if name == "chunk")


@pytest.fixture
def scenes() -> Scenes:
    return Scenes(replay="memory")


@pytest.fixture
def proxy(scenes: Scenes) -> Iterator[CuttingProxy]:
    with UvicornThread(scenes, lifespan="off") as server, CuttingProxy(server.port, CUTS) as proxy:
        yield proxy


@pytest.mark.parametrize("client", [name for name in CLIENTS if name not in DOCUMENTED])
def test_a_client_gets_the_whole_reply_or_says_that_it_was_cut(
    scenes: Scenes, proxy: CuttingProxy, record: Recorder, client: str
) -> None:
    """And none has it made twice."""
    subject = CLIENTS[client].subject()
    told = CLIENTS[client].ask(proxy.url + CHAT, BODY)
    assert scenes.generations == ["parts"]
    whole = ("done", CONVERSATION) in told
    assert text(told) == ("".join(PARTS) if whole else PARTS[0])
    assert proxy.cuts == (2 if whole else 1)
    record(subject, "resume", "yes" if whole else "no")


@pytest.mark.parametrize("client", DOCUMENTED)
def test_a_client_that_asks_again_gets_the_rest(
    scenes: Scenes, proxy: CuttingProxy, record: Recorder, client: str
) -> None:
    """By its own POST, as docs/protocol.md uses it."""
    subject = CLIENTS[client].subject()
    told = run_javascript(documented(client), proxy.url + CHAT, BODY)
    assert (text(told), told[-1]) == ("".join(PARTS), ("done", ""))
    assert proxy.asked == [f"POST {CHAT}"] * 3
    assert proxy.cuts == 2
    assert scenes.generations == ["parts"]
    record(subject, "resume", "as documented")


# LangGraph's SDK


class Rewriting:
    """A service at whose runs of LangGraph's API its replies are, as a proxy can have it."""

    def __init__(self, scenes: Scenes) -> None:
        self._scenes = scenes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        run = re.fullmatch(r"/threads/[^/]+/runs/([^/]+)/stream", scope["path"])
        if run:
            path = f"{CHAT}/replies/{run[1]}"
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._scenes(scope, receive, send)


def test_langgraph_joins_a_reply_as_a_run(scenes: Scenes) -> None:
    """From the event that its user has, and through two cuts; its address has to be rewritten."""
    assert package("client", "langgraph-sdk")
    connect = import_module("langgraph_sdk").get_sync_client
    with UvicornThread(Rewriting(scenes), lifespan="off") as server:
        asked = json.loads(BODY)
        with httpx.stream("POST", server.url + CHAT, json=asked, timeout=PATIENCE) as reply:
            end = next(line[4:] for line in reply.iter_lines() if line.startswith("id: "))
        scenes.asked.clear()
        path = r".*(/stream|/replies/.*)(\?.*)?"
        with (
            CuttingProxy(server.port, [200, 100], path=path) as proxy,
            connect(url=proxy.url) as client,
        ):
            run = reply.headers["x-reply-id"]
            found = list(client.runs.join_stream(CONVERSATION, run, last_event_id=end))
    assert "".join(part.data.get("content", "") for part in found) == "".join(PARTS[1:])
    assert found[-1].event == "done"
    assert proxy.cuts == 2
    assert proxy.asked[0].startswith(f"GET /threads/{CONVERSATION}/runs/{run}/stream?")
    assert proxy.asked[1:] == [f"GET {CHAT}/replies/{run}"] * 2
    assert scenes.generations == ["parts"]


def test_the_example_with_langgraph_prints_the_reply(
    scenes: Scenes, capsys: pytest.CaptureFixture[str]
) -> None:
    """People copy it as it is."""
    assert package("client", "langgraph-sdk")
    [code] = [code for code in blocks(DOCS / "clients.md", "python") if "ask_langgraph" in code]
    with UvicornThread(scenes, lifespan="off") as server:
        exec(code.replace("http://127.0.0.1:8000", server.url), {})
    assert capsys.readouterr().out == "you said: Hello\n"


# useChat of the AI SDK


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuple[UvicornThread, Site]]:
    site = Site(tmp_path_factory.mktemp("bundles"), replay="memory")
    with UvicornThread(site, lifespan="off") as server:
        yield server, site


@pytest.mark.parametrize("kit", ["ai-5", "ai-6", "ai-7"])
def test_a_page_of_use_chat_that_is_loaded_again_gets_the_whole_reply(
    browser: Any, served: Tuple[UvicornThread, Site], record: Recorder, kit: str
) -> None:
    """From its beginning, as that page has nothing of it; and then there is nothing more to get."""
    server, site = served
    subject = ALL[kit].subject
    script = (Path(__file__).parent / "kits" / "use-chat-resume.js").read_text("utf-8")
    script = script.replace('"@ai-sdk/react"', json.dumps(ALL[kit].package))
    bundle(script, site.directory / f"{kit}.mjs")
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)

    def seen(status: str) -> Dict[str, Any]:
        page.wait_for_function(f"globalThis.kit?.seen().status === '{status}'")
        return dict(page.evaluate("kit.seen()"))

    try:
        with CuttingProxy(server.port, path=r".*/api/chat(/.*)?") as proxy:
            page.goto(f"{proxy.url}/{kit}.html")
            seen("ready")
            site.scenes.forget()
            proxy.after = [300, 500]
            page.evaluate("kit.begin('parts')")
            for _ in range(2):
                assert seen("error")["error"]
                page.reload()
            page.wait_for_function(f"kit.seen().text === {json.dumps(''.join(PARTS))}")
            assert seen("ready")["messages"] == 2
            page.reload()
            assert seen("ready")["messages"] == 1
        assert proxy.cuts == 2
        place = r"GET /api/chat/[^/]+/stream"
        methods: List[str] = [re.sub(place, "GET", asked) for asked in proxy.asked]
        assert methods == ["POST /api/chat", "GET", "GET", "GET"]
        assert site.scenes.generations == ["parts"]
    finally:
        context.close()
    record(subject, "resume")
