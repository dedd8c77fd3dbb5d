from __future__ import annotations

import random
from pathlib import Path

import pytest

from rarefy import ClusterWeights, Finetune, Half, PruneWeights, Ramp, Recipe, Repeat, Train
from rarefy.errors import RarefyError, SettingsError
from rarefy.recipe import ready_recipes


def problems(text: str, folder: Path) -> list[str]:
    path = folder / "r.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as error:
        Recipe.load(path)
    return error.value.problems


@pytest.mark.parametrize("name", ready_recipes())
def test_ready_recipes_load_and_come_back_from_their_file(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.about
    recipe.save(tmp_path / "r.yaml")
    again = Recipe.load(tmp_path / "r.yaml")
    assert again.to_dict() == recipe.to_dict()
    assert again.steps == recipe.steps


def test_the_order_written_is_the_order_run() -> None:
    group = Repeat(
        times=3,
        steps=[PruneWeights(sparsity=0.5), Finetune(epochs=1)],
        ramp={"PruneWeights.sparsity": Ramp(start=0.5, end=0.9)},
    )
    recipe = Recipe([Train(epochs=1), group, Half()])
    names = [type(s).__name__ for s in recipe]
    assert names == ["Train", *["PruneWeights", "Finetune"] * 3, "Half"]
    assert [s.sparsity for s in recipe if isinstance(s, PruneWeights)] == [0.5, 0.7, 0.9]
    assert recipe.distinct() == [Train(epochs=1), PruneWeights(sparsity=0.5), Finetune(epochs=1), Half()]


@pytest.mark.parametrize(
    ("curve", "times", "values"),
    [("linear", 3, [0.0, 0.5, 1.0]), ("cubic", 3, [0.0, 0.875, 1.0]), ("linear", 1, [1.0]), ("cubic", 2, [0.0, 1.0])],
)
def test_ramps(curve: str, times: int, values: list[float]) -> None:
    assert Ramp(start=0, end=1, curve=curve).values(times) == values  # type: ignore[arg-type]


def test_a_ramped_setting_need_not_be_given_twice() -> None:
    ramp = {"PruneWeights.sparsity": {"start": 0.2, "end": 0.4}}
    group = {"Repeat": {"times": 2, "ramp": ramp, "steps": [{"PruneWeights": {"scope": "global"}}]}}
    assert [s.sparsity for s in Recipe.from_dict({"steps": [group]})] == [0.2, 0.4]  # type: ignore[attr-defined]


def test_every_problem_in_one_go(tmp_path: Path) -> None:
    text = """
    nme: x
    steps:
      - Trian
      - Train: {epochs: 0, foo: 1, augment: {crop: -1}}
      - Repeat: {times: 0, bar: 1, steps: [Foo, {PruneWeights: {sparsity: 5}}]}
      - Repeat: 5
      - 7
      - {Half: {}, Train: {}}
      - Half: [1]
    """
    found = "\n".join(problems(text, tmp_path))
    for part in (
        "r, no such field 'nme'; a recipe has name, about, steps",
        "r, step 1: no step is called 'Trian'; did you mean Train?",
        "r, step 2: Train.epochs: Input should be greater than or equal to 1, not 0",
        "r, step 2: Train.foo: no such setting",
        "r, step 2: Train.augment: Augment.crop: ",
        "r, step 3.1: no step is called 'Foo'; there are Train, ",
        "r, step 3.2: PruneWeights.sparsity: Input should be less than 1, not 5",
        "r, step 3: Repeat.times: Input should be greater than or equal to 1, not 0",
        "r, step 3: Repeat.bar: no such setting; Repeat has: times, steps, ramp",
        "r, step 4: expected `Repeat: {times: ..., steps: [...]}`, not 5",
        "r, step 5: expected `Name: {settings}`, not 7",
        "r, step 6: expected `Name: {settings}`",
        "r, step 7: the settings of Half are a mapping, not [1]",
    ):
        assert part.replace("r, no", "r: no") in found


@pytest.mark.parametrize(
    ("ramp", "message"),
    [
        ("5", "Repeat.ramp: Input should be a valid dictionary, not 5"),
        ("{Foo.sparsity: [0.1, 0.2]}", "the group has no step 'Foo'; it has Finetune, PruneWeights"),
        ("{PruneWeights.sparsity: [0.1]}", "has 1 values for 2 turns"),
        ("{PruneWeights.sparsity: [0.1, 1.5]}", "PruneWeights.sparsity: Input should be less than 1, not 1.5"),
        ("{PruneWeights.sparsity: {start: 0.1, end: 0.5}, Finetune.rate: [1, 2]}", "Finetune.rate: no such setting"),
        ("{PruneWeights.sparsity: {start: 0.1, end: .nan}}", "finite number"),
        ("{PruneWeights.sparsity: abc}", "Repeat.ramp.PruneWeights.sparsity"),
    ],
)
def test_bad_ramps(tmp_path: Path, ramp: str, message: str) -> None:
    group = f"steps: [{{Repeat: {{times: 2, ramp: {ramp}, steps: [{{PruneWeights: {{sparsity: 0.1}}}}, {{Finetune: {{epochs: 1}}}}]}}}}]"  # noqa: E501
    assert message in "\n".join(problems(group, tmp_path))


def test_a_ramp_over_no_setting_is_told() -> None:
    with pytest.raises(SettingsError, match=r"ramp 'Half.x': no such setting; Half has: format, skip"):
        Repeat(times=2, steps=[Half()], ramp={"Half.x": [1, 2]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: []", "a recipe needs at least one step"),
        ("steps: {Half: {}}", "expected a mapping with a list of `steps`"),
        ("- Half", "expected a mapping with a list of `steps`, not ['Half']"),
        ("steps: [Half]\nsteps: [Half]", "line 1: not the YAML of a recipe: 'steps' is there twice"),
        ("steps: [{Repeat: {times: 2, steps: [{Repeat: {times: 2, steps: [Half]}}]}}]", "cannot stand in another"),
        ("steps: [{Repeat: {times: 501, steps: [Half, Half]}}]", "501 times 2 steps; a recipe has at most 1000"),
        ("a: &a [1]\nsteps: *a", "line 2: not the YAML of a recipe: aliases"),
        ("steps: [!!python/name:os.system ]", "could not determine a constructor"),
        ("steps:\n\t- Half", "line 2"),
        ("steps: 2026-13-45", "month must be in 1..12"),
        (f"steps: {'1' * 5000}", "Exceeds the limit"),
        ("steps: " + "[" * 1500, "maximum recursion depth"),
        ("a\0b", "unacceptable character"),
        ("#" * 300_000, "a recipe has at most"),
        ("steps: [" + "Half, " * 1001 + "]", "1,001 steps; a recipe has at most 1000"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (line,) = problems(text, tmp_path)
    assert message in line
    assert "\n" not in line


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(b"\xff\xfe\xfa\x80")
    with pytest.raises(SettingsError, match="cannot read the recipe"):
        Recipe.load(tmp_path / "r.yaml")


def test_unknown_names() -> None:
    with pytest.raises(SettingsError, match="no ready recipe of that name; ready: deep-compression"):
        Recipe.load("nothing")
    with pytest.raises(SettingsError, match=r"cannot read the recipe nothing\.yaml"):
        Recipe.load("nothing.yaml")


def test_only_steps_in_python() -> None:
    with pytest.raises(SettingsError, match="step 2: expected a step or a Repeat, not str"):
        Recipe([Half(), "Half"])  # type: ignore[list-item]
    with pytest.raises(SettingsError, match="1002 steps after unrolling"):
        Recipe([Repeat(times=501, steps=[Half()])] * 2)


def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(0)
    recipe = Recipe([Train(epochs=1), Repeat(times=2, steps=[PruneWeights(sparsity=0.5)]), ClusterWeights(bits=3)])
    recipe.save(tmp_path / "r.yaml")
    data = (tmp_path / "r.yaml").read_bytes()
    for _ in range(300):
        bad = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(len(bad))
            bad[place : place + draw.randint(0, 3)] = bytes(
                draw.choices(b"[]{}:-&*!#'\"\n \t09aZ\x00\xff", k=draw.randint(0, 3))
            )
        (tmp_path / "m.yaml").write_bytes(bad)
        try:
            Recipe.load(tmp_path / "m.yaml")
        except RarefyError as error:
            assert str(error)  # noqa: PT017
