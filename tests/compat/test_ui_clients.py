"""Kits of user interfaces: useChat of the AI SDK, assistant-ui, and the agents of AG-UI."""

from __future__ import annotations

import logging
import subprocess
from typing import Any, Dict, Iterator, Tuple

import pytest

from omniforge_chat import Message

from ..support.constants import PATIENCE
from ..support.docs import DOCS, blocks
from ..support.process import environment
from ..support.scenes import COUNTED, FAILURE, MANY, PIECES, THOUGHTS
from ..support.servers import UvicornThread
from .clients import node
from .table import MODULES, Recorder
from .ui_clients import ALL, Kit, Page, Site, Talk, bundle, program


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tuple[UvicornThread, Site]]:
    site = Site(tmp_path_factory.mktemp("bundles"))
    with UvicornThread(site, lifespan="off") as server:
        yield server, site


@pytest.fixture(scope="module")
def pages(served: Tuple[UvicornThread, Site]) -> Iterator[UvicornThread]:
    """The same on another port, so it is another origin."""
    with UvicornThread(served[1], lifespan="off") as server:
        yield server


@pytest.fixture(scope="module", params=ALL)
def kit(request: pytest.FixtureRequest) -> Kit:
    """Skips if its package is not there."""
    found = ALL[request.param]
    assert found.subject
    return found


@pytest.fixture(scope="module")
def made(
    request: pytest.FixtureRequest,
    kit: Kit,
    served: Tuple[UvicornThread, Site],
    pages: UvicornThread,
) -> Iterator[Any]:
    """Makes a new conversation in the kit; useChat asks the origin of its page, others another."""
    server, site = served
    if not kit.in_browser:
        with program(kit.read(), f"{server.url}/ag-ui") as running:

            def anew() -> Talk:
                running.do("begin_anew")
                return running

            yield anew
        return
    name = kit.title.split(",")[0].replace(" ", "-")
    bundle(kit.read(), site.directory / f"{name}.mjs")
    context = request.getfixturevalue("browser").new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)

    def opened() -> Talk:
        origin = server.url if "useChat" in kit.title else pages.url
        page.goto(f"{origin}/{name}.html?api={server.url}/api/chat")
        page.wait_for_function("globalThis.kit !== undefined")
        return Page(page)

    yield opened
    context.close()


class Stage:
    """A new conversation of a kit, and the service that it talks to."""

    def __init__(
        self, kit: Kit, talk: Talk, served: Tuple[UvicornThread, Site], record: Recorder
    ) -> None:
        self.kit = kit
        self.do = talk.do
        self.server, self.scenes = served[0], served[1].scenes
        self.scenes.forget()
        self._record = record

    def record(self, check: str, result: str = "yes") -> None:
        subject = self.kit.subject
        self._record(subject, "format", self.kit.wire)
        self._record(subject, check, result)


@pytest.fixture
def stage(
    kit: Kit, made: Any, served: Tuple[UvicornThread, Site], record: Recorder
) -> Iterator[Stage]:
    yield Stage(kit, made(), served, record)
    served[1].scenes.cuts = False


def test_all_of_a_reply_arrives(stage: Stage) -> None:
    """Emoji, text from right to left, and lines that end in every way."""
    seen = stage.do("say", "whole")
    assert (seen["text"], seen.get("error")) == ("".join(PIECES), None)
    stage.record("reply")


def test_a_reply_of_many_pieces_arrives(stage: Stage) -> None:
    """In order, and none twice."""
    assert stage.do("say", "many")["text"] == "".join(MANY)
    stage.record("2,000 chunks")


def test_a_silence_is_no_end(stage: Stage) -> None:
    """Its heartbeats reach nobody."""
    seen = stage.do("say", "pause")
    assert (seen["text"], seen.get("error")) == ("before after", None)
    stage.record("silence")


def test_a_failure_comes_behind_the_text(stage: Stage) -> None:
    """With the service's words, and its code if the format has a place for one."""
    seen = stage.do("say", "fail")
    assert seen["text"] == "half "
    assert seen.get("error") == FAILURE["message"], seen
    assert stage.scenes.generations == ["fail"]
    stage.record("failure")
    stage.record("once")
    stage.record("code", "yes" if seen.get("code") == FAILURE["code"] else "no")


def test_a_refusal_is_told(stage: Stage) -> None:
    """A picture is nothing that the responder takes."""
    seen = stage.do("show", "look")
    assert "is not taken here; send text" in seen["error"]
    assert stage.scenes.generations == []
    stage.record("refusal")


def test_a_conversation_goes_on_after_a_refusal(stage: Stage) -> None:
    """Kits send the refused message again, with the next one."""
    stage.do("show", "look")
    seen = stage.do("say", "then without")
    assert (seen["text"], seen.get("error")) == ("you said: then without", None)


def test_a_conversation_goes_on_after_a_failure(stage: Stage) -> None:
    """The responder knows how far it came."""
    stage.do("say", "fail")
    seen = stage.do("say", "go on")
    assert (seen["text"], seen.get("error")) == ("you said: go on", None)
    known = stage.scenes.turns[-1].history
    assert known == (Message("user", "fail"), Message("assistant", "half "))


