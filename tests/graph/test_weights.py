"""Every parameter once, by path."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from models import CASES
from rarefy import encodings
from rarefy.errors import ModelError, StepError
from rarefy.graph.weights import by_path, chosen, surveyed, unmatched, weights, why_not, why_small


@pytest.mark.parametrize("name", [name for name in CASES if name != "frozen"])
def test_the_same_as_named_parameters(name: str) -> None:
    model = CASES[name].model()
    found = {w.path: w.values for w in weights(model)}
    named = dict(model.named_parameters())
    assert found.keys() == named.keys()
    assert all(found[n] is named[n] for n in named)
    every = dict(model.named_parameters(remove_duplicate=False))
    assert {n: id(w.values) for n, w in by_path(model).items()} == {n: id(p) for n, p in every.items()}


def test_shared_ones_are_one_before_and_after_encoding() -> None:
    model = CASES["twice"].model()
    for _ in range(2):
        weight = by_path(model)["other.weight"]
        assert weight.path == "conv.weight"
        assert weight is not None
        assert [name for _, name in weight.owners] == ["weight", "weight"]
        assert {id(m) for m, _ in weight.owners} == {id(model.conv), id(model.other)}
        assert by_path(model)["same.weight"].path == "conv.weight"
        encodings.encode(weight, [encodings.Half()], weight.values)
        assert weight.tensor is not weight.values
        assert len(weight.chain) == 1
        assert len(weights(model)) == 7


def test_two_names_in_one_module() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Parameter(torch.randn(3, 3))
            self.two = self.one
            self.none = None
            self.register_parameter("absent", None)

    model = Both()
    for _ in range(2):
        (weight,) = weights(model)
        assert weight.path == "one"
        encodings.encode(weight, [encodings.Half()], weight.values)
    assert encodings.decoded(model).one is model.two


def test_globs_take_paths_and_modules() -> None:
    assert chosen("a.b.weight", ["a.b"])
    assert chosen("a.b.weight", ["*.weight"])
    assert chosen("a.b.weight", ["a.?.w*"])
    assert not chosen("a.b.weight", ["a", "b", "A.B", "weight"])
    assert chosen("weight", ["weight"])
    found = weights(CASES["plain"].model())
    assert unmatched(["4", "*.bias", "5", "4.Weight"], found) == ["5", "4.Weight"]
    with pytest.raises(StepError, match=r"^Prune: no parameter matches 5; the network has 0\.0\.weight, .*4\.bias$"):
        surveyed("Prune", CASES["plain"].model(), ["4", "5"], ())
    assert len(surveyed("Prune", CASES["plain"].model(), ["4"], ["0.*"])) == len(found)


def test_reasons() -> None:
    model = CASES["loose"].model()
    reasons = {w.path: why_not(w) for w in weights(model)}
    assert reasons["fine"] == "stored as float64, not float32: give the network as model.float()"
    assert reasons["counts"] == "stored as int64, not float32"
    assert reasons["empty"] == "it is empty"
    assert reasons["weight"] is reasons["unused"] is None
    small = {w.path: why_small(w) for w in weights(model)}
    assert small["parts.1"] == "one-dimensional (bias or normalisation), 8 values"
    assert small["scale"] == "one-dimensional (bias or normalisation), 1 values"
    assert small["single"] is None
    assert "LSTM keeps its own flat copy" in str(why_not(weights(nn.LSTM(2, 2))[0]))


def test_weights_made_of_several_tensors_have_to_be_baked_in() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)))
    with pytest.raises(ModelError, match=r"^0\.weight is made of several tensors by _WeightNorm; bake it in"):
        weights(model)
    assert len(weights(encodings.adopted(model))) == 2
