"""GET /docs, driven in Chromium: what somebody sees who opens the page, and makes happen."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import urllib.request
from typing import Any, AsyncIterator, Dict, Iterator, List, Tuple

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from omniforge_chat import ChatError, Settings, Turn, Usage, create_app
from omniforge_chat.core.responder import Responder
from omniforge_chat.models import UUID4_PATTERN
from omniforge_chat.rules import DIALECTS

from ..support.chromium import playwright, watched_page
from ..support.constants import CONVERSATION, PATIENCE
from ..support.responders import saying
from ..support.servers import UvicornThread

# Any, because types are checked also where playwright is not installed.
expect: Any = playwright().expect
Page = Any
Browser = Any

RECOVERED = "Failed to load resource: the server responded with a status of 4"
"""What Chromium puts on the console for every 4xx, whatever the page makes of it."""

STREAM = (
    ": waking up\r\n\r\n"
    'event: chunk\rdata: {"content":\rdata: "zwölf "}\r\r'
    ":\n\n"
    'event:chunk\nid: 1\nretry: 10\ndata:{"content":"Boxkämpfer\\n\u2028🥊"}\n\n'
    "data: no name\r\n\r\n"
    "event: nothing\n\n"
    f'event: done\r\ndata: {{"conversation_id":"{CONVERSATION}","usage":{{"tokens":3}}}}\r\n\r\n'
).encode()
"""All three line endings, comments, fields with and without a space, and data of two lines."""

ROWS = [
    ("heartbeat", ": waking up"),
    ("chunk", '{"content":\n"zwölf "}'),
    ("heartbeat", ":"),
    ("chunk", '{"content":"Boxkämpfer\\n\u2028🥊"}'),
    ("message", "no name"),
    ("done", f'{{"conversation_id":"{CONVERSATION}","usage":{{"tokens":3}}}}'),
]


SETTINGS = Settings()
ALL = Settings(dialects=DIALECTS, history="memory", replay="memory")


@contextlib.contextmanager
def docs(
    browser: Browser, responder: Responder, settings: Settings = SETTINGS, **options: Any
) -> Iterator[Tuple[Page, UvicornThread]]:
    """The page of an app that is mounted at /assistant, opened in a window of its own.

    At the end it must have asked nobody but that app, and put nothing on the console.
    """
    host = Starlette(routes=[Mount("/assistant", create_app(responder, settings=settings))])
    with UvicornThread(host, lifespan="off") as server:
        served = [f"{server.url}/assistant/"]
        with watched_page(browser, served, recovered=RECOVERED, **options) as page:
            page.goto(f"{server.url}/assistant/docs")
            expect(page.locator("#reference")).to_have_attribute("aria-busy", "false")
            yield page, server


def send(page: Page, message: str) -> None:
    page.get_by_label("Message").fill(message)
    page.get_by_role("button", name="Send").click()


def outcome(page: Page) -> Any:
    return page.locator("#outcome")


def rows(page: Page) -> List[Tuple[str, str]]:
    """The names and the data of the events that are shown."""
    shown = page.locator("#events li").evaluate_all(
        "rows => rows.map(row => [...row.children].map(part => part.textContent))"
    )
    assert all(milliseconds.endswith(" ms") for milliseconds, _, _ in shown)
    return [(name, data) for _, name, data in shown]


def answer_with(page: Page, pieces: List[bytes], *, broken: bool = False) -> None:
    """Let the page's next request be answered with a stream of exactly these reads."""
    page.evaluate(
        """([pieces, broken]) => {
            const pull = (controller) => {
                if (pieces.length) controller.enqueue(Uint8Array.from(pieces.shift()));
                else if (broken) controller.error(new TypeError("network error"));
                else controller.close();
            };
            const headers = { "Content-Type": "text/event-stream; charset=utf-8" };
            window.fetch = async () => new Response(new ReadableStream({ pull }), { headers });
        }""",
        [[list(piece) for piece in pieces], broken],
    )


greet = saying("Hello, ", "you.", Usage(tokens=7))


def test_a_message_is_answered_event_by_event_and_put_together(browser: Browser) -> None:
    """The first thing that anybody does with the page."""
    with docs(browser, greet) as (page, _):
        send(page, "hi")
        expect(outcome(page)).to_have_text(re.compile(r"^Done after \d+ ms, 7 tokens\.$"))
        assert [name for name, _ in rows(page)] == ["chunk", "chunk", "done"]
        assert rows(page)[0][1] == '{"content":"Hello, "}'
        expect(page.locator("#reply")).to_have_text("Hello, you.")
        expect(page.locator("#events-title")).to_have_text("Events (3)")
        facts = page.locator("#facts").inner_text()
        assert "200 OK" in facts
        assert "X-Request-ID" in facts


