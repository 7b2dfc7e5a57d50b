"""The pages of the documentation, and the code in them."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import List

from omniforge_chat.stream.transitions import TRANSITIONS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]

_block = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE).findall


def blocks(page: Path, language: str) -> List[str]:
    """The code blocks of this language."""
    found = _block(page.read_text("utf-8"))
    return [textwrap.dedent(code) for _, kind, code in found if kind == language]


def write_examples(directory: Path, *more: Path) -> List[str]:
    """Write the modules of README.md, docs/embedding.md and `more` pages there: their names."""
    names = []
    for page in (README, DOCS / "embedding.md", *more):
        for code in blocks(page, "python"):
            named = re.match(r"# (\w+)\.py\n", code)
            assert named, f"{page.name}: a block without the name of its module"
            names.append(named[1])
            (directory / f"{named[1]}.py").write_text(code, "utf-8")
    return names


def transitions() -> str:
    """The table of docs/design.md: `python -m tests.support.docs` prints it."""
    lines = ["| phase | event | next phase | action |", "|---|---|---|---|"]
    for (phase, event), (following, action) in TRANSITIONS.items():
        names = [p.name.lower().replace("_", " ") for p in (phase, following)]
        lines.append(f"| {names[0]} | {event.meaning} | {names[1]} | {action.value} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(transitions())
