"""GET / of a service that wants to know who asks, or that limits how much they may have."""

from __future__ import annotations

import asyncio
from typing import Any, Iterator, List

import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from omniforge_chat.models import Rate

from ..support.chromium import playwright
from ..support.cutting import CuttingProxy
from ..support.window import GATE, Service, Window, opened

expect: Any = playwright().expect

KEY = "ofk_0123456789abcdef"
ANOTHER = "ofk_fedcba9876543210"
CHAT = "**/api/v1/chat"
REPLIES = "**/api/v1/chat/replies/*"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One with two callers, that keeps replies."""
    keys = f"me:{KEY},other:{ANOTHER}"
    service = Service(history="memory", replay="memory", replay_grace=600, api_keys=keys)
    with service.server:
        yield service


@pytest.fixture
def window(browser: Any, service: Service) -> Iterator[Window]:
    service.url = service.server.url
    with opened(browser, service) as window:
        yield window


def dialog(window: Window) -> Any:
    return window.page.get_by_role("dialog")


def field(window: Window) -> Any:
    return window.page.get_by_label("Key", exact=True)


def give(window: Window, key: str) -> None:
    expect(field(window)).to_be_focused()
    field(window).fill(key)
    field(window).press("Enter")


def answer(status: int, code: str, **headers: str) -> Any:
    """What a route of the browser gives in place of the service."""
    body = f'{{"code": "{code}", "message": "No"}}'
    sent = {"content-type": "application/json", **headers}
    return lambda route: route.fulfill(status=status, headers=sent, body=body)


def test_a_message_waits_for_the_key_and_is_sent_with_it(window: Window) -> None:
    """The user types it once; it is known from then on, also if the page is loaded again."""
    asked: List[Any] = []
    window.page.on("request", lambda request: asked.append(request))
    window.say("Hi")
    expect(dialog(window)).to_contain_text("This service wants to know who you are.")
    assert window.service.turns == []
    give(window, f" {KEY} ")
    window.over()
    expect(dialog(window)).to_be_hidden()
    expect(window.reply).to_have_text("Hello, you.")
    expect(window.message).to_be_focused()
    assert window.page.locator("#turns > li").count() == 1
    window.ask("Again")
    window.open()
    window.ask("And again")
    assert [turn.caller.id for turn in window.service.turns if turn.caller] == ["key:me"] * 3
    chats = [request for request in asked if request.method == "POST"]
    sent = [request.headers.get("authorization") for request in chats]
    assert sent == [None, *[f"Bearer {KEY}"] * 3]
    assert not any(KEY in request.url for request in asked)


def test_a_wrong_key_is_asked_for_again(window: Window) -> None:
    """And forgotten at once. What can be no key is not even sent."""
    window.say("Hi")
    give(window, "a b")
    expect(dialog(window)).to_be_visible()
    give(window, "sesame")
    expect(dialog(window)).to_contain_text("The key was refused.")
    expect(field(window)).to_have_value("")
    assert window.page.evaluate("Object.values(sessionStorage)") == []
    give(window, KEY)
    window.over()
    expect(window.reply).to_have_text("Hello, you.")
    assert len(window.service.turns) == 1


@pytest.mark.parametrize("way", ["Escape", "Cancel"])
def test_whoever_has_no_key_sees_the_refusal(window: Window, way: str) -> None:
    """And may try again, when they have found it."""
    window.say("Hi")
    expect(field(window)).to_be_focused()
    if way == "Escape":
        window.page.keyboard.press("Escape")
    else:
        window.press("Cancel")
    window.over()
    expect(window.last.locator(".failure")).to_contain_text("unauthorized")
    expect(window.last.locator(".mine .bubble")).to_have_text("Hi")
    window.press("Retry")
    give(window, KEY)
    window.over()
    expect(window.reply).to_have_text("Hello, you.")
    expect(window.last.locator(".failure")).to_have_count(0)


def test_a_key_is_for_one_session(window: Window, browser: Any, service: Service) -> None:
    """Neither another tab nor whoever uses the browser next has it."""
    window.say("Hi")
    give(window, KEY)
    window.over()
    assert window.page.evaluate("Object.values(sessionStorage)") == [KEY]
    kept = window.page.evaluate("JSON.stringify([localStorage, document.cookie, location.href])")
    assert KEY not in kept
    tab = Window(window.page.context.new_page(), service)
    tab.open()
    tab.say("Hi")
    expect(dialog(tab)).to_be_visible()
    tab.page.close()
    with opened(browser, service) as other:
        other.say("Hi")
        expect(dialog(other)).to_be_visible()


def test_a_page_whose_session_is_blocked_keeps_the_key_in_its_memory(
    browser: Any, service: Service
) -> None:
    """As some browsers do it for pages within pages."""
    blocked = 'Object.defineProperty(window, "sessionStorage", { get() { throw new Error(); } });'
    with opened(browser, service, script=blocked) as window:
        window.say("Hi")
        give(window, KEY)
        window.over()
        window.ask("Again")
        expect(window.reply).to_have_text("Hello, you.")


def test_stop_carries_the_key(window: Window) -> None:
    """The end of a connection alone would stop nothing."""
    closed = window.service.closed
    window.say("Hi", "half a ", GATE)
    give(window, KEY)
    expect(window.reply).to_have_text("half a")
    window.press("Stop")
    window.service.server.until(lambda: window.service.closed == closed + 1)
    window.over()
    expect(window.last).to_contain_text("You stopped this reply.")


def test_a_reply_goes_on_with_another_key(browser: Any, service: Service) -> None:
    """A token may have ended while its connection broke: no second reply is asked for."""
    with CuttingProxy(service.server.port) as proxy:
        service.url = proxy.url
        with opened(browser, service) as window:
            window.say("Hi", "one ", GATE, "two")
            give(window, KEY)
            expect(window.reply).to_have_text("one")
            window.page.route(REPLIES, answer(401, "unauthorized"))
            proxy.cut()
            expect(dialog(window)).to_contain_text("The key was refused.")
            window.page.unroute(REPLIES)
            give(window, KEY)
            service.open()
            window.over()
            expect(window.reply).to_have_text("one two")
            assert len(service.turns) == 1


def test_two_conversations_ask_once(window: Window) -> None:
    """Both of their messages are sent with the one key."""
    arrived: List[asyncio.Event] = []

    async def refused_together(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.append(asyncio.Event())
        if len(arrived) == 2:
            arrived[0].set()
        await arrived[0].wait()
        refusal = JSONResponse({"code": "unauthorized", "message": "No"}, 401)
        await refusal(scope, receive, send)

    window.service.refusals += [refused_together] * 2
    window.say("One")
    window.press("New conversation")
    window.say("Two")
    give(window, KEY)
    window.over()
    expect(dialog(window)).to_be_hidden()
    window.page.get_by_role("button", name="One", exact=True).click()
    window.over()
    expect(window.reply).to_have_text("Hello, you.")
    assert sorted(turn.message for turn in window.service.turns) == ["One", "Two"]


def test_whoever_may_not_is_told_so(window: Window) -> None:
    """No other try with the same key would help, so another one is asked for."""
    window.page.route(CHAT, answer(403, "forbidden"))
    window.say("Hi")
    window.over()
    notice = window.page.locator("#notice")
    expect(notice).to_have_text("You may not chat here.")
    window.page.unroute(CHAT)
    window.press("Retry")
    give(window, KEY)
    window.over()
    window.press("New conversation")  # the first one belongs to the first key
    window.page.route(CHAT, answer(403, "forbidden"))
    window.say("Hi")
    expect(notice).to_contain_text("You may not chat here with this key.")
    expect(window.last.locator(".failure")).to_contain_text("forbidden")
    window.page.unroute(CHAT)
    window.press("Retry")
    give(window, ANOTHER)
    window.over()
    assert [turn.caller.id for turn in window.service.turns if turn.caller] == [
        *("key:me", "key:other")
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "in 1 second"),
        (119, "in 119 seconds"),
        (121, "in 3 minutes"),
        (86_399, "in 24 hours"),
    ],
)
def test_a_wait_is_told_in_words(window: Window, seconds: int, words: str) -> None:
    """86,399 seconds say nothing to a person."""
    window.page.clock.install()
    window.page.clock.pause_at(4_000_000_000)
    refusal = answer(429, "rate_limited", **{"retry-after": str(seconds)})
    window.page.route(CHAT, refusal)
    window.say("Hi")
    expect(window.page.locator("#status")).to_contain_text("rate_limited")
    window.page.clock.run_for(50)  # the page shows it with its next frame
    expect(window.last.locator(".failure button")).to_have_text(f"Retry {words}")
    window.press("New conversation")
    window.say("Now?")
    expect(window.page.locator("#notice")).to_have_text(f"You may send this {words}.")
    expect(window.message).to_have_value("Now?")
    window.page.unroute(CHAT)
    window.page.clock.fast_forward(1000 * seconds)
    expect(window.page.locator("#notice")).to_have_text("")
    window.message.press("Enter")
    expect(dialog(window)).to_be_visible()


def test_a_limit_of_the_service_is_told_and_over_when_it_says(browser: Any) -> None:
    """With the words of the service; and the message is there for the next try."""
    service = Service(rate_limit=Rate(1, 3600))
    with service.server, opened(browser, service) as window:
        window.ask("Hi")
        window.say("Again")
        window.over()
        failure = window.last.locator(".failure")
        expect(failure).to_contain_text("rate_limited Your chats are limited to 1/hour")
        expect(failure.locator("button")).to_have_text("Retry in 60 minutes")
        expect(failure.locator("button")).to_have_attribute("aria-disabled", "true")
        assert len(service.turns) == 1


def test_axe_finds_nothing_in_the_question(browser: Any, service: Service, axe: str) -> None:
    """In light, in dark, and on a phone."""
    service.url = service.server.url
    for look in ("light", "dark"):
        size = {"width": 320, "height": 640}
        options: Any = {"color_scheme": look, "viewport": size, "reduced_motion": "reduce"}
        with opened(browser, service, script=axe, **options) as window:
            window.say("Hi")
            expect(field(window)).to_be_focused()
            found = window.page.evaluate("axe.run()")["violations"]
            assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found] == []
            assert window.page.evaluate("document.documentElement.scrollWidth") == 320
