"""Weights of one bit and of three levels, as torch and as the file has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decoding import decoded
from rarefy import encodings
from rarefy.encodings import FewLevels, Signs, Ternary
from rarefy.graph.weights import by_path
from rarefy.kernels import unpack_bits

SHAPES = [(5, 12), (3, 5, 3, 3), (4, 1, 1), (2, 8, 3)]


def layer(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    module = nn.Module()
    module.weight = nn.Parameter(torch.randn(shape))
    return module.eval()


def encoded(link: FewLevels, clip: float | None = 1.0) -> nn.Module:
    module = layer(link.shape)
    weight = by_path(module)["weight"]
    encodings.encode(weight, [link.fit(weight.tensor.detach(), clip)], weight.tensor)
    return module


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("kind", [Signs, Ternary])
def test_the_file_has_the_weight(kind: type[FewLevels], scaled: bool, shape: tuple[int, ...]) -> None:
    module = encoded(kind(shape, scaled))
    got, graph = decoded(module)
    assert np.array_equal(got, module.weight.detach().numpy())
    weight = by_path(module)["weight"]
    held = sum(len(tensor.raw_data) for tensor in graph.initializer)
    assert 8 * held <= encodings.stored_bits(weight) + 4
    values = next(t for t in graph.initializer if t.name == "weight.values")
    if kind is Signs:
        assert len(values.raw_data) == shape[0] * -(-int(np.prod(shape[1:])) // 8)
    else:
        assert len(values.raw_data) == -(-int(np.prod(shape)) // 2)
    assert encodings.describe(weight) == ("1 bit" if kind is Signs else "ternary") + ", a scale per filter" * scaled


def test_signs_times_the_mean_magnitude() -> None:
    module, plain = encoded(Signs((5, 12))), layer((5, 12)).weight.detach()
    wanted = torch.where(plain >= 0, 1, -1) * plain.abs().mean(1, keepdim=True)
    torch.testing.assert_close(module.weight.detach(), wanted)
    assert np.array_equal(
        unpack_bits(encodings.stored(by_path(module)["weight"]).numpy(), (5, 12)), torch.sign(plain).numpy()
    )


def test_three_levels_times_the_mean_of_the_largest() -> None:
    module, plain = encoded(Ternary((5, 12))), layer((5, 12)).weight.detach()
    large = plain.abs() > 0.7 * plain.abs().mean(1, keepdim=True)
    scale = (plain.abs() * large).sum(1, keepdim=True) / large.sum(1, keepdim=True)
    torch.testing.assert_close(module.weight.detach(), torch.sign(plain) * large * scale)
    assert not encoded_zeros().weight.any()


def encoded_zeros() -> nn.Module:
    module = layer((2, 3))
    with torch.no_grad():
        module.weight.zero_()
    weight = by_path(module)["weight"]
    encodings.encode(weight, [Ternary((2, 3)).fit(weight.tensor.detach())], weight.tensor)
    return module


def gradient(module: nn.Module, wanted: Tensor) -> Tensor:
    values = by_path(module)["weight"].values
    (module.weight * wanted).sum().backward()
    assert values.grad is not None
    return values.grad


def test_the_gradient_of_binary_weight_networks() -> None:
    """d/dw_i = g_i alpha + sign(w_i) mean_j(g_j sign(w_j)) (Rastegari et al. 2016), 0 for g alpha beyond the bound."""
    module = encoded(Signs((4, 9)), clip=0.8).train()
    torch.manual_seed(1)
    g, values = torch.randn(4, 9), by_path(module)["weight"].values.detach()
    sign, alpha = torch.sign(values), values.abs().mean(1, keepdim=True)
    inside = values.abs() <= 0.8 * 3**0.5 * values.square().mean().sqrt()
    assert 0 < inside.sum() < inside.numel()
    torch.testing.assert_close(gradient(module, g), g * alpha * inside + sign * (g * sign).mean(1, keepdim=True))


def test_without_scales_the_gradient_is_passed_on() -> None:
    module = encoded(Signs((4, 9), scaled=False), clip=None)
    torch.manual_seed(1)
    g = torch.randn(4, 9)
    assert torch.equal(gradient(module, g), g)


def test_a_step_of_training_settles() -> None:
    module = encoded(Signs((4, 9)))
    weight = by_path(module)["weight"]
    (link,) = encodings.chain(weight)
    assert isinstance(link, Signs)
    with torch.no_grad():
        weight.values.mul_(10)
        link.settle(weight.values)
    assert float(weight.values.detach().abs().max()) == float(link.bound)
    torch.testing.assert_close(link.scale, weight.values.detach().abs().mean(1))
    free = encoded(Signs((4, 9)), clip=None)
    before = by_path(free)["weight"].values.detach().clone()
    encodings.chain(by_path(free)["weight"])[0].settle(by_path(free)["weight"].values.data)
    assert torch.equal(by_path(free)["weight"].values.detach(), before)


def test_stochastic_signs_are_drawn_by_their_probabilities_in_training_only() -> None:
    module = encoded(Signs((1, 4), stochastic=True, scaled=False))
    weight = by_path(module)["weight"]
    (link,) = encodings.chain(weight)
    assert isinstance(link, Signs)
    with torch.no_grad():
        weight.values.copy_(torch.tensor([[-1.0, -0.5, 0.0, 1.0]]) * link.bound)
    module.train()
    torch.manual_seed(0)
    mean = torch.stack([module.weight.detach() for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, torch.tensor([[-1.0, -0.5, 0.0, 1.0]]), atol=0.06, rtol=0)
    module.eval()
    assert module.weight.tolist() == [[-1, -1, 1, 1]]


def test_balanced_filters_are_half_positive() -> None:
    link = Signs((3, 100), balanced=True)
    module = layer((3, 100))
    with torch.no_grad():
        module.weight.add_(5)
    weight = by_path(module)["weight"]
    encodings.encode(weight, [link.fit(weight.tensor.detach())], weight.tensor)
    assert ((module.weight > 0).float().mean(1) - 0.5).abs().max() < 0.1
    assert np.array_equal(decoded(module)[0], module.weight.detach().numpy())
