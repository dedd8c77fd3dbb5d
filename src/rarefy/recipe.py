"""Recipes: an ordered list of steps, checked as a whole before any network is touched."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from rarefy.errors import SettingsError
from rarefy.files import write_whole
from rarefy.settings import Settings, problems
from rarefy.step import Step

if TYPE_CHECKING:
    from torch import nn

    from rarefy.run import Run
    from rarefy.task import Task

MOST_STEPS = 1000
MOST_BYTES = 1 << 20


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
    ramp: dict[str, Ramp | list[float]] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_file(cls, data: Any) -> Any:
        """Steps of a file are read with the ramp's first values, so that a ramped setting need not be given twice."""
        if not isinstance(data, dict) or not isinstance(data.get("steps"), (list, tuple)):
            return data
        first = _first_values(data.get("ramp"))
        wrong: list[str] = []
        steps = [
            s if isinstance(s, Step) else _read_step(s, f"steps[{i + 1}]", wrong, first)
            for i, s in enumerate(data["steps"])
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return {**data, "steps": steps}

    @model_validator(mode="after")
    def _ramps_fit(self) -> Repeat:
        names = {type(s).__name__ for s in self.steps}
        for target, ramp in self.ramp.items():
            step, _, _field = target.partition(".")
            if step not in names:
                raise ValueError(f"ramp {target!r}: the group has no step {step}; it has {', '.join(sorted(names))}")
            if isinstance(ramp, list) and len(ramp) != self.times:
                raise ValueError(f"ramp {target!r} has {len(ramp)} values for {self.times} turns")
        self.unrolled()
        return self

    def unrolled(self) -> list[Step]:
        """The steps as they are run, one turn after the other."""
        ramps = {
            target: ramp if isinstance(ramp, list) else ramp.values(self.times)
            for target, ramp in self.ramp.items()
        }
        return [_with(step, ramps, turn) for turn in range(self.times) for step in self.steps]


def _with(step: Step, ramps: Mapping[str, Sequence[float]], turn: int) -> Step:
    name = type(step).__name__
    changed = {t.partition(".")[2]: v[turn] for t, v in ramps.items() if t.partition(".")[0] == name}
    return step.replace(**changed) if changed else step


def _first_values(ramp: Any) -> dict[str, Any]:
    values = {}
    for target, r in ramp.items() if isinstance(ramp, dict) else ():
        first = r.get("start") if isinstance(r, dict) else r.start if isinstance(r, Ramp) else (r or [None])[0]
        values[str(target)] = first
    return values


class Recipe:
    """An ordered list of steps (and `Repeat` groups). The order written is the order run.

    Raises `SettingsError` with every problem at once.
    """

    def __init__(self, steps: Sequence[Step | Repeat], name: str = "recipe", about: str = "") -> None:
        self.items, self.name, self.about = tuple(steps), name, about
        wrong = [
            f"step {i + 1}: expected a step or a Repeat, not {type(s).__name__}"
            for i, s in enumerate(steps)
            if not isinstance(s, (Step, Repeat))
        ]
        if not steps:
            wrong.append("a recipe needs at least one step")
        elif not wrong and len(self.steps) > MOST_STEPS:
            wrong.append(f"{len(self.steps)} steps after unrolling; the most is {MOST_STEPS}")
        if wrong:
            raise SettingsError(wrong)

    @property
    def steps(self) -> list[Step]:
        """All steps in the order they run, groups unrolled."""
        return [s for item in self.items for s in (item.unrolled() if isinstance(item, Repeat) else [item])]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __repr__(self) -> str:
        return f"Recipe({self.name!r}: {' -> '.join(type(s).__name__ for s in self.steps)})"

    def run(self, model: nn.Module, task: Task, **options: Any) -> Run:
        """Compress a copy of `model` for `task`; see `rarefy.conduct.conduct` for the options."""
        from rarefy.conduct import conduct

        return conduct(self, model, task, **options)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, as in its file."""
        return {"name": self.name, "about": self.about, "steps": [_plain(item) for item in self.items]}

    def save(self, path: str | Path) -> None:
        """Write it as YAML."""
        text = yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
        write_whole(Path(path), text.encode())

    @classmethod
    def from_dict(cls, data: Any, where: str = "recipe") -> Recipe:
        """Read plain data, finding every problem."""
        if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
            raise SettingsError([f"{where}: expected a mapping with a list of `steps`, not {_short(data)}"])
        wrong = [
            f"{where}: no such field {key!r}; a recipe has name, about, steps"
            for key in data
            if key not in ("name", "about", "steps")
        ]
        items = [_read_item(item, f"{where}, step {i + 1}", wrong) for i, item in enumerate(data["steps"])]
        if wrong:
            raise SettingsError(wrong)
        kept = [item for item in items if item is not None]
        return cls(kept, name=str(data.get("name", where)), about=str(data.get("about", "")))

    @classmethod
    def load(cls, source: str | Path) -> Recipe:
        """Read a recipe file, or one of the ready recipes by its name."""
        path = Path(source)
        if path.suffix not in (".yaml", ".yml") and not path.is_file():
            ready = resources.files("rarefy") / "recipes" / f"{source}.yaml"
            if not ready.is_file():
                raise SettingsError(
                    [f"no recipe file {source} and no ready recipe of that name; ready: {', '.join(ready_recipes())}"]
                )
            return cls.from_dict(_parse(ready.read_text(), str(source)), str(source))
        try:
            if path.stat().st_size > MOST_BYTES:
                raise SettingsError([f"{path} has {path.stat().st_size:,} bytes; a recipe has at most {MOST_BYTES:,}"])
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError([f"cannot read the recipe {path}: {error}"]) from None
        return cls.from_dict(_parse(text, str(path)), path.stem)


def ready_recipes() -> list[str]:
    """The names of the recipes that come with rarefy."""
    folder = resources.files("rarefy") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def _parse(text: str, where: str) -> Any:
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise SettingsError([f"{where}: YAML aliases (*name) are not read in recipes; write the steps out"])
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingsError([f"{where} is not valid YAML: {' '.join(str(error).split())}"]) from None


def _read_item(item: Any, where: str, wrong: list[str]) -> Step | Repeat | None:
    if not (isinstance(item, dict) and len(item) == 1 and "Repeat" in item):
        return _read_step(item, where, wrong, {})
    return _build(Repeat, item["Repeat"], where, wrong)


def _read_step(item: Any, where: str, wrong: list[str], preset: Mapping[str, Any]) -> Any:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        wrong.append(f"{where}: expected `Name: {{settings}}`, not {_short(item)}")
        return None
    ((name, settings),) = item.items()
    known = _known()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)} and Repeat"
        wrong.append(f"{where}: no step is called {name!r}{hint}")
        return None
    if isinstance(settings, dict):
        ramped = {t.partition(".")[2]: v for t, v in preset.items() if t.partition(".")[0] == name}
        settings = {**ramped, **settings}
    return _build(known[name], settings, where, wrong)


def _build(cls: type[Any], settings: Any, where: str, wrong: list[str]) -> Any:
    if settings is None:
        settings = {}
    if not isinstance(settings, dict) or not all(isinstance(k, str) for k in settings):
        wrong.append(f"{where}: the settings of {cls.__name__} are a mapping, not {_short(settings)}")
        return None
    try:
        return cls(**settings)
    except SettingsError as error:
        wrong.extend(f"{where}: {p}" for p in error.problems)
    except ValidationError as error:
        wrong.extend(f"{where}: {p}" for p in problems(cls, error))
    return None


def _known() -> dict[str, type[Step]]:
    from rarefy import steps

    return {cls.__name__: cls for cls in steps.ALL}


def _plain(item: Step | Repeat) -> dict[str, Any]:
    if isinstance(item, Repeat):
        ramp = {t: r if isinstance(r, list) else r.model_dump() for t, r in item.ramp.items()}
        inner = {"times": item.times, "ramp": ramp, "steps": [_plain(s) for s in item.steps]}
        return {"Repeat": inner}
    return {type(item).__name__: item.model_dump(mode="json", exclude_defaults=True)}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
