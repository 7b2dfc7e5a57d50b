"""GET /, driven in Chromium: what somebody does who talks on the page."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Iterator, List

import pytest
from starlette.types import Receive, Scope, Send

from omniforge_chat import ChatError, Finish, Thought, Usage
from omniforge_chat.models import UUID4_PATTERN

from ..support.chromium import playwright
from ..support.window import EACH_CHANGE, GATE, Service, Window, opened

# Any, because types are checked also where playwright is not installed.
expect: Any = playwright().expect
Browser = Any

STORED = """
Object.entries(localStorage).filter(([key]) => key.startsWith("omniforge-chat:/assistant/:"))
"""
BLOCKED = """
Object.defineProperty(window, "localStorage", {
  get() { throw new DOMException("blocked", "SecurityError"); },
});
"""
CONFUSED = """
const id = (number) => `550e8400-e29b-41d4-a716-${String(number).padStart(12, "0")}`;
const turn = '{"text":"a","reply":"b"';
[
  "", "{", "null", "[]", '{"time":1,"turns":[{}]}', '{"time":1,"turns":[]}',
  '{"time":1,"turns":[null]}', '{"time":1,"turns":{"length":1}}',
  `{"time":1e300,"turns":[${turn}}]}`,
  `{"time":"now","turns":[${turn}}]}`, `{"turns":[${turn}}]}`,
  ...["{}", '"no"', "null", '{"code":{"id":"a"},"message":{"id":"b"}}', '{"code":"a"}'].map(
    (error) => `{"time":1,"turns":[${turn},"error":${error}}]}`,
  ),
].forEach((value, i) => localStorage.setItem(`omniforge-chat:/assistant/:${id(i)}`, value));
const whole = `{"time":1,"turns":[${turn}}]}`;
for (const name of ["", 'a"]', `${id(1)}0`]) {
  localStorage.setItem(`omniforge-chat:/assistant/:${name}`, whole);
}
localStorage.setItem("omniforge-chat:/other/:x", "not ours");
localStorage.setItem(`omniforge-chat:/assistan2/:${id(1)}`, whole);
"""


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """One that remembers conversations."""
    service = Service(history="memory")
    with service.server:
        yield service


@pytest.fixture(scope="module")
def forgetful() -> Iterator[Service]:
    service = Service()
    with service.server:
        yield service


@pytest.fixture
def window(browser: Browser, service: Service) -> Iterator[Window]:
    with opened(browser, service) as window:
        yield window


def answering(status: int, body: object, headers: Dict[str, str]) -> Any:
    """An ASGI app with one answer."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        sent = {"content-type": "application/json", **headers}
        raw = [(name.encode(), value.encode()) for name, value in sent.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    return app


def stored(window: Window) -> List[Any]:
    """What the browser keeps of the conversations, the latest first."""
    kept = [json.loads(text) for _, text in window.page.evaluate(STORED)]
    return sorted(kept, key=lambda talk: -talk["time"])


def listed(window: Window) -> List[str]:
    return list(window.page.locator("#list [data-talk]").all_inner_texts())


# A conversation


def test_a_message_and_its_reply_stand_in_bubbles(window: Window) -> None:
    """The first thing that anybody does with a service that has just started."""
    expect(window.page.get_by_text("How can I help you?")).to_be_visible()
    expect(window.ask("Hi  there", "Hello, ", "you.", Usage(tokens=7))).to_have_text("Hello, you.")
    expect(window.last.locator(".mine .bubble")).to_have_text("Hi there")
    expect(window.last).to_contain_text("7 tokens")
    expect(window.page.get_by_text("How can I help you?")).to_be_hidden()
    expect(window.page.get_by_role("heading", name="Hi there")).to_be_visible()
    expect(window.message).to_have_value("")
    expect(window.message).to_be_focused()
    window.ask("And again")
    first, second = window.service.turns
    assert re.fullmatch(UUID4_PATTERN, first.conversation_id)
    assert (first.message, first.conversation_id) == ("Hi  there", second.conversation_id)
    assert len(second.history) == 2


def test_text_is_shown_before_the_reply_is_whole(window: Window) -> None:
    """Streaming is the point."""
    window.say("Hi", "one ", GATE, "two")
    expect(window.reply).to_have_text("one")
    expect(window.page.get_by_role("button", name="Stop")).to_be_visible()
    expect(window.page.get_by_role("button", name="Send")).to_be_hidden()
    expect(window.page.get_by_role("button", name="Retry")).to_be_hidden()
    window.message.fill("the next one")
    window.message.press("Enter")  # it waits in the box
    window.service.open()
    expect(window.reply).to_have_text("one two")
    window.over()
    expect(window.message).to_have_value("the next one")
    assert len(window.service.turns) == 1


def test_a_line_is_broken_with_shift(window: Window) -> None:
    """And an Enter that chooses a word of Japanese or Chinese sends nothing."""
    window.message.fill("")
    window.page.keyboard.type("one")
    window.page.keyboard.press("Shift+Enter")
    window.page.keyboard.type("two")
    for composing in ("isComposing: true", "keyCode: 229"):
        window.message.evaluate(
            f"(it) => it.dispatchEvent(new KeyboardEvent('keydown', "
            f"{{ key: 'Enter', bubbles: true, {composing} }}))"
        )
    assert window.service.turns == []
    window.page.keyboard.press("Enter")
    window.over()
    assert [turn.message for turn in window.service.turns] == ["one\ntwo"]


@pytest.mark.parametrize("text", ["", "  \n "])
def test_nothing_is_not_sent(window: Window, text: str) -> None:
    """Whoever leans on Enter does not want to be told off."""
    window.message.fill(text)
    window.message.press("Enter")
    window.press("Send")
    assert window.page.locator("#turns > li").count() == 0


@pytest.mark.parametrize("way", ["Escape", "the button"])
def test_a_reply_can_be_stopped(window: Window, way: str) -> None:
    """Nobody pays for text that nobody reads."""
    closed = window.service.closed
    window.say("Hi", "half a ", GATE)
    expect(window.reply).to_have_text("half a")
    if way == "Escape":
        window.page.keyboard.press("Escape")
    else:
        window.press("Stop")
    window.service.server.until(lambda: window.service.closed == closed + 1)
    expect(window.last).to_contain_text("You stopped this reply.")
    expect(window.message).to_be_focused()
    window.press("Retry")
    window.over()
    expect(window.last).not_to_contain_text("You stopped")
    expect(window.reply).to_have_text("Hello, you.")
    assert [len(turn.history) for turn in window.service.turns] == [0, 0]


@pytest.mark.parametrize("way", ["stopped", "failed"])
def test_another_reply_that_ends_early_is_the_one_that_counts(window: Window, way: str) -> None:
    """The model must know the reply that the page shows, and not the one that was there before."""
    window.ask("One", "whole")
    window.service.replies.append(["half", GATE if way == "stopped" else ChatError("no")])
    window.press("Retry")
    expect(window.reply).to_have_text("half")
    if way == "stopped":
        window.press("Stop")
    window.over()
    window.ask("Two")
    assert window.service.known == ["One", "half"]


@pytest.mark.parametrize("way", ["stopped", "refused", "unreachable"])
def test_another_reply_that_never_comes_leaves_the_last_one(window: Window, way: str) -> None:
    """There is nothing in its place, and the server still knows it."""
    window.ask("One", "whole", Usage(tokens=7))
    if way == "refused":
        window.service.refusals.append(answering(500, {"code": "own", "message": "no"}, {}))
    elif way == "unreachable":
        window.page.route("**/api/v1/chat", lambda route: route.abort())
    else:
        window.service.replies.append([GATE])
    window.press("Retry")
    if way == "stopped":
        window.press("Stop")
    window.over()
    expect(window.reply).to_have_text("whole")
    expect(window.last).to_contain_text("7 tokens")
    expect(window.last.locator(".failure")).to_have_count(0 if way == "stopped" else 1)
    assert stored(window)[0]["turns"][0]["reply"] == "whole"
    window.page.unroute("**/api/v1/chat")
    window.ask("Two")
    assert window.service.known == ["One", "whole"]


def test_a_message_that_is_said_twice_stands_there_twice(window: Window) -> None:
    """Another try at the second "go on" must not take the place of the first one."""
    window.ask("Go on", "a")
    window.say("Go on", GATE)
    window.press("Stop")
    window.over()
    window.service.replies.append(["b"])
    window.press("Retry")
    expect(window.reply).to_have_text("b")
    window.service.replies.append(["c"])
    window.press("Retry")
    expect(window.reply).to_have_text("c")
    window.ask("Three")
    assert window.service.known == ["Go on", "a", "Go on", "c"]


def test_another_reply_replaces_the_last_one(window: Window) -> None:
    """On the page and on the server."""
    window.ask("One", "a")
    window.ask("Two", "b")
    window.service.replies.append(["c"])
    window.press("Retry")
    expect(window.reply).to_have_text("c")
    window.ask("Three")
    assert window.page.locator("#turns > li").count() == 3
    assert window.service.known == ["One", "a", "Two", "c"]


def test_an_edited_message_replaces_the_last_one(window: Window) -> None:
    """The server must not remember words that the page does not show any more."""
    window.ask("One", "a")
    window.ask("Tow", "b")
    window.message.fill("a draft")
    window.press("Edit")
    expect(window.message).to_have_value("Tow")
    expect(window.message).to_be_focused()
    window.page.keyboard.press("Escape")
    expect(window.message).to_have_value("a draft")
    window.press("Edit")
    window.ask("Two", "c")
    expect(window.message).to_have_value("a draft")
    expect(window.last.locator(".mine .bubble")).to_have_text("Two")
    expect(window.reply).to_have_text("c")
    window.ask("Three")
    assert window.page.locator("#turns > li").count() == 3
    assert window.service.known == ["One", "a", "Two", "c"]


def test_an_edited_message_replaces_the_old_one_also_after_a_failure(window: Window) -> None:
    """The server keeps the old turn until there is a reply to the new one."""
    window.ask("One", "a")
    window.press("Edit")
    window.ask("Two", ChatError("Not today", code="upstream_error"))
    window.press("Retry")
    window.over()
    window.ask("Three")
    assert window.service.known == ["Two", "Hello, you."]


def test_arrow_up_edits_if_nothing_is_written(window: Window) -> None:
    """As in a terminal; but within a text it moves the cursor."""
    window.ask("One")
    window.message.press("ArrowUp")
    expect(window.message).to_have_value("One")
    window.press("Cancel")
    window.message.fill("two\nlines")
    window.message.press("ArrowUp")
    expect(window.message).to_have_value("two\nlines")


def test_what_is_written_is_not_lost(window: Window) -> None:
    """Whoever looks something up in another conversation comes back to the text."""
    window.ask("First")
    window.press("New conversation")
    window.message.fill("half a text")
    window.page.get_by_role("button", name="First", exact=True).click()
    expect(window.message).to_have_value("half a text")
    window.press("Edit")
    window.press("New conversation")
    expect(window.message).to_have_value("half a text")
    expect(window.page.get_by_text("Editing your last message")).to_be_hidden()


# Failures


def test_a_failure_is_told_in_the_bubble(window: Window) -> None:
    """Beside the text that came before, with the code that the docs explain."""
    window.say("Hi", "half a ", ChatError("Not <b>today</b>", code="upstream_error"))
    window.over()
    expect(window.reply).to_have_text("half a")
    expect(window.last.locator(".failure")).to_contain_text("upstream_error Not <b>today</b>")
    window.press("Retry")
    window.over()
    expect(window.last.locator(".failure")).to_have_count(0)
    expect(window.reply).to_have_text("Hello, you.")


def test_a_refusal_is_told_with_its_code(window: Window) -> None:
    """The server says in words what is wrong with the message."""
    window.say("x" * 10_001)
    window.over()
    expect(window.last.locator(".failure")).to_contain_text("message_too_long")
    expect(window.last.locator(".failure")).to_contain_text("maximum length")


def test_a_message_that_is_far_too_long_does_no_harm(window: Window) -> None:
    """Somebody pastes a book: the other conversations stay, and it can be shortened."""
    window.ask("First")
    window.press("New conversation")
    window.message.evaluate("(it) => { it.value = `Second ${'x'.repeat(1_100_000)}`; }")
    window.message.press("Enter")
    window.over()
    expect(window.last.locator(".failure")).to_contain_text("payload_too_large")
    expect(window.page.locator("#notice")).to_contain_text("no room for this conversation")
    assert [talk["turns"][0]["text"] for talk in stored(window)] == ["First"]
    window.press("Edit")
    window.ask("Second")
    expect(window.reply).to_have_text("Hello, you.")
    assert [talk["turns"][0]["text"] for talk in stored(window)] == ["Second", "First"]


def test_a_title_ends_with_a_whole_character(window: Window) -> None:
    """Half an emoji is a box."""
    window.ask(f"{'a' * 79}\U0001f600 b")
    expect(window.page.locator("#title")).to_have_text(f"{'a' * 79}\U0001f600")


def test_the_page_waits_for_as_long_as_the_server_asks(window: Window) -> None:
    """A server with too many clients must not get more of them by its own page."""
    busy = {"code": "overloaded", "message": "Too many streams are open"}
    window.page.clock.install()
    window.service.refusals.append(answering(503, busy, {"retry-after": "7"}))
    window.say("Hi")
    window.over()
    retry = window.last.locator(".failure button")
    expect(retry).to_have_text("Retry in 7 seconds")
    expect(retry).to_have_attribute("aria-disabled", "true")
    retry.evaluate("(it) => it.click()")
    window.say("Now?")
    window.page.get_by_role("button", name="Send").evaluate("(it) => it.click()")
    assert window.service.turns == []
    window.page.clock.fast_forward(5_000)
    expect(retry).to_have_text(re.compile("Retry in [12] second"))  # the clock goes on meanwhile
    window.page.clock.fast_forward(2_000)
    expect(retry).to_have_text("Retry")
    retry.click()
    window.over()
    expect(window.reply).to_have_text("Hello, you.")
    expect(window.message).to_have_value("Now?")


def test_a_server_that_is_gone_is_told(window: Window) -> None:
    """It is no fault of the message."""
    window.page.route("**/api/v1/chat", lambda route: route.abort())
    window.say("Hi")
    window.over()
    expect(window.last.locator(".failure")).to_contain_text("unreachable")
    window.page.unroute("**/api/v1/chat")
    window.press("Retry")
    window.over()
    expect(window.reply).to_have_text("Hello, you.")


def test_a_reply_that_ends_early_says_why(window: Window) -> None:
    """Else half an answer looks like a whole one."""
    window.ask("Hi", "half", Finish("length"))
    expect(window.last).to_contain_text("The reply has reached the limit of its length.")
    window.ask("Hi", "half", Finish("content_filter"))
    expect(window.last).to_contain_text("A content filter has ended this reply.")
    window.ask("Hi", "", Usage(tokens=1))
    expect(window.last).to_contain_text("The reply is empty.")


@pytest.mark.parametrize("missing", ["reader.js", "page.js"])
def test_a_page_without_a_script_says_so(browser: Browser, service: Service, missing: str) -> None:
    """A deployment in between, say."""
    context = browser.new_context()
    try:
        page = context.new_page()
        page.route(f"**/{missing}", lambda route: route.abort())
        page.goto(f"{service.server.url}/assistant/")
        expect(page.locator("#notice")).to_have_text(
            "A part of this page cannot be loaded. Load it again."
        )
    finally:
        context.close()


# What the server remembers


def test_a_server_that_remembers_nothing_is_told(browser: Browser, forgetful: Service) -> None:
    """Or people wonder why the model knows nothing of what stands on the page."""
    note = "This server remembers nothing"
    with opened(browser, forgetful) as window:
        assert note not in window.page.inner_text("body")
        window.ask("Hi")
        expect(window.page.locator("#memory")).to_contain_text(note)
        window.press("New conversation")
        expect(window.page.locator("#memory")).to_be_empty()


def test_a_server_that_has_forgotten_is_told(window: Window) -> None:
    """It was started again, say, and the browser still has the conversation."""
    window.ask("One")
    window.ask("Two")
    expect(window.page.locator("#memory")).to_be_empty()
    (talk,) = window.page.evaluate(STORED)
    window.page.evaluate(
        """([key, text]) => {
            const other = "550e8400-e29b-41d4-a716-446655440000";
            localStorage.clear();
            localStorage.setItem(`omniforge-chat:/assistant/:${other}`, text);
        }""",
        talk,
    )
    window.open()
    window.page.locator("[data-talk]").click()
    window.ask("Three")
    expect(window.last).to_contain_text("The server has forgotten the messages above.")
    window.ask("Four")
    expect(window.last).not_to_contain_text("The server has forgotten")


# Thoughts


def test_thoughts_are_folded(window: Window) -> None:
    """They are long, and not the answer; but who waits for it sees that it comes."""
    window.say("Hi", Thought("Let me <i>see</i>. "), Thought("Yes."), GATE, "So.", GATE)
    thoughts = window.last.locator("details")
    expect(thoughts.locator("summary")).to_have_text("Thinking…")
    expect(thoughts).not_to_have_attribute("open", "")
    window.service.open()
    expect(thoughts.locator("summary")).to_have_text("Thoughts")
    thoughts.locator("summary").click()
    expect(thoughts).to_contain_text("Let me <i>see</i>. Yes.")
    window.service.open()
    window.over()
    expect(thoughts).to_have_attribute("open", "")
    window.ask("Hi")
    expect(window.last.locator("details")).to_be_hidden()


# The conversations in the browser


def test_conversations_are_kept(window: Window) -> None:
    """Whoever comes back finds them, and goes on where they were."""
    window.ask("First", "**a**")
    window.press("New conversation")
    expect(window.page.locator("#turns > li")).to_have_count(0)
    window.ask("Second", "b")
    assert listed(window) == ["Second", "First"]
    window.open()
    assert listed(window) == ["Second", "First"]
    window.page.get_by_role("button", name="First", exact=True).click()
    expect(window.reply.locator("strong")).to_have_text("a")
    current = window.page.locator("#list [aria-current=true]")
    expect(current).to_have_text("First")
    window.ask("Third")
    assert listed(window) == ["First", "Second"]
    assert window.service.known == ["First", "**a**"]


def test_a_reply_goes_on_behind_another_conversation(window: Window) -> None:
    """Nobody has to wait and watch."""
    window.say("First", "one ", GATE, "two")
    expect(window.reply).to_have_text("one")
    window.press("New conversation")
    window.ask("Second")
    window.service.open()
    window.page.wait_for_function(f"{STORED}.some(([, text]) => text.includes('one two'))")
    window.page.get_by_role("button", name="First", exact=True).click()
    expect(window.reply).to_have_text("one two")


def test_a_reply_that_a_closed_page_has_cut_says_so(window: Window) -> None:
    """What came until then is not lost."""
    window.say("First", "one ", GATE)
    expect(window.reply).to_have_text("one")
    window.open()
    window.page.get_by_role("button", name="First", exact=True).click()
    expect(window.reply).to_have_text("one")
    # Which of the two comes first, the end of the page or that of its connection, nobody knows.
    cut = re.compile("This reply was cut|The connection broke before")
    expect(window.last).to_contain_text(cut)
    window.press("Retry")
    window.over()
    expect(window.reply).to_have_text("Hello, you.")
    window.ask("Second")
    assert window.service.known == ["First", "Hello, you."]


def test_two_tabs_have_the_same_conversations(window: Window) -> None:
    """Else the one that wrote last would take the turns of the other away."""
    window.ask("First", "a")
    other = Window(window.page.context.new_page(), window.service)
    other.open()
    other.page.get_by_role("button", name="First", exact=True).click()
    window.say("Second", "b ", GATE, "c")
    expect(other.reply).to_be_empty()
    window.service.open()
    expect(other.reply).to_have_text("b c")
    other.ask("Third", "d")
    expect(window.reply).to_have_text("d")
    (talk,) = stored(window)
    assert [turn["text"] for turn in talk["turns"]] == ["First", "Second", "Third"]
    other.press("New conversation")
    other.ask("Fourth")
    expect(window.page.locator("#list [data-talk]")).to_have_text(["Fourth", "First"])
    other.press("Delete: Fourth")
    expect(window.page.locator("#list [data-talk]")).to_have_text(["First"])
    expect(window.reply).to_have_text("d")


def test_a_deleted_conversation_can_come_back(window: Window) -> None:
    """A finger slips."""
    window.ask("First")
    window.press("New conversation")
    window.ask("Second")
    window.press("Delete: First")
    assert listed(window) == ["Second"]
    expect(window.reply).to_be_visible()
    expect(window.page.get_by_role("button", name="Undo")).to_be_focused()
    window.page.keyboard.press("Enter")
    assert listed(window) == ["First", "Second"]
    window.press("Delete: First")
    assert [talk["turns"][0]["text"] for talk in stored(window)] == ["Second"]
    expect(window.page.get_by_text("How can I help you?")).to_be_visible()


def test_without_storage_the_page_still_talks(browser: Browser, service: Service) -> None:
    """Some browsers block it, in a private window for example."""
    with opened(browser, service, script=BLOCKED) as window:
        window.ask("Hi")
        expect(window.page.locator("#notice")).to_contain_text("keeps nothing")
        window.press("New conversation")
        window.ask("Ho")
        assert listed(window) == ["Ho", "Hi"]


def test_with_a_full_storage_the_oldest_conversations_make_room(window: Window) -> None:
    """And if there is none, the page says that it keeps nothing."""
    fill = """() => {
        for (let size = 1 << 22, i = 0; size >= 256; i++) {
            try { localStorage.setItem(`junk ${i}`, "x".repeat(size)); } catch { size >>= 1; }
        }
    }"""
    window.ask("Old", "x" * 5_000)
    window.press("New conversation")
    window.page.evaluate(fill)
    window.ask("New", "y" * 3_000)
    assert listed(window) == ["New"]
    expect(window.page.locator("#notice")).to_be_hidden()
    window.ask("Newer", "z" * 9_000)
    expect(window.page.locator("#notice")).to_contain_text("no room for this conversation")
    expect(window.reply).to_have_text("z" * 9_000)


def test_what_is_kept_is_bounded(browser: Browser, service: Service) -> None:
    """Other pages of the same origin need room, too."""
    many = """
    for (let i = 0; i < 150; i++) {
      const turns = [{ text: `talk ${i}`, reply: "x".repeat(i < 30 ? 1 : 20_000), end: "done" }];
      const id = `550e8400-e29b-41d4-a716-${String(i).padStart(12, "0")}`;
      localStorage.setItem(`omniforge-chat:/assistant/:${id}`, JSON.stringify({ time: i, turns }));
    }
    """
    with opened(browser, service, script=f"if (!localStorage.length) {{ {many} }}") as window:
        window.ask("New")
        kept = window.page.evaluate(STORED)
        assert sum(len(text) for _, text in kept) <= 2_000_000
        assert 90 < len(kept) <= 100
        assert listed(window)[:2] == ["New", "talk 149"]


def test_what_others_have_written_there_is_left_out(browser: Browser, service: Service) -> None:
    """A service elsewhere on the origin has conversations of its own."""
    with opened(browser, service, script=CONFUSED) as window:
        assert listed(window) == []
        window.ask("Hi")
        assert listed(window) == ["Hi"]
        assert window.page.evaluate("localStorage.getItem('omniforge-chat:/other/:x')")


def test_a_conversation_can_be_taken_along(window: Window) -> None:
    """It belongs to whoever had it."""
    window.ask("One\nline", "# a\n")
    window.say("Two", "half", ChatError("no", code="own"))
    window.over()
    window.press("Export")
    with window.page.expect_download() as markdown:
        window.press("As Markdown")
    window.press("Export")
    with window.page.expect_download() as document:
        window.press("As JSON")
    name = markdown.value.suggested_filename
    assert re.fullmatch(r"conversation-\d{4}-\d\d-\d\d\.md", name)
    text = markdown.value.path().read_text("utf-8")
    assert text == "## You\n\nOne\nline\n\n## Reply\n\n# a\n\n\n## You\n\nTwo\n\n## Reply\n\nhalf\n"
    assert json.loads(document.value.path().read_text("utf-8")) == {
        "conversation_id": window.service.turns[0].conversation_id,
        "messages": [
            {"role": "user", "content": "One\nline"},
            {"role": "assistant", "content": "# a\n", "complete": True},
            {"role": "user", "content": "Two"},
            {"role": "assistant", "content": "half", "complete": False},
        ],
    }


# Reading


def test_the_page_follows_a_reader_at_the_end_alone(window: Window) -> None:
    """Whoever reads further up must not lose the line."""
    top = "document.getElementById('scroller').scrollTop"
    left = (
        "(({ scrollHeight, scrollTop, clientHeight }) => scrollHeight - scrollTop - clientHeight)"
    )
    left += "(document.getElementById('scroller'))"
    window.say("Hi", "line\n\n" * 80, GATE, "more\n\n" * 20, GATE, "and more\n\n" * 20)
    expect(window.reply.locator("p")).to_have_count(80)
    window.page.wait_for_function(f"{left} < 2")
    window.service.open()
    expect(window.reply.locator("p")).to_have_count(100)
    window.page.wait_for_function(f"{left} < 2")
    expect(window.page.get_by_role("button", name="To the end")).to_be_hidden()
    window.page.locator("#scroller").hover()
    still = "addEventListener('scrollend', resolve, { capture: true, once: true })"
    window.page.evaluate(f"void (window.still = new Promise((resolve) => {still}))")
    window.page.mouse.wheel(0, -600)
    window.page.evaluate("window.still")
    expect(window.page.get_by_role("button", name="To the end")).to_be_visible()
    place = window.page.evaluate(top)
    window.service.open()
    window.over()
    expect(window.reply.locator("p")).to_have_count(120)
    assert window.page.evaluate(top) == place
    window.press("To the end")
    window.page.wait_for_function(f"{left} < 2")
    expect(window.page.get_by_role("button", name="To the end")).to_be_hidden()


def test_code_can_be_copied(browser: Browser, service: Service) -> None:
    """As it is, and not as it is shown."""
    permissions = ["clipboard-read", "clipboard-write"]
    with opened(browser, service, permissions=permissions) as window:
        window.ask("Hi", "```py\nif x:\n\n    <b>y</b>\n```\n\nafter")
        window.last.locator(".code").get_by_role("button", name="Copy").click()
        expect(window.last.locator(".code button")).to_have_text("Copied")
        copied = window.page.evaluate("navigator.clipboard.readText()")
        assert copied == "if x:\n\n    <b>y</b>"
        window.last.locator(".acts").get_by_role("button", name="Copy").click()
        window.page.wait_for_function(
            "navigator.clipboard.readText().then((text) => text.endsWith('after'))"
        )


def test_code_can_be_copied_without_https(browser: Browser, service: Service) -> None:
    """In a network of one's own there is no certificate, and then no clipboard for scripts."""
    script = """
    Object.defineProperty(navigator, "clipboard", { value: undefined });
    document.addEventListener("copy", () => { window.copied = String(document.getSelection()); });
    """
    with opened(browser, service, script=script) as window:
        window.ask("Hi", "```\none\ntwo\n```")
        window.last.locator(".code button").click()
        expect(window.last.locator(".code button")).to_have_text("Copied")
        assert window.page.evaluate("window.copied") == "one\ntwo"


@pytest.mark.parametrize("path", ["/assistant", "/assistant/?from=mail#top"])
def test_the_page_works_at_each_of_its_addresses(
    browser: Browser, service: Service, path: str
) -> None:
    """A proxy may leave the last slash out, and take the prefix off."""
    with opened(browser, service, path=path) as window:
        window.ask("Hi")
        expect(window.reply).to_have_text("Hello, you.")
        link = window.page.get_by_role("link", name="API reference")
        assert link.evaluate("(it) => it.href") == f"{service.server.url}/assistant/docs"


# Without a mouse, and without eyes


def test_the_keyboard_is_enough(browser: Browser, service: Service, tmp_path: Any) -> None:
    """From an empty page to a second conversation, in the order in which things stand."""
    with opened(browser, service) as window:
        keyboard = window.page.keyboard

        def reach(name: str, *, back: bool = False) -> None:
            focused = "document.activeElement"
            named = f"({focused}.getAttribute('aria-label') ?? {focused}.textContent).trim()"
            for _ in range(30):
                keyboard.press("Shift+Tab" if back else "Tab")
                if window.page.evaluate(named) == name:
                    return
            raise AssertionError(f"{name} cannot be reached")

        keyboard.type("Show me code")
        service.replies.append(["Here:\n\n```py\nprint(1)\n```\n\n| a |\n|---|\n| b |"])
        keyboard.press("Enter")
        window.over()
        window.page.screenshot(path=tmp_path / "reply.png")
        reach("Retry", back=True)
        reach("Copy", back=True)
        reach("Table", back=True)
        reach("Code: py", back=True)
        reach("Copy", back=True)
        keyboard.press("Enter")
        expect(window.last.locator(".code button")).to_have_text("Copied")
        reach("Edit", back=True)
        keyboard.press("Enter")
        keyboard.press("Control+A")
        keyboard.type("Show me more")
        service.replies.append(["half ", GATE])
        keyboard.press("Enter")
        expect(window.reply).to_have_text("half")
        reach("Stop")
        keyboard.press("Enter")
        window.over()
        expect(window.message).to_be_focused()
        reach("Export", back=True)
        keyboard.press("Enter")
        window.page.screenshot(path=tmp_path / "export.png")
        keyboard.press("Escape")
        expect(window.page.locator("#exports")).to_be_hidden()
        reach("New conversation", back=True)
        keyboard.press("Enter")
        expect(window.message).to_be_focused()
        keyboard.type("Second")
        keyboard.press("Enter")
        window.over()
        reach("Show me more", back=True)
        keyboard.press("Enter")
        expect(window.page.get_by_role("heading", name="Show me more")).to_be_visible()
        expect(window.message).to_be_focused()


def test_the_list_is_a_drawer_on_a_phone(browser: Browser, service: Service) -> None:
    """There it has no room beside the conversation."""
    with opened(browser, service, viewport={"width": 390, "height": 780}) as window:
        window.ask("First")
        fresh = window.page.get_by_role("button", name="New conversation")
        expect(fresh).to_be_hidden()
        window.press("Conversations")
        expect(fresh).to_be_visible()
        window.page.keyboard.press("Escape")
        expect(fresh).to_be_hidden()
        window.press("Conversations")
        fresh.click()
        expect(fresh).to_be_hidden()
        expect(window.message).to_be_focused()


def test_a_phone_keeps_its_keyboard_shut(browser: Browser, service: Service) -> None:
    """It would cover half of the reply that one wants to read."""
    phone: Dict[str, Any] = {
        "viewport": {"width": 390, "height": 780},
        "has_touch": True,
        "is_mobile": True,
    }
    with opened(browser, service, focused="#send", **phone) as window:
        window.message.tap()
        window.message.fill("Hi")
        window.page.get_by_role("button", name="Send").tap()
        window.over()
        expect(window.message).not_to_be_focused()
        window.page.get_by_role("button", name="Edit").tap()
        expect(window.message).to_be_focused()


def test_a_screen_reader_hears_the_reply_once(browser: Browser, service: Service) -> None:
    """And not each token of it."""
    script = f"""{EACH_CHANGE}
    window.heard = [];
    addEventListener("DOMContentLoaded", () => {{
      const live = "[aria-live], [role=status], [role=alert], [role=log]";
      const changes = {{ childList: true, characterData: true, subtree: true }};
      for (const one of document.querySelectorAll(live)) {{
        const note = () => one.textContent && heard.push(one.textContent);
        new MutationObserver(note).observe(one, changes);
      }}
    }});
    """
    with opened(browser, service, script=script) as window:
        window.ask("Hi", *["word "] * 200)
        heard = window.page.evaluate("heard")
        assert heard == ["Waiting for the reply", f"Reply: {'word ' * 200}"]
        window.ask("Hi", ChatError("Not today", code="own_code"))
        assert window.page.evaluate("heard.at(-1)") == "Error own_code: Not today"


def test_text_of_each_direction_finds_its_own(window: Window) -> None:
    """Arabic and Hebrew begin at the right, and code never does."""
    window.ask("שלום", "שלום עולם\n\nHello\n\n```\nשלום\n```\n\n- שלום\n")  # noqa: RUF001
    direction = "(it) => getComputedStyle(it).direction"
    assert window.last.locator(".mine .bubble").evaluate(direction) == "rtl"
    assert [one.evaluate(direction) for one in window.reply.locator("p").all()] == ["rtl", "ltr"]
    assert window.reply.locator("pre").evaluate(direction) == "ltr"
    assert window.reply.locator("li").evaluate(direction) == "rtl"
    window.ask("שלום", "- שלום\n- עולם API\n\n> שלום\n\n| שלום | עולם |\n|---|---|\n| 1 | 2 |\n")
    for kind in ("ul", "blockquote", "blockquote p", "table", "td"):  # marks, bars and columns, too
        assert window.reply.locator(kind).first.evaluate(direction) == "rtl", kind


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_small_screen_needs_no_scrolling_to_the_side(
    browser: Browser, service: Service, scheme: str
) -> None:
    """320 CSS pixels are what WCAG 2.2, 1.4.10 asks for; long words, code and tables must fit."""
    size = {"width": 320, "height": 640}
    wide = f"{'x' * 500}\n\n```\n{'y' * 500}\n```\n\n| {'z ' * 90} | b |\n|---|---|\n| a | b |\n"
    with opened(browser, service, viewport=size, color_scheme=scheme) as window:
        window.ask("w" * 500, wide)
        assert window.page.evaluate("document.documentElement.scrollWidth") == 320
        assert window.page.evaluate("document.getElementById('scroller').scrollWidth") == 320
        dark = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (dark == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_service_is_asked_for_four_things(window: Window) -> None:
    """The page, its script, its reader and the chat."""
    asked: List[str] = []
    window.page.on("request", lambda request: asked.append(request.url))
    window.open()
    window.ask("Hi")
    place = f"{window.service.server.url}/assistant/"
    assert asked == [place, f"{place}page.js", f"{place}reader.js", f"{place}api/v1/chat"]
