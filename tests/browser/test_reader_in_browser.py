"""reader.js in Chromium, imported from the service whose chat it reads."""

from __future__ import annotations

from typing import Any, AsyncIterator, Iterator, List

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route

from omniforge_chat import Settings, Turn, Usage, create_app

from ..support.constants import CONVERSATION, PATIENCE
from ..support.cutting import CuttingProxy
from ..support.docs import DOCS, README, blocks
from ..support.responders import saying
from ..support.scenes import CHAT, CUTS, FAILURE, PARTS, PIECES, Scenes
from ..support.servers import UvicornThread

READ = """
async ([reader, message, options]) => {
  const { chat, ChatFailed } = await import(reader);
  const pieces = [];
  const reply = chat(message, options);
  try {
    for await (const piece of reply) pieces.push(piece);
    return [pieces, "done", reply.done.conversation_id];
  } catch (error) {
    if (!(error instanceof ChatFailed)) throw error;
    return [pieces, error.code, error.message];
  }
}
"""


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes()


@pytest.fixture(scope="module")
def server(scenes: Scenes) -> Iterator[UvicornThread]:
    with UvicornThread(scenes, lifespan="off") as server:
        yield server


@pytest.fixture
def page(browser: Any, server: UvicornThread) -> Iterator[Any]:
    """A page of the service's own origin that does nothing by itself."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(f"{server.url}/health")
        yield page
    finally:
        context.close()


@pytest.mark.parametrize(
    ("message", "path", "pieces", "end"),
    [
        ("whole", None, PIECES, ["done", CONVERSATION]),
        ("pause", None, ["before ", "after"], ["done", CONVERSATION]),
        ("fail", None, ["half "], list(FAILURE.values())),
        ("whole", "/broken", ["half "], ["cut", "The connection broke before the reply ended"]),
        ("whole", "/ended", ["half "], ["cut", "The stream ended before the reply did"]),
        ("whole", "/proxy", [], ["502", "The chat did not answer: status 502 with text/html"]),
        ("whole", "/nowhere", [], ["not_found", "Nothing is at /nowhere"]),
    ],
)
def test_the_reader_tells_how_a_chat_ended(
    page: Any, message: str, path: Any, pieces: List[str], end: List[str]
) -> None:
    """Beside the file without an address, and elsewhere with one."""
    options = {"conversationId": CONVERSATION, **({"url": path} if path else {})}
    read, *ended = page.evaluate(READ, ["/reader.js", message, options])
    assert ended == end
    if path != "/broken":  # there a browser may drop what it has not handed out yet
        assert "".join(read) == "".join(pieces)


@pytest.mark.parametrize("origin", ["its own", "another"])
def test_a_reply_goes_on_where_it_was_cut(page: Any, origin: str) -> None:
    """Behind a part and within one; at another origin each request needs the leave of CORS."""
    scenes = Scenes(replay="memory", cors_origins=("*",))
    with UvicornThread(scenes, lifespan="off") as other, CuttingProxy(other.port, CUTS) as proxy:
        if origin == "its own":
            page.goto(f"{proxy.url}/health")
        scenes.forget()
        options = {"url": f"{proxy.url}{CHAT}", "conversationId": CONVERSATION}
        pieces, *end = page.evaluate(READ, [f"{proxy.url}/reader.js", "parts", options])
    assert ("".join(pieces), end) == ("".join(PARTS), ["done", CONVERSATION])
    assert proxy.cuts == 2
    assert [asked.split()[0] for asked in proxy.asked] == ["POST", "GET", "GET"]
    assert scenes.generations == ["parts"]


@pytest.mark.parametrize("way", ["reply.stop()", "stop.abort()", "break"])
def test_a_reply_that_is_kept_is_stopped_from_another_origin(page: Any, way: str) -> None:
    """By a request of its own: the end of a connection alone stops nothing."""
    scenes = Scenes(replay="memory", replay_grace=600, cors_origins=("*",))
    with UvicornThread(scenes, lifespan="off") as other:
        reason = page.evaluate(
            """async (url) => {
                const { chat } = await import(`${url}/reader.js`);
                const stop = new AbortController();
                const reply = chat("wait", { signal: stop.signal });
                try { for await (const piece of reply) { WAY; } }
                catch (problem) { return problem.name; }
                return reply.done?.finish_reason;
            }""".replace("WAY", way),
            other.url,
        )
        other.until(lambda: scenes.app.open_streams == 0)
    reasons = {"reply.stop()": "stopped", "stop.abort()": "AbortError", "break": None}
    assert reason == reasons[way]


def test_leaving_the_loop_stops_the_reply(page: Any, server: UvicornThread, scenes: Scenes) -> None:
    """Nobody pays for text that nobody reads."""
    page.evaluate(
        """async () => {
            const { chat } = await import("/reader.js");
            for await (const piece of chat("wait")) break;
        }"""
    )
    server.until(lambda: scenes.app.open_streams == 0)


def test_a_page_of_another_origin_reads_the_chat_that_the_file_comes_from(
    page: Any, scenes: Scenes
) -> None:
    """Under a prefix, too; with a header of its own and a field that the file does not know."""
    turns: List[Turn] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        turns.append(turn)
        yield "hi"

    app = create_app(respond, settings=Settings(cors_origins=("*",)))
    host = Starlette(routes=[Mount("/assistant", app)])
    options = {"headers": {"X-Request-ID": "mine"}, "fields": {"newer": True}}
    with UvicornThread(host, lifespan="off") as other:
        address = f"{other.url}/assistant/reader.js"
        pieces, *end = page.evaluate(READ, [address, "hello", options])
    assert (pieces, end) == (["hi"], ["done", turns[0].conversation_id])
    assert (turns[0].message, turns[0].request_id) == ("hello", "mine")


@pytest.mark.parametrize("source", [README, DOCS / "protocol.md"], ids=lambda path: path.name)
def test_the_example_of_the_docs_shows_the_reply(browser: Any, source: Any) -> None:
    """People copy it as it is."""
    [example] = [code for code in blocks(source, "js") if "/reader.js" in code]
    markup = f'<!doctype html><body><script type="module">{example}</script>'
    routes = [
        Route("/page", lambda request: HTMLResponse(markup)),
        Mount("/", create_app(saying("Hello, ", "you.", Usage(tokens=7)), settings=Settings())),
    ]
    with UvicornThread(Starlette(routes=routes), lifespan="off") as server:
        page = browser.new_page()
        try:
            with page.expect_console_message(lambda found: found.type == "log") as message:
                page.goto(f"{server.url}/page")
            assert message.value.text.startswith("7 ")
            assert page.locator("body").inner_text() == "Hello, you."
        finally:
            page.close()
