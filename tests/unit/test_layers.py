"""Imports run one way: a room knows what lies below it, and never what lies above."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

import omniforge_chat.dialects

from ..support.docs import DOCS

EXPORTED = omniforge_chat.dialects.__all__
PACKAGE = Path(omniforge_chat.__file__).parent

FLOORS: Tuple[Set[str], ...] = (
    {"errors", "models", "rules", "settings", "logs", "observer", "request_id", "stdio", "version"},
    {"core", "stores"},
    {"responders", "conversations", "replay", "dialects", "access", "observe", "reader"},
    {"stream"},
    {"http"},
    {"app"},
    {"server"},
    {"cli"},
)
"""From the bottom up. The rooms of one floor do not know each other."""

GROUND_FLOOR = {
    ("settings", "rules"),
    ("settings", "models"),
    ("rules", "models"),
    ("observer", "errors"),
    ("observer", "logs"),
    ("observer", "models"),
}
"""Who may import whom on the ground floor, which is no room: these are modules that all know."""

TRANSPORT_FREE = (
    "errors",
    "logs",
    "models",
    "observer",
    "rules",
    "settings",
    "stdio",
    "version",
    "core",
    "stores",
    "responders",
    "conversations",
    "replay",
    "dialects",
    "access",
    "observe",
)
NO_ASYNCIO = (
    "errors",
    "models",
    "rules",
    "settings",
    "core/sse.py",
    "core/reply.py",
    "dialects",
    "stream/lifecycle.py",
)

FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def _room(path: Path) -> str:
    part = path.relative_to(PACKAGE).parts[0]
    return part[: -len(".py")] if part.endswith(".py") else part


SOURCES: Dict[Path, ast.Module] = {
    path: ast.parse(path.read_text("utf-8"), str(path)) for path in sorted(PACKAGE.rglob("*.py"))
}
ROOMS: Dict[str, List[Path]] = {}
for _path in SOURCES:
    ROOMS.setdefault(_room(_path), []).append(_path)


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


def _tops(path: Path) -> Set[str]:
    """The packages that the module at `path` imports."""
    return {imported.partition(".")[0] for imported in _imports(path, SOURCES[path])}


def _known(room: str) -> Set[str]:
    """The rooms that `room` imports, itself left out."""
    found = set()
    for path in ROOMS[room]:
        for imported in _imports(path, SOURCES[path]):
            top, _, rest = imported.partition(".")
            if top == "omniforge_chat":
                found.add(rest.partition(".")[0])
    return found - {room}


def test_every_room_has_its_floor() -> None:
    """A new one is given a floor before anything imports it."""
    assert set(ROOMS) - {"__init__", "__main__"} == set(FLOOR)


def test_the_floors_are_those_of_the_docs() -> None:
    """Whoever adds a room looks there first."""
    rows = re.findall(
        r"^\| (\d) \| (`.*?`) \|", (DOCS / "design.md").read_text("utf-8"), re.MULTILINE
    )
    told = {int(number): set(re.findall("`(.*?)`", names)) for number, names in rows}
    assert told == dict(enumerate(FLOORS, 1))


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_a_room_imports_only_what_lies_below_it(room: str) -> None:
    """So that each can be read, tested and replaced with nothing but its base in mind."""
    for known in _known(room):
        below = FLOOR[known] < FLOOR[room]
        assert below or (room, known) in GROUND_FLOOR, f"{room} must not import {known}"


@pytest.mark.parametrize("room", sorted(set(FLOOR) - {"dialects"}))
def test_nobody_knows_a_wire_format_by_name(room: str) -> None:
    """So that a further one is one module, and its name in the settings."""
    exported = {"omniforge_chat.dialects", *(f"omniforge_chat.dialects.{n}" for n in EXPORTED)}
    for path in ROOMS[room]:
        for imported in _imports(path, SOURCES[path]):
            if imported.startswith("omniforge_chat.dialects"):
                assert imported in exported, f"{path.name} imports {imported}"


@pytest.mark.parametrize("room", TRANSPORT_FREE)
def test_the_core_knows_no_transport(room: str) -> None:
    """Events go in and bytes come out: a test of it opens no socket."""
    for path in ROOMS[room]:
        assert not _tops(path) & {"starlette", "uvicorn", "socket", "fastapi"}, path.name


@pytest.mark.parametrize("name", NO_ASYNCIO)
def test_what_needs_no_event_loop_knows_none(name: str) -> None:
    """It can be tested by calling it."""
    path = PACKAGE / name
    paths = [*path.glob("*.py")] if path.is_dir() else [path.with_suffix(".py")]
    assert not any("asyncio" in _tops(each) for each in paths)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_stand_at_the_head_of_a_module(room: str) -> None:
    """An import within a function hides a circle, and fails when the function is first called."""
    for path in ROOMS[room]:
        for node in ast.walk(SOURCES[path]):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                assert not list(_imports(path, node)), f"{path.name}, line {node.lineno}"


def test_only_the_command_line_needs_what_only_it_needs() -> None:
    """A host that mounts the app serves it with what it likes, and parses its own arguments."""
    for room in set(ROOMS) - {"server", "cli"}:
        for path in ROOMS[room]:
            assert not _tops(path) & {"uvicorn", "argparse", "multiprocessing", "signal"}, path.name


def test_a_module_can_be_read_in_one_sitting() -> None:
    """One noun each: a module that is longer has two, and is a room."""
    for path in SOURCES:
        assert len(path.read_text("utf-8").splitlines()) <= 320, path
        for node in ast.walk(SOURCES[path]):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert (node.end_lineno or 0) - node.lineno < 60, f"{path}: {node.name}"
