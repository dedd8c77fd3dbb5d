"""Which file may import which: the dependency direction, read from the sources."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import rarefy

SOURCE = Path(rarefy.__file__).parent
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))
STEPS = "prune_weights", "prune_channels", "cluster_weights", "half", "train", "finetune", "distill", "sparsify"
STEPS += "prune_layers", "factorize", "structure_matrices", "swap_convs", "quantize", "quantize_aware"
STEPS += "product_quantize", "residual_quantize", "binarize", "round_weights"

# A room (a folder, or a file beside them) and the rooms that it may import; what is not here may import all but ABOVE.
MAY = {
    "errors": set(),
    "settings": {"errors"},
    "records": set(),
    "files": {"errors"},
    "numerics": {"errors"},
    "kernels": {"errors"},
    "graph": {"errors"},
    "encodings": {"errors", "graph", "numerics"},
    "layers": {"encodings", "errors", "numerics"},
    "binarizing": {"budget", "calibration", "encodings", "graph", "layers", "step", "task", "train"},
    "calibration": {"errors", "step", "task", "train"},
    "codebooks": {"calibration", "encodings", "errors", "graph", "numerics", "settings", "step", "task", "train"},
    "factoring": {"budget", "calibration", "graph", "numerics", "step", "task", "train"},
    "stand_in": {"budget", "graph", "step", "task", "train"},
    "step": {"encodings", "records", "settings", "task"},
    "task": {"errors"},
    "data": {"errors", "settings", "files"},
    "classification": {"data", "errors", "task"},
    "teacher": {"settings"},
    "lesson": {"numerics", "task", "teacher"},
    "teachers": {
        "encodings",
        "errors",
        "files",
        "lesson",
        "loading",
        "numerics",
        "records",
        "step",
        "task",
        "teacher",
        "train",
    },
    "objective": {"errors", "classification", "lesson", "task"},
    "checkpoint": {"files", "optimizers"},
    "train": {
        "checkpoint",
        "data",
        "encodings",
        "errors",
        "files",
        "graph",
        "lesson",
        "objective",
        "optimizers",
        "records",
        "step",
        "task",
    },
    "training_step": {
        "classification",
        "data",
        "errors",
        "lesson",
        "quantizing",
        "step",
        "teacher",
        "teachers",
        "train",
    },
    "optimizers": set(),
    "ranking": {"graph", "step", "task"},
    "pruning": {"encodings", "errors", "graph", "numerics", "step", "task"},
    "quantizing": {
        "budget",
        "calibration",
        "encodings",
        "errors",
        "graph",
        "layers",
        "measure",
        "numerics",
        "settings",
        "stand_in",
        "step",
        "task",
        "train",
    },
    "budget": {"errors", "export", "graph", "measure", "pack", "settings", "step", "task", "train"},
    "steps": {
        "binarizing",
        "budget",
        "calibration",
        "codebooks",
        "encodings",
        "errors",
        "factoring",
        "graph",
        "layers",
        "loading",
        "numerics",
        "pruning",
        "quantizing",
        "ranking",
        "records",
        "settings",
        "stand_in",
        "step",
        "task",
        "teacher",
        "train",
        "training_step",
        "zoo",
    },
    "recipe": {"conduct", "errors", "recipe_file", "repeat", "run", "settings", "step", "task", "files"},
    "recipe_file": {"errors", "files", "recipe", "repeat", "settings", "step", "steps"},
    "repeat": {"errors", "recipe_file", "settings", "step"},
    "pack": {"errors", "files", "kernels"},
    "runtime": {"errors", "kernels", "pack"},
    "run": {"errors", "rebuild", "files", "records", "report"},
    "report": {"errors", "files", "records"},
    "zoo": {"errors", "layers"},
    "measure": {"errors", "records", "runtime", "pack", "files", "task", "train", "data"},
    "export": {
        "encodings",
        "errors",
        "files",
        "graph",
        "kernels",
        "measure",
        "numerics",
        "records",
        "runtime",
        "task",
        "train",
    },
}
ABOVE = {"__main__", "cli", "show"}  # they see all, and are seen by none
NO_TORCH = (
    "errors",
    "records",
    "settings",
    "files",
    "kernels",
    "pack",
    "runtime",
    "report",
    "run",
    "measure",
    "numerics.clustering",
)


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((SOURCE / path).read_text())


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too; not what only the type checker reads."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree(path)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
        waiting += ast.iter_child_nodes(node)
    return found


def rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("rarefy.")}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_direction(path: Path) -> None:
    own = room(path)
    if own in {*ABOVE, "__init__"}:
        return
    seen = rooms(path) - {own, "__version__"}
    assert not seen & ABOVE
    if own in MAY:
        assert seen <= MAY[own]


@pytest.mark.parametrize("name", STEPS)
def test_no_step_imports_another(name: str) -> None:
    inside = {i for i in imports(Path("steps", f"{name}.py")) if i.startswith("rarefy.steps")}
    assert not inside


def test_the_list_of_steps_is_whole() -> None:
    assert {path.stem for path in FILES if room(path) == "steps"} - {"__init__"} == set(STEPS)


@pytest.mark.parametrize(
    "path", [p for p in FILES if room(p) in {"recipe", "recipe_file", "repeat", "step", "train", "report"}], ids=str
)
def test_no_concrete_step_is_named(path: Path) -> None:
    names = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
    assert not names & {"PruneWeights", "ClusterWeights", "Half", "Finetune"}


@pytest.mark.parametrize(
    "name", ["steps", "encodings", "kernels", "pack", "runtime", "report", "measure", "zoo", "data"]
)
def test_a_room_says_what_is_public(name: str) -> None:
    module = importlib.import_module(f"rarefy.{name}")
    assert sorted(module.__all__) == sorted(set(module.__all__))
    assert all(getattr(module, public) is not None for public in module.__all__)
    body = tree(Path(name, "__init__.py")).body
    bound = {
        a.name
        for n in body
        if isinstance(n, ast.ImportFrom) and n.module != "__future__"
        for a in n.names
        if str(n.module).startswith(f"rarefy.{name}")
    }
    bound |= {n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    bound |= {ast.unparse(n.target) for n in body if isinstance(n, ast.AnnAssign)}
    assert set(module.__all__) >= {b for b in bound if not b.startswith("_")}


def test_public_names_resolve() -> None:
    assert rarefy.__all__ == sorted(rarefy.__all__, key=lambda n: (not n.isupper(), n))
    assert set(rarefy.__all__) == set(rarefy._HOME)
    for name in rarefy.__all__:
        assert getattr(rarefy, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'rarefy' has no attribute 'Prune'"):
        rarefy.Prune  # noqa: B018


def loaded(module: str) -> set[str]:
    """What a fresh interpreter has loaded after importing `module`."""
    code = f"import sys, {module}; print(*(n.partition('.')[0] for n in sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=SOURCE.parent)
    return set(out.stdout.split())


def test_importing_rarefy_is_light() -> None:
    assert not loaded("rarefy") & {"torch", "onnx", "onnxruntime", "pydantic", "numpy", "lightning_fabric", "plotly"}


def test_no_torch_where_it_is_not_needed() -> None:
    joined = ", ".join(f"rarefy.{name}" for name in NO_TORCH)
    assert not loaded(joined) & {"torch", "lightning_fabric"}


def test_files_stay_short() -> None:
    rows = {str(path): len((SOURCE / path).read_text().splitlines()) for path in FILES}
    for name in ("encodings", "graph", "steps", "export"):
        assert {path: count for path, count in rows.items() if path.startswith(name) and count > 250} == {}
