"""The files that say the same thing in two places say the same thing."""

from __future__ import annotations

import re
from typing import Set

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ..lowest import bound_of, lowest
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
    commands = r"(?:make|-m) [a-z][a-z.-]+(?: SECONDS=\d+)?$"
    for same in (commands, r"\.ci/programs$", "COMPAT_REQUIRED"):
        here = found(same, ".ci", "run")
        assert here == found(same, ".github", "workflows", "ci.yml")
        assert here


def test_the_lowest_versions_are_those_that_all_requirements_permit() -> None:
    """An extra may ask for more than the package itself, and some ask only on other machines."""
    requirements = [
        "anyio>=4.8",
        'AnyIO[x]>=4.16,<5; extra == "providers"',
        'anyio>=9; extra == "other"',
        'uvloop>=0.21; sys_platform == "nowhere" and extra == "providers"',
    ]
    assert lowest(requirements, ["providers"]) == {"anyio": Version("4.16")}


@pytest.mark.parametrize("requirement", ["anyio", "anyio<5", "anyio!=4.9"])
def test_a_package_without_a_lower_bound_is_told(requirement: str) -> None:
    """pip could give its users a version that is ten years old."""
    with pytest.raises(ValueError, match="has no lower bound"):
        bound_of(Requirement(requirement))
