"""The Markdown of the page at /, in Chromium: a model's text becomes nodes, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Iterator, Tuple

import pytest

from ..support.chromium import playwright
from ..support.window import EACH_CHANGE, Service, Window, opened

# Any, because types are checked also where playwright is not installed.
expect: Any = playwright().expect
Browser = Any

MARKUP = """(place) => {
  const inner = (node) => [...node.childNodes].map(outer).join("");
  const kept = ["href", "start", "class"];
  const outer = (node) => {
    if (node.nodeType === 3) return node.data.replaceAll("<", "&lt;");
    const name = node.localName;
    if (node.matches(".code")) {
      const text = (selector) => node.querySelector(selector).textContent;
      return `<code ${text("div > span")}>${text("code")}</code>`;
    }
    if (node.matches(".table")) return inner(node);
    const attributes = [...node.attributes].filter((it) => kept.includes(it.name) && it.value);
    return `<${[name, ...attributes.map((it) => `${it.name}=${it.value}`)].join(" ")}>` +
      `${inner(node)}</${name}>`;
  };
  return inner(place);
}"""
"""What stands in a reply, in a short form of HTML, without what is the same in each."""


def _cases() -> Iterator[Tuple[str, str]]:
    """The texts of markdown.txt, and what they come to; then some that an editor would spoil."""
    text = (Path(__file__).parent / "markdown.txt").read_text("utf-8")
    text = re.sub("(?m)^%% .*\n", "", text[text.index("\n%%") + 1 :])
    for case in text.split("\n%%\n")[:-1]:
        given, expected = case.split("\n=>\n")
        yield given, expected
    yield "one\r\n\r\ntwo\r\n", "<p>one</p><p>two</p>"
    yield "a  \nb\\\nc<br>d\ne", "<p>a<br></br>b<br></br>c<br></br>d\ne</p>"
    yield "-\ta\n\t- b", "<ul><li>a<ul><li>b</li></ul></li></ul>"
    yield "[a](<java\tscript:x>)", "<p><span>a (java\tscript:x)</span></p>"


CASES = list(_cases())

IN_PIECES = """(pieces) => {
  const frame = (event, data) =>
    new TextEncoder().encode(`event: ${event}\\ndata: ${JSON.stringify(data)}\\n\\n`);
  const pull = async (controller) => {
    await scheduler.postTask(() => {});
    if (pieces.length) return controller.enqueue(frame("chunk", { content: pieces.shift() }));
    controller.enqueue(frame("done", {}));
    controller.close();
  };
  const headers = { "Content-Type": "text/event-stream" };
  window.fetch = async () => new Response(new ReadableStream({ pull }), { headers });
}"""
"""Lets the next reply be these pieces, each in a read of its own, and with EACH_CHANGE shown."""

WHOLE = "\n\n".join(sorted((text for text, _ in CASES), key=lambda text: "never closed" in text))
"""All of them, one after the other; the block that never ends comes last."""

HARD = {
    "brackets": "[" * 50_000,
    "brackets and parentheses": "[a](" * 15_000,
    "nested links": "[" * 20_000 + "a" + "](https://x.example/)" * 5_000,
    "marks": "*a " * 30_000,
    "marks that close": "**a* " * 20_000,
    "nested marks": "*a **b " * 10_000 + "c** d*" * 10_000,
    "ticks": "".join("`" * n + " " for n in range(1, 400)),
    "quotes": ">" * 20_000,
    "nested quotes": "\n".join(">" * n + " a" for n in range(1, 300)),
    "nested lists": "\n".join("  " * n + "- a" for n in range(300)),
    "a long list": "- item with **bold**\n" * 4_000,
    "a long table": "| a | b |\n|---|---|\n" + "| c | d |\n" * 3_000,
    "spaces": "a" + " " * 100_000 + "b",
    "rules": "- " * 50_000 + "x",
    "hashes": "# a " + "#" * 100_000 + " b",
    "a long line": "word " * 40_000,
    "a long address": "https://x.example/" + "a" * 100_000,
    "code that begins with a space": "` " + "a " * 50_000 + "a`",
    "addresses that end late": ("https://x.example/" + ")" * 1_980 + " ") * 50,
    "a line of spaces below a table's head": "|\n" + " " * 50_000 + "x" * 100,
    "a line of spaces in a table's head": "|\n-" + " " * 50_000 + "x" * 100,
    "pipes": "|" * 20_000 + "\n" + "|-" * 10_000,
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = Service()
    with service.server:
        yield service


@pytest.fixture(scope="module")
def window(browser: Browser, service: Service) -> Iterator[Window]:
    with opened(browser, service) as window:
        yield window


def markup(reply: Any) -> str:
    found: str = reply.evaluate(MARKUP)
    return found


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_markdown_becomes_nodes(window: Window, text: str, expected: str) -> None:
    """Those of CommonMark and of GitHub's tables; all else stays text as the model wrote it."""
    assert markup(window.ask("Hi", text)) == expected
    for link in window.reply.locator("a").all():
        assert link.get_attribute("target") == "_blank"
        assert link.get_attribute("rel") == "noopener noreferrer"
    assert (
        window.page.locator("#turns img, #turns script, #turns iframe, #turns [onerror]").count()
        == 0
    )


