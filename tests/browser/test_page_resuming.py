"""GET / of a service that keeps replies, when connections break and pages are loaded again."""

from __future__ import annotations

from typing import Any, Iterator

import pytest

from ..support.chromium import playwright
from ..support.cutting import CuttingProxy
from ..support.window import GATE, Service, Window, opened

expect: Any = playwright().expect


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One that nobody but its client stops."""
    service = Service(history="memory", replay="memory", replay_grace=600)
    with service.server:
        yield service


@pytest.fixture
def proxy(service: Service) -> Iterator[CuttingProxy]:
    with CuttingProxy(service.server.port) as proxy:
        service.url = proxy.url
        yield proxy


@pytest.fixture
def window(browser: Any, service: Service, proxy: CuttingProxy) -> Iterator[Window]:
    with opened(browser, service) as window:
        yield window


def running(window: Window, text: str) -> Any:
    """The text of a reply that goes on, when it has come as far as `text`."""
    expect(window.reply).to_have_text(text)
    expect(window.page.get_by_role("button", name="Stop")).to_be_visible()
    return window.reply


def test_a_reply_goes_on_where_it_was_cut(window: Window, proxy: CuttingProxy) -> None:
    """In the same bubble, as if nothing had been; the user is told why it waits."""
    status = window.page.locator("#status")
    window.say("Hi", "one ", GATE, "two ", GATE, "three")
    for text in ("one", "one two"):
        running(window, text)
        proxy.cut(refusing=True)
        expect(window.last).to_contain_text("Reconnecting…")
        expect(status).to_have_text("Reconnecting…")
        running(window, text)
        proxy.refusing = False
        expect(window.last).not_to_contain_text("Reconnecting…")
        expect(status).to_have_text("The reply goes on")
        window.service.open()
    window.over()
    expect(window.reply).to_have_text("one two three")
    assert window.page.locator("#turns > li").count() == 1
    window.ask("Next")
    assert window.service.known == ["Hi", "one two three"]
    assert [turn.message for turn in window.service.turns] == ["Hi", "Next"]


def test_the_stop_button_tells_the_service(window: Window) -> None:
    """The end of a connection alone would stop nothing."""
    closed = window.service.closed
    window.say("Hi", "half a ", GATE)
    running(window, "half a")
    window.press("Stop")
    window.service.server.until(lambda: window.service.closed == closed + 1)
    window.over()
    expect(window.last).to_contain_text("You stopped this reply.")
    expect(window.last).to_contain_text("about 1 tokens")
    expect(window.message).to_be_focused()


def test_a_conversation_that_is_deleted_stops_its_reply(window: Window) -> None:
    """Nobody pays for text that nobody reads."""
    closed = window.service.closed
    window.say("Hi", "half a ", GATE)
    running(window, "half a")
    window.page.get_by_role("button", name="Delete: Hi").click()
    window.service.server.until(lambda: window.service.closed == closed + 1)


@pytest.mark.parametrize("ended", [False, True], ids=["running", "ended"])
def test_a_page_that_is_loaded_again_goes_on(window: Window, ended: bool) -> None:
    """It is where it was, and gets what it has missed."""
    closed = window.service.closed
    window.ask("First", "a")
    window.say("Second", "one ", GATE, "**two**", GATE)
    running(window, "one")
    if ended:
        window.page.goto("about:blank")
        window.service.open()
        window.service.open()
        window.service.server.until(lambda: window.service.closed == closed + 2)
        window.open()
    else:
        window.open()
        running(window, "one")
        window.service.open()
        running(window, "one two")
        window.service.open()
    window.over()
    expect(window.reply).to_have_text("one two")
    assert window.page.locator("#turns > li").count() == 2
    window.open()  # once more: there is nothing to go on with
    window.page.get_by_role("button", name="First", exact=True).click()
    expect(window.reply).to_have_text("one two")
    assert len(window.service.turns) == 2


def test_a_reply_that_is_gone_keeps_the_text_that_came(window: Window) -> None:
    """As if the service had been started anew in between."""
    closed = window.service.closed
    window.say("First", "one ", GATE)
    running(window, "one")
    window.page.goto("about:blank")
    headers = {"content-type": "application/json"}
    body = '{"code": "reply_not_found", "message": "No such reply is kept"}'
    gone = {"status": 404, "headers": headers, "body": body}
    window.page.route("**/replies/*", lambda route: route.fulfill(**gone))
    window.open()
    window.over()
    expect(window.reply).to_have_text("one")
    expect(window.last).to_contain_text("This reply was cut.")
    window.page.unroute("**/replies/*")
    window.service.open()
    window.service.server.until(lambda: window.service.closed == closed + 1)
    window.press("Retry")
    window.over()
    expect(window.reply).to_have_text("Hello, you.")


@pytest.mark.parametrize(
    "left", ["5", "null", '"no"', '{"id": 5}', '{"id": "a", "lastId": "😀"}', "[[]]"]
)
def test_a_page_bears_whatever_is_kept_of_a_reply(
    browser: Any, service: Service, proxy: CuttingProxy, left: str
) -> None:
    """Another version of it may have written that."""
    turn = f'{{"text": "First", "reply": "one", "end": "running", "from": {left}}}'
    key = "omniforge-chat:/assistant/:550e8400-e29b-41d4-a716-446655440000"
    script = f"""localStorage.setItem("{key}", '{{"time": 1, "turns": [{turn}]}}');"""
    with opened(browser, service, script=script) as window:
        window.page.get_by_role("button", name="First", exact=True).click()
        window.over()
        expect(window.reply).to_have_text("one")
