"""Each loss against plain float64, its gradient, and zero at equality."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from rarefy.numerics import distillation as d

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "soft": lambda s, t: d.soft_targets(s, t, 3.0),
    "hint": d.hint,
    "attention": lambda s, t: d.attention(s[:, None], t[:, None]),
    "relation": d.relation,
}

by_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
seeds = st.integers(0, 2**31)


def pair(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=dtype), torch.randn(shape, generator=draw, dtype=dtype)


@given(seeds, st.integers(1, 6), st.integers(2, 7), st.floats(0.3, 50))
@settings(max_examples=30, deadline=None)
def test_soft_targets_is_the_formula(seed: int, n: int, classes: int, temperature: float) -> None:
    student, teacher = pair(seed, n, classes)
    p, q = ((x / temperature).exp() / (x / temperature).exp().sum(1, keepdim=True) for x in (teacher, student))
    wanted = temperature**2 * (p * (p / q).log()).sum() / n
    assert torch.allclose(d.soft_targets(student, teacher, temperature), wanted, atol=1e-10)
    assert d.soft_targets(student, teacher, temperature) >= -1e-12


def test_t_squared_keeps_the_gradient_at_every_temperature() -> None:
    student, teacher = pair(0, 3, 5)
    teacher = teacher - teacher.mean(1, keepdim=True)
    student = (student - student.mean(1, keepdim=True)).requires_grad_()
    for temperature in (1.0, 4.0, 1e3):
        (found,) = torch.autograd.grad(d.soft_targets(student, teacher, temperature), student)
        wanted = temperature * ((student / temperature).softmax(1) - (teacher / temperature).softmax(1)) / 3
        assert torch.allclose(found, wanted, atol=1e-12)
    assert torch.allclose(found, (student - teacher) / 15, atol=1e-3)  # high temperature: matching logits


def test_classes_may_be_in_any_dimension() -> None:
    student, teacher = pair(1, 2, 4, 3)
    rows = [x.movedim(1, -1).reshape(-1, 4) for x in (student, teacher)]
    assert torch.allclose(d.soft_targets(student, teacher, 2.0), d.soft_targets(rows[0], rows[1], 2.0))
    moved = [x.movedim(1, -1) for x in (student, teacher)]
    assert torch.allclose(d.soft_targets(student, teacher, 2.0), d.soft_targets(moved[0], moved[1], 2.0, dim=-1))


@given(seeds, st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_attention_is_the_formula(seed: int, n: int, channels: int, side: int) -> None:
    student, teacher = pair(seed, n, channels, side, side)
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        one, two = (x.square().sum(0).flatten() for x in (s, t))
        total += float((one / one.norm() - two / two.norm()).square().sum())
    assert float(d.attention(student, teacher)) == pytest.approx(total / (n * side * side), abs=1e-12)
    wider = torch.cat([student, student], 1)  # the number of channels does not count
    assert torch.allclose(d.attention_map(wider), d.attention_map(student))


@given(seeds, st.integers(2, 6), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_relation_is_the_formula(seed: int, n: int, width: int) -> None:
    student, teacher = pair(seed, n, width)

    def distances(x: Tensor) -> list[float]:
        found = [float((x[i] - x[j]).norm()) for i in range(n) for j in range(i + 1, n)]
        mean = sum(found) / len(found)
        return [f / mean for f in found]

    gaps = [abs(a - b) for a, b in zip(distances(student), distances(teacher), strict=True)]
    wanted = sum(g * g / 2 if g < 1 else g - 0.5 for g in gaps) / len(gaps)
    assert float(d.relation(student, teacher)) == pytest.approx(wanted, abs=1e-9)
    assert float(d.relation(7 * student + 3, student)) == pytest.approx(0, abs=1e-9)  # shift and scale do not count


@by_loss
def test_zero_and_flat_where_equal(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    _, teacher = pair(2, 4, 6)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12
    assert loss(teacher + torch.randn(4, 6, dtype=torch.float64), teacher) > 1e-3


@by_loss
def test_gradients_of_both(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    student, teacher = (x.requires_grad_() for x in pair(3, 4, 5))
    assert gradcheck(loss, (student, teacher))


@by_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype) -> None:
    student, teacher = pair(4, 4, 6, dtype=torch.float32)
    coarse = student.to(dtype), teacher.to(dtype)
    assert loss(*coarse).dtype == torch.float32
    assert torch.equal(loss(*coarse), loss(coarse[0].float(), coarse[1].float()))


@by_loss
def test_one_example_and_constant_features_stay_finite(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    for student in (torch.randn(1, 4), torch.zeros(1, 4), torch.zeros(3, 4)):
        student.requires_grad_()
        value = loss(student, torch.ones_like(student))
        value.backward()
        assert value.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_images_are_pooled_to_the_smaller_sides() -> None:
    one, two = torch.randn(2, 3, 8, 4), torch.randn(2, 5, 4, 6)
    a, b = d.pooled_alike(one, two)
    assert a.shape == (2, 3, 4, 4)
    assert b.shape == (2, 5, 4, 4)
    assert torch.allclose(a, one.view(2, 3, 4, 2, 4).mean(3), atol=1e-6)
    assert d.pooled_alike(one, one)[0] is one
    assert d.pooled_alike(one, two.flatten(1))[0] is one
