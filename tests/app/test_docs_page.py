"""GET /docs: one page that stands on its own, wherever the app is mounted."""

from __future__ import annotations

import re
from typing import List
from urllib.parse import urljoin

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from omniforge_chat import Settings, create_app

from ..support.app import call

FETCHED = re.compile(r"""\bfetch\(\s*["'`]([^"'`]*)""")
REFERRED = re.compile(r"""\b(?:src|href|action|srcset|poster|data)\s*=\s*["']([^"']*)""")
STYLED = re.compile(r"""\burl\(\s*["']?([^"')]*)|@import\s+["']([^"']*)""")
IMPORTED = re.compile(r"""\b(?:from|import)\s*\(?\s*["'`]([^"'`]*)""")
RESOLVED = re.compile(r"""new URL\(\s*["'`]([^"'`]*)""")


@pytest.fixture(scope="module")
def app() -> Starlette:
    return create_app(settings=Settings())


@pytest.fixture(scope="module")
def page(app: Starlette) -> str:
    return call(app, method="GET", path="/docs").body.decode("utf-8")


def addresses(page: str) -> List[str]:
    """Every address that the page's markup, styles and script refer to."""
    found = FETCHED.findall(page) + REFERRED.findall(page)
    found += RESOLVED.findall(page) + IMPORTED.findall(page)
    return found + ["".join(groups) for groups in STYLED.findall(page)]


def test_the_page_is_under_a_policy(app: Starlette) -> None:
    """The policy is what keeps a page with a script in it from ever talking to anybody else."""
    policy = call(app, method="GET", path="/docs").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "script-src 'self' 'unsafe-inline'" in policy


def test_the_page_refers_to_nothing_outside_itself(page: str) -> None:
    """It works without the internet, and reading it tells no third party."""
    found = addresses(page)
    assert {"openapi.json", "api/v1/chat", "./reader.js"} <= set(found)
    assert [url for url in found if re.match(r"(?i)\s*(?!data:)([a-z][a-z0-9+.-]*:|//)", url)] == []
    assert not re.search(r"(?i)https?://", page)


def test_every_address_of_the_page_is_relative_and_answers_where_the_app_is_mounted(
    app: Starlette, page: str
) -> None:
    """An address that begins with a slash would leave the mount and ask the host instead."""
    host = Starlette(routes=[Mount("/deep/assistant", app=app)])
    mounted = call(host, method="GET", path="/deep/assistant/docs")
    assert (mounted.status, mounted.body.decode("utf-8")) == (200, page)
    for url in addresses(page):
        if not url.startswith("data:") and url != ".":
            assert not url.startswith("/")
            method = "POST" if url == "api/v1/chat" else "GET"
            path = urljoin("/deep/assistant/docs", url)
            assert call(host, method=method, path=path).status == 200


def test_the_script_never_makes_markup_or_code_of_data(app: Starlette, page: str) -> None:
    """What a model or another user wrote is shown on this page; it must stay text."""
    page += call(app, method="GET", path="/reader.js").body.decode("utf-8")
    ways = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser"
    code = r"\beval\(|new Function|createContextualFragment|setTimeout\(\s*[\"'`]"
    assert re.findall(f"{ways}|{code}", page) == []
    assert not re.search(r"<[^>]*\son[a-z]+\s*=", page), "a handler in an attribute"


def test_every_control_of_the_form_has_a_label(page: str) -> None:
    """Without one a screen reader has only "edit text" to say."""
    controls = re.findall(r'<(?:textarea|input)[^>]*\bid="([^"]+)"', page)
    assert controls
    assert set(controls) <= set(re.findall(r'<label for="([^"]+)"', page))
