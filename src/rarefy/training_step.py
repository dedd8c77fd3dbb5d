"""What every step that trains lets the user set."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from rarefy import teachers
from rarefy.classification import Classification
from rarefy.data.augment import Augment
from rarefy.errors import SettingsError
from rarefy.lesson import Lesson
from rarefy.quantizing import biases
from rarefy.step import Context, Plan, Step
from rarefy.teacher import Teacher
from rarefy.train import AfterStep, BeforeStep, fit


class TrainingStep(Step, ABC):
    """A step that trains: how long, with what, and by whose loss."""

    trains: ClassVar[bool] = True

    epochs: int | None = Field(None, ge=1, le=100_000, description="passes over the training examples")
    steps: int | None = Field(None, ge=1, description="instead of epochs: this many batches")
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    lr: float = Field(1e-3, gt=0, le=100, description="highest learning rate")
    schedule: Literal["constant", "cosine", "linear", "step"] = Field(
        "cosine", description="step: a tenth after half, a hundredth after three quarters"
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the training in which the rate rises")
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd (Nesterov's)")
    weight_decay: float = Field(0.0, ge=0, le=1, description="on weights of two and more dimensions")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip: float | None = Field(None, gt=0, description="largest norm of the gradient")
    augment: Augment = Field(Augment(), description="crop, flip, rotate, scale, ...")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: mixed, by autocast")
    channels_last: bool = Field(False, description="memory layout; faster or slower: measure")
    compile: bool = Field(
        False, description="by torch.compile: a minute to begin with, then much faster where values are rounded"
    )
    keep: Literal["last", "best"] = Field("last", description="best on the held-out examples")
    patience: int | None = Field(None, ge=1, description="stop after so many epochs without a better one")
    teacher: Teacher | None = Field(None, description="a network to learn from: networks, temperature, alpha, ...")

    @model_validator(mode="after")
    def _length(self) -> TrainingStep:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps: how long to train")
        return self

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """Nothing to decide; but what cannot work is refused now."""
        context.task.train(seed=context.seed)
        name, problems = type(self).__name__, []
        if self.label_smoothing and not isinstance(context.task, Classification):
            problems.append(f"{name}.label_smoothing: only for Classification; put it into your task's loss")
        if (self.keep == "best" or self.patience) and context.task.validation() is None:
            problems.append(
                f"{name}.keep and .patience choose by held-out examples, and the task has none: "
                "give --holdout 0.1 (Classification(holdout=0.1)), or a validation() of your own"
            )
        if self.compile and self.teacher is not None and self.teacher.features:
            problems.append(f"{name}.compile: a compiled network does not show a teacher its features; leave one out")
        if not any(p.requires_grad for p in model.parameters()):
            problems.append(f"{name}: no parameter requires a gradient; unfreeze some with requires_grad_()")
        if problems:
            raise SettingsError(problems)
        original = model if context.original is None else context.original
        self._lesson(model, replace(context, original=original))
        return Plan()

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Train."""
        return self._trained(model, context)

    def _trained(
        self,
        model: nn.Module,
        context: Context,
        before: BeforeStep | None = None,
        after: AfterStep | None = None,
        rates: Mapping[nn.Parameter, float] | None = None,
    ) -> nn.Module:
        lesson = self._lesson(model, context)
        if self.teacher is not None and lesson is not None:
            context.teachers += teachers.recorded(self.teacher, lesson, context)
        model = fit(model, self, context, lesson=lesson, before=before, after=after, rates=rates)
        biases.snap(model)
        return model

    def _lesson(self, model: nn.Module, context: Context) -> Lesson | None:
        if self.teacher is None:
            return None
        return teachers.lesson(type(self).__name__, self.teacher, model, context)
