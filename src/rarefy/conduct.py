"""Carrying a recipe out: copy, plan, apply, save, measure; then export, pack, verify, report."""

from __future__ import annotations

import copy
import logging
import time
from pathlib import Path
from typing import Any

from torch import nn

from rarefy import measure, opening, report
from rarefy.encodings import copied
from rarefy.errors import ExportError, ModelError, SettingsError, StepError
from rarefy.export.onnx import Exporter, TensorExporter, example
from rarefy.files import model_tensors, save_tensors
from rarefy.outcome import Measurer
from rarefy.rebuild import rebuilt
from rarefy.recipe import Recipe
from rarefy.records import StepRecord
from rarefy.run import Run
from rarefy.step import Context, Progress, Step, silent
from rarefy.task import Task
from rarefy.train import engine, evaluate

SECONDS = 1.0  # that a step which changed the graph is timed for


def conduct(
    recipe: Recipe,
    model: nn.Module,
    task: Task,
    *,
    out: str | Path,
    seed: int = 0,
    resume: bool = False,
    trained: bool | None = None,
    processes: int = 1,
    name: str | None = None,
    weights: str | None = None,
    command: str | None = None,
    progress: Progress = silent,
) -> Run:
    """Compress a copy of `model` for `task` as `recipe` says, into the folder `out`.

    trained: whether the model has trained weights (a `Train` step is skipped then). Where it is not said, the model
    is judged: what answers better than guessing is trained. resume: continue the run in `out`. processes: for training.
    """
    fabric = engine(processes)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # every process would say that it is there
    fabric.launch()
    run = _Conductor(recipe, model, task, Path(out), seed, fabric, progress)
    run.begin(resume, trained, {"model": name or type(model).__name__, "weights": weights, "command": command})
    result = run.finish(run.steps())
    fabric.barrier()
    return result


