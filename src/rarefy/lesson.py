"""What a teacher adds to the loss of a training, as a module: processes are joined through the forward of one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from rarefy.numerics import distillation
from rarefy.task import forward
from rarefy.teacher import Match, Teacher

TaskLoss = Callable[[Any, Any], Tensor]  # output, target -> scalar
LOSSES = {"hint": distillation.hint, "attention": distillation.attention, "relation": distillation.relation}


@dataclass(frozen=True)
class Pair:
    """A module of the teacher and the one of the student that is to be like it."""

    teacher: str
    student: str
    match: Match


class Lesson(nn.Module):
    """The loss of a student, with what is trained along with it: adapters, and teachers that learn too.

    Teachers that do not learn are no children: they are in no state, no mode but eval, and no optimizer. They only go
    where the lesson goes.
    """

    def __init__(
        self, settings: Teacher, teachers: Sequence[nn.Module], pairs: Sequence[Pair], adapters: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.settings, self.pairs = settings, tuple(pairs)
        self.adapters = nn.ModuleList(adapters)
        self.peers = nn.ModuleList(teachers if settings.mutual else ())
        self.frozen = () if settings.mutual else tuple(teachers)
        self.ask: Callable[[nn.Module, Any], Any] = forward
        total = sum(source.share for source in settings.networks)
        self.shares = tuple(source.share / total for source in settings.networks)

    @property
    def teachers(self) -> tuple[nn.Module, ...]:
        """Those that learn and those that do not are never together."""
        return self.frozen or tuple(self.peers)

    def compile_teachers(self) -> None:
        """Ask them by torch.compile; without features, which a compiled network does not show."""
        self.ask = torch.compile(forward)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        for teacher in self.frozen:
            teacher._apply(fn)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(
        self, student: nn.Module, answer: Callable[[Any], Any], inputs: Any, target: Any, task_loss: TaskLoss
    ) -> Tensor:
        """The loss of a batch, a scalar. answer: runs the student."""
        with captured(student, [pair.student for pair in self.pairs]) as found:
            output = answer(inputs)
        answers, wanted = self._taught(inputs)
        loss = self._learning(output, self._mean(answers), target, task_loss)
        for pair, adapter in zip(self.pairs, self.adapters, strict=True):
            own, model = distillation.pooled_alike(found[pair.student], wanted[pair.teacher].detach())
            loss = loss + pair.match.weight * LOSSES[pair.match.loss](adapter(own), model)
        for answer in answers if self.settings.mutual else ():
            loss = loss + self._learning(answer, output, target, task_loss)
        return loss

    def _taught(self, inputs: Any) -> tuple[list[Any], dict[str, Tensor]]:
        """What every teacher answers, and the features of the first."""
        paths, learning = [pair.teacher for pair in self.pairs], self.settings.mutual and torch.is_grad_enabled()
        with torch.set_grad_enabled(learning), captured(self.teachers[0], paths) as found:
            return [self.ask(teacher, inputs) for teacher in self.teachers], found

    def _mean(self, answers: list[Any]) -> Any:
        """The scores of the teachers, averaged by their shares."""
        if len(answers) == 1 or self.settings.alpha == 0:
            return answers[0]
        return torch.stack([share * logits(a) for share, a in zip(self.shares, answers, strict=True)]).sum(0)

    def _learning(self, output: Any, wanted: Any, target: Any, task_loss: TaskLoss) -> Tensor:
        """`(1 - alpha) task + alpha T^2 KL(wanted || output)`, without gradient to `wanted`."""
        s, terms = self.settings, list[Tensor]()
        if s.alpha < 1:
            terms.append((1 - s.alpha) * task_loss(output, target))
        if s.alpha > 0:
            taught = distillation.soft_targets(logits(output), logits(wanted).detach(), s.temperature, s.classes_dim)
            terms.append(s.alpha * taught)
        return torch.stack(terms).sum()


def logits(output: Any) -> Any:
    """The scores of a network's output: itself, or the first of several."""
    if isinstance(output, Mapping):
        return next(iter(output.values()), None)
    return output[0] if isinstance(output, (tuple, list)) and output else output


@contextmanager
def captured(model: nn.Module, paths: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """What the modules at `paths` give (the first, of several tensors) while the network runs; no hook remains."""
    found: dict[str, Tensor] = {}
    hooks = [model.get_submodule(path).register_forward_hook(partial(_keep, found, path)) for path in set(paths)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _keep(found: dict[str, Tensor], path: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
    output = logits(output)
    if isinstance(output, Tensor):
        found[path] = output.clone()  # a later layer may work in place
