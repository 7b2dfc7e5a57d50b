"""The page to talk in, opened in a browser, and a responder that says what a test tells it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, AsyncIterator, Iterator, List, Optional

from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from omniforge_chat import Settings, Turn, create_app

from .chromium import watched_page
from .responders import saying
from .servers import UvicornThread

RECOVERED = "Failed to load resource"
"""What Chromium puts on the console for an answer of 4xx or 5xx, whatever the page makes of it."""

EACH_CHANGE = """
window.requestAnimationFrame = (paint) => scheduler.postTask(() => paint(0));
performance.now = () => 0;
"""
"""A script after which the page shows each piece as it comes, and not once for each frame."""

GATE = object()
"""An item at which a reply waits for `Service.open`."""


class Service:
    """An app under /assistant, on a server of its own, whose replies are `replies`, one a turn.

    Without one it says "Hello, you.". `refusals` are ASGI apps that answer the next chats in place
    of it. `turns` are those that it was asked to answer, and `closed` counts the replies that are
    over. `url` is the address at which a window asks for it.
    """

    def __init__(self, **settings: Any) -> None:
        chat = create_app(self._respond, settings=Settings(page=True, thoughts=True, **settings))
        self.replies: List[List[Any]] = []
        self.refusals: List[ASGIApp] = []
        self.turns: List[Turn] = []
        self.closed = 0
        self._gates: List[asyncio.Event] = []
        self.server = UvicornThread(
            Starlette(routes=[Mount("/assistant", self._refusing(chat))]), lifespan="off"
        )
        self.url = self.server.url

    def _refusing(self, chat: ASGIApp) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            refused = scope["method"] == "POST" and self.refusals
            await (self.refusals.pop(0) if refused else chat)(scope, receive, send)

        return app

    async def _respond(self, turn: Turn) -> AsyncIterator[Any]:
        self.turns.append(turn)
        items = self.replies.pop(0) if self.replies else ["Hello, ", "you."]
        try:
            async for item in saying(*items)(turn):
                if item is GATE:
                    self._gates.append(asyncio.Event())
                    await self._gates[-1].wait()
                else:
                    yield item
                    await asyncio.sleep(0)  # each piece is a frame
        finally:
            self.closed += 1

    @property
    def known(self) -> List[str]:
        """The messages and replies before the last turn, as it was told of them."""
        return [message.content for message in self.turns[-1].history]

    def open(self) -> None:
        """Let a reply go on behind its GATE."""
        self.server.until(lambda: bool(self._gates))
        self.server.call(self._gates.pop().set)

    def forget(self) -> None:
        """Begin anew."""
        for kept in (self.replies, self.refusals, self.turns, self._gates):
            kept.clear()


class Window:
    """The page in a browser context of its own, and what a person does with it."""

    def __init__(self, page: Any, service: Service) -> None:
        self.page = page
        self.service = service

    def open(self, path: str = "/assistant/", focused: str = "#message") -> None:
        self.page.goto(f"{self.service.url}{path}")
        self.page.locator(f"{focused}:focus").wait_for()

    @property
    def message(self) -> Any:
        return self.page.get_by_role("textbox", name="Message")

    def say(self, text: str, *items: Any) -> None:
        """Send a message, which is answered with `items`."""
        if items:
            self.service.replies.append(list(items))
        self.message.fill(text)
        self.message.press("Enter")

    def ask(self, text: str, *items: Any) -> Any:
        """The text of the whole reply to a message, as an element."""
        self.say(text, *items)
        self.over()
        return self.reply

    def over(self) -> None:
        """Wait until the last reply has ended, and is shown."""
        self.page.locator("#turns > li:last-child[data-end]:not([data-end=running])").wait_for()
        self.page.locator("#send:not([hidden])").wait_for()

    @property
    def last(self) -> Any:
        return self.page.locator("#turns > li").last

    @property
    def reply(self) -> Any:
        return self.last.locator(".text")

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()


@contextlib.contextmanager
def opened(
    browser: Any,
    service: Service,
    *,
    script: Optional[str] = None,
    path: str = "/assistant/",
    focused: str = "#message",
    **options: Any,
) -> Iterator[Window]:
    """A window with the page, in which `script` runs first. `options` are those of the context.

    At the end it must have asked nobody but the service, and put nothing on the console: no error,
    and nothing that its policy forbids.
    """
    service.forget()
    served = [f"{service.url}/assistant", "data:", "blob:"]
    with watched_page(browser, served, recovered=RECOVERED, **options) as page:
        if script is not None:
            page.context.add_init_script(script)
        window = Window(page, service)
        window.open(path, focused)
        yield window
