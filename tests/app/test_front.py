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


@pytest.fixture(scope="module")
def script() -> str:
    """The script of the page, a file of its own."""
    return get(create_app(settings=PAGE), "/page.js").body.decode("utf-8")


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
        script = get(app, "/page.js")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert script.headers["cache-control"] == "no-cache"
        assert script.headers["x-request-id"]
        assert call(app, path="/page.js").status == 405
    else:
        assert (answer.status, answer.headers["location"]) == (307, "docs")
        assert get(app, "/page.js").status == 404
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


def test_the_page_is_files_that_one_can_read(page: str, script: str) -> None:
    """It has no build and no dependency, and is no application that grows without an end."""
    assert page.count("\n") <= 200
    assert script.count("\n") <= 600
    assert max(map(len, [*page.splitlines()[8:], *script.splitlines()])) <= 120


def test_the_page_asks_for_nothing_outside_the_service(page: str, script: str) -> None:
    """It works without the internet, and tells nobody who talks here."""
    markup = page.partition("<style>")[0] + page.partition("<body>")[2].partition("<script")[0]
    assert re.findall(r"\b(?:src|href|action)=\"([^\"#]*)", markup.replace("data:image", "#")) == [
        "",
        "docs",
    ]
    inline = page.partition('<script type="module">')[2]
    assert re.findall(r"new URL\(\"([^\"]*)", inline + script) == ["page.js", ".", "docs"]
    assert re.findall(r"\bimport\(?\b[^)]*\)", inline) == ['import(new URL("page.js", base)']
    assert re.findall(r"\bimport\b(?!\.meta).*", script) == [
        'import { chat, resume, ChatFailed } from "./reader.js";'
    ]
    for way in ("fetch(", "XMLHttpRequest"):
        assert way not in inline + script


def test_the_script_makes_no_markup_and_no_code_of_text(page: str, script: str) -> None:
    """What a model wrote must stay text, whatever the browser's policy is."""
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser|setHTML"
    code = r"\beval\(|new Function|createContextualFragment|setTimeout\(\s*[\"'`]"
    assert re.findall(f"{ways}|{code}", page + script) == []
    assert not re.search(r"<[^>]*\s(on[a-z]+|style)\s*=", page.partition("<body>")[2])


def test_every_control_has_a_name(page: str) -> None:
    """Without one a screen reader has only "button" to say."""
    for attributes, text in re.findall(r"<(?:button|textarea|dialog)([^>]*)>([^<]*)", page):
        assert re.search("aria-label(ledby)?=", attributes) or text.strip()


def test_a_key_is_typed_where_nobody_sees_it_and_kept_for_a_session(page: str, script: str) -> None:
    """No browser fills it in, and no other tab and no later day finds it."""
    (field,) = re.findall(r"<input[^>]*>", page)
    assert re.search(r'id="key" type="password" autocomplete="off"', field)
    assert '<label for="key">' in page
    assert re.findall(r"(\w+)\.(?:get|set|remove)Item\(KEY", script) == ["sessionStorage"] * 3
