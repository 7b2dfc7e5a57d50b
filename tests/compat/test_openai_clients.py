"""Libraries that speak OpenAI's format, on the route for it."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, Dict, Iterator

import pytest
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from omniforge_chat import Message

from ..support.constants import PATIENCE
from ..support.docs import DOCS, blocks
from ..support.scenes import COUNTED, FAILURE, MANY, PIECES, THOUGHTS, Scenes
from ..support.servers import UvicornThread
from .openai_clients import ALL, Library
from .table import Recorder
from .ui_clients import Page, Talk

CLIENTS = DOCS / "clients.md"
CHAT = "/v1/chat/completions"
PAGE = '<!doctype html><title>kit</title><body><script type="module" src="/kit.mjs"></script>'


class Site:
    """The scenes, and beside them the page of a kit."""

    def __init__(self, directory: Path) -> None:
        self.script = directory / "kit.mjs"
        self.scenes = Scenes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pages: Dict[str, Response] = {
            "/kit.mjs": FileResponse(self.script, media_type="text/javascript"),
            "/kit.html": HTMLResponse(PAGE),
        }
        await pages.get(scope["path"], self.scenes)(scope, receive, send)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def server(site: Site) -> Iterator[UvicornThread]:
    with UvicornThread(site, lifespan="off") as running:
        yield running


@pytest.fixture(scope="module", params=ALL)
def library(request: pytest.FixtureRequest) -> Library:
    """Skips if its package is not there."""
    found = ALL[request.param]
    assert found.subject()
    return found


@pytest.fixture(scope="module")
def talk(
    request: pytest.FixtureRequest, library: Library, server: UvicornThread, site: Site
) -> Iterator[Talk]:
    if not library.in_browser:
        with library.begin(f"{server.url}/v1") as program:
            yield program
        return
    library.bundle(site.script)
    context = request.getfixturevalue("browser").new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(f"{server.url}/kit.html?api={server.url}{CHAT}")
    page.wait_for_function("globalThis.kit !== undefined")
    yield Page(page)
    context.close()


class Stage:
    """A library, and the service that it talks to."""

    def __init__(
        self, library: Library, talk: Talk, server: UvicornThread, site: Site, record: Recorder
    ) -> None:
        self.library = library
        self.server = server
        self.scenes = site.scenes
        self.scenes.forget()
        self._talk = talk
        self._record = record

    def do(self, method: str, *texts: str) -> Dict[str, Any]:
        """What the user sees of the reply to a conversation of these texts."""
        roles = ("user", "assistant")
        messages = [[roles[number % 2], text] for number, text in enumerate(texts)]
        return self._talk.do(method, messages)

    @property
    def chats(self) -> int:
        """How often a reply has been asked for."""
        return self.scenes.asked.count(CHAT)

    def says(self, message: str, wanted: str) -> str:
        """Ask for a reply, which is `wanted`: what the table says of it."""
        seen = self.do("say", message)
        assert seen.get("error") is None
        if self.library.hasty:
            assert seen["text"]
            assert wanted.startswith(seen["text"])
            return "may lose an end that comes fast"
        assert seen["text"] == wanted
        return "yes"

    def record(self, check: str, result: str = "yes") -> None:
        subject = self.library.subject()
        self._record(subject, "format", "OpenAI")
        self._record(subject, check, result)


@pytest.fixture
def stage(
    library: Library, talk: Talk, server: UvicornThread, site: Site, record: Recorder
) -> Iterator[Stage]:
    yield Stage(library, talk, server, site, record)
    site.scenes.cuts = False


def test_all_of_a_reply_arrives(stage: Stage) -> None:
    """Emoji, text from right to left, and lines that end in every way."""
    stage.record("reply", stage.says("whole", "".join(PIECES)))


def test_a_reply_of_many_pieces_arrives(stage: Stage) -> None:
    """In order, and none twice."""
    stage.record("2,000 chunks", stage.says("many", "".join(MANY)))


def test_a_silence_is_no_end(stage: Stage) -> None:
    """Its heartbeats reach nobody."""
    stage.says("pause", "before after")
    stage.record("silence")


def test_a_failure_comes_behind_the_text(stage: Stage) -> None:
    """With the service's words, and nobody asks for the reply once more."""
    seen = stage.do("say", "fail")
    assert seen["text"] == "half "
    assert FAILURE["message"] in seen["error"]
    assert stage.chats == 1
    stage.record("failure")
    stage.record("once")
    stage.record("code", "yes" if seen.get("code") == FAILURE["code"] else "no")