def test_the_first_chunk_is_seen_before_the_second_exists(browser: Browser) -> None:
    """Streaming is the point; a page that waits for the end would hide a proxy that does too."""
    produced: List[str] = []
    gates: List[asyncio.Event] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        gates.append(asyncio.Event())
        produced.append("one ")
        yield "one "
        await gates[0].wait()
        produced.append("two")
        yield "two"

    with docs(browser, respond) as (page, server):
        send(page, "hi")
        expect(page.locator("#reply")).to_have_text("one")
        assert rows(page) == [("chunk", '{"content":"one "}')]
        assert produced == ["one "]
        expect(outcome(page)).to_contain_text("Streaming")
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
        server.call(gates[0].set)
        expect(outcome(page)).to_contain_text("Done")
        expect(page.locator("#reply")).to_have_text("one two")


def test_stop_ends_the_responder(browser: Browser) -> None:
    """Nobody pays for tokens that nobody reads, and the page is where people try that out."""
    closed = threading.Event()

    async def respond(turn: Turn) -> AsyncIterator[str]:
        try:
            yield "one"
            await asyncio.Event().wait()
        finally:
            closed.set()

    with docs(browser, respond) as (page, _):
        send(page, "hi")
        expect(page.locator("#reply")).to_have_text("one")
        assert not closed.is_set()
        page.get_by_role("button", name="Stop").click()
        assert closed.wait(PATIENCE)
        expect(outcome(page)).to_contain_text("Stopped by you after")
        expect(page.get_by_role("button", name="Stop")).to_be_disabled()
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        expect(page.get_by_label("Message")).to_be_focused()


def test_an_error_before_the_stream_is_shown_with_its_status_and_code(browser: Browser) -> None:
    """The server says in words what is wrong; the page must not hide them behind "failed"."""
    with docs(browser, greet) as (page, _):
        send(page, "  ")
        expect(outcome(page)).to_contain_text("Refused. message: ")
        expect(page.locator("#facts")).to_contain_text("422")
        expect(page.locator("#facts")).to_contain_text("validation_error")
        expect(page.locator("#facts")).to_contain_text("X-Request-ID")
        expect(page.locator("#events")).to_be_hidden()
        send(page, "now with text")
        expect(outcome(page)).to_contain_text("Done")
        expect(page.locator("#facts")).not_to_contain_text("422")


def test_an_error_in_the_stream_is_shown_beside_what_came_before_it(browser: Browser) -> None:
    """What was produced is not lost with the rest of the reply."""
    respond = saying("half a ", ChatError("Not today", code="upstream_error"))
    with docs(browser, respond) as (page, _):
        send(page, "hi")
        expect(outcome(page)).to_have_text(
            re.compile(r"^Error upstream_error after \d+ ms: Not today$")
        )
        assert [name for name, _ in rows(page)] == ["chunk", "error"]
        expect(page.locator("#reply")).to_have_text("half a")


def test_a_server_that_is_gone_is_told_from_one_that_refuses(browser: Browser) -> None:
    """The two are mended in different places."""
    with docs(browser, greet) as (page, _):
        page.evaluate("() => { window.fetch = async () => { throw new TypeError('no route') } }")
        send(page, "hi")
        expect(outcome(page)).to_contain_text("No answer. The server could not be reached")


@pytest.mark.parametrize("broken", [False, True])
def test_a_stream_without_a_terminal_event_is_shown_as_cut(browser: Browser, broken: bool) -> None:
    """Whether the connection ended or broke: half a reply must not look like a whole one."""
    with docs(browser, greet) as (page, _):
        answer_with(page, [b'event: chunk\ndata: {"content":"half"}\n\nevent: do'], broken=broken)
        send(page, "hi")
        expect(outcome(page)).to_contain_text("Cut after")
        expect(page.locator("#reply")).to_have_text("half")
        expect(page.get_by_role("button", name="Send")).to_be_enabled()


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([STREAM], id="whole"),
        pytest.param([bytes([byte]) for byte in STREAM], id="byte by byte"),
        pytest.param([b"\xef", b"\xbb\xbf" + STREAM[:20], b"", STREAM[20:]], id="after a BOM"),
    ],
)
def test_a_stream_reads_the_same_however_it_is_cut(browser: Browser, pieces: List[bytes]) -> None:
    """Networks cut streams anywhere, inside CR LF and inside a character too."""
    with docs(browser, greet) as (page, _):
        answer_with(page, [piece for piece in pieces if piece])
        send(page, "hi")
        expect(outcome(page)).to_contain_text("Done")
        assert rows(page) == ROWS
        assert page.locator("#reply").text_content() == "zwölf Boxkämpfer\n\u2028🥊"


def test_the_conversation_goes_on_with_the_id_from_done(browser: Browser) -> None:
    """Two messages on the page are one conversation, as they look."""
    turns: List[Turn] = []

    async def respond(turn: Turn) -> AsyncIterator[str]:
        turns.append(turn)
        yield "ok"

    with docs(browser, respond) as (page, _):
        field = page.get_by_label("Conversation id")
        expect(field).to_have_value("")
        send(page, "first")
        expect(outcome(page)).to_contain_text("Done")
        expect(field).to_have_value(turns[0].conversation_id)
        send(page, "second")
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        assert [turn.message for turn in turns] == ["first", "second"]
        assert turns[0].conversation_id == turns[1].conversation_id
        field.fill(CONVERSATION)
        send(page, "third")
        expect(page.get_by_role("button", name="Send")).to_be_enabled()
        assert turns[2].conversation_id == CONVERSATION