class _Conductor:
    """One recipe on its way through one model. Files are written and measured by the first process only."""

    def __init__(
        self, recipe: Recipe, model: nn.Module, task: Task, folder: Path, seed: int, fabric: Any, progress: Progress
    ) -> None:
        self.recipe, self.model, self.task, self.folder = recipe, model, task, folder
        self.seed, self.fabric, self.progress = seed, fabric, progress
        self.first = fabric.global_rank == 0
        self.work = copied(model).cpu().eval()
        self.original: nn.Module | None = None
        self.measurer: Measurer | None = None
        self.alone: nn.Module | None = None  # the student of the last step without its teacher
        self.trained = True

    def begin(self, resume: bool, trained: bool | None, about: dict[str, Any]) -> None:
        """Check everything that can be checked, then open the folder."""
        self.inputs = example(self.task.judge(), self.work)
        world = self.fabric.world_size
        key = opening.fingerprint(self.recipe, self.seed, self.task, self.work, world)
        run = opening.old(self.folder, resume, key, len(self.recipe.steps))
        if run is None:
            self.trained = self._is_trained() if trained is None else trained
            self._checked_start()
            run = opening.new(self.folder, self.recipe, self.task, self.seed, self.trained, world, about, key)
            self.fabric.barrier()
            if self.first:
                run.save()
        self.run, self.trained = run, not run.record.trained_from_scratch
        if self.first:
            done = [path for s in run.record.steps for path in opening.states(self.folder, s.index)]
            for rest in [*opening.unfinished(self.folder), *done]:
                rest.unlink(missing_ok=True)

    def _is_trained(self) -> bool:
        """Whether the network answers better than guessing; where that is not known, whether the recipe trains it."""
        chance = self.task.chance()
        if chance is None:
            return type(self.recipe.steps[0]).__name__ != "Train"
        value = evaluate(self.work, self.task.judge(), self.task)
        return value > chance + (1 - chance) / 20

    def _checked_start(self) -> None:
        if not self.trained and not self.recipe.steps[0].trains:
            raise ModelError(
                f"{type(self.work).__name__} has no trained weights, and the recipe {self.recipe.name!r} does not "
                "train it first; give --weights FILE, or a recipe that begins with `Train: {epochs: ...}`"
            )
        self._dry_run()

    def _dry_run(self) -> None:
        """Plan each step on the network as it is now, to find what cannot work before any work is done."""
        wrong: list[str] = []
        for step in self.recipe.distinct():
            try:
                step.plan(self.work, self._context(0))
            except SettingsError as error:
                wrong += error.problems
            except StepError as error:
                wrong.append(str(error))
            if step.structural:  # later ones see another network
                break
        if wrong:
            raise SettingsError(list(dict.fromkeys(wrong)))

    def _context(self, index: int) -> Context:
        return Context(
            task=self.task,
            seed=self.seed + 1000 * index,
            trained=self.trained,
            original=self.original,
            checkpoint=opening.checkpoint(self.folder, index),
            fabric=self.fabric,
            progress=self._progress_of(index) if self.first else silent,
        )

    def _progress_of(self, index: int) -> Progress:
        return lambda label, done, of: self.progress(f"{index}/{len(self.recipe.steps)} {label}", done, of)

    def steps(self) -> Run:
        """Run what is left of the recipe."""
        steps, done = self.recipe.steps, len(self.run.record.steps)
        self._begin_measuring(steps, done)
        if done:
            self.work = rebuilt(self.run, self.model, done, trust=True)
            self._follow([(s, bool(r.plan["do"])) for s, r in zip(steps, self.run.record.steps, strict=False)])
        for index, step in enumerate(steps[done:], start=done + 1):
            self._step(index, step)
            if index == 1 and self._begins_by_training(steps):
                self._measure_original(self.work)
            self._measure(index)
            if self.first:
                self.run.save()
                for path in opening.states(self.folder, index):
                    path.unlink()
            self.fabric.barrier()
        return self.run

    def _begins_by_training(self, steps: list[Step]) -> bool:
        return not self.trained and steps[0].trains

    def _begin_measuring(self, steps: list[Step], done: int) -> None:
        """The network that all others are compared to is the given one, or the one that the recipe trains first."""
        if not self._begins_by_training(steps):
            self._measure_original(self.work)
        elif done:
            self._measure_original(rebuilt(self.run, self.model, 1, trust=True))

    def _measure_original(self, model: nn.Module) -> None:
        self.original = copy.deepcopy(model).eval().requires_grad_(False)
        if self.first:
            self.measurer = Measurer(self.task, self._exporter(model))
            self.folder.mkdir(parents=True, exist_ok=True)
            self.run.record.original = self.measurer.remember(model, self.run.original)

    def _exporter(self, model: nn.Module) -> Exporter | TensorExporter:
        try:
            return Exporter(model, self.inputs, self.task.metadata())
        except ExportError as error:
            return TensorExporter(str(error), self.task.metadata())

    def _step(self, index: int, step: Step) -> None:
        began, name = time.perf_counter(), type(step).__name__
        context = self._context(index)
        context.progress(name, 0, 1)
        try:
            plan = step.plan(self.work, context)
            self.work = step.apply(self.work, plan, context)
        except StepError as error:
            raise StepError(f"step {index}: {error}") from None
        tensors = f"steps/{index:02d}-{name}.safetensors"
        if self.first:
            save_tensors(self.folder / tensors, model_tensors(self.work))
        self.run.record.steps.append(
            StepRecord(
                index=index,
                name=name,
                settings=step.model_dump(mode="json"),
                plan=plan.model_dump(mode="json"),
                notes=plan.layer_notes() + context.notes,
                curve=context.curve,
                teachers=context.teachers,
                seconds=time.perf_counter() - began,
                tensors=tensors,
                warnings=context.warnings,
            )
        )
        self.alone = context.alone
        self.changed = self._follow([(step, bool(plan.do))])

    def _follow(self, done: list[tuple[Step, bool]]) -> bool:
        """Export what is there now, if one of these steps (and whether it changed anything) left another graph; a
        network in the place of another has no tensors in common with it."""
        others = [step for step, changed in done if step.structural or (step.trains and changed)]
        if self.measurer and others:
            self.measurer.exporter = self._exporter(self.work)
            if any(step.trains and not step.structural for step in others):
                self.measurer.original_tensors = {}
        return bool(others)

    def _measure(self, index: int) -> None:
        """Measure on files; they are in the way of no one and gone afterwards."""
        if self.measurer is None:
            return
        onnx = self.folder / "steps" / f".{index:02d}.onnx"
        record = self.run.record.steps[-1]
        rfy = onnx.with_suffix(".rfy")
        try:
            if self.alone is not None:
                record.alone = self.measurer.files(self.alone, onnx, rfy).measurement
            record.measurement = self.measurer.files(self.work, onnx, rfy).measurement
            if self.changed and isinstance(self.measurer.exporter, Exporter):
                record.measurement.latency = measure.latency(onnx, self.run.original, seconds=SECONDS)
        finally:
            onnx.unlink(missing_ok=True)
            rfy.unlink(missing_ok=True)
        before = self.run.record.steps[-2].measurement if index > 1 else self.run.record.original
        if before and before.sizes.rfy and record.measurement.sizes.rfy:
            grown = record.measurement.sizes.rfy - before.sizes.rfy
            if grown > 0 and not self.recipe.steps[index - 1].trains:
                record.warnings.append(f"the pack grew by {grown:,} bytes in this step")

    def finish(self, run: Run) -> Run:
        """Write, measure and report what is shipped."""
        if self.first and self.measurer:
            reasons = {
                note.parameter: f"{note.left} ({s.name})"
                for step, s in zip(self.recipe.steps, run.record.steps, strict=True)
                for note in s.notes
                if note.left and (step.structural or not step.trains)
            }
            self.progress("measuring the result", 0, 1)
            run.record.outcome = self.measurer.outcome(self.work, run, reasons)
            run.save()
            report.write([(run.folder.name, run.record)], run.report)
        return run
