"""The only training loop."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from rarefy import checkpoint, encodings, optimizers
from rarefy.data.augment import Augment
from rarefy.errors import StepError
from rarefy.files import model_tensors, restore
from rarefy.graph.weights import weights
from rarefy.lesson import Lesson
from rarefy.objective import Joined, Objective, building
from rarefy.records import Epoch
from rarefy.step import Context
from rarefy.task import Batches, Task, forward, scores

if TYPE_CHECKING:
    from rarefy.training_step import TrainingStep

BeforeStep = Callable[[float], None]  # share of the training that is done
AfterStep = Callable[[float, float], None]  # learning rate, share of the training that is done
MANY = "ddp_find_unused_parameters_true"  # networks may have parts that a batch does not reach
SAVE_EVERY = 10.0  # seconds that may be lost when the process is killed, at the end of an epoch


def engine(processes: int = 1) -> Any:
    """What places modules and batches on devices and joins processes: a Lightning Fabric.

    One process takes the GPU where there is one; several on a CPU talk through gloo. Under `torchrun` its
    environment decides, over one machine or many.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        return Fabric(devices=local, num_nodes=int(os.environ["WORLD_SIZE"]) // local, strategy=MANY)
    return Fabric(devices=processes, strategy=MANY if processes > 1 else "auto")


def fit(
    model: nn.Module,
    settings: TrainingStep,
    context: Context,
    *,
    lesson: Lesson | None = None,
    before: BeforeStep | None = None,
    after: AfterStep | None = None,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> nn.Module:
    """Train `model` in place and give it back in eval mode; the curve goes to `context.curve`.

    lesson: the loss of a teacher; the task's own by default. before, after: called before and after every step of the
    optimizer with the share of the training that is done, the latter with the learning rate too; it may change weights.
    rates: parameters with a rate of their own, as a share of the learning rate. Every epoch's random numbers follow
    from (seed, epoch, rank) alone, so a training that was interrupted continues as if it had not been.
    """
    with torch.random.fork_rng():
        training = _Training(model, settings, context, lesson, before, after, rates)
        training.resume()
        while not training.finished:
            training.epoch()
        return training.result()


class _Training:
    """Everything that is kept from one epoch to the next."""

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingStep,
        context: Context,
        lesson: Lesson | None = None,
        before: BeforeStep | None = None,
        after: AfterStep | None = None,
        rates: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        self.settings, self.context, self.task = settings, context, context.task
        self.before, self.after = before, after
        self.fabric = context.fabric or engine()
        self.model = model
        self.objective = Objective(model, settings, context.task, lesson).train()
        self.home = next(model.parameters()).device  # where the network goes back to
        if settings.channels_last:
            self.objective.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = optimizers.make(self.objective, settings, rates)
        self.wrapped, self.wrapped_optimizer = self.fabric.setup(
            Joined(self.objective) if self.fabric.world_size > 1 else self.objective, self.optimizer
        )
        self.encoded = [(weight.values, link) for weight in weights(model) for link in encodings.chain(weight)]
        self.done = 0  # epochs
        self.best: tuple[float, int] | None = None  # validation metric, epoch
        self.best_tensors: dict[str, Tensor] = {}
        self.per_epoch = len(self._batches(0))
        if self.per_epoch == 0:
            raise StepError(f"{type(settings).__name__}: there is not one batch to train on")
        self.total = settings.steps or (settings.epochs or 1) * self.per_epoch
        self.saved = time.monotonic()

    @property
    def finished(self) -> bool:
        if self.done * self.per_epoch >= self.total:
            return True
        patience = self.settings.patience
        return patience is not None and self.best is not None and self.done - self.best[1] >= patience

    def _seed(self, *more: int) -> int:
        return int(np.random.SeedSequence([self.context.seed, *more]).generate_state(1)[0])

    def _batches(self, epoch: int) -> Batches:
        return self.task.train(seed=self._seed(epoch), rank=self.fabric.global_rank, world=self.fabric.world_size)

    def epoch(self) -> None:
        """One pass, or what is left of `steps`; then validation, record and state on disk."""
        began = time.perf_counter()
        first = self.done * self.per_epoch
        seed = self._seed(self.done, 1 + self.fabric.global_rank)
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        losses = []
        for step, batch in enumerate(self._batches(self.done), start=first):
            if step == self.total:
                break
            if self.before:
                self.before(step / self.total)
            rate = self._set_rate(step)
            losses.append(self._step(*batch, generator))
            if self.after:
                self.after(rate, (step + 1) / self.total)
            self.context.progress(type(self.settings).__name__, step + 1, self.total)
        self.done += 1
        if any(link.drawn for _, link in self.encoded):
            take_statistics(self.model, (self.fabric.to_device(batch[0]) for batch in self._batches(self.done)))
        self._synchronise()
        loss = float(self.fabric.all_reduce(torch.stack(losses).mean(), reduce_op="mean"))
        if not math.isfinite(loss):
            raise StepError(
                f"{type(self.settings).__name__}: the loss became {loss} in epoch {self.done}; "
                f"lower lr (now {self.settings.lr:g}) or set clip"
            )
        score = self._validate()
        self.context.curve.append(
            Epoch(epoch=self.done, loss=loss, lr=rate, seconds=time.perf_counter() - began, validation=score)
        )
        self._save()

    def _step(self, inputs: Any, target: Any, generator: torch.Generator) -> Tensor:
        inputs, target = self.fabric.to_device((inputs, target))
        inputs = _augmented(inputs, self.settings, generator)
        mixed = self.settings.precision == "bfloat16"
        with building(self.settings.compile):
            with torch.autocast(self.fabric.device.type, torch.bfloat16, enabled=mixed):
                loss: Tensor = self.wrapped(inputs, target)
            self.wrapped_optimizer.zero_grad()
            self.fabric.backward(loss)
        if self.settings.clip:
            self.fabric.clip_gradients(self.wrapped, self.wrapped_optimizer, max_norm=self.settings.clip)
        self.wrapped_optimizer.step()
        with torch.no_grad():
            for values, link in self.encoded:
                if values.requires_grad:
                    link.settle(values)
        return loss.detach()

    def _set_rate(self, step: int) -> float:
        rate = self.settings.lr * optimizers.schedule(self.settings, step / self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        return rate

    def _synchronise(self) -> None:
        """Processes see different examples: their running statistics become the mean of all."""
        if self.fabric.world_size > 1:
            for buffer in self.objective.buffers():
                if buffer.is_floating_point():
                    buffer.copy_(self.fabric.all_reduce(buffer, reduce_op="mean"))

    def _validate(self) -> float | None:
        held = self.task.validation()
        if held is None:
            return None
        score = evaluate(self.model, held, self.task)
        if self.best is None or score > self.best[0]:
            self.best = (score, self.done)
            if self.settings.keep == "best":
                self.best_tensors = {n: t.clone() for n, t in model_tensors(self.model).items()}
        return score

    def _save(self) -> None:
        path, late = self.context.checkpoint, time.monotonic() - self.saved >= SAVE_EVERY
        if path is None or self.finished or not late or self.fabric.global_rank != 0:
            return
        state = {"done": self.done, "best": self.best, "curve": [epoch.model_dump() for epoch in self.context.curve]}
        checkpoint.save(path, self.objective, self.optimizer, self.best_tensors, state)
        self.saved = time.monotonic()

    def resume(self) -> None:
        """Go on from the state on disk, if there is one."""
        path = self.context.checkpoint
        if path is None or not path.exists():
            return
        self.best_tensors, state = checkpoint.load(path, self.objective, self.optimizer)
        self.done, self.best = state["done"], tuple(state["best"]) if state["best"] else None
        self.context.curve.extend(Epoch(**epoch) for epoch in state["curve"])

    def result(self) -> nn.Module:
        if self.best_tensors:
            restore(self.model, self.best_tensors, "the best checkpoint")
        self.model.zero_grad()
        if self.settings.channels_last:
            self.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return self.model.to(self.home).eval()


def _augmented(inputs: Any, settings: TrainingStep, generator: torch.Generator) -> Any:
    if settings.augment != Augment():
        if not (isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()):
            raise StepError(
                f"{type(settings).__name__}.augment works on batches of images (n, C, H, W), and this task gives "
                "others; leave it out and augment in the task's train()"
            )
        inputs = settings.augment(inputs, generator)
    if settings.channels_last and isinstance(inputs, Tensor) and inputs.ndim == 4:
        return inputs.contiguous(memory_format=torch.channels_last)
    return inputs


def evaluate(model: nn.Module, batches: Batches, task: Task) -> float:
    """The mean metric of `model` over `batches`, in eval mode, without gradients."""
    from lightning_fabric.utilities import move_data_to_device

    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def run(inputs: Any) -> Any:
        return move_data_to_device(forward(model, move_data_to_device(inputs, device)), "cpu")

    with evaluating(model):
        values, _ = scores(batches, task, run)
    return float(values.double().mean())


def take_statistics(model: nn.Module, inputs: Iterable[Any], batches: int = 100) -> None:
    """Give every BatchNorm the mean and variance of its inputs in eval mode, as means over so many batches.

    Those that training leaves are of the weights that it saw, which are not the ones that are shipped where they were
    drawn at random.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    with evaluating(model):
        for norm in norms:
            norm.train().reset_running_stats()
            norm.momentum = None  # a mean over all batches
        try:
            for batch in islice(inputs, batches):
                forward(model, batch)
        finally:
            for norm, (momentum, state) in zip(norms, before, strict=True):
                norm.momentum = momentum
                if not norm.num_batches_tracked:  # nothing reached it
                    norm.load_state_dict(state)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Eval mode without gradients; every module's own mode is put back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
