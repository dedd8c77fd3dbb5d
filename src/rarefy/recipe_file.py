"""Recipes as YAML and plain data: read with every problem found in one go, each with its place."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import yaml

from rarefy.errors import SettingsError
from rarefy.repeat import MOST_STEPS, Repeat
from rarefy.settings import Settings, short
from rarefy.step import Step

T = TypeVar("T", bound=Settings)

MOST_BYTES = 1 << 18
FIELDS = ("name", "about", "steps")


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases (with them a small file becomes a huge recipe), every key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(
                problem="aliases (*name) are not read in recipes; write the steps out",
                problem_mark=self.peek_event().start_mark,  # type: ignore[no-untyped-call]
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if isinstance(key, str) and keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(
                problem=f"{twice[0]!r} is there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def parse(text: str, where: str) -> Any:
    """YAML to plain data. Raises `SettingsError`."""
    if len(text) > MOST_BYTES:
        raise SettingsError([f"{where} has {len(text):,} characters; a recipe has at most {MOST_BYTES:,}"])
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise SettingsError([f"{where}{line}: not the YAML of a recipe: {error.problem}"]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SettingsError([f"{where} is not valid YAML: {short(' '.join(str(error).split()))}"]) from None


def read_items(data: Any, where: str) -> list[Step | Repeat]:
    """The steps and groups of a recipe's plain data. Raises `SettingsError` with every problem."""
    if not isinstance(data, dict) or not isinstance(data.get("steps"), list):
        raise SettingsError([f"{where}: expected a mapping with a list of `steps`, not {short(data)}"])
    if len(data["steps"]) > MOST_STEPS:
        raise SettingsError([f"{where}: {len(data['steps']):,} steps; a recipe has at most {MOST_STEPS}"])
    wrong = [
        f"{where}: no such field {short(key)}; a recipe has {', '.join(FIELDS)}" for key in data if key not in FIELDS
    ]
    items = [_item(item, f"{where}, step {i + 1}", wrong) for i, item in enumerate(data["steps"])]
    if wrong:
        raise SettingsError(wrong)
    return [item for item in items if item is not None]


def _item(item: Any, where: str, wrong: list[str]) -> Step | Repeat | None:
    if not (isinstance(item, dict) and list(item) == ["Repeat"]):
        return _step(item, where, wrong, {})
    group = item["Repeat"]
    if not isinstance(group, dict) or not isinstance(group.get("steps"), list):
        wrong.append(f"{where}: expected `Repeat: {{times: ..., steps: [...]}}`, not {short(group)}")
        return None
    before, first = len(wrong), _first_values(group.get("ramp"))
    steps = [_step(s, f"{where}.{i + 1}", wrong, first) for i, s in enumerate(group["steps"][:MOST_STEPS])]
    if len(wrong) > before:  # the other fields are looked at too, but no ramp can be
        group = {**group, "ramp": {}}
        steps = [s for s in steps if s] or [next(iter(_known().values())).model_construct()]
    return _build(Repeat, {**group, "steps": steps}, where, wrong)


def _first_values(ramp: Any) -> dict[str, Any]:
    """A ramped setting need not be given twice: the step is read with the ramp's first value."""
    values = {}
    for target, r in ramp.items() if isinstance(ramp, dict) else ():
        if isinstance(r, dict):
            values[str(target)] = r.get("start")
        elif isinstance(r, list) and r:
            values[str(target)] = r[0]
    return values


def _step(item: Any, where: str, wrong: list[str], preset: Mapping[str, Any]) -> Step | None:
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, dict) or len(item) != 1:
        wrong.append(f"{where}: expected `Name: {{settings}}`, not {short(item)}")
        return None
    ((name, settings),) = item.items()
    known = _known()
    if name not in known:
        wrong.append(f"{where}: {_unknown(name, list(known))}")
        return None
    if settings is None or isinstance(settings, dict):
        ramped = {t.partition(".")[2]: v for t, v in preset.items() if t.partition(".")[0] == name}
        settings = {**ramped, **(settings or {})}
    return _build(known[name], settings, where, wrong)


def _unknown(name: Any, known: list[str]) -> str:
    if name == "Repeat":
        return "a Repeat cannot stand in another; write the inner one out"
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)} and Repeat"
    return f"no step is called {short(name)}; {hint}"


def _build(cls: type[T], settings: Any, where: str, wrong: list[str]) -> T | None:
    if not isinstance(settings, dict) or not all(isinstance(k, str) for k in settings):
        wrong.append(f"{where}: the settings of {cls.__name__} are a mapping, not {short(settings)}")
        return None
    try:
        return cls(**settings)
    except SettingsError as error:
        wrong.extend(f"{where}: {p}" for p in error.problems)
    return None


def _known() -> dict[str, type[Step]]:
    from rarefy import steps

    return {cls.__name__: cls for cls in steps.ALL}
