from __future__ import annotations

import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rarefy import loading
from rarefy.classification import Classification
from rarefy.errors import DataError, ModelError, RarefyError


def made() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def state(seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {n: torch.randn(t.shape) if t.is_floating_point() else t for n, t in made().state_dict().items()}


def equal(model: nn.Module, wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(t, wanted[n]) for n, t in model.state_dict().items())


# Weights


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s, "optimizer": {}},
        lambda s: {f"module.{n}": t for n, t in s.items()},
        lambda s: {"state_dict": {f"module.{n}": t for n, t in s.items()}},
    ],
    ids=["plain", "state_dict", "model", "module", "both"],
)
def test_pt_files(tmp_path: Path, wrap: Any) -> None:
    torch.save(wrap(state()), tmp_path / "w.pt")
    model = made()
    loading.load_weights(model, tmp_path / "w.pt")
    assert equal(model, state())


def test_safetensors(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    model = made()
    loading.load_weights(model, tmp_path / "w.safetensors")
    assert equal(model, state())


def test_tied_weights_load_under_one_name_or_all(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        model[1].weight = model[0].weight
        return model

    full = {n: t.clone() for n, t in tied().state_dict().items()}
    for missing in (None, "0.weight", "1.weight"):
        torch.save({n: t for n, t in full.items() if n != missing}, tmp_path / "w.pt")
        model = tied()
        loading.load_weights(model, tmp_path / "w.pt")
        assert torch.equal(model[0].weight, full["0.weight"])


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    wrong = state()
    wrong["2.weight"] = wrong.pop("0.weight")
    wrong["0.bias"] = torch.zeros(7)
    save_file(wrong, tmp_path / "w.safetensors")
    model = made()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"0\.bias has shape \(7,\), the network \(3,\); missing 0\.weight; unknown 2"):
        loading.load_weights(model, tmp_path / "w.safetensors")
    assert equal(model, before)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("owned",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"0.weight": Evil()}, "evil.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pt", "plain.pt"):
        with pytest.raises(ModelError, match=r"expected .safetensors, or a .pt with a plain state dict .*runs no code"):
            loading.load_weights(made(), Path(name))
    assert not Path("owned").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [({}, "an empty mapping"), ([1, 2], "a list"), ({"epoch": 3}, "a mapping with epoch"), (torch.ones(2), "a Tensor")],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, words: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ModelError, match=f"w.pt holds {words}"):
        loading.load_weights(made(), tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_missing_cut_and_mutated_files(tmp_path: Path, name: str) -> None:
    path, draw = tmp_path / name, random.Random(0)
    with pytest.raises(ModelError, match=f"{name}: No such file"):
        loading.load_weights(made(), path)
    if name == "w.pt":
        torch.save(state(), path)
    else:
        save_file(state(), path)
    whole = path.read_bytes()
    for cut in (0, 1, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ModelError, match="cannot be read as weights"):
            loading.load_weights(made(), path)
    for _ in range(150):
        bad = bytearray(whole)
        bad[draw.randrange(min(len(bad), 600))] = draw.randrange(256)
        path.write_bytes(bad)
        try:
            loading.load_weights(made(), path)
        except RarefyError as error:
            assert str(path) in str(error)  # noqa: PT017


# Networks


def test_networks_of_the_user(place: Path) -> None:
    network = loading.network("net.py:linear")
    assert network.trained is None
    assert sum(p.numel() for p in network.model.parameters()) == 64 * 40 + 40 + 40 * 4 + 4
    again = loading.network("net.py:linear")
    assert equal(again.model, network.model.state_dict()), "the same seed, the same weights"
    assert not equal(loading.network("net.py:linear", seed=1).model, network.model.state_dict())


def test_making_a_network_leaves_the_random_state_alone(place: Path) -> None:
    before = torch.get_rng_state()
    loading.network("net.py:linear")
    loading.network("lenet5")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_make_it_trained(place: Path) -> None:
    torch.save(loading.network("net.py:linear", seed=3).model.state_dict(), "w.pt")
    network = loading.network("net.py:linear", Path("w.pt"))
    assert network.trained
    assert equal(network.model, loading.network("net.py:linear", seed=3).model.state_dict())


def test_a_module_by_its_dotted_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "mine").mkdir()
    (place / "mine" / "nets.py").write_text((place / "net.py").read_text())
    assert isinstance(loading.network("mine.nets:linear").model, nn.Sequential)
    monkeypatch.delitem(sys.modules, "mine.nets")
    monkeypatch.delitem(sys.modules, "mine")


