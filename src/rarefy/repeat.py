"""A group of steps that is run several times, with settings that change from turn to turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from rarefy.settings import Settings
from rarefy.step import Step

MOST_STEPS = 1000


class Ramp(Settings):
    """A setting that changes from turn to turn of a `Repeat`.

    cubic: value_t = end + (start - end) (1 - t / (times - 1))^3, fast at first, slow at the end
    (Zhu, Gupta 2017, To prune, or not to prune, arXiv:1710.01878).
    """

    start: float
    end: float
    curve: Literal["linear", "cubic"] = "linear"

    def values(self, times: int) -> list[float]:
        """The value of each turn."""
        power = 3 if self.curve == "cubic" else 1
        turns = [t / (times - 1) if times > 1 else 1.0 for t in range(times)]
        return [round(self.end + (self.start - self.end) * (1 - t) ** power, 6) for t in turns]


class Repeat(Settings):
    """A group of steps that is run several times, with settings that may ramp.

    ramp: `"PruneWeights.sparsity"` -> a `Ramp`, or a list with the value of each turn.
    """

    times: int = Field(ge=1, le=MOST_STEPS)
    steps: tuple[Step, ...] = Field(min_length=1)
    ramp: dict[str, Ramp | list[float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ramps_fit(self) -> Repeat:
        if self.times * len(self.steps) > MOST_STEPS:
            raise ValueError(f"{self.times} times {len(self.steps)} steps; a recipe has at most {MOST_STEPS}")
        known = {type(s).__name__: type(s) for s in self.steps}
        for target, ramp in self.ramp.items():
            name, _, setting = target.partition(".")
            if name not in known:
                raise ValueError(f"ramp {target!r}: the group has no step {name!r}; it has {', '.join(sorted(known))}")
            if setting not in known[name].model_fields:
                raise ValueError(f"ramp {target!r}: no such setting; {name} has: {', '.join(known[name].model_fields)}")
            if isinstance(ramp, list) and len(ramp) != self.times:
                raise ValueError(f"ramp {target!r} has {len(ramp)} values for {self.times} turns")
        self.unrolled()  # checks every turn's settings
        return self

    def unrolled(self) -> list[Step]:
        """The steps as they are run, one turn after the other."""
        ramps = {t: r if isinstance(r, list) else r.values(self.times) for t, r in self.ramp.items()}
        return [_with(step, ramps, turn) for turn in range(self.times) for step in self.steps]


def _with(step: Step, ramps: Mapping[str, Sequence[float]], turn: int) -> Step:
    changed = {t.partition(".")[2]: v[turn] for t, v in ramps.items() if t.partition(".")[0] == type(step).__name__}
    return step.replace(**changed) if changed else step
