"""Chains of layers against the layer that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarefy import factoring
from rarefy.calibration import Spread
from rarefy.factoring import METHODS, Geometry, Layer, Method, Ranks
from rarefy.factoring.table import Table

LAYERS: dict[str, Any] = {
    "linear": lambda: nn.Linear(9, 7),
    "no-bias": lambda: nn.Linear(5, 8, bias=False),
    "plain": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "oblong": lambda: nn.Conv2d(4, 6, (3, 5), stride=(2, 1), padding=(0, 2)),
    "dilated": lambda: nn.Conv2d(6, 3, 3, dilation=(1, 2), bias=False),
    "same": lambda: nn.Conv2d(4, 6, (2, 4), padding="same", dilation=2),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="circular"),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="reflect"),
    "grouped": lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2, stride=2),
    "pointwise": lambda: nn.Conv2d(8, 6, 1, stride=2, groups=2),
}
PAIRS = [(name, m) for name, make in LAYERS.items() for m in METHODS.values() if m.why_not(make()) is None]
by_pair = pytest.mark.parametrize(("name", "method"), PAIRS, ids=lambda v: v if isinstance(v, str) else v.name)


def made(name: str) -> Layer:
    torch.manual_seed(0)
    return LAYERS[name]()


def inputs(layer: Layer, count: int = 6) -> Tensor:
    """Correlated, so that data matters."""
    shape = (count, layer.in_features) if isinstance(layer, nn.Linear) else (count, layer.in_channels, 9, 11)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return x + 3 * x.mean(1, keepdim=True)


def moment(layer: Layer, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return (x.T @ x / len(x))[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode)
    columns = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).transpose(1, 2).flatten(0, 1)
    flat = columns.view(len(columns), layer.groups, -1).transpose(0, 1)
    return flat.mT @ flat / flat.shape[1]


def chained(layer: Layer, method: Method, ranks: Ranks, c: Tensor | None = None) -> nn.Sequential:
    chain = factoring.shaped(layer, method, ranks, bias=c is not None)
    factoring.fill(chain, layer, method, ranks, None if c is None else Spread(torch.zeros_like(c[..., 0]), c))
    return chain


def off(layer: Layer, chain: nn.Sequential, x: Tensor) -> float:
    """Mean squared difference of the outputs, summed over channels."""
    difference = (layer(x) - chain(x)).square().detach()
    return float(difference.sum() / (difference.numel() / layer.weight.shape[0]))


@by_pair
def test_full_rank_changes_nothing(name: str, method: Method) -> None:
    layer, x = made(name), inputs(made(name))
    y, scale = layer(x), float(layer(x).detach().abs().max())
    for c in (None, moment(layer, x)):
        chain = chained(layer, method, method.full(layer), c)
        assert chain(x).shape == y.shape
        assert float((chain(x) - y).detach().abs().max()) < (1e-2 if method.name == "cp" else 1e-5) * scale
    assert torch.equal(chain[-1].bias, torch.zeros(len(chain[-1].bias)) if layer.bias is None else layer.bias)
    assert chained(layer, method, method.full(layer))[-1].bias is layer.bias
    assert all(part.bias is None for part in chain[:-1])


@by_pair
def test_cost_is_that_of_the_chain(name: str, method: Method) -> None:
    layer, x = made(name), inputs(made(name), 1)
    ranks = tuple(max(1, r // 2) for r in method.full(layer))
    chain = chained(layer, method, ranks)
    counted = sum(part.weight.numel() for part in chain)
    at = Geometry(1, 1, 1)
    macs = 0
    if isinstance(layer, nn.Conv2d):
        (h, w), (rows, cols) = x.shape[2:], layer(x).shape[2:]
        at = Geometry(h * w, rows * w, rows * cols)
    for part in chain:
        x = part(x)
        macs += part.weight.numel() * (x[0, 0].numel() if x.ndim == 4 else 1)
    parameters, found = method.cost(layer, torch.tensor([ranks]), at)
    assert int(parameters) == counted
    assert int(found) == macs


@by_pair
def test_the_curve_is_the_error(name: str, method: Method) -> None:
    layer = made(name)
    curve = method.curve(layer, None)
    assert curve.total == pytest.approx(float(layer.weight.detach().double().square().sum()))
    for index in {0, len(curve.ranks) // 2, len(curve.ranks) - 1}:
        chain = chained(layer, method, tuple(curve.ranks[index].tolist()))
        lost = float((_composed(layer, chain) - layer.weight.detach()).square().sum())
        bound = float(curve.error[index])
        if method.name in ("svd", "spatial"):
            assert lost == pytest.approx(bound, abs=1e-4)
        else:  # tucker: sweeps gain on the truncated HOSVD; cp: interpolated
            assert lost <= bound * 1.05 + 1e-3


def _composed(layer: Layer, chain: nn.Sequential) -> Tensor:
    """The kernel that a chain is, from what it does to single pixels."""
    if isinstance(layer, nn.Linear):
        return (chain[1].weight @ chain[0].weight).detach()
    plain = nn.Sequential(*(_unmoved(part) for part in chain))
    kh, kw = layer.kernel_size
    ones = torch.eye(layer.in_channels * kh * kw).view(-1, layer.in_channels, kh, kw)
    whole = plain(ones).detach().view(layer.in_channels, kh, kw, -1).permute(3, 0, 1, 2)  # (o, i of all groups, kh, kw)
    size, out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    parts = [whole[g * out : (g + 1) * out, g * size : (g + 1) * size] for g in range(layer.groups)]
    return torch.cat(parts)


def _unmoved(part: nn.Module) -> nn.Conv2d:
    assert isinstance(part, nn.Conv2d)
    plain = nn.Conv2d(part.in_channels, part.out_channels, part.kernel_size, groups=part.groups, bias=False)
    plain.weight = part.weight
    return plain


@by_pair
def test_data_helps_on_the_data(name: str, method: Method) -> None:
    layer = made(name)
    x = inputs(layer, 40)
    ranks = tuple(max(1, r // 3) for r in method.full(layer))
    plain, fitted = (off(layer, chained(layer, method, ranks, c), x) for c in (None, moment(layer, x)))
    assert fitted <= plain * (1.02 if method.name == "cp" else 1.001) + 1e-9


def test_what_applies_to_what() -> None:
    def names(layer: Layer, name: str) -> list[str]:
        return [m.name for m in factoring.suiting(layer, name)]

    assert names(made("linear"), "cp") == names(made("pointwise"), "auto") == ["svd"]
    assert names(made("plain"), "auto") == ["svd", "spatial", "tucker"]
    assert names(made("grouped"), "auto") == ["svd", "spatial"]
    assert names(made("grouped"), "tucker") == []
    assert names(nn.Conv2d(3, 4, (1, 5)), "spatial") == []


def test_tables() -> None:
    layer = nn.Conv2d(32, 64, 3, padding=1)
    table = Table.of(layer, factoring.suiting(layer, "auto"), None, Geometry(100, 100, 100), align=2)
    rows = table.rows(aligned=True)
    assert all(r % 2 == 0 or r < 2 for row in rows[:-1] for r in table.rank(int(row)))
    assert table.rank(int(rows[-1])) == ()
    assert bool((table.parameters[rows[:-1]] < layer.weight.numel()).all())
    assert len(table.rows(aligned=False)) > len(rows)
    assert table.rank(table.row((16, 8)) or 0) == (16, 8)
    assert table.row((90,)) is None
    with pytest.raises(
        ValueError, match=r"rank 97 is above its full rank, 64 \(svd\) or 96 \(spatial\) or 64 x 32 \(tuck"
    ):
        table.row((97,))
    far = Table.of(layer, [METHODS["tucker"]], None, Geometry(10**6, 1, 1), align=1)
    assert far.rows(aligned=False).tolist() == [len(far.method) - 1]  # its first layer would see a million pixels


def test_ranks_are_whole_blocks_where_channels_are() -> None:
    def ranks(layer: Layer) -> set[int]:
        table = Table.of(layer, [METHODS["svd"]], None, Geometry(100, 100, 100), align=8)
        return {table.rank(int(row))[0] for row in table.rows(aligned=True)[:-1]}

    assert ranks(nn.Conv2d(32, 64, 3)) == {*range(1, 8), *range(8, 49, 8)}
    assert ranks(nn.Conv2d(32, 60, 3)) == set(range(1, 50))  # the blocks of its own channels are not whole
    assert 27 in ranks(nn.Linear(512, 512))
    assert 100 not in ranks(nn.Linear(512, 512))
