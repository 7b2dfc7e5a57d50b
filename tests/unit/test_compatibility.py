"""The table of compatibility: what is told is rendered, read again and compared."""

from __future__ import annotations

from typing import List

import pytest

from ..compat.table import PAGE, Recorder, Subject, Table
from ..support.docs import DOCS

SEEN = Subject("tool", "logfire", "5.4.0")
DEBIAN = Subject("proxy", "nginx", "1.22", pinned=False)


@pytest.fixture(autouse=True)
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of checks that no change of the real ones touches."""
    checks = {"proxy": {"streams": "each", "down": "502"}, "tool": {"chat": "seen"}}
    monkeypatch.setattr("tests.compat.table.CHECKS", checks)


def recorder(page: Table, *told: Subject) -> Recorder:
    found = Recorder(page, strict=True)
    for subject in told:
        found(subject, "chat" if subject.kind == "tool" else "streams")
    return found


def table(*told: Subject) -> Table:
    page = Table()
    for subject in told:
        page.add(subject, "chat" if subject.kind == "tool" else "streams", "yes")
    return page


def complaints(page: Table, *told: Subject) -> List[str]:
    return recorder(page, *told).compare(whole=False)[0]


def test_the_committed_page_is_one_that_the_tests_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever edits it by hand hears of it without a run of everything."""
    monkeypatch.undo()
    page = PAGE.read_text("utf-8")
    assert Table.parse(page).render() == page


def test_the_proxies_of_deployment_are_those_that_were_tried() -> None:
    """When a proxy hears of a client that leaves is in both."""
    page = (
        (DOCS / "deployment.md").read_text("utf-8").partition("| proxy |")[2].partition("\n\n")[0]
    )
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines()[2:]]
    told = Table.parse(PAGE.read_text("utf-8")).results
    tried = {name: result for (_, name, check), result in told.items() if check == "leaving"}
    said = {row[0]: row[-1] for row in rows}
    assert said
    assert {name: tried.get(name) for name in said} == said


def test_a_table_is_read_as_it_was_rendered() -> None:
    """A cell that nobody told stays empty; subjects and checks have one order."""
    page = table(DEBIAN, SEEN)
    page.add(Subject("proxy", "Apache", "2.4"), "down", "no, 500")
    assert Table.parse(page.render()).results == page.results
    assert Table.parse(page.render()).versions == page.versions
    assert "| Apache | 2.4 | | no, 500 |\n| nginx | 1.22 | yes | |" in page.render()


def test_a_result_that_is_not_the_table_s_fails_its_test() -> None:
    """It says how the table is rewritten, and that the versions differ if they do."""
    newer = Subject("tool", "logfire", "6.0.0")
    for subject, said in ((SEEN, "make compat-table"), (newer, "of 5.4.0, and this is 6.0.0")):
        with pytest.raises(AssertionError, match=said):
            Recorder(table(SEEN), strict=True)(subject, "chat", "no")


def test_a_result_that_the_table_has_not_fails_its_test() -> None:
    """It is new, and whoever adds it writes it."""
    with pytest.raises(AssertionError, match="make compat-table"):
        recorder(Table(), SEEN)


def test_what_would_be_no_table_fails() -> None:
    """An unknown check, a cell that breaks the row, two results for one cell."""
    with pytest.raises(AssertionError, match="CHECKS"):
        Table().add(SEEN, "streams", "yes")
    with pytest.raises(AssertionError, match="cell"):
        Table().add(SEEN, "chat", "yes | no")
    with pytest.raises(AssertionError, match="two results"):
        table(SEEN).add(SEEN, "chat", "no")


def test_another_version_is_wrong_if_it_is_pinned_and_else_a_note() -> None:
    """A package has one version everywhere; Debian's and Ubuntu's programs differ."""
    newer = Subject("tool", "logfire", "6.0.0")
    assert "5.4.0, and this is 6.0.0" in complaints(table(SEEN), newer)[0]
    newer = Subject("proxy", "nginx", "1.24", pinned=False)
    assert complaints(table(DEBIAN), newer) == []
    assert "1.22, and this is 1.24" in recorder(table(DEBIAN), newer).compare(whole=False)[1][0]


def test_a_whole_run_misses_what_no_test_tells() -> None:
    """A check that was removed leaves no row behind."""
    assert "nginx" in recorder(table(SEEN, DEBIAN), SEEN).compare(whole=True)[0][0]
    assert complaints(table(SEEN, DEBIAN), SEEN) == []
