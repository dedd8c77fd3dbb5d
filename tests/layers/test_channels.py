from __future__ import annotations

import torch
from torch import nn

from rarefy.layers import ChannelShuffle, Concat, Reorder


def test_shuffle_matches_its_definition() -> None:
    x = torch.rand(2, 12, 3, 5)
    out = ChannelShuffle(3)(x)
    assert out.shape == x.shape
    assert all(torch.equal(out[:, i * 3 + g], x[:, g * 4 + i]) for g in range(3) for i in range(4))
    assert torch.equal(ChannelShuffle(4)(out), x)
    assert "groups=3" in repr(ChannelShuffle(3))


def test_reorder_keeps_its_order_in_the_state() -> None:
    reorder = Reorder(3)
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(reorder(x), x)
    reorder.load_state_dict({"order": torch.tensor([2, 0, 1])})
    assert torch.equal(reorder(x), torch.stack([x[:, 2], x[:, 0], x[:, 1]], 1))


def test_concat_names_its_branches() -> None:
    concat = Concat(one=nn.Conv2d(2, 3, 1), two=nn.Conv2d(2, 4, 3, padding=1))
    x = torch.rand(2, 2, 5, 5)
    out = concat(x)
    assert torch.equal(out[:, :3], concat.get_submodule("one")(x))
    assert torch.equal(out[:, 3:], concat.get_submodule("two")(x))
