"""What is shipped: the wheel's contents, its metadata, and that everything imported is declared."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import rarefy

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DATA = {".yaml", ".html", ".css", ".js", ".bin", ".npz", ".txt", ".typed", ".py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="hatchling, of the group `dev`, builds the wheel")
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def sources() -> list[Path]:
    return [p for p in (ROOT / "src" / "rarefy").rglob("*") if p.suffix in DATA and "cache" not in str(p)]


def test_the_wheel_has_every_source_and_data_file(wheel: zipfile.ZipFile) -> None:
    packed = set(wheel.namelist())
    assert {str(p.relative_to(ROOT / "src")) for p in sources()} <= packed
    for needed in ("py.typed", "pack/dictionary.bin", "data/digits.npz", "data/digits.LICENSE.txt"):
        assert f"rarefy/{needed}" in packed
    assert any(n.startswith("rarefy/recipes/") for n in packed)
    assert any(n.startswith("rarefy/report/templates/") for n in packed)


def test_the_wheel_has_nothing_else(wheel: zipfile.ZipFile) -> None:
    strange = [n for n in wheel.namelist() if not n.startswith("rarefy") or "cache" in n]
    assert strange == []
    assert sum(i.compress_size for i in wheel.infolist()) < 2_000_000


def test_licences_are_in_the_wheel(wheel: zipfile.ZipFile, metadata: Message) -> None:
    licences = {n for n in wheel.namelist() if ".dist-info/licenses/" in n}
    assert {Path(n).name for n in licences} == {"LICENSE", "digits.LICENSE.txt"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_there_is_one_version(metadata: Message) -> None:
    assert metadata["Version"] == rarefy.__version__
    assert "version" not in PROJECT["project"]


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith("entry_points.txt"))
    assert b"rarefy = rarefy.cli:main" in wheel.read(name)


def imported(folder: Path) -> set[str]:
    """Top-level names that the sources import, wherever in a file."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"rarefy"}


def normal(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    home = packages_distributions()
    used = {name: {normal(d) for d in home.get(name, [name])} for name in imported(ROOT / "src")}
    declared = {normal(r) for r in PROJECT["project"]["dependencies"]}
    extras = PROJECT["project"]["optional-dependencies"].values()
    optional = {normal(r) for extra in extras for r in extra}
    assert [name for name, homes in used.items() if not homes & (declared | optional)] == []
    unused = (declared | optional) - set().union(*used.values())
    assert unused == set()


def test_torch_is_not_capped() -> None:
    (torch,) = (r for r in PROJECT["project"]["dependencies"] if normal(r) == "torch")
    assert "<" not in torch
    assert "==" not in torch