def test_markup_in_a_message_or_a_reply_stays_text(browser: Browser) -> None:
    """What a model writes is shown on the host's own origin."""
    markup = "<img src=x onerror=alert(1)><b>bold</b>"

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield turn.message
        raise ChatError(turn.message)

    with docs(browser, respond) as (page, _):
        send(page, markup)
        expect(outcome(page)).to_contain_text(markup)
        expect(page.locator("#reply")).to_have_text(markup)
        expect(page.locator("#events")).to_contain_text(markup)
        expect(page.locator("img")).to_have_count(0)


def test_the_keyboard_alone_sends_and_stops(browser: Browser) -> None:
    """Ctrl+Enter in the message, and from Send the focus goes to Stop, not to nowhere."""

    async def respond(turn: Turn) -> AsyncIterator[str]:
        yield turn.message
        if turn.message == "wait":
            await asyncio.Event().wait()

    with docs(browser, respond) as (page, _):
        page.get_by_label("Message").focus()
        page.keyboard.type("line 1\nline 2")
        page.keyboard.press("Control+Enter")
        expect(outcome(page)).to_contain_text("Done")
        assert page.locator("#reply").text_content() == "line 1\nline 2"
        page.get_by_label("Message").fill("wait")
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#reply")).to_have_text("wait")
        expect(page.get_by_role("button", name="Stop")).to_be_focused()
        page.keyboard.press("Enter")
        expect(outcome(page)).to_contain_text("Stopped")


@pytest.mark.parametrize("settings", [SETTINGS, ALL], ids=["plain", "all there is"])
def test_the_reference_says_what_the_openapi_document_says(
    browser: Browser, settings: Settings
) -> None:
    """A page that is written by hand would be wrong one day; this one is made of the document."""
    with docs(browser, greet, settings) as (page, server):
        with urllib.request.urlopen(f"{server.url}/assistant/openapi.json") as response:
            document: Dict[str, Any] = json.load(response)
        shown = page.locator("#reference").inner_text()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                assert f"{method.upper()} /assistant{path}" in shown
                for status in operation["responses"]:
                    assert re.search(rf"\n{status}\s", shown)
        for code in _values(document["paths"], "enum"):
            assert code in shown
        for name in _values(document["paths"], "const"):
            assert name in shown
        for schema in document["components"]["schemas"].values():
            for name in schema["properties"] if settings is SETTINGS else ():  # else some in lists
                assert name in shown
        assert "message string, required, 1 to 10,000 characters" in shown
        assert "conversation_id string or null, optional" in shown
        assert UUID4_PATTERN in shown
        assert 'event: done\ndata: {"conversation_id":"…","usage":{"tokens":0}}' in shown
        assert f"'{server.url}/assistant/api/v1/chat'" in page.locator("#curl").inner_text()


def _values(node: Any, key: str) -> Iterator[str]:
    """What stands under `key` anywhere in `node`, one by one."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        if name == key:
            yield from [value] if isinstance(value, str) else value
        elif isinstance(value, (dict, list)):
            yield from _values(value, key)


def test_a_key_is_sent_if_the_service_has_any(browser: Browser) -> None:
    """It stands in no storage of the browser; and a service that asks nobody has no field."""
    settings = Settings(api_keys="me:ofk_0123456789abcdef", dialects=("native", "openai"))
    with docs(browser, greet) as (page, _):
        expect(page.locator("#reference")).to_contain_text("/assistant/api/v1/chat")
        expect(page.get_by_label("Key")).to_be_hidden()
    with docs(browser, greet, settings) as (page, _):
        send(page, "hi")
        expect(page.locator("#facts")).to_contain_text("unauthorized")
        expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer $KEY"')
        page.get_by_label("Key").fill(" ofk_0123456789abcdef ")
        send(page, "hi")
        expect(outcome(page)).to_contain_text("Done")
        page.get_by_role("button", name="Ask v1/models").click()
        expect(page.locator("#reference")).to_contain_text('200 {"object":"list"')
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0


@pytest.mark.parametrize("probe", ["health", "ready"])
def test_the_probes_are_asked_from_the_page(browser: Browser, probe: str) -> None:
    """Their addresses, too, depend on where the app is mounted."""
    with docs(browser, greet) as (page, _):
        page.get_by_role("button", name=f"Ask {probe}").click()
        expect(page.locator("#reference")).to_contain_text('200 {"status":"')


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen_needs_no_scrolling_to_the_side(browser: Browser, scheme: str) -> None:
    """320 CSS pixels are what WCAG 2.2, 1.4.10 asks for; long words and ids must break."""
    size = {"width": 320, "height": 640}
    with docs(browser, saying("x" * 500), viewport=size, color_scheme=scheme) as (page, _):
        send(page, "hi")
        expect(outcome(page)).to_contain_text("Done")
        assert page.evaluate("document.documentElement.scrollWidth") == 320
