from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from rarefy import Recipe, Run, conduct, files, loading, pack, steps, train
from rarefy.demands import demand
from rarefy.errors import DemandError, InputError, ModelError, RunError
from rarefy.pack import Contents
from rarefy.step import Context, Plan, Step


class Killed(BaseException):
    """The process is gone: nothing may catch it."""


def compress(out: str, **options: Any) -> Run:
    task = loading.task("data.npz", batch_size=options.pop("batch_size", 8))
    network = loading.network("net.py:linear", seed=options.get("seed", 0))
    return Recipe.load("quick.yaml").run(network.model, task, out=out, **{"trained": False, **options})


def die(*_: object, **__: object) -> None:
    """End as if the process were gone."""
    raise Killed


def kill_at(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """Let the next run end at `moment`."""

    def when(call: Callable[..., Any], condition: Callable[..., bool]) -> Callable[..., Any]:
        return lambda *a, **k: die() if condition(*a, **k) else call(*a, **k)

    if moment == "tensors written, record not":
        monkeypatch.setattr(conduct._Conductor, "_measure", die)
    elif moment == "before the tensors":
        monkeypatch.setattr(conduct, "save_tensors", die)
    elif moment == "inside a training":
        monkeypatch.setattr(train._Training, "epoch", when(train._Training.epoch, lambda t: t.done == 3))
    elif moment == "while writing a file":
        monkeypatch.setattr(
            files.os, "replace", when(files.os.replace, lambda _a, b: str(b).endswith("03-Finetune.safetensors"))
        )
        monkeypatch.setattr(files.Path, "unlink", when(Path.unlink, lambda p, **_: p.name.startswith(".03")))
    elif moment == "result packed, not recorded":
        monkeypatch.setattr("rarefy.outcome.parity", die)
    elif moment == "recorded, not reported":
        monkeypatch.setattr(conduct.report, "write", die)


MOMENTS = (
    "tensors written, record not",
    "before the tensors",
    "inside a training",
    "while writing a file",
    "result packed, not recorded",
    "recorded, not reported",
)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run costs to run is not measured, and states are saved after every epoch."""
    monkeypatch.setattr("rarefy.outcome.Measurer._running_costs", lambda *_: None)
    monkeypatch.setattr(train, "SAVE_EVERY", 0.0)
    made: dict[tuple[str, int], Any] = {}
    export = conduct._Conductor._exporter

    def once(conductor: Any, model: Any) -> Any:
        """Tracing takes longest, and networks of one kind share it."""
        kind = type(conductor.task).__name__, sum(p.numel() for p in model.parameters())
        if kind not in made:
            made[kind] = export(conductor, model)
        return made[kind]

    monkeypatch.setattr(conduct._Conductor, "_exporter", once)


def test_killed_at_any_moment_resume_ends_with_the_same_bytes(
    finished: Path, monkeypatch: pytest.MonkeyPatch, cheap: None
) -> None:
    expected = (finished / "run" / "model.rfy").read_bytes()
    for moment in MOMENTS:
        shutil.rmtree("killed", ignore_errors=True)
        with monkeypatch.context() as patched:
            if moment == "result packed, not recorded":
                patched.setattr("rarefy.outcome.Measurer._running_costs", lambda *_: (_ for _ in ()).throw(Killed))
            else:
                kill_at(patched, moment)
            with pytest.raises(Killed):
                compress("killed")
        run = compress("killed", resume=True)
        assert run.rfy.read_bytes() == expected, moment
        assert run.finished
        assert {p.name for p in run.folder.iterdir()} == {p.name for p in Path("run").iterdir()}, moment
        assert {p.name for p in run.folder.glob("steps/*")} == {p.name for p in Path("run/steps").iterdir()}, moment


class Split(Step):
    """The first layer as two."""

    gains: ClassVar[str] = "for tests"
    paper: ClassVar[str] = "-"
    structural: ClassVar[bool] = True

    def plan(self, model: nn.Module, context: Context) -> Plan:
        return Plan(do={"1.weight": {"rank": 10}}, leave=dict.fromkeys(("1.bias", "3.weight", "3.bias"), "-"))

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        flatten, first, relu, last = model.children()
        down, up = nn.Linear(64, 10, bias=False), nn.Linear(10, 40)
        with torch.no_grad():
            down.weight.copy_(first.weight[:10])
            up.weight.copy_(torch.eye(40, 10))
            up.bias.copy_(first.bias)
        return nn.Sequential(flatten, down, up, relu, last)


def test_resumed_after_the_structure_has_changed(place: Path, monkeypatch: pytest.MonkeyPatch, cheap: None) -> None:
    monkeypatch.setattr(steps, "ALL", (*steps.ALL, Split))
    Path("quick.yaml").write_text("steps: [{Train: {epochs: 2, lr: 0.01}}, Split, {Finetune: {epochs: 1}}]")
    expected = compress("whole")
    epoch = train._Training.epoch
    with monkeypatch.context() as patched:
        patched.setattr(train._Training, "epoch", lambda t: die() if len(list(t.model.children())) == 5 else epoch(t))
        with pytest.raises(Killed):
            compress("killed")
    run = compress("killed", resume=True)
    assert [s.name for s in Run.open("killed").record.steps] == ["Train", "Split", "Finetune"]
    assert run.rfy.read_bytes() == expected.rfy.read_bytes()
    assert run.onnx.stat().st_size < run.original.stat().st_size
    assert run.original.read_bytes() == expected.original.read_bytes()


def test_resume_with_other_words_about_the_recipe(finished: Path) -> None:
    packed = Run.open("run").rfy.read_bytes()
    Path("quick.yaml").write_text("about: In other words.\n" + Path("quick.yaml").read_text())
    assert compress("run", resume=True).rfy.read_bytes() == packed


def test_resume_with_other_settings_is_refused(finished: Path) -> None:
    for options in ({"seed": 1}, {"batch_size": 4}):
        with pytest.raises(RunError, match="was made with another network, recipe, data or seed"):
            compress("run", resume=True, **options)
    text = Path("quick.yaml").read_text()
    Path("quick.yaml").write_text(text.replace("0.5", "0.6"))
    with pytest.raises(RunError, match="was made with another network, recipe, data or seed"):
        compress("run", resume=True)


def test_resume_with_other_threads_is_refused_where_bytes_depend_on_them(finished: Path, cheap: None) -> None:
    record = Run.open("run").record
    record.environment.threads += 1
    Run(Path("run"), record).save()
    compress("run", resume=True)  # all steps are done
    record.steps.pop()
    Run(Path("run"), record).save()
    more = record.environment.threads
    with pytest.raises(RunError, match=rf"begun with {more} threads, now there are {more - 1}.* --threads {more}"):
        compress("run", resume=True)


def test_a_disk_that_fills_up_while_measuring_leaves_whole_files_only(
    place: Path, monkeypatch: pytest.MonkeyPatch, cheap: None
) -> None:
    write = pack.write

    def full(model: Any, path: Path) -> Contents:
        if path.name == ".01.rfy":
            raise InputError("cannot write it: No space left on device")
        return write(model, path)

    monkeypatch.setattr("rarefy.outcome.pack.write", full)
    with pytest.raises(InputError, match="No space left"):
        compress("full")
    assert Path("full/original.onnx").exists()
    assert [p.name for p in Path("full").rglob(".*")] == []


def test_a_finished_run_is_not_overwritten(finished: Path) -> None:
    before = {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()}
    with pytest.raises(RunError, match="holds a run already; continue it with resume, or choose another folder"):
        compress("run")
    assert {p: p.read_bytes() for p in Path("run").rglob("*") if p.is_file()} == before


def test_a_damaged_record_stops_a_resume(finished: Path) -> None:
    Path("run/run.json").write_bytes(Path("run/run.json").read_bytes()[:-100])
    with pytest.raises(RunError, match=r"run\.json is not the record of a run"):
        compress("run", resume=True)


def test_a_network_without_weights_needs_a_recipe_that_trains(place: Path) -> None:
    Path("quick.yaml").write_text("steps: [{PruneWeights: {sparsity: 0.5}}]")
    with pytest.raises(ModelError, match="has no trained weights, and the recipe 'quick' does not train it first"):
        compress("out")
    assert not Path("out").exists()


def test_whether_a_network_is_trained_is_judged_where_it_is_not_said(finished: Path, cheap: None) -> None:
    Path("quick.yaml").write_text("steps: [{PruneWeights: {sparsity: 0.5}}]")
    with pytest.raises(ModelError, match="has no trained weights"):
        compress("out", trained=None)
    torch.save(Run.open("run").restore(loading.network("net.py:linear").model, 1).state_dict(), "w.pt")
    model = loading.network("net.py:linear", Path("w.pt")).model
    run = Recipe.load("quick.yaml").run(model, loading.task("data.npz"), out="out")
    assert not run.record.trained_from_scratch
    assert run.record.original is not None
    assert run.record.original.quality is not None
    assert run.record.original.quality.value > 0.9


def test_the_users_task_two_inputs_and_a_dict(place: Path, cheap: None) -> None:
    Path("quick.yaml").write_text("steps: [{Train: {epochs: 2, lr: 0.05}}, {ClusterWeights: {bits: 2}}]")
    model = loading.network("net.py:Two").model
    before = {n: t.clone() for n, t in model.state_dict().items()}
    run = Recipe.load("quick.yaml").run(model, loading.task("net.py:regression"), out="out")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert run.record.original is not None
    assert run.record.original.quality is not None
    assert run.record.original.quality.metric == "closeness"
    losses = [e.loss for e in run.record.steps[0].curve]
    assert losses[1] < losses[0]


def test_demands(finished: Path) -> None:
    run = Run.open("run")
    demand(run, None, 100)
    with pytest.raises(DemandError, match=r"a speed-up of 1000 was required, .* was measured.* The results are in run"):
        demand(run, 1000)
    assert run.record.outcome is not None
    assert run.record.outcome.measurement.quality is not None
    run.record.outcome.measurement.quality.value -= 0.1
    with pytest.raises(DemandError, match="at most 5 points may be lost, "):
        demand(run, drop=5)


def test_a_resume_touches_nothing_but_its_own(finished: Path) -> None:
    (finished / ".notes").write_text("mine")
    compress("run", resume=True)
    assert (finished / ".notes").read_text() == "mine"


def test_a_folder_that_is_no_run_is_not_resumed(place: Path) -> None:
    folder = place / "thesis"
    folder.mkdir()
    (folder / ".run.json.x1").write_text("begun by a process that was killed")
    (folder / ".draft").write_text("mine")
    with pytest.raises(RunError, match="thesis is not empty and no run"):
        compress("thesis", resume=True)
    assert sorted(p.name for p in folder.iterdir()) == [".draft", ".run.json.x1"]
