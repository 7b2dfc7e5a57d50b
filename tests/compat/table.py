"""The table of compatibility: what was tried with whose version, and the result.

docs/compatibility.md is made from what the tests of this folder find, and it is what they expect:
a result that is not the table's fails its test. `make compat-table` writes what was found.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from ..support.docs import DOCS
from ..support.missing import missing

PAGE = DOCS / "compatibility.md"
REWRITE = "If the new result is right, `make compat-table` writes it."
MODULES = Path(sys.prefix) / "npm" / "node_modules"
"""The packages of package.json."""

CHECKS: Dict[str, Dict[str, str]] = {
    "host": {
        "streams": "each token arrives before the responder goes on",
        "leaving": "a client that leaves ends its responder",
        "errors": "a refused request gets an error in the chat's shape",
        "unknown path": "who answers 404 beside the routes of the chat",
        "X-Request-ID": "each response has one, its request's or a new one",
        "trailing slash": "a route with a slash at its end is that route",
        "openapi.json": "the document tells the path of the mount",
        "drain": "SIGTERM drains before the server stops",
    },
    "server": {
        "streams": "each token arrives before the responder goes on",
        "leaving": "a client that leaves ends its responder",
        "backpressure": "a client that does not read holds its responder up, and is given up",
        "HTTP/1.0": "a client of HTTP/1.0 gets each token as it comes, and the end",
        "HTTP/2": "each token arrives there, too, over one connection without TLS",
        "root path": "the server's option tells the prefix that a proxy takes off",
        "SIGTERM": "an open stream under `drained.py`, or under our own command",
        "Ctrl-C": "the same, if all processes get SIGINT",
        "SIGTERM, no drain": "an open stream if you do not call `drain`, in the first 4 seconds",
    },
    "proxy": {
        "streams": "each token arrives before the responder goes on, and in less than 0.1 seconds",
        "heartbeats": "they arrive, and keep a reply that is silent for longer than the limit",
        "leaving": "when the responder of a client that leaves is ended",
        "HTTP/1.0": "a client of HTTP/1.0 gets each token as it comes, and the end",
        "prefix": "a prefix that the proxy takes off is in the document; chat and page work there",
        "X-Request-ID": "each response has one, its request's or a new one",
        "drain": "`/ready` tells it at once, and open streams get their last event",
        "down": "the answer while the service is down",
    },
    "client": {
        "text": "you get all text, in order and in whole events, and then `done`",
        "heartbeats": "you see none",
        "error": "you get `error` as an event, or as an exception, behind the text before it",
        "cut": "if the connection breaks, you get an exception or no more events, and never `done`",
        "once": "one request for each message, also behind an error or a cut; `as documented`: if "
        "you use it [so](protocol.md#clients-that-ask-again)",
        "Last-Event-ID": "the answer if the client asks again with an id, and the service keeps no "
        "replies",
        "resume": "if the service keeps replies, you get all of one that is cut twice; it is made "
        "once in each case; `as documented` is as above",
        "2,000 chunks": "you get all of a reply of so many pieces, in order",
        "refusal": "you get the service's words for a refused request",
        "stop": "if you stop reading, the responder ends",
        "second turn": "the responder gets the messages before, if the service has a memory",
    },
    "library": {
        "format": "the format in which it talks to the service",
        "reply": "you get all of a reply, and then its end; emoji, text from right to left and "
        "line breaks of all kinds come as they were sent",
        "2,000 chunks": "the same for a reply of so many pieces",
        "silence": "heartbeats keep the stream open, and you see none",
        "failure": "you get the text before a failure, and then the service's words for it",
        "refusal": "you get the service's words for a refused request",
        "once": "one request for each message, also behind a failure or a refusal",
        "stop": "if you stop a reply, its responder ends",
        "second turn": "the responder gets the messages before",
        "code": "you get the code of a failure",
        "cut": "if the connection breaks, you get an error",
        "regenerate": "the last reply is made anew; the responder does not see the old one",
        "resume": "a page that is loaded again gets all of the reply that runs, also through cuts",
        "edit": "an edited message takes the place of the old one and of all behind it",
        "usage": "you get the tokens of a reply",
        "reason": "you get the reason why a reply ended",
        "conversation": "the client and the responder know it by the same id",
        "thoughts": "you get thoughts apart from the text, if the service shows them",
        "not streamed": "you get a reply, or its failure, in one piece if you ask for that",
    },
    "generator": {
        "generates": "it makes a client of the document, without a warning",
        "chat": "its chat returns you the whole stream as text",
        "refusal": "you get a refusal as its type, with its code",
    },
    "tool": {
        "chat": "the chat is answered as without the tool",
        "route": "the tool sees the chat under the route `/api/v1/chat`",
    },
}
"""Each kind of subject, its checks, and the meaning of each. Tables and columns have this order."""

TITLES = {
    "host": "Hosts",
    "server": "Servers",
    "proxy": "Proxies",
    "client": "Clients of the native format",
    "library": "Libraries of other formats",
    "generator": "Generators of clients",
    "tool": "Tools",
}

INTRODUCTION = """\
# Compatibility

