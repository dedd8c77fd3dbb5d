from __future__ import annotations

import torch
from torch import nn

from rarefy.graph.modules import replaced


def test_every_use_of_a_shared_module_is_replaced() -> None:
    shared = nn.ReLU()
    model = nn.Sequential(nn.Linear(2, 2), shared, nn.Sequential(nn.Linear(2, 2), shared)).eval()
    assert replaced(model, "2.1", nn.Tanh()) is model
    assert isinstance(model[1], nn.Tanh)
    assert model[1] is model[2][1]
    assert not model[1].training
    assert torch.isfinite(model(torch.ones(1, 2))).all()


def test_the_whole_network_can_be_replaced() -> None:
    new = nn.Identity()
    assert replaced(nn.Linear(2, 2), "", new) is new
