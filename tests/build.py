"""python -m tests.build: make wheel and sdist in dist/, and use them as a stranger would.

The wheel is made from the sdist. It goes alone into a new environment, and there the first example
of README.md answers a request.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path
from typing import List, Set

from .support.docs import ROOT, write_examples
from .support.process import running

DIST = ROOT / "dist"


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


def tracked() -> Set[str]:
    """The files that git has."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def check_sdist(sdist: Path) -> None:
    """It has whatever git has."""
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    missing = tracked() - packed
    assert not missing, f"the sdist lacks {sorted(missing)}"


def check_wheel(wheel: Path) -> None:
    """It has the package and the licence, and on PyPI the links of its page lead somewhere."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        page = message_from_bytes(archive.read(metadata))
    assert f"{Path(metadata).parent}/licenses/docs/LICENSE" in names
    missing = {name for name in tracked() if name.startswith("omniforge_chat/")} - set(names)
    assert not missing, f"the wheel lacks {sorted(missing)}"
    assert {name.split("/")[0] for name in names} == {
        "omniforge_chat",
        str(Path(metadata).parent),
    }
    assert page["License-Expression"] == "MIT"
    links: List[str] = re.findall(r"\]\(([^)\s]+)\)", str(page.get_payload()))
    dead = [link for link in links if not link.startswith("https://")]
    assert not dead, f"these lead nowhere on PyPI: {dead}"


def check_example(wheel: Path, directory: Path) -> None:
    """README.md's first responder is served from the wheel and answers."""
    write_examples(directory)
    venv = directory / "venv"
    run(sys.executable, "-m", "venv", venv)
    run(venv / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    command = [str(venv / "bin" / "omniforge-chat")]
    with running(directory, "--responder", "hello:respond", command=command) as service:
        reply = service.reply("Hello from the wheel")
        assert reply == "Hello from the wheel ", reply
        assert service.end() == 0


def main() -> None:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", ROOT)
    [sdist], [wheel] = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    check_sdist(sdist)
    check_wheel(wheel)
    with tempfile.TemporaryDirectory() as directory:
        check_example(wheel, Path(directory))
    print(f"{wheel.name} answers")


if __name__ == "__main__":
    main()
