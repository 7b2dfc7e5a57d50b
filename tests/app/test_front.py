"""GET /: the page to talk in, in a file of its own, or the way to /docs."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from omniforge_chat import Settings, create_app

from ..support.app import HandDrivenRequest, call

PAGE = Settings(page=True)


def get(app: Any, path: str = "/", **options: Any) -> HandDrivenRequest:
    return call(app, method="GET", path=path, **options)


@pytest.fixture(scope="module")
def answer() -> HandDrivenRequest:
    return get(create_app(settings=PAGE))


@pytest.fixture(scope="module")
def page(answer: HandDrivenRequest) -> str:
    return answer.body.decode("utf-8")


def policy(answer: HandDrivenRequest) -> Any:
    directives = answer.headers["content-security-policy"].split("; ")
    return {
        name: sources.split() for name, _, sources in (one.partition(" ") for one in directives)
    }


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (PAGE, True),
        (Settings(page=True, dialects=("ai_sdk", "native")), True),
        (Settings.from_env({}), True),
        (Settings(page=True, dialects=("ai_sdk",)), False),
        (Settings.from_env({"CHAT_PAGE": "off"}), False),
        (Settings(), False),
    ],
)
def test_the_page_is_there_if_it_is_on_and_can_talk(settings: Settings, shown: bool) -> None:
    """Without it, the way leads to the reference, as it did before there was a page."""
    app = create_app(settings=settings)
    answer = get(app)
    if shown:
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-request-id"]
        assert call(app, method="HEAD", path="/").status == 200
        assert call(app, path="/").status == 405
    else:
        assert (answer.status, answer.headers["location"]) == (307, "docs")
    assert get(app, "/docs").body.startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    ("path", "root_path", "raw_path"),
    [("/a/", "/a", "/a/"), ("/a", "/a", "/a"), ("/", "", "/a"), ("/", "/a", "/"), ("", "", "")],
)
def test_the_page_is_the_same_under_each_prefix(
    page: str, path: str, root_path: str, raw_path: str
) -> None:
    """It finds its addresses by itself, with and without the last slash."""
    app = create_app(settings=PAGE)
    answer = get(app, path, root_path=root_path, raw_path=raw_path.encode())
    assert (answer.status, answer.body.decode()) == (200, page)


def test_a_page_of_the_host_comes_first() -> None:
    """Whoever has put something at `/` means it."""
    app = create_app(settings=PAGE)
    app.routes.append(Route("/", lambda request: PlainTextResponse("own")))
    assert get(app).body == b"own"
    host = Starlette(routes=[Mount("/chat", create_app(settings=PAGE))])
    assert get(host).status == 404
    assert get(host, "/chat/").status == 200


def test_only_the_scripts_of_the_service_run(answer: HandDrivenRequest, page: str) -> None:
    """A model's words stand on the host's own origin: nothing in them may run or call out."""
    found = policy(answer)
    assert found["default-src"] == ["'none'"]
    for tag, directive, others in (
        ("script", "script-src", ["'self'"]),
        ("style", "style-src", []),
    ):
        (inline,) = re.findall(rf"<{tag}(?: type=\"module\")?>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert found[directive] == [*others, f"'sha256-{digest}'"]
    assert found["connect-src"] == ["'self'"]
    assert found["img-src"] == ["data:"]
    assert found["frame-ancestors"] == ["'self'"]
    assert found["require-trusted-types-for"] == ["'script'"]
    for directive in ("base-uri", "form-action", "trusted-types"):
        assert found[directive] == ["'none'"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_the_page_is_one_file_that_one_can_read(page: str) -> None:
    """It has no build and no dependency, and is no application that grows without an end."""
    assert page.count("\n") <= 700
    assert max(map(len, page.splitlines()[8:])) <= 120


def test_the_page_asks_for_nothing_outside_the_service(page: str) -> None:
    """It works without the internet, and tells nobody who talks here."""
    markup = page.partition("<style>")[0] + page.partition("<body>")[2].partition("<script")[0]
    assert re.findall(r"\b(?:src|href|action)=\"([^\"#]*)", markup.replace("data:image", "#")) == [
        "",
        "docs",
    ]
    script = page.partition('<script type="module">')[2]
    assert re.findall(r"new URL\(\"([^\"]*)", script) == ["reader.js", "docs"]
    assert re.findall(r"\bimport\b\(?[^)]*\)", script) == ['import(new URL("reader.js", base)']
    assert "fetch(" not in script
    assert "XMLHttpRequest" not in script


def test_the_script_makes_no_markup_and_no_code_of_text(page: str) -> None:
    """What a model wrote must stay text, whatever the browser's policy is."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser|setHTML"
    code = r"\beval\(|new Function|createContextualFragment|setTimeout\(\s*[\"'`]"
    assert re.findall(f"{ways}|{code}", page) == []
    assert not re.search(r"<[^>]*\s(on[a-z]+|style)\s*=", page.partition("<body>")[2])


def test_every_control_has_a_name(page: str) -> None:
    """Without one a screen reader has only "button" to say."""
    for attributes, text in re.findall(r"<(?:button|textarea)([^>]*)>([^<]*)", page):
        assert "aria-label=" in attributes or text.strip()
