"""The files that say the same thing in two places say the same thing."""

from __future__ import annotations

import re
from typing import Set

from ..support.docs import ROOT


def found(pattern: str, *path: str) -> Set[str]:
    return set(re.findall(pattern, ROOT.joinpath(*path).read_text("utf-8"), re.MULTILINE))


def test_the_changelog_s_newest_version_is_the_package_s() -> None:
    """A release is made of both."""
    [version] = found(r'^version = "(.*)"$', "pyproject.toml")
    changelog = (ROOT / "docs" / "changelog.md").read_text("utf-8")
    newest = re.findall(r"^## \[(\d.*)\] - \d{4}-\d\d-\d\d$", changelog, re.MULTILINE)[0]
    assert newest == version


def test_ci_has_every_python_that_the_package_claims() -> None:
    """Somebody chooses it for the Python that they have."""
    claimed = found(r'"Programming Language :: Python :: (3\.\d+)"', "pyproject.toml")
    [tried] = found(r"^ +python: \[(.*)\]$", ".github", "workflows", "ci.yml")
    assert set(re.findall(r"[\d.]+", tried)) == claimed


def test_both_cis_run_the_same() -> None:
    """What passes here passes there."""
    for same in (
        r"(?:make|-m) [a-z][a-z.-]+(?: SECONDS=\d+)?$",
        r"\.ci/programs$",
        "COMPAT_REQUIRED",
    ):
        here = found(same, ".ci", "run")
        assert here == found(same, ".github", "workflows", "ci.yml")
        assert here
