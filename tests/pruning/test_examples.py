"""What a network is checked on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rarefy.pruning.examples import Examples, beside, single


def test_the_made_up_example_differs_in_everything() -> None:
    batch = {
        "x": torch.ones(4, 6, 3),
        "mask": torch.ones(4, 40, dtype=torch.bool),
        "ids": torch.arange(40).view(4, 10),
        "scale": torch.tensor(2.0),
    }
    made = beside(batch, 2)
    assert all(torch.equal(made[name][:2], batch[name][:2]) for name in ("x", "mask", "ids"))
    assert made["x"].shape == (3, 6, 3)
    assert made["x"][2, :3].std() > 0.1
    assert not made["x"][2, 3:].any()
    assert 0 < made["mask"][2].sum() < 40
    assert set(made["ids"][2].tolist()) <= set(range(40))
    assert not torch.equal(made["ids"][2], batch["ids"][3])
    assert made["scale"] == 2


def test_examples_are_taken_one_by_one() -> None:
    x = torch.randn(20, 3)
    assert torch.equal(torch.cat([one for (one,) in single((x,))]), x[:16])


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 1:
            raise ValueError("one by one")
        return x


def test_what_a_network_does_not_take_is_left_out() -> None:
    x = torch.randn(4, 3)
    examples = Examples([x[:1], x[1:2]], x, macs=10)
    assert [len(t) for t in examples.outputs(nn.Identity())] == [5, 1]
    assert [len(t) for t in Examples([x[:1]], x, macs=10**12).outputs(nn.Identity())] == [2]
    assert [len(t) for t in examples.settled(Picky())] == [1, 1]
    assert [len(t) for t in examples.outputs(nn.Identity())] == [1, 1]
