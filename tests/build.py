"""python -m tests.build: make wheel and sdist in dist/, and use them as a stranger would.

The wheel is made from the sdist. It goes alone into a new environment, and there the first example
of README.md answers a request. In build/ are what a release has besides: an SBOM in the form of
CycloneDX, of the wheel with all its extras, and SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import json
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
BESIDES = ROOT / "build"


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


def make_sbom(wheel: Path, directory: Path) -> Path:
    """The packages that come with the wheel and all its extras: today's versions of them."""
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        page = message_from_bytes(archive.read(metadata))
    extras = ",".join(page.get_all("Provides-Extra", []))
    python = directory / "all" / "bin" / "python"
    run(sys.executable, "-m", "venv", "--without-pip", directory / "all")
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet")
    run(*pip, f"{wheel}[{extras}]")
    sbom = BESIDES / f"{wheel.name.partition('-py3')[0]}.cdx.json"
    tool = (sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", "pyproject.toml")
    run(*tool, "--output-reproducible", "--validate", "--output-file", sbom, python)
    return sbom


def check_sbom(sbom: Path, version: str) -> None:
    """It is about this version, and names what it needs, and what that needs."""
    content = json.loads(sbom.read_text("utf-8"))
    about = content["metadata"]["component"]
    assert (about["name"], about["version"]) == ("omniforge-chat", version)
    known = {part["name"].lower(): part.get("purl", "") for part in content["components"]}
    needed = {"starlette", "msgspec", "uvloop", "redis", "psycopg", "pyjwt", "cryptography"}
    assert needed <= known.keys(), f"the SBOM lacks {sorted(needed - known.keys())}"
    assert known["starlette"].startswith("pkg:pypi/starlette@")
    assert not {"pip", "pytest"} & known.keys()


def write_sums(*files: Path) -> None:
    """SHA256SUMS, as `sha256sum --check` reads it where all files lie."""
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (BESIDES / "SHA256SUMS").write_text("".join(sums), "utf-8")


def main() -> None:
    for made in (DIST, BESIDES):
        shutil.rmtree(made, ignore_errors=True)
    BESIDES.mkdir()
    run(sys.executable, "-m", "build", ROOT)
    [sdist], [wheel] = DIST.glob("*.tar.gz"), DIST.glob("*.whl")
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    check_sdist(sdist)
    check_wheel(wheel)
    with tempfile.TemporaryDirectory() as directory:
        check_example(wheel, Path(directory))
        sbom = make_sbom(wheel, Path(directory))
    check_sbom(sbom, version=wheel.name.split("-")[1])
    write_sums(sdist, wheel, sbom)
    print(f"{wheel.name} answers")


if __name__ == "__main__":
    main()