@pytest.mark.parametrize("size", [1, 7])
def test_a_text_reads_the_same_in_whatever_pieces_it_comes(
    browser: Browser, service: Service, size: int
) -> None:
    """Each block is shown while it grows, and a later piece may change what it is."""
    with opened(browser, service, script=EACH_CHANGE) as window:
        whole = markup(window.ask("Hi", WHOLE))
        assert whole.count("<table>") > 1
        pieces = [WHOLE[i : i + size] for i in range(0, len(WHOLE), size)]
        window.page.evaluate(IN_PIECES, pieces)
        assert markup(window.ask("Hi")) == whole


def test_blocks_that_are_whole_are_not_touched_again(browser: Browser, service: Service) -> None:
    """A long reply would become slow, and a selection in it would be lost."""
    watch = """(place) => {
        window.touched = [];
        window.made = 0;
        const make = document.createElement;
        document.createElement = (name) => { made++; return make.call(document, name); };
        let whole = [];
        new MutationObserver((changes) => {
            for (const { target, removedNodes } of changes) {
                if (whole.some((one) => one.contains(target) || [...removedNodes].includes(one))) {
                    touched.push(target.textContent);
                }
            }
            whole = [...place.children].slice(0, -2);
        }).observe(place, { childList: true, characterData: true, subtree: true });
    }"""
    blocks = [
        f"## Part {i}\n\nSome *text* {i}\n\n- a\n- b\n\n```py\nx = {i}\n```\n\n" for i in range(60)
    ]
    with opened(browser, service, script=EACH_CHANGE) as window:
        window.ask("Hi", "first")
        window.page.evaluate(f"""new MutationObserver((changes) => {{
            for (const {{ addedNodes: [one] }} of changes) {{
                if (one?.matches?.("li")) ({watch})(one.querySelector(".text"));
            }}
        }}).observe(document.getElementById("turns"), {{ childList: true }})""")
        pieces = [piece for block in blocks for piece in re.split(r"(?<= )", block)]
        window.page.evaluate(IN_PIECES, pieces)
        window.ask("Hi")
        expect(window.reply.locator(".code")).to_have_count(60)
        assert window.page.evaluate("touched") == []
        nodes = window.reply.locator("*").count()
        assert nodes < window.page.evaluate("made") < 30 * nodes


def test_the_page_is_changed_once_for_each_frame(window: Window) -> None:
    """A model may be faster than a screen."""
    window.page.evaluate("""() => {
        window.frames_ = window.changes_ = 0;
        const count = () => { frames_++; requestAnimationFrame(count); };
        requestAnimationFrame(count);
        const turns = document.getElementById("turns");
        new MutationObserver(() => { changes_++; }).observe(
            turns, { childList: true, characterData: true, subtree: true },
        );
    }""")
    window.ask("Hi", *["word "] * 2_000)
    assert len(window.reply.text_content()) == 10_000 - 1
    assert 0 < window.page.evaluate("changes_") <= window.page.evaluate("frames_") + 3


@pytest.mark.parametrize("name", HARD)
def test_no_text_stops_the_page(window: Window, name: str) -> None:
    """A model that repeats itself must not cost more than its text."""
    text = HARD[name]
    pieces = [text[i : i + 4_000] for i in range(0, len(text), 4_000)]
    spent = """() => { window.spent = 0; window.tick ??= setInterval(() => {
        const now = Date.now(); spent = Math.max(spent, now - (window.before ?? now)); before = now;
    }, 10); }"""
    window.page.evaluate(spent)
    reply = window.ask("Hi", *pieces)
    assert len(reply.text_content()) > 100
    assert window.page.evaluate("window.spent") < 5_000
    window.press("New conversation")
