"""What a user sets of a teacher: which network it is, and what the student is to learn from it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rarefy.settings import Settings

ORIGINAL = "original"


class Source(Settings):
    """One network to learn from."""

    network: str = Field(
        ORIGINAL, description="original: that of the run; zoo name, package.module:function, path/file.py:function"
    )
    weights: str | None = Field(None, description="its weights: safetensors, or .pt with a state dict")
    share: float = Field(1.0, gt=0, description="of its scores in the mean over several teachers")

    @property
    def name(self) -> str:
        """As it is called in messages and records."""
        return f"{self.network} ({self.weights})" if self.weights else self.network


class Match(Settings):
    """Features of the student that are drawn to those of the (first) teacher.

    hint: the features themselves, through a linear map that is trained along where widths differ (FitNets);
    attention: where they are large; relation: the distances between the examples of a batch.
    """

    layers: dict[str, str] = Field(
        min_length=1, description="the teacher's module -> the student's; globs pair what they match in order"
    )
    loss: Literal["hint", "attention", "relation"] = Field("hint", description="what is to be alike")
    weight: float = Field(1.0, gt=0, description="of this loss in the sum")


class Teacher(Settings):
    """Who teaches, and what the student learns from it.

    The loss is `(1 - alpha) task + alpha T^2 KL(teacher || student) + features`, the scores being the network's output,
    or the first tensor of several. A mutual teacher is trained along in the same way, with the student for its teacher
    (Zhang et al. 2018, Deep Mutual Learning, is `mutual` with alpha 0.5 and temperature 1).
    """

    networks: tuple[Source, ...] = Field(
        (Source(),), min_length=1, description="the teachers; the scores of several are averaged by their shares"
    )
    temperature: float = Field(4.0, gt=0, le=1000, description="T; softens the scores of both")
    alpha: float = Field(0.9, ge=0, le=1, description="weight of the teacher's answers; the labels have the rest")
    classes_dim: int = Field(1, description="dimension of the scores that the classes are in; -1: the last")
    features: tuple[Match, ...] = Field((), description="what is learnt from layers inside")
    mutual: bool = Field(False, description="the teachers learn too, from the labels and the student")

    @model_validator(mode="after")
    def _teaches(self) -> Teacher:
        if self.alpha == 0 and not self.features:
            raise ValueError("with alpha 0 and no features nothing is learnt from the teacher: raise one of them")
        for source in self.networks:
            made = source.network == ORIGINAL or ":" in source.network
            if source.network == ORIGINAL and source.weights:
                raise ValueError("the original network has its weights; name a network for those of a file")
            if not (made or source.weights or self.mutual):
                raise ValueError(f"{source.network} of the zoo has not learnt anything itself: give its weights")
        return self
