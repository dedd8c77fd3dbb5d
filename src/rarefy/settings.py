"""Settings: frozen, checked when made, every problem told at once."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rarefy.errors import SettingsError


class Settings(BaseModel):
    """The base of everything a user can set. A misspelt name or an impossible value is a `SettingsError`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise SettingsError(problems(type(self), error)) from None


def problems(cls: type[BaseModel], error: ValidationError) -> list[str]:
    """One line per problem: the field, what is wrong, what came, and the names that exist."""
    lines = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        place = f"{cls.__name__}.{where}" if where else cls.__name__
        if item["type"] == "extra_forbidden":
            known = ", ".join(cls.model_fields) or "none"
            lines.append(f"{place}: no such setting; {cls.__name__} has: {known}")
        elif item["type"] == "missing":
            lines.append(f"{place}: missing, and it has no default")
        elif where:
            lines.append(f"{place}: {item['msg']}, not {item['input']!r}")
        else:
            lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
    return lines
