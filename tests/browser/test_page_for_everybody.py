"""The page at /, looked at by axe-core, in Chromium: in light, in dark and on a phone."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

import pytest

from omniforge_chat import ChatError, Thought

from ..support.chromium import playwright
from ..support.window import GATE, Service, Window, opened

# Any, because types are checked also where playwright is not installed.
expect: Any = playwright().expect
Browser = Any

EVERYTHING = """# A heading

A paragraph with **bold**, *italic*, ~~struck~~, `code` and a [link](https://example.com).
A hard  \nbreak.

### Another

1. one
   - nested

     > with a quote
2. two

- [ ] to do
- [x] done

> A quote with `code` and a [link](https://example.com).

```python
print("a long line of code", "that has to be scrolled", "to the side on a small screen", 1, 2, 3)
```

| Name | Amount | Note |
|:-----|-------:|:----:|
| Apples | 12 | `a` |

---

مرحبا بالعالم

<b>no markup</b>
"""

LOOKS: Dict[str, Dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1280, "height": 860}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1280, "height": 860}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 780}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 320, "height": 640}},
}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    service = Service()
    with service.server:
        yield service


@pytest.fixture(params=LOOKS)
def look(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def window(browser: Browser, service: Service, look: str, axe: str) -> Iterator[Window]:
    options = {**LOOKS[look], "reduced_motion": "reduce"}
    with opened(browser, service, script=axe, **options) as window:
        yield window


def faults(window: Window) -> List[str]:
    """What axe-core finds, with all its rules, those of good practice too."""
    found = window.page.evaluate("axe.run()")
    assert len(found["passes"]) > 15
    return [f"{one['id']}: {node['html']}" for one in found["violations"] for node in one["nodes"]]


def test_axe_finds_nothing(window: Window, look: str, tmp_path: Any) -> None:
    """In any state that the page can be in. pytest keeps a picture of each for a while."""
    shots = iter(range(100))

    def look_at(name: str) -> None:
        window.page.screenshot(path=tmp_path / f"{next(shots):02} {look} {name}.png")
        assert faults(window) == [], name

    look_at("empty")
    window.say("Show me everything", Thought("Let me think."), GATE)
    expect(window.last.locator("details")).to_be_visible()
    look_at("thinking")
    window.page.keyboard.press("Escape")
    window.over()
    look_at("stopped")
    window.service.replies.append([Thought("Let me think.\nYes."), EVERYTHING])
    window.press("Retry")
    window.over()
    look_at("reply")
    window.last.locator("summary").click()
    window.page.locator("#scroller").evaluate("(it) => { it.scrollTop = 0; }")
    expect(window.page.get_by_role("button", name="To the end")).to_be_visible()
    look_at("thoughts")
    window.ask("And now?", "half a ", ChatError("The provider is asleep", code="upstream_error"))
    look_at("failure")
    window.ask("שלום", "שלום עולם")
    window.press("Edit")
    look_at("editing")
    window.press("Cancel")
    window.press("Export")
    look_at("export")
    window.page.keyboard.press("Escape")
    if "phone" in look:
        window.press("Conversations")
        look_at("drawer")
    window.press("Delete: Show me everything")
    look_at("deleted")
