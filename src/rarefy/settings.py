"""Settings: frozen, checked when made, every problem told at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from rarefy.errors import SettingsError


class Settings(BaseModel):
    """The base of everything a user can set. A misspelt name or an impossible value is a `SettingsError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(problems(type(self), error)) from None


def the_one(settings: Settings, names: Iterable[str]) -> str:
    """The name of the one of these settings that is given. Raises `ValueError` for none or several."""
    names = list(names)
    given = [name for name in names if getattr(settings, name) is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}, not {' and '.join(given) or 'none'}")
    return given[0]


def problems(cls: type[BaseModel], error: ValidationError) -> list[str]:
    """One line per problem: the field, what is wrong, what came, and the names that exist."""
    return [line for item in error.errors(include_url=False) for line in _lines(cls, item)]


def _lines(cls: type[BaseModel], item: ErrorDetails) -> list[str]:
    where = ".".join(str(part) for part in item["loc"])
    place = f"{cls.__name__}.{where}" if where else cls.__name__
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, SettingsError):  # of settings inside these
        return [f"{place}: {problem}" for problem in cause.problems]
    if item["type"] == "extra_forbidden":
        known = ", ".join(cls.model_fields) or "none"
        return [f"{place}: no such setting; {cls.__name__} has: {known}"]
    if item["type"] == "missing":
        return [f"{place}: missing, and it has no default"]
    words = item["msg"].removeprefix("Value error, ")
    return [f"{place}: {words}, not {short(item['input'])}" if where else f"{place}: {words}"]


def short(value: Any) -> str:
    """A value as it would be typed, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
