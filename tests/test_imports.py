"""Imports run one way: a module knows what lies below it, and never what lies above."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

import omniforge_chat

PACKAGE = Path(omniforge_chat.__file__).parent

LAYERS: Tuple[Set[str], ...] = (
    {"driver", "errors", "logs", "models", "settings"},
    {"sse", "chat", "responders", "history"},
    {"validation", "streaming", "timetable", "canceller", "lifecycle", "patience", "request_id"},
    {"routes", "openapi"},
    {"app"},
    {"server"},
    {"cli"},
)
"""From the bottom up."""

SIDEWAYS = {
    ("chat", "sse"),
    ("settings", "errors"),
    ("responders", "chat"),
    ("responders", "sse"),
    ("history", "chat"),
    ("streaming", "canceller"),
    ("streaming", "lifecycle"),
    ("streaming", "request_id"),
    ("streaming", "timetable"),
    ("patience", "lifecycle"),
    ("routes", "openapi"),
}
"""Who may import whom within one layer."""

TRANSPORT_FREE = ("errors", "logs", "models", "settings", "sse", "chat", "responders", "history")
# A read with a deadline; what is finished and closed, whatever is cancelled meanwhile; and lines
# that are written a moment later.
NEED_ASYNCIO = {"history.py", "logs.py", "responders/exchange.py", "responders/upstream.py"}

LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def _sources() -> Dict[str, List[Tuple[Path, ast.Module]]]:
    """The modules by the name of the part that they belong to: a module, or a subpackage."""
    found: Dict[str, List[Tuple[Path, ast.Module]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0]
        tree = ast.parse(path.read_text("utf-8"), str(path))
        found.setdefault(part[: -len(".py")] if part.endswith(".py") else part, []).append(
            (path, tree)
        )
    return found


SOURCES = _sources()


def _imports(path: Path, tree: ast.AST) -> Iterator[str]:
    """The full names of the modules that `tree`, which is at `path`, imports."""
    package = ["omniforge_chat", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = [*base, node.module] if node.module else base
            for alias in node.names:
                yield ".".join([*stem, alias.name])


def _parts(name: str) -> Set[str]:
    """The parts of the package that the part `name` imports, itself left out."""
    found = set()
    for path, tree in SOURCES[name]:
        for imported in _imports(path, tree):
            top, _, rest = imported.partition(".")
            if top == "omniforge_chat":
                found.add(rest.partition(".")[0])
    return found - {name}


def test_every_module_has_its_place() -> None:
    """A new one is given a layer before anything imports it."""
    assert set(SOURCES) - {"__init__", "__main__"} == set(LEVEL)


@pytest.mark.parametrize("name", sorted(LEVEL))
def test_a_module_imports_only_what_lies_below_it(name: str) -> None:
    """So that each can be read, tested and replaced with nothing but its base in mind."""
    for imported in _parts(name):
        below = LEVEL[imported] < LEVEL[name]
        assert below or (name, imported) in SIDEWAYS, f"{name} must not import {imported}"


def test_no_permission_to_import_sideways_is_left_over() -> None:
    """One that nobody uses any more would let the next circle in."""
    for name, imported in SIDEWAYS:
        assert LEVEL[name] == LEVEL[imported]
        assert imported in _parts(name)


@pytest.mark.parametrize("name", TRANSPORT_FREE)
def test_the_core_knows_no_transport(name: str) -> None:
    """Events go in and bytes come out: a test of it opens no socket."""
    for path, tree in SOURCES[name]:
        tops = {imported.partition(".")[0] for imported in _imports(path, tree)}
        assert not tops & {"starlette", "uvicorn", "socket", "fastapi"}, path.name
        needs_asyncio = path.relative_to(PACKAGE).as_posix() in NEED_ASYNCIO
        assert ("asyncio" in tops) == needs_asyncio, path.name


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_stand_at_the_head_of_a_module(name: str) -> None:
    """An import within a function hides a circle, and fails when the function is first called."""
    for path, tree in SOURCES[name]:
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                assert not list(_imports(path, node)), f"{path.name}, line {node.lineno}"


def test_only_the_command_line_needs_what_only_it_needs() -> None:
    """A host that mounts the app serves it with what it likes, and parses its own arguments."""
    for name in set(SOURCES) - {"server", "cli"}:
        for path, tree in SOURCES[name]:
            tops = {imported.partition(".")[0] for imported in _imports(path, tree)}
            assert not tops & {"uvicorn", "argparse", "multiprocessing", "signal"}, path.name
