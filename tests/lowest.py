"""python -m tests.lowest: install the lowest versions that pyproject.toml permits.

They go into the environment that runs this, which has the package and `packaging`. Only the
packages that we ask for ourselves are held down, extras included; what these need is the newest
that fits. `make test-lowest` then runs tests with them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib.metadata import metadata, requires, version
from pathlib import Path
from typing import Dict, List

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from .support.docs import ROOT

PACKAGE = "omniforge-chat"


def bound_of(requirement: Requirement) -> Version:
    """The lowest version that is permitted. Raises ValueError if there is none."""
    bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} has no lower bound")
    return bounds[0]


def lowest(requirements: List[str], extras: List[str]) -> Dict[str, Version]:
    """The lowest version of each package that is needed here; the highest bound of several."""
    found: Dict[str, Version] = {}
    for requirement in map(Requirement, requirements):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            name, bound = canonicalize_name(requirement.name), bound_of(requirement)
            found[name] = max(bound, found.get(name, bound))
    return found


def main() -> int:
    """The exit status."""
    extras = metadata(PACKAGE).get_all("Provides-Extra") or []
    wanted = lowest(requires(PACKAGE) or [], extras)
    with tempfile.TemporaryDirectory() as directory:
        constraints = Path(directory) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={wanted[name]}\n" for name in wanted))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        package = f"{ROOT}[{','.join(extras)}]"
        group = f"{ROOT / 'pyproject.toml'}:dev"
        command = ["--constraint", str(constraints), "--editable", package, "--group", group]
        subprocess.run([*pip, *command], check=True)
    for name, bound in wanted.items():
        assert Version(version(name)) == bound, name
        print(f"{name} {bound}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
