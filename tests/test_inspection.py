from __future__ import annotations

from pathlib import Path

import pytest

from rarefy import loading, steps
from rarefy.errors import InputError
from rarefy.inspection import inspected, measured, method, table


def test_layers_of_lenet5_are_those_of_the_literature() -> None:
    rows = {r["parameter"]: r for r in inspected(loading.network("lenet5"), None)}
    assert sum(r["weights"] for r in rows.values()) == 431_080
    macs = {name: r["macs"] for name, r in rows.items() if r["macs"]}
    assert macs == {
        "conv1.weight": 20 * 25 * 24 * 24,
        "conv2.weight": 50 * 20 * 25 * 8 * 8,
        "fc1.weight": 800 * 500,
        "fc2.weight": 5000,
    }
    structural = ["PruneChannels", "Factorize", "StructureMatrices"]
    codebooks, integers = ["ClusterWeights", "ProductQuantize", "ResidualQuantize"], ["Quantize", "RoundWeights"]
    assert rows["fc1.weight"]["steps"] == [*structural, "PruneWeights", *codebooks, *integers, "Binarize", "Half"]
    assert rows["fc1.bias"]["steps"] == ["PruneChannels", "RoundWeights", "Half"]


def test_a_network_of_the_user_needs_data_for_its_operations(place: Path) -> None:
    network = loading.network("net.py:linear")
    assert [r["macs"] for r in inspected(network, None)] == [None] * 4
    rows = inspected(network, loading.task("data.npz"))
    assert [r["macs"] for r in rows] == [64 * 40, None, 40 * 4, None]


def test_measuring_a_network_without_data_needs_its_shape(place: Path) -> None:
    with pytest.raises(InputError, match=r"net.py:linear: give --data, to know what the network takes"):
        measured(["net.py:linear"], None, None, 1, 1)


def test_every_step_is_in_the_table() -> None:
    rows = table()
    assert [r["name"] for r in rows] == [cls.__name__ for cls in steps.ALL]
    for row in rows:
        assert row["does"].endswith(".")
        assert row["gains"]
        assert row["paper"]


def test_settings_in_words() -> None:
    rows = {r["name"]: r for r in method("prune-weights")["settings"]}
    assert rows["sparsity"]["values"] == "number >= 0 and < 1"
    assert rows["scope"]["values"] == "layer, global"
    assert rows["scope"]["default"] == "layer"


def test_unknown_steps() -> None:
    with pytest.raises(InputError, match="there is no step 'Prune'; there are Train, "):
        method("Prune")
