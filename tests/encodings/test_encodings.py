"""The encodings against plain float64 arithmetic, and how they are put on a weight."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from rarefy import encodings
from rarefy.encodings import Codebook, Half, Mask
from rarefy.graph.weights import weights


def only(model: nn.Module) -> encodings.base.Weight:
    return weights(model)[0]


class TestCodebook:
    @given(k=st.integers(1, 300), size=st.integers(1, 500), zero=st.booleans(), seed=st.integers(0, 99))
    @settings(max_examples=40, deadline=None)
    def test_gradient_is_that_of_plain_indexing(self, k: int, size: int, zero: bool, seed: int) -> None:
        torch.manual_seed(seed)
        indices, centroids, down = torch.randint(0, k, (size,)), torch.randn(k), torch.randn(size)
        link, values = Codebook.of(indices, centroids, zero)
        values = values.clone().requires_grad_()
        weight = link(values)
        weight.backward(down)
        plain = centroids.double().requires_grad_()
        pinned = torch.cat([plain.new_zeros(1), plain[1:]]) if zero else plain
        pinned[indices].backward(down.double())
        assert plain.grad is not None
        assert values.grad is not None
        assert torch.equal(weight.double(), pinned[indices])
        wanted = plain.grad[1:] if zero else plain.grad
        assert torch.allclose(values.grad.double(), wanted, atol=1e-5)

    @pytest.mark.parametrize(("k", "bits"), [(1, 1), (2, 1), (3, 2), (16, 4), (17, 5), (256, 8), (257, 9), (65536, 16)])
    def test_bits_of_an_index(self, k: int, bits: int) -> None:
        indices = torch.arange(k).view(1, -1)
        link = Codebook(indices, k)
        assert link.tensors() == [(k, bits)]
        assert torch.equal(link.indices.int(), indices.int())
        assert torch.equal(link(torch.arange(k).float()), indices.float())

    @pytest.mark.parametrize("zero", [False, True])
    def test_pruned_positions_take_the_pinned_zero(self, zero: bool) -> None:
        indices, centroids = torch.randint(0, 256, (40, 30)), torch.randn(256)
        link, values = Codebook.of(indices, centroids, zero)
        positions = torch.rand(40, 30) < 0.3
        pruned = link.pruned(positions)
        assert pruned.k == 256 + (not zero)
        assert torch.equal(pruned(values), torch.where(positions, 0, link(values)))
        held = pruned.zeros()
        assert held is not None
        assert torch.equal(held, positions | (indices == 0) if zero else positions)

    def test_in_words(self) -> None:
        assert Codebook(torch.zeros(3), 16, zero=True).describe() == "codebook of 16, zero pinned"
        assert Codebook(torch.zeros(3), 3).describe() == "codebook of 3"


class TestHalf:
    @pytest.mark.parametrize(("format", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
    def test_rounds_like_torch_and_lets_the_gradient_through(self, format: str, dtype: torch.dtype) -> None:
        values = torch.cat([torch.randn(999) * 10.0 ** torch.randint(-9, 4, (999,)), torch.tensor([0.0])])
        values.requires_grad_()
        link, down = Half(format), torch.randn(1000)  # type: ignore[arg-type]
        weight = link(values)
        weight.backward(down)
        assert torch.equal(weight, values.detach().to(dtype).float())
        assert torch.equal(link.store(values.detach()), values.detach().to(dtype))
        assert values.grad is not None
        assert torch.equal(values.grad, down)
        assert link.describe() == format


class TestMask:
    def test_holds_zeros_whatever_is_under_them(self) -> None:
        values = torch.tensor([[1.0, torch.nan], [torch.inf, -2.0]], requires_grad=True)
        link = Mask(torch.tensor([[True, False], [False, True]]))
        weight = link(values)
        weight.sum().backward()
        assert weight.tolist() == [[1, 0], [0, -2]]
        assert values.grad is not None
        assert values.grad.tolist() == [[1, 0], [0, 1]]
        assert link.store(values).tolist() == [[1, 0], [0, -2]]
        assert link.describe() == "50.0% zeros"
        assert Mask.of(weight.detach()).mask.tolist() == [[True, False], [False, True]]


class TestChain:
    def test_is_innermost_first_and_counts_every_bit(self) -> None:
        layer = nn.Linear(6, 4, bias=False)
        weight = only(layer)
        indices = torch.arange(24).view(4, 6) % 5
        codebook, values = Codebook.of(indices, torch.tensor([0, 1 / 3, 2, -3, 4]), zero=True)
        encodings.encode(weight, [Half(), codebook], values)
        assert [type(link) for link in encodings.chain(weight)] == [Half, Codebook]
        assert encodings.describe(weight) == "codebook of 5, zero pinned, float16"
        assert encodings.stored(weight).dtype == torch.float16
        assert encodings.stored(weight).tolist() == [0, np.float16(1 / 3), 2, -3, 4]
        assert encodings.stored_bits(weight) == 5 * 16 + 24 * 3
        assert torch.equal(layer.weight, encodings.stored(weight).float()[indices])
        assert [n for n, _ in layer.named_parameters()] == ["parametrizations.weight.original"]
        assert layer.parametrizations.weight.original.shape == (4,)

    def test_of_a_plain_weight_is_empty(self) -> None:
        weight = only(nn.Linear(3, 2))
        assert encodings.chain(weight) == ()
        assert encodings.zeros(weight) is None
        assert encodings.describe(weight) == "float32"
        assert encodings.stored_bits(weight) == 6 * 32

    def test_keeps_what_is_frozen_and_what_is_shared(self) -> None:
        one, two = nn.Linear(3, 3), nn.Linear(3, 3)
        two.weight = one.weight
        one.weight.requires_grad_(False)
        model = nn.Sequential(one, two)
        encodings.encode(only(model), [Mask(torch.eye(3))], torch.ones(3, 3))
        assert one.parametrizations.weight.original is two.parametrizations.weight.original
        assert not only(model).values.requires_grad
        assert torch.equal(two.weight, torch.eye(3))
        plain = encodings.decoded(copy.deepcopy(model))
        assert plain[0].weight is plain[1].weight
        assert not plain[0].weight.requires_grad
        assert type(plain[0]) is nn.Linear

    def test_copies_have_classes_of_their_own(self) -> None:
        layer = nn.Linear(3, 3)
        encodings.encode(only(layer), [Mask(torch.eye(3))], layer.weight)
        twin = copy.deepcopy(layer)
        encodings.encode(only(twin), [Half()], twin.weight)
        encodings.encode(weights(twin)[1], [Half()], twin.bias)
        assert type(layer) is not type(twin)
        assert layer.weight.count_nonzero() == 3
        assert not parametrize.is_parametrized(layer, "bias")


class Doubled(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return 2 * values


def test_adopted_bakes_in_what_is_not_ours() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 3))
    parametrize.register_parametrization(layer, "bias", Doubled())
    model = nn.Sequential(layer, nn.Linear(3, 2))
    encodings.encode(weights(model[1])[0], [Half()], model[1].weight)
    x, copied = torch.randn(2, 4), copy.deepcopy(model)
    wanted = model(x)
    assert torch.allclose(encodings.adopted(copied)(x), wanted, atol=1e-6)
    assert type(copied[0]) is nn.Linear
    assert isinstance(copied[0].weight, nn.Parameter)
    assert encodings.find(weights(copied[1])[0], Half)
    assert torch.equal(model(x), wanted)
    assert parametrize.is_parametrized(layer, "weight")
