from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COMMANDS = ("compress", "demo", "inspect", "measure", "pack", "unpack", "verify", "report", "methods")
GOOD = ("compress", "net.py:linear", "--data", "data.npz", "--recipe", "quick.yaml", "--batch-size", "8")


def one_line(err: str) -> str:
    """The message: one line, begun with the program's name."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("rarefy: ")
    return lines[0]


def in_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


# What answers at once


def test_help_loads_no_heavy_library() -> None:
    loaded = in_python(
        "import sys; sys.argv = ['rarefy', '--help']\n"
        "import rarefy.cli, atexit\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'pydantic', 'rich', 'yaml', 'lightning_fabric'}\n"
        "atexit.register(lambda: print('HEAVY', heavy & set(sys.modules)))\n"
        "rarefy.cli.main()"
    )
    assert "Usage: rarefy" in loaded
    assert "HEAVY set()" in loaded


def test_import_rarefy_loads_no_torch() -> None:
    assert in_python("import sys, rarefy; print('torch' in sys.modules)").strip() == "False"


def test_without_a_command_it_shows_its_help(rarefy: Any) -> None:
    said = rarefy()
    assert said.status == 0
    assert all(command in said.out for command in COMMANDS)
    assert said.err == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(rarefy: Any, command: str) -> None:
    said = rarefy(command, "--help")
    assert said.status == 0
    assert f"rarefy {command}" in said.out
    assert max(map(len, said.out.splitlines())) <= 80


def test_version(rarefy: Any) -> None:
    from rarefy import __version__

    assert rarefy("--version").out == f"rarefy {__version__}\n"
    said = rarefy("--version", "--verbose")
    assert "onnxruntime " in said.out
    assert "cores" in said.out


# How commands end


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("compress",), "Missing argument 'MODEL'"),
        (("compress", "x", "--nope"), "No such option: --nope"),
        (("compress", "x", "--seed", "-1"), "greater than or equal to 0"),
        (("compress", "x", "--seed", str(2**32)), "less than or equal to 4294967295"),
        (("compress", "x", "--seed", "one"), "valid integer"),
        (("compress", "lenet5"), "--data is missing"),
        (("methods", "nonsense"), "no step 'nonsense'; there are Train, "),
        (("inspect", "lenet6"), "did you mean lenet5"),
        (("pack", "missing.onnx"), "missing.onnx"),
        (("pack", "model.rfy"), "a pack already"),
        (("unpack", "missing.rfy"), "missing.rfy: cannot be read"),
        (("verify", "missing.rfy"), "missing.rfy: cannot be read"),
        (("report", "nowhere"), "nowhere is not a run folder"),
        (("measure", "nothing.onnx"), "nothing.onnx"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(rarefy: Any, place: Path, words: tuple[str, ...], message: str) -> None:
    said = rarefy(*words)
    assert said.status == 2
    assert message in one_line(said.err)
    assert said.out == ""


@pytest.mark.parametrize("words", [("--debug", "methods", "x"), ("methods", "x", "--debug")])
def test_debug_shows_the_traceback_wherever_it_stands(rarefy: Any, words: tuple[str, ...]) -> None:
    said = rarefy(*words)
    assert said.status == 2
    assert "Traceback" in said.err


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("odd"), 1, "unexpected ValueError: odd (--debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted; a compression continues with --resume"),
        (OSError(28, "No space left on device", "/x/y"), 2, "cannot read or write /x/y: No space left on device"),
    ],
)
def test_what_nobody_foresaw_is_one_line_too(
    rarefy: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, message: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("rarefy.inspection.table", fail)
    said = rarefy("methods")
    assert said.status == status
    assert message in one_line(said.err)


# Bad input leaves nothing behind


def broken_folder(place: Path, classes: tuple[str, ...], bad: bool) -> None:
    from PIL import Image

    for name in classes:
        (place / "images" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(place / "images" / name / f"{i}.png")
    if bad:
        (place / "images" / classes[0] / "4.png").write_bytes(b"no image")


RECIPES = {
    "yaml": ("steps: [Half", "line 1: not the YAML of a recipe"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nsteps: [*b]", "aliases (*name) are not read"),
    "code": ("steps: [!!python/object/apply:os.getcwd []]", "could not determine a constructor"),
    "empty": ("", "expected a mapping with a list of `steps`, not None"),
    "step": ("steps: [PruneWeigths]", "no step is called 'PruneWeigths'; did you mean PruneWeights?"),
    "field": ("steps: [{Train: {epoch: 3, epochs: 1}}]", "Train.epoch: no such setting; Train has: epochs"),
    "value": (
        "steps: [{PruneWeights: {sparsity: 1.5}}]",
        "PruneWeights.sparsity: Input should be less than 1, not 1.5",
    ),
    "glob": (
        "steps: [{Train: {epochs: 1}}, {PruneWeights: {sparsity: 0.5, skip: [fc9*]}}]",
        "no parameter matches fc9*",
    ),
    "untrained": ("steps: [Half]", "has no trained weights"),
    "holdout": ("steps: [{Train: {epochs: 1, keep: best}}]", "choose by held-out examples, and the task has none"),
}


@pytest.mark.parametrize(("text", "message"), RECIPES.values(), ids=RECIPES)
def test_bad_recipes(rarefy: Any, place: Path, text: str, message: str) -> None:
    (place / "quick.yaml").write_text(text)
    said = rarefy(*GOOD, "--out", "out")
    assert said.status == 2
    assert message in one_line(said.err)
    assert not (place / "out").exists()


def test_every_problem_of_a_recipe_in_one_go(rarefy: Any, place: Path) -> None:
    (place / "quick.yaml").write_text("stepz: 1\nsteps: [{Train: {epochs: 0, lr: -1}}, Trian, 7]")
    said = rarefy(*GOOD)
    assert said.status == 2
    for part in ("stepz", "Train.epochs", "Train.lr", "'Trian'; did you mean Train?", "not 7"):
        assert part in said.err


MODELS = {
    "file": ("other.py:linear", "there is no file other.py"),
    "function": ("net.py:nothing", "net.py has no function 'nothing'"),
    "raises": ("net.py:raises", "failed with KeyError: 'no such thing' ("),
    "argument": ("net.py:wants", "cannot be called without arguments"),
    "type": ("net.py:number", "returned int; expected a network"),
    "module": ("no_such_module:f", "No module named 'no_such_module'"),
    "syntax": ("broken.py:f", "broken.py, line 1"),
    "shape": ("net.py:colour", "first weight has shape (4, 3, 3, 3), the data give inputs of shape (2, 1, 8, 8)"),
    "zoo": ("lenet5", "made for images of 1x28x28 and cannot be fitted to those of 1x8x8"),
}


@pytest.mark.parametrize(("model", "message"), MODELS.values(), ids=MODELS)
def test_bad_models(rarefy: Any, place: Path, model: str, message: str) -> None:
    (place / "broken.py").write_text("def f(:\n")
    said = rarefy("compress", model, *GOOD[2:], "--out", "out")
    assert said.status == 2
    assert message in one_line(said.err)
    assert not (place / "out").exists()


DATA = {
    "one class": (("--data", "images"), "expected two classes or more, found only the folder 'a'"),
    "function": (("--data", "net.py:linear"), "returned Sequential; expected a rarefy.Task"),
    "mean": (("--mean", "x"), "--mean: expected numbers such as 0.5 or 0.49,0.48,0.45, not 'x'"),
    "mean alone": (("--mean", "0.5"), "mean and std go together"),
    "means": (("--mean", "0.5,0.5,0.5", "--std", "1,1,1"), "a finite number for each of the 1 channel(s)"),
    "nan": (("--mean", "nan", "--std", "1"), "a finite number for each of the 1 channel(s), not [nan] and [1.0]"),
    "std": (("--mean", "0.5", "--std", "0"), "std must be above 0"),
    "holdout": (("--holdout", "1.5"), "holdout is a share"),
    "resize": (("--resize", "4"), "resize and crop are for folders of images"),
}


@pytest.mark.parametrize(("words", "message"), DATA.values(), ids=DATA)
def test_bad_data(rarefy: Any, place: Path, words: tuple[str, ...], message: str) -> None:
    broken_folder(place, ("a",), False)
    said = rarefy(*GOOD, *words, "--out", "out")
    assert said.status == 2
    assert message in one_line(said.err)
    assert not (place / "out").exists()


def test_missing_data_lists_the_forms_that_there_are(rarefy: Any, place: Path) -> None:
    said = rarefy(*GOOD, "--data", "nowhere", "--out", "out")
    assert said.status == 2
    assert "nowhere: no such file or folder; data is one of" in said.err
    assert not (place / "out").exists()


def test_unreadable_images_are_named(rarefy: Any, place: Path) -> None:
    broken_folder(place, ("a", "b"), True)
    said = rarefy(*GOOD, "--data", "images", "--out", "out")
    assert said.status == 2
    assert "images/a/4.png" in said.err
    assert not (place / "out").exists()


def test_data_to_judge_on_only_cannot_train(rarefy: Any, place: Path) -> None:
    broken_folder(place, ("test/a", "test/b"), False)
    said = rarefy(*GOOD, "--data", "images", "--out", "out")
    assert said.status == 2
    assert "no training examples, and this step trains" in one_line(said.err)
    assert not (place / "out").exists()


# Another student


def test_student_replaces_that_of_the_recipe(rarefy: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rarefy.outcome.Measurer._running_costs", lambda *_: None)
    (place / "taught.yaml").write_text("steps: [{Train: {epochs: 1}}, {Distill: {epochs: 1, student: lenet5}}]")
    words = ("lenet-300-100", "--data", "data.npz", "--recipe", "taught.yaml", "--out", "out", "--batch-size", "8")
    said = rarefy("compress", *words, "--student", "net.py:linear", "--json")
    assert said.status == 0, said.err
    record = json.loads(said.out)["record"]
    assert record["recipe"]["steps"][1]["Distill"]["student"] == "net.py:linear"
    assert record["model"] == "lenet-300-100"
    assert record["outcome"]["measurement"]["parameters"] == 64 * 40 + 40 + 40 * 4 + 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--student", "lenet5"), "--student lenet5: the recipe 'quick' has no Distill step that could train it"),
        (("--recipe", "taught.yaml", "--student", "lenet6"), "did you mean lenet5"),
        (("--recipe", "taught.yaml", "--student", "net.py:number"), "net.py:number returned int; expected a network"),
        (("--recipe", "taught.yaml", "--student", "net.py:colour"), "the student cannot take this task's inputs"),
    ],
)
def test_bad_students(rarefy: Any, place: Path, words: tuple[str, ...], message: str) -> None:
    (place / "taught.yaml").write_text("steps: [{Train: {epochs: 1}}, {Distill: {epochs: 1}}]")
    said = rarefy(*GOOD, *words)
    assert said.status == 2
    assert message in one_line(said.err)
    assert not (place / "runs").exists()


OUTS = {
    "a file": (lambda p: p.write_text("x"), "Not a directory"),
    "not a run": (lambda p: (p.mkdir(), (p / "thesis.tex").write_text("x")), "is not empty and no run"),
    "no record": (lambda p: (p.mkdir(), (p / "run.json").write_text("{}")), "holds a run already"),
}


@pytest.mark.parametrize(("make", "message"), OUTS.values(), ids=OUTS)
def test_a_used_folder_is_left_alone(rarefy: Any, place: Path, make: Any, message: str) -> None:
    out = place / "out"
    make(out)
    before = sorted((p, p.read_bytes()) for p in place.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    said = rarefy(*GOOD, "--out", "out")
    assert said.status == 2
    assert message in one_line(said.err)
    after = sorted((p, p.read_bytes()) for p in place.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert after == before


def test_an_unwritable_place_is_one_line(rarefy: Any, place: Path) -> None:
    said = rarefy(*GOOD, "--out", "/proc/nothing/out")
    assert said.status == 2
    assert "cannot write /proc/nothing/out/run.json" in one_line(said.err)


def test_a_full_disk_is_one_line_and_resume_goes_on(rarefy: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        said = rarefy(*GOOD, "--out", "out")
    assert said.status == 2
    assert "cannot write out/run.json" in one_line(said.err)
    assert "No space left on device; free space or choose another folder" in said.err
    assert [p for p in place.glob("out/**/*") if p.is_file()] == []


# The commands that look, on a finished run


def test_json_is_one_object_and_nothing_else(rarefy: Any, finished: Path) -> None:
    for words, key in (
        (("methods",), "methods"),
        (("methods", "half"), "settings"),
        (("inspect", "net.py:linear", "--data", "data.npz"), "layers"),
        (("verify", "run", "--data", "data.npz"), "claims"),
        (("verify", "run/model.rfy", "--data", "data.npz"), "claims"),
        (("unpack", "run/model.rfy", "-o", "plain.onnx"), "bytes"),
        (("pack", "plain.onnx"), "tensors"),
        (("report", "run"), "file"),
    ):
        said = rarefy(*words, "--json")
        assert said.status == 0, said.err
        assert key in json.loads(said.out)
        assert said.err == ""


def test_verify_tells_what_does_not_hold(rarefy: Any, finished: Path) -> None:
    record = json.loads((finished / "run/run.json").read_text())
    record["outcome"]["measurement"]["quality"]["value"] = 0.123
    (finished / "run/run.json").write_text(json.dumps(record))
    said = rarefy("verify", "run", "--data", "data.npz")
    assert said.status == 1
    assert "12.3000%" in said.out
    assert "DOES NOT HOLD" in said.out
    assert one_line(said.err).endswith("claims of run do not hold")


@pytest.mark.parametrize("command", ["verify", "unpack", "measure"])
def test_a_damaged_pack_is_refused(rarefy: Any, finished: Path, command: str) -> None:
    data = bytearray((finished / "run/model.rfy").read_bytes())
    for name, bad in (("cut", data[:-9]), ("flipped", data[:200] + bytes([data[200] ^ 1]) + data[201:]), ("none", b"")):
        (finished / f"{name}.rfy").write_bytes(bad)
        said = rarefy(command, f"{name}.rfy")
        assert said.status == 2
        assert f"{name}.rfy: " in one_line(said.err)
        assert not (finished / f"{name}.onnx").exists()


def test_measure_shows_files_side_by_side(rarefy: Any, finished: Path) -> None:
    said = rarefy("measure", "run/original.onnx", "run/model.rfy", "--data", "data.npz", "--json")
    assert said.status == 0, said.err
    first, second = json.loads(said.out)["files"]
    assert first["bytes"] == (finished / "run/original.onnx").stat().st_size
    assert second["bytes"] == (finished / "run/model.rfy").stat().st_size
    assert first["nonzero"] > second["nonzero"]
    assert first["quality"]["examples"] == 40