After reading this page you know which hosts, servers, proxies, clients and tools the chat was \
tried with, and the results. An empty cell was not tried.

You can try them again with `make test-compat`, which fails if a result differs. You get these \
versions of the packages of PyPI and npm, as they are pinned. The programs are those of Debian 12; \
if you have another version, it must give the same results. Do not edit this page: \
`make compat-table` writes it.
"""


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is tried: its kind (a key of CHECKS), its name, and its version.

    `pinned` tells that every machine has this version; a program has the machine's.
    """

    kind: str
    name: str
    version: str
    pinned: bool = True


def module(name: str) -> Any:
    """The module of a package of PyPI whose results are in no table."""
    try:
        return import_module(name)
    except ModuleNotFoundError:
        missing(name)


def package(kind: str, name: str, *, title: Optional[str] = None) -> Subject:
    """A package of PyPI, which the group `compat` of pyproject.toml pins."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        missing(name)
    return Subject(kind, title or name, version)


def npm_package(kind: str, name: str, *, title: Optional[str] = None) -> Subject:
    """A package of npm, which package.json pins. It is in MODULES."""
    manifest = MODULES / name / "package.json"
    if not manifest.exists():
        missing(name)
    return Subject(kind, title or name, json.loads(manifest.read_text("utf-8"))["version"])


def executable(name: str) -> Optional[str]:
    """The path of a program of this machine; Debian has servers where only root looks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def program(kind: str, name: str, *command: str, title: Optional[str] = None) -> Subject:
    """A program of this machine; `command` prints its version. Its major and minor are told."""
    path = executable(command[0]) or missing(name)
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+", done.stdout + done.stderr)
    assert found, f"{command} tells no version"
    return Subject(kind, title or name, found[0], pinned=False)


Key = Tuple[str, str, str]
"""The kind, the subject's name, and the check."""