def test_stop_ends_the_responder(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody pays for text that nobody reads."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    stage.do("begin", "wait", "half ")
    seen = stage.do("stop")
    assert seen["text"] == "half "
    stage.server.until(lambda: stage.scenes.app.open_streams == 0)
    ends = [record.chat["outcome"] for record in caplog.records if hasattr(record, "chat")]
    assert ends == ["disconnected"]
    stage.record("stop")


def test_a_cut_is_an_error(stage: Stage) -> None:
    """And not the end of a short reply."""
    stage.scenes.cuts = True
    seen = stage.do("say", "wait")
    assert seen["error"]
    assert seen["text"] in ("half ", "")  # Chromium may drop what it has not handed out yet
    stage.record("cut")


def test_the_second_turn_knows_the_first(stage: Stage) -> None:
    """The client sends it, and the client's id of the conversation is the turn's."""
    stage.do("say", "one")
    seen = stage.do("say", "two")
    first, second = stage.scenes.turns
    assert first.history == ()
    assert second.history == (Message("user", "one"), Message("assistant", "you said: one"))
    assert second.message == "two"
    stage.record("second turn")
    if "sent" in seen:
        assert seen["sent"] == seen["conversation"]
        assert {seen["sent"]} == {turn.conversation_id for turn in stage.scenes.turns}
        stage.record("conversation")


def test_a_reply_is_made_anew(stage: Stage) -> None:
    """The responder does not see the old one."""
    stage.do("say", "one")
    assert stage.do("again")["text"] == "you said: one"
    first, again = stage.scenes.turns
    assert (again.message, again.history) == ("one", ())
    assert first.conversation_id == again.conversation_id
    stage.record("regenerate")


def test_a_message_is_edited(stage: Stage) -> None:
    """It takes the place of the old one, and of all that came behind it."""
    stage.do("say", "one")
    stage.do("say", "two")
    assert stage.do("edit", "other")["text"] == "you said: other"
    last = stage.scenes.turns[-1]
    assert (last.message, last.history) == ("other", ())
    stage.record("edit")


def test_usage_and_reason_arrive(stage: Stage) -> None:
    """If the kit has a place for them."""
    seen = stage.do("say", "short")
    assert seen["text"] == "cut"
    found: Dict[str, Any] = {"usage": seen.get("tokens"), "reason": seen.get("reason")}
    for check, wanted in (("usage", COUNTED.tokens), ("reason", "length")):
        assert found[check] in (wanted, None)
        stage.record(check, "yes" if found[check] == wanted else "no")


def test_thoughts_are_apart_from_the_text(stage: Stage) -> None:
    """And the next request does not take them for text."""
    seen = stage.do("say", "think")
    assert (seen["text"], seen["thoughts"]) == ("so", "".join(THOUGHTS))
    assert seen.get("warnings", []) == []  # a client warns of an event that it does not know
    stage.do("say", "more")
    assert stage.scenes.turns[-1].history[-1] == Message("assistant", "so")
    stage.record("thoughts")


# The examples of the docs


def example(package: str) -> str:
    """The example of docs/clients.md that imports this package."""
    shown = [*blocks(DOCS / "clients.md", "jsx"), *blocks(DOCS / "clients.md", "js")]
    [found] = [code for code in shown if f'from "{package}"' in code]
    return found


RENDER = """
import { createElement } from "react";
import { createRoot } from "react-dom/client";
createRoot(document.body).render(createElement(%s));
"""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    yield page
    page.close()


@pytest.mark.parametrize("kit", ["ai-5", "ai-6", "ai-7"])
def test_the_page_of_use_chat_talks(
    served: Tuple[UvicornThread, Site], page: Any, kit: str
) -> None:
    """With no option but `/api/chat` of its own origin; and it shows the words of a failure."""
    server, site = served
    assert ALL[kit].subject
    code = example("@ai-sdk/react").replace('"@ai-sdk/react"', f'"{ALL[kit].package}"')
    bundle(code + RENDER % "Chat", site.directory / f"docs-{kit}.mjs")
    page.goto(f"{server.url}/docs-{kit}.html")
    for message, words in (("Hello", "assistant: you said: Hello"), ("fail", "No more")):
        page.locator("input").fill(message)
        page.locator("input").press("Enter")
        page.get_by_text(words).wait_for()


def test_use_chat_asks_another_origin_by_its_address(
    served: Tuple[UvicornThread, Site], pages: UvicornThread, page: Any
) -> None:
    """As CORS allows."""
    server, site = served
    assert ALL["ai-7"].subject
    [shown] = [code for code in blocks(DOCS / "clients.md", "jsx") if code.startswith("useChat(")]
    called = shown.strip().replace("http://127.0.0.1:8000", server.url)
    code = example("@ai-sdk/react").replace("useChat()", called)
    code = f'import {{ DefaultChatTransport }} from "ai";\n{code}'
    bundle(code + RENDER % "Chat", site.directory / "docs-origin.mjs")
    page.goto(f"{pages.url}/docs-origin.html")
    page.locator("input").fill("Hello")
    page.locator("input").press("Enter")
    page.get_by_text("assistant: you said: Hello").wait_for()


def test_the_page_of_assistant_ui_talks(served: Tuple[UvicornThread, Site], page: Any) -> None:
    """With its own parts around the messages and the composer."""
    server, site = served
    assert ALL["assistant-ui"].subject
    code = example("@assistant-ui/react") + RENDER % "Assistant"
    bundle(code, site.directory / "docs-assistant.mjs")
    page.goto(f"{server.url}/docs-assistant.html")
    page.get_by_role("textbox").fill("Hello")
    page.get_by_role("textbox").press("Enter")
    page.get_by_text("you said: Hello").wait_for()


def test_the_agent_of_the_docs_talks(served: Tuple[UvicornThread, Site]) -> None:
    """It is a whole program."""
    server, _ = served
    for name in ("ag-ui-0", "ag-ui-1"):
        assert ALL[name].subject
        code = example("@ag-ui/client").replace('"@ag-ui/client"', f'"{ALL[name].package}"')
        code = code.replace("http://127.0.0.1:8000", server.url)
        done = subprocess.run(
            [node(), "--input-type=module", "--eval", code],
            cwd=MODULES.parent,
            env=environment(),
            capture_output=True,
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout == b"you said: Hello"
