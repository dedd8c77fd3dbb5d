"""What a training minimises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rarefy.classification import Classification
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

    def forward(self, inputs: Any, target: Any) -> Tensor:
        """The loss of a batch, a scalar."""
        if self.lesson is not None:
            loss: Tensor = self.lesson(self.model, inputs, target, self.task_loss)
            return loss
        return self.task_loss(forward(self.model, inputs), target)

    def task_loss(self, output: Any, target: Any) -> Tensor:
        """The task's own loss, with the label smoothing that is set."""
        if isinstance(self.task, Classification):
            return self.task.smoothed_loss(output, target, self.smoothing)
        return self.task.loss(output, target)


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