class Table:
    """The results: what was found, and what the page says."""

    def __init__(self) -> None:
        self.results: Dict[Key, str] = {}
        self.versions: Dict[Tuple[str, str], str] = {}

    @classmethod
    def parse(cls, page: str) -> Table:
        """The table that `render` made into `page`."""
        table = cls()
        kinds = {title: kind for kind, title in TITLES.items()}
        for section in page.split("\n## ")[1:]:
            title, _, body = section.partition("\n")
            rows = [line.strip("|").split("|") for line in body.splitlines() if line[:1] == "|"]
            head, _, *subjects = [[cell.strip() for cell in row] for row in rows]
            for name, version, *results in subjects:
                table.versions[kinds[title], name] = version
                for check, result in zip(head[2:], results):
                    if result:
                        table.results[kinds[title], name, check] = result
        return table

    def add(self, subject: Subject, check: str, result: str) -> None:
        known = ", ".join(CHECKS[subject.kind])
        assert check in CHECKS[subject.kind], f"{check!r} is not among its CHECKS: {known}"
        assert re.fullmatch(r"[^|\n]+", result), f"{result!r} is no cell of a table"
        key = (subject.kind, subject.name, check)
        assert self.results.setdefault(key, result) == result, f"{key} has two results"
        self.versions[subject.kind, subject.name] = subject.version

    def merge(self, other: Table) -> None:
        """Take what `other` has, and keep the rest."""
        self.results.update(other.results)
        self.versions.update(other.versions)

    def _section(self, kind: str) -> List[str]:
        names = sorted((n for k, n in self.versions if k == kind), key=str.casefold)
        used = {check for k, _, check in self.results if k == kind}
        checks = {check: text for check, text in CHECKS[kind].items() if check in used}
        rows = [[kind, "version", *checks], ["---"] * (2 + len(checks))]
        for name in names:
            found = [self.results.get((kind, name, check), "") for check in checks]
            rows.append([name, self.versions[kind, name], *found])
        lines = [re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(row)} |") for row in rows]
        meanings = [f"- {check}: {text}" for check, text in checks.items()]
        return ["", f"## {TITLES[kind]}", "", *meanings, "", *lines]

    def render(self) -> str:
        """The page."""
        lines = [INTRODUCTION.rstrip()]
        for kind in CHECKS:
            if any(k == kind for k, _ in self.versions):
                lines += self._section(kind)
        return "\n".join(lines) + "\n"


class Recorder:
    """Takes the results of tests, and compares them with the committed table.

    `strict` tells that each result must be the table's.
    """

    def __init__(self, committed: Table, *, strict: bool) -> None:
        self._committed = committed
        self._strict = strict
        self._unpinned: Set[Tuple[str, str]] = set()
        self.found = Table()

    def __call__(self, subject: Subject, check: str, result: str = "yes") -> None:
        """Tell what a check of a subject has come to, in a word or two.

        One cell may be told by several tests, if they agree.
        """
        self.found.add(subject, check, result)
        if not subject.pinned:
            self._unpinned.add((subject.kind, subject.name))
        expected = self._committed.results.get((subject.kind, subject.name, check), "nothing")
        version = self._committed.versions.get((subject.kind, subject.name), subject.version)
        other = f" of {version}, and this is {subject.version}" * (version != subject.version)
        assert expected == result or not self._strict, (
            f"{subject.name}, {check}: {result!r}, but docs/{PAGE.name} says {expected!r}{other}. "
            f"{REWRITE}"
        )

    def compare(self, *, whole: bool) -> Tuple[List[str], List[str]]:
        """What is wrong with the page, and what is only worth a note.

        `whole` tells that each check has been run.
        """
        wrong, notes = [], []
        for key, version in self.found.versions.items():
            told = self._committed.versions.get(key, version)
            text = f"docs/{PAGE.name} is of {key[1]} {told}, and this is {version}."
            if told != version and key in self._unpinned:
                notes.append(f"{text} The results are compared all the same.")
            elif told != version:
                wrong.append(f"{text} {REWRITE}")
        if not whole:
            return wrong, [*notes, "Not every check has run: what is missing is not told."]
        wrong += [
            f"docs/{PAGE.name} has {', '.join(key)}, and no test. {REWRITE}"
            for key in sorted(self._committed.results.keys() - self.found.results.keys())
        ]
        expected = Table()
        expected.merge(self.found)
        for key in self._unpinned & self._committed.versions.keys():
            expected.versions[key] = self._committed.versions[key]
        if not wrong and expected.render() != PAGE.read_text("utf-8"):
            wrong.append(f"docs/{PAGE.name} is not as it is made. {REWRITE}")
        return wrong, notes

    def write(self, *, whole: bool) -> None:
        """Write the page; what has not been tried stays as it is."""
        table = Table() if whole else self._committed
        table.merge(self.found)
        PAGE.write_text(table.render(), "utf-8")
