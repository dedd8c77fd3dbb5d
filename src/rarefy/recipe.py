"""Recipes: an ordered list of steps, checked as a whole before any network is touched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rarefy.errors import SettingsError
from rarefy.files import write_whole
from rarefy.recipe_file import MOST_BYTES, parse, read_items
from rarefy.repeat import MOST_STEPS, Ramp, Repeat
from rarefy.step import Step

if TYPE_CHECKING:
    from torch import nn

    from rarefy.run import Run
    from rarefy.task import Task

__all__ = ["Ramp", "Recipe", "Repeat", "ready_recipes"]


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
        count = sum(s.times * len(s.steps) if isinstance(s, Repeat) else 1 for s in steps)
        if count > MOST_STEPS:
            wrong.append(f"{count} steps after unrolling; the most is {MOST_STEPS}")
        if wrong:
            raise SettingsError(wrong)

    @property
    def steps(self) -> list[Step]:
        """All steps in the order they run, groups unrolled."""
        return [s for item in self.items for s in (item.unrolled() if isinstance(item, Repeat) else [item])]

    def distinct(self) -> list[Step]:
        """The steps as they are written, each turn of a `Repeat` being like its first."""
        return [s for item in self.items for s in (item.steps if isinstance(item, Repeat) else [item])]

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
        items = read_items(data, where)
        return cls(items, name=str(data.get("name", where)), about=str(data.get("about", "")))

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
            return cls.from_dict(parse(ready.read_text(), str(source)), str(source))
        try:
            if path.stat().st_size > MOST_BYTES:
                raise SettingsError([f"{path} has {path.stat().st_size:,} bytes; a recipe has at most {MOST_BYTES:,}"])
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError([f"cannot read the recipe {path}: {error}"]) from None
        return cls.from_dict(parse(text, str(path)), path.stem)


def ready_recipes() -> list[str]:
    """The names of the recipes that come with rarefy."""
    folder = resources.files("rarefy") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def _plain(item: Step | Repeat) -> dict[str, Any]:
    if isinstance(item, Repeat):
        ramp = {t: r if isinstance(r, list) else r.model_dump() for t, r in item.ramp.items()}
        inner = {"times": item.times, "ramp": ramp, "steps": [_plain(s) for s in item.steps]}
        return {"Repeat": inner}
    return {type(item).__name__: item.model_dump(mode="json", exclude_defaults=True)}
