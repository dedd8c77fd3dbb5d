"""What a training minimises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rarefy.classification import Classification
from rarefy.errors import StepError
from rarefy.lesson import Lesson
from rarefy.task import Task, forward

if TYPE_CHECKING:
    from rarefy.training_step import TrainingStep


class Objective(nn.Module):
    """Called with a batch, it gives the loss; its parameters are all that is trained.

    They are those of the network, and with a lesson those of what is trained along with it.
    """

    def __init__(self, model: nn.Module, settings: TrainingStep, task: Task, lesson: Lesson | None = None) -> None:
        super().__init__()
        self.model, self.lesson = model, lesson
        self.task, self.smoothing = task, settings.label_smoothing
        self.answer: Callable[[Any], Any] = partial(forward, model)
        if settings.compile:
            torch.compiler.reset()  # of one function, torch compiles eight networks and no more
            self.answer = torch.compile(self.answer)
            if lesson is not None:
                lesson.compile_teachers()

    def forward(self, inputs: Any, target: Any) -> Tensor:
        """The loss of a batch, a scalar."""
        if self.lesson is not None:
            loss: Tensor = self.lesson(self.model, self.answer, inputs, target, self.task_loss)
            return loss
        return self.task_loss(self.answer(inputs), target)

    def task_loss(self, output: Any, target: Any) -> Tensor:
        """The task's own loss, with the label smoothing that is set."""
        if isinstance(self.task, Classification):
            return self.task.smoothed_loss(output, target, self.smoothing)
        return self.task.loss(output, target)


@contextmanager
def building(compiled: bool) -> Iterator[None]:
    """Inside it, a network that `torch.compile` cannot build, forward or backward, is a `StepError` with a way out."""
    if not compiled:
        yield
        return
    from torch._dynamo.exc import BackendCompilerFailed  # takes seconds
    from torch._inductor.exc import InductorError

    try:
        yield
    except (BackendCompilerFailed, InductorError) as error:
        why = str(error).splitlines()[0]
        raise StepError(
            f"compile: torch.compile could not build the network ({why}); on a CPU it needs a C++ compiler: install "
            "one (Debian: g++), or leave compile out"
        ) from error


class Joined(nn.Module):
    """An objective among several processes, and a parameter that no batch reaches.

    Networks may have such parameters, so torch is told to look for them; where it finds none, every rank warns.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective, self.unreached = objective, nn.Parameter(torch.zeros(()))

    def forward(self, inputs: Any, target: Any) -> Any:
        """The loss of a batch."""
        return self.objective(inputs, target)
