from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from rarefy.errors import SettingsError
from rarefy.settings import Settings


class Inner(Settings):
    side: int = Field(1, ge=1)


class Outer(Settings):
    rate: float = Field(gt=0)
    inner: Inner = Inner()
    many: dict[str, Inner] = Field(default_factory=dict)


def lines(**values: object) -> list[str]:
    with pytest.raises(SettingsError) as error:
        Outer(**values)
    return error.value.problems


def test_every_problem_is_told_with_its_place() -> None:
    found = lines(rate=-1, inner={"side": 0, "top": 3}, many={"a": {"side": -5}}, ratee=2)
    assert found == [
        "Outer.rate: Input should be greater than 0, not -1",
        "Outer.inner: Inner.side: Input should be greater than or equal to 1, not 0",
        "Outer.inner: Inner.top: no such setting; Inner has: side",
        "Outer.many.a: Inner.side: Input should be greater than or equal to 1, not -5",
        "Outer.ratee: no such setting; Outer has: rate, inner, many",
    ]


def test_what_is_missing_is_named() -> None:
    assert lines() == ["Outer.rate: missing, and it has no default"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    assert "finite number" in lines(rate=value)[0]


def test_long_values_are_cut() -> None:
    assert len(lines(rate="9" * 10_000 + "x")[0]) < 200


def test_settings_are_frozen() -> None:
    made = Outer(rate=1)
    with pytest.raises(ValidationError, match="frozen"):
        made.rate = 2  # type: ignore[misc]
