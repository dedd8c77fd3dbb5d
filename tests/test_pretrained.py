"""Weights from files into networks of the zoo: other libraries' names, wrappers, other numbers of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rarefy import loading, zoo
from rarefy.errors import ModelError
from rarefy.pretrained import load_weights

NAME = "mobilenet-v1,width=0.1,size=32,classes=7"


def state(name: str = NAME, seed: int = 3) -> dict[str, Tensor]:
    return zoo.build(name, seed=seed).state_dict()


def saved(tensors: dict[str, Tensor], folder: Path) -> Path:
    torch.save(tensors, folder / "w.pt")
    return folder / "w.pt"


def equal(model: nn.Module, wanted: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, wanted[name]) for name, tensor in model.state_dict().items())


def test_options_in_the_name_reach_the_network(tmp_path: Path) -> None:
    network = loading.network(NAME, saved(state(), tmp_path))
    assert network.trained
    assert network.shape == (3, 32, 32)
    assert equal(network.model, state())


def test_timms_names(tmp_path: Path) -> None:
    mine, stages = state(), (1, 2, 2, 6, 2)
    places = [(s, b) for s, blocks in enumerate(stages) for b in range(blocks)]
    parts = {"depthwise.0": "conv_dw", "depthwise.1": "bn1", "pointwise.0": "conv_pw", "pointwise.1": "bn2"}
    theirs = {"features.0.0": "conv_stem", "features.0.1": "bn1", "classifier": "classifier"}
    for index, (stage, block) in enumerate(places):
        theirs |= {f"features.{index + 1}.{a}": f"blocks.{stage}.{block}.{b}" for a, b in parts.items()}
    renamed = {}
    for key, tensor in mine.items():
        layer, _, name = key.rpartition(".")
        renamed[f"module.{theirs[layer]}.{name}"] = tensor
    assert equal(loading.network(NAME, saved(renamed, tmp_path)).model, mine)
    with pytest.raises(ModelError, match="missing features"):
        load_weights(zoo.build(NAME), saved(renamed, tmp_path))


def test_files_without_counters_and_with_others(tmp_path: Path) -> None:
    wanted = {n: t for n, t in state().items() if not n.endswith("num_batches_tracked")}
    model = loading.network(NAME, saved(wanted, tmp_path)).model
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in wanted.items())
    assert {int(t) for n, t in model.state_dict().items() if n not in wanted} == {0}
    model = loading.network(NAME, saved({**wanted, "features.9.num_batches_tracked": torch.tensor(4)}, tmp_path)).model
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        (NAME, r"classifier\.weight, classifier\.bias"),
        ("squeezenet-1.1,size=32,classes=7", r"classifier\.1\.weight, classifier\.1\.bias"),
        ("resnet18,width=2,size=32,classes=7", r"fc\.weight, fc\.bias"),
    ],
)
def test_another_number_of_classes_is_told_as_that(tmp_path: Path, name: str, layer: str) -> None:
    path = saved(state(name.replace("classes=7", "classes=9")), tmp_path)
    words = rf"w\.pt holds weights for 9 classes, and the network has 7 \({layer}\); take data with 9 classes, or load"
    with pytest.raises(ModelError, match=words):
        loading.network(name, path)


def test_other_differences_are_named_by_key(tmp_path: Path) -> None:
    path = saved(state(NAME.replace("0.1", "0.2")), tmp_path)
    with pytest.raises(
        ModelError, match=r"features\.0\.0\.weight has shape \(6, 3, 3, 3\), the network \(3, 3, 3, 3\)"
    ):
        loading.network(NAME, path)
    path = saved({**state(), "features.0.2.weight": torch.ones(1)}, tmp_path)
    with pytest.raises(ModelError, match=r"unknown features\.0\.2\.weight"):
        loading.network(NAME, path)
