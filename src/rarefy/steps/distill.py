"""Learning from a teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from rarefy import loading, zoo
from rarefy.encodings import adopted, copied
from rarefy.graph.weights import weights
from rarefy.step import Context, Plan
from rarefy.teacher import Teacher
from rarefy.train import fit
from rarefy.training_step import TrainingStep


class Distill(TrainingStep):
    """Trains the network to answer as a teacher does: by default as the network that the run began with.

    The loss is `(1 - alpha) task + alpha T^2 KL(softmax(teacher / T) || softmax(student / T))`, and what is learnt from
    layers inside; `Teacher` says it all, and every other step that trains takes one too (`Finetune: {teacher: ...}`).
    With `student` the network is replaced by another, untrained one, which then learns; what the run began with
    remains what it is compared to. With `compare` the same student is also trained from the same start without a
    teacher, and the run shows both.
    """

    gains: ClassVar[str] = "accuracy; bytes and time only through a smaller student"
    paper: ClassVar[str] = (
        "Hinton, Vinyals, Dean 2015, Distilling the Knowledge in a Neural Network (arXiv:1503.02531); "
        "Romero 2015, Zagoruyko 2017, Zhang 2018, Park 2019"
    )
    usual: ClassVar[dict[str, Any]] = {"epochs": 1}

    teacher: Teacher = Field(Teacher(), description="who teaches and what: networks, temperature, alpha, features, ...")
    student: str | None = Field(
        None,
        description="the network to go on with instead: zoo name, package.module:function or path/file.py:function",
    )
    compare: bool = Field(False, description="also train the same student without the teacher, and report both")

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Nothing to decide but whether the student can learn from this teacher, and how another student is made."""
        if self.student is None:
            return super().plan(model, context)
        options = {} if ":" in self.student else loading.fitted(self.student, context.task)
        decision = {"student": self.student, **options}
        original = model if context.original is None else context.original
        super().plan(_made(decision, context.seed), replace(context, original=original))
        do = {weight.path: decision for weight in weights(model)}
        return Plan(do=do, notes=dict.fromkeys(do, f"gone: the network is {self.student} from here on"))

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Train, the network or the student in its place."""
        if plan.do:
            model = _made(next(iter(plan.do.values())), context.seed)
        if context.blank:
            return model
        start = copied(model) if self.compare else None
        model = super().apply(model, plan, context)
        if start is not None:
            context.alone = self._without_teacher(start, context)
        return model

    def _without_teacher(self, student: nn.Module, context: Context) -> nn.Module:
        place = context.checkpoint
        alone = replace(
            context,
            checkpoint=place and place.with_name(f"{place.name}.alone"),
            progress=lambda label, done, of: context.progress(f"{label}, without", done, of),
            curve=[],
        )
        return fit(student, self, alone)


def _made(decision: dict[str, Any], seed: int) -> nn.Module:
    """The student, untrained."""
    options = dict(decision)
    name = options.pop("student")
    if ":" in name:
        return loading.network(name, seed=seed).model
    return adopted(zoo.build(name, seed=seed, **options)).eval()
