"""Chainlit with the app of docs/clients.md: a page that talks by OpenAI's format."""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Iterator

import pytest

from omniforge_chat import Message

from ..support.constants import PATIENCE
from ..support.docs import DOCS, blocks
from ..support.process import running
from ..support.scenes import FAILURE, MANY, PIECES, Scenes
from ..support.servers import UvicornThread
from .driving import free_port, wait_for_port
from .openai_clients import CHAINLIT, python_package
from .table import Recorder, Subject

LIMIT = 2**14
"""Bytes of a request; the page needs long to take in as many as there may be otherwise."""

DRAWN = 5 * PATIENCE * 1000
"""Milliseconds for a long reply, as it draws the page anew for each piece."""


@pytest.fixture(scope="module")
def subject() -> Subject:
    """Skips if its package is not there."""
    return python_package("chainlit", "Chainlit", str(CHAINLIT))


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(max_history_body_bytes=LIMIT)


@pytest.fixture(scope="module")
def service(scenes: Scenes) -> Iterator[UvicornThread]:
    with UvicornThread(scenes, lifespan="off") as running:
        yield running


@pytest.fixture(scope="module")
def site(
    subject: Subject, service: UvicornThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    [code] = [code for code in blocks(DOCS / "clients.md", "python") if "chainlit" in code]
    assert "http://127.0.0.1:8000" in code
    directory = tmp_path_factory.mktemp("chainlit")
    (directory / "page_app.py").write_text(code.replace("http://127.0.0.1:8000", service.url))
    port = free_port()
    command = [sys.executable, "-m", "chainlit", "run", "page_app.py", "--headless"]
    own = {"HOME": str(directory), "PYTHONPATH": str(CHAINLIT)}
    with running(directory, "--port", str(port), command=command, **own) as process:
        wait_for_port(process, port)
        yield f"http://127.0.0.1:{port}"


class Chat:
    """A new conversation in a page of it."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def say(self, text: str) -> None:
        self.page.locator("#chat-input").fill(text)
        self.page.locator("#chat-submit").click()  # it waits until there is a connection

    def sees(self, text: str) -> None:
        """Wait until the last reply is this."""
        last = "[...document.querySelectorAll('.ai-message')].at(-1)?.innerText"
        self.page.wait_for_function(f"text => {last} === text", arg=text, timeout=DRAWN)


@pytest.fixture
def chat(site: str, browser: Any, scenes: Scenes) -> Iterator[Chat]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(site)
    scenes.forget()
    yield Chat(page)
    page.close()


def test_a_conversation(chat: Chat, scenes: Scenes, subject: Subject, record: Recorder) -> None:
    """A silence, and a second turn."""
    chat.say("one")
    chat.sees("you said: one")
    chat.say("pause")
    chat.sees("before after")
    turn = scenes.turns[-1]
    assert turn.history == (Message("user", "one"), Message("assistant", "you said: one"))
    for check in ("silence", "second turn"):
        record(subject, check)
    record(subject, "format", "OpenAI")


def test_all_of_a_reply_arrives(chat: Chat, subject: Subject, record: Recorder) -> None:
    """Emoji and text from right to left; it is shown as Markdown, where space may go."""
    chat.say("whole")
    reply = chat.page.locator(".ai-message").last.filter(has_text=re.compile(r"end\s*$"))
    assert reply.inner_text(timeout=DRAWN).split() == "".join(PIECES).split()
    record(subject, "reply")


def test_a_reply_of_many_pieces_arrives(chat: Chat, subject: Subject, record: Recorder) -> None:
    """In order, and none twice."""
    chat.say("many")
    chat.sees("".join(MANY).strip())
    record(subject, "2,000 chunks")


def test_a_failure_is_told(chat: Chat, scenes: Scenes, subject: Subject, record: Recorder) -> None:
    """Below the text before it, and nobody asks again."""
    chat.say("fail")
    chat.page.get_by_text(FAILURE["message"]).wait_for()
    assert scenes.generations == ["fail"]
    record(subject, "failure")
    record(subject, "once")


def test_a_refusal_is_told(chat: Chat, scenes: Scenes, subject: Subject, record: Recorder) -> None:
    """In the service's words, and once."""
    chat.say("x" * LIMIT)
    chat.page.get_by_text(f"larger than {LIMIT} bytes").wait_for()
    assert (len(scenes.asked), scenes.generations) == (1, [])
    record(subject, "refusal")
    record(subject, "once")


def test_stop_ends_the_responder(
    chat: Chat,
    service: UvicornThread,
    scenes: Scenes,
    subject: Subject,
    record: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The button ends the request."""
    caplog.set_level(logging.INFO, "omniforge_chat")
    chat.say("wait")
    chat.sees("half ")
    chat.page.locator("#stop-button").click()
    service.until(lambda: scenes.app.open_streams == 0)
    ends = [each.chat["outcome"] for each in caplog.records if hasattr(each, "chat")]
    assert ends == ["disconnected"]
    record(subject, "stop")