def test_a_file_called_like_a_library_replaces_none(place: Path) -> None:
    (place / "json.py").write_text("from torch import nn\ndef f(): return nn.Linear(2, 2)\n")
    import json

    assert isinstance(loading.network("json.py:f").model, nn.Linear)
    assert sys.modules["json"] is json


def test_what_fails_in_the_users_file_is_told_with_its_line(place: Path) -> None:
    line = next(i for i, text in enumerate((place / "net.py").read_text().splitlines(), 1) if "KeyError" in text)
    with pytest.raises(ModelError, match=rf"failed with KeyError: 'no such thing' \(.*net\.py, line {line}\)"):
        loading.network("net.py:raises")


# Networks of the zoo fit themselves to the task


def classification(classes: int, channels: int, size: int) -> Classification:
    import numpy as np

    from rarefy.data import Images

    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 256, (classes * 2, channels, size, size)).astype(np.uint8)
    images = Images(pixels, np.arange(classes * 2) % classes, tuple(map(str, range(classes))))
    return Classification(images, images)


@pytest.mark.parametrize(
    ("name", "classes", "channels", "size"),
    [
        ("lenet5", 7, 3, 28),
        ("lenet5", 10, 1, 32),
        ("lenet-300-100", 4, 1, 8),
        ("resnet20", 100, 1, 32),
        ("shufflenet-v2,width=0.5", 3, 1, 28),
    ],
)
def test_zoo_networks_fit_the_data(name: str, classes: int, channels: int, size: int) -> None:
    task = classification(classes, channels, size)
    network = loading.network(name, task=task)
    assert network.trained is False
    assert network.shape == (channels, size, size)
    inputs, _ = next(iter(task.judge()))
    assert network.model.eval()(inputs).shape == (len(inputs), classes)


def test_a_zoo_network_that_cannot_be_fitted_names_both_shapes() -> None:
    with pytest.raises(ModelError, match="lenet5 is made for images of 1x28x28 and cannot be fitted to those of 1x8x8"):
        loading.network("lenet5", task=classification(10, 1, 8))


def test_options_of_the_name_count_before_the_data() -> None:
    task = classification(3, 1, 28)
    network = loading.network("resnet18,width=2,size=224", task=task)
    assert network.model.get_submodule("conv1").stride == (2, 2)
    assert loading.network("resnet18,width=2", task=task).model.get_submodule("conv1").stride == (1, 1)
    assert loading.network("resnet18,width=2,size=28").shape == (3, 28, 28)
    with pytest.raises(ModelError, match=r"^resnet18: width must be a whole number of at least 1, not 0.5"):
        loading.network("resnet18,width=0.5")
    with pytest.raises(ModelError, match=r"resnet18 has no option bypass"):
        loading.network("resnet18,bypass=simple")


# Tasks


def test_tasks_of_the_user(place: Path) -> None:
    task = loading.task("net.py:regression")
    assert task.metric_name == "closeness"
    with pytest.raises(DataError, match=r"returned Sequential; expected a rarefy\.Task"):
        loading.task("net.py:linear")


def test_arrays_and_digits(place: Path) -> None:
    task = loading.task("data.npz", batch_size=8)
    assert task.describe() == "data.npz: 4 classes, 40 to train, 40 to judge, 1x8x8, batches of 8"
    assert "1,297 to train, 500 to judge" in loading.task("digits").describe()
    assert "130 held out" in loading.task("digits", holdout=0.1).describe()


def test_what_is_judged_does_not_depend_on_the_seed(tmp_path: Path) -> None:
    import numpy as np

    draw = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", images=draw.integers(0, 256, (50, 4, 4)).astype(np.uint8), labels=np.arange(50) % 2)
    first, second = (next(iter(loading.task(str(tmp_path / "d.npz"), seed=s).judge()))[1] for s in (0, 7))
    assert torch.equal(first, second)