def test_a_refusal_is_told(stage: Stage) -> None:
    """In the service's words, and once."""
    seen = stage.do("say", stage.library.refused)
    words = "larger than 1048576 bytes" if stage.library.refused else "must not be empty"
    assert words in seen["error"]
    assert (stage.chats, stage.scenes.generations) == (1, [])
    stage.record("refusal")
    stage.record("once")


def test_stop_ends_the_responder(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody pays for text that nobody reads."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    assert stage.do("leave", "wait")["text"] == "half "
    stage.server.until(lambda: stage.scenes.app.open_streams == 0)
    ends = [record.chat["outcome"] for record in caplog.records if hasattr(record, "chat")]
    assert ends == ["disconnected"]
    stage.record("stop", stage.library.stop)


def test_a_cut_is_an_error(stage: Stage) -> None:
    """And not the end of a short reply."""
    stage.scenes.cuts = True
    seen = stage.do("say", "wait")
    stage.record("cut", "yes" if seen.get("error") else "no")
    assert seen["text"] in ("half ", "")  # Chromium may drop what it has not handed out yet


def test_the_second_turn_knows_the_first(stage: Stage) -> None:
    """The client sends it; its header tells the conversation."""
    assert stage.do("say", "one", "you said: one", "two")["text"] == "you said: two"
    turn = stage.scenes.turns[-1]
    assert turn.history == (Message("user", "one"), Message("assistant", "you said: one"))
    stage.record("second turn")
    assert turn.conversation_id == "talk-1"
    stage.record("conversation")


def test_usage_and_reason_arrive(stage: Stage) -> None:
    """If the library has a place for them."""
    seen = stage.do("say", "short")
    assert (seen["text"], seen.get("error")) == ("cut", None)
    for name, check, wanted in (
        ("tokens", "usage", COUNTED.tokens),
        ("reason", "reason", "length"),
    ):
        assert seen.get(name) in (wanted, None)
        stage.record(check, "yes" if seen.get(name) else "no")


def test_thoughts_are_apart_from_the_text(stage: Stage) -> None:
    """Or nowhere, but never within."""
    seen = stage.do("say", "think")
    assert seen["text"] == "so"
    assert seen.get("thoughts") in ("".join(THOUGHTS), "", None)
    stage.record("thoughts", "yes" if seen.get("thoughts") else "no")


def test_a_reply_that_is_not_streamed(stage: Stage) -> None:
    """Titles are asked for so, and LangChain's `invoke`."""
    assert stage.do("whole", "whole")["text"] == "".join(PIECES)
    stage.scenes.forget()
    seen = stage.do("whole", "fail")
    assert FAILURE["message"] in seen["error"]
    again = stage.library.asks_again
    assert stage.chats == 1 + again
    stage.record("not streamed", f"yes, asks {1 + again} times after a failure" if again else "yes")


# The examples of the docs


def test_the_python_of_the_docs_talks(server: UvicornThread) -> None:
    """With both majors of the package."""
    [code] = [code for code in blocks(CLIENTS, "python") if "# ask_openai.py" in code]
    for name in ("openai-2", "openai-3"):
        assert ALL[name].run(code, server.url) == "you said: Hello\n"


def test_the_javascript_of_the_docs_talks(server: UvicornThread) -> None:
    """It is a whole program."""
    [code] = [code for code in blocks(CLIENTS, "js") if 'from "openai"' in code]
    assert ALL["openai-npm"].run(code, server.url) == "you said: Hello"


PROGRAMS = {
    "langchain": """
from langchain_openai import ChatOpenAI
print({}.invoke("Hello").text)
""",
    "llama-index": """
from llama_index.llms.openai_like import OpenAILike
print({}.complete("Hello").text)
""",
    "pydantic-ai": """
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
print(Agent({}).run_sync("Hello").output)
""",
    "ai-sdk": """
import { generateText } from "ai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
const { text } = await generateText({ model: {}("omniforge"), prompt: "Hello" });
console.log(text);
""",
}
"""Programs around the terms in the table of the docs."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_table_of_the_docs_is_true(name: str, server: UvicornThread) -> None:
    """Each term in it makes a model that talks."""
    library = ALL[name]
    maker = library.title.split("`")[1]
    [term] = re.findall(rf"`({maker}\(.*\))` \|$", CLIENTS.read_text("utf-8"), re.MULTILINE)
    printed = library.run(PROGRAMS[name].replace("{}", term), server.url)
    assert printed == "you said: Hello\n"
