"""The whole protocol: what a step is, what it is told, and what it leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field
from torch import nn

from rarefy.encodings import copied
from rarefy.records import Epoch, LayerNote, Record, TeacherRecord
from rarefy.settings import Settings

if TYPE_CHECKING:
    from rarefy.task import Task

Progress = Callable[[str, int, int], None]  # label, done, of


def silent(_label: str, _done: int, _of: int) -> None:
    """Show no progress."""


class Plan(Record):
    """What a step has decided, as plain JSON data.

    Every parameter of the network is in one of the two: `do` holds the decision for it, `leave` the reason
    why nothing is done. Steps that only train have an empty plan.
    """

    do: dict[str, dict[str, Any]] = Field(default_factory=dict)
    leave: dict[str, str] = Field(default_factory=dict)
    notes: dict[str, str] = Field(default_factory=dict)  # the decision in words, where `do` needs some
    also: dict[str, dict[str, Any]] = Field(default_factory=dict)  # decisions about what is no parameter

    def layer_notes(self) -> list[LayerNote]:
        """The plan as one note per parameter."""
        done = [LayerNote(parameter=p, done=self.notes.get(p, _words(d))) for p, d in self.do.items()]
        return done + [LayerNote(parameter=p, left=why) for p, why in self.leave.items()]


def _words(decision: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in decision.items())


@dataclass
class Context:
    """What a step is told besides the network."""

    task: Task
    seed: int = 0
    trained: bool = True  # False while the network still has its initial weights
    original: nn.Module | None = None  # the network that the run began with
    blank: bool = False  # only the structure counts: no task, and all tensors are loaded afterwards
    checkpoint: Path | None = None  # where a training step keeps its state between epochs
    fabric: Any = None  # the engine that trains (`rarefy.train.engine()`); made where it is needed
    progress: Progress = silent
    curve: list[Epoch] = field(default_factory=list)
    notes: list[LayerNote] = field(default_factory=list)  # what became of parameters in a training
    teachers: list[TeacherRecord] = field(default_factory=list)
    alone: nn.Module | None = None  # the same student trained without its teacher, to be measured beside it
    warnings: list[str] = field(default_factory=list)


class Step(Settings, ABC):
    """One method. `plan` looks and decides, `apply` changes; the class is the method's name, its fields its settings.

    A step may change the module that it is given and must return the one to go on with; whoever calls it (a recipe,
    or `step(model, task)`) has made the copy that protects the user's own model.
    """

    gains: ClassVar[str]  # one honest line: what becomes smaller or faster, and what does not
    needs: ClassVar[str] = "nothing: ordinary layers"  # support at run time
    paper: ClassVar[str]
    trains: ClassVar[bool] = False  # its plan is empty and its work is in the tensors
    structural: ClassVar[bool] = False  # the network's graph is another one afterwards
    usual: ClassVar[dict[str, Any]] = {}  # settings to show it with, where some have no default

    @abstractmethod
    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Decide, without changing anything. Raises `StepError` where there is nothing to do."""

    @abstractmethod
    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Change `model` as `plan` says. The structure left behind depends on the plan alone, not on values, and in a
        `blank` context neither the task nor the values may be needed."""

    def __call__(self, model: nn.Module, task: Task, *, seed: int = 0) -> nn.Module:
        """Use this step by itself: a changed copy of `model`."""
        context = Context(task=task, seed=seed, original=model)
        work = copied(model)
        return self.apply(work, self.plan(work, context), context)

    def replace(self, **settings: Any) -> Self:
        """The same step with some settings changed, checked again."""
        return type(self)(**{**self.model_dump(exclude_unset=True), **settings})

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring."""
        return (cls.__doc__ or "").strip().splitlines()[0]
