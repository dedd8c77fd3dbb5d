from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from models import Toy
from rarefy.errors import StepError
from rarefy.graph.weights import weights
from rarefy.quantizing import fisher
from rarefy.quantizing.matrices import Matrices
from rarefy.step import Context


def measured(model: nn.Module, batches: Sequence[Tensor]) -> dict[str, fisher.Information]:
    layouts = {w.path: Matrices.of(w) for w in weights(model)}
    return fisher.information(model, layouts, batches, Context(task=Toy(batches[0])))


def exact(model: nn.Module, batches: list[Tensor], middle: Callable[[Tensor], Tensor]) -> Tensor:
    """J^T M J of the first weight, by the Jacobian of every example: its mean over passes, (values, values)."""
    weight = next(model.parameters())

    def answer(w: Tensor, x: Tensor) -> Tensor:
        return torch.func.functional_call(model, {"0.weight": w}, (x,))

    total = torch.zeros(weight.numel(), weight.numel())
    for batch in batches:
        whole = answer(weight, batch).detach()
        for i in range(len(batch)):
            jacobian = torch.autograd.functional.jacobian(lambda w, x=batch[i : i + 1]: answer(w, x)[0], weight)
            rows = jacobian.flatten(1) if isinstance(jacobian, Tensor) else jacobian[0].flatten(1)
            total += rows.T @ middle(whole)[i] @ rows
    return total / len(batches)


class Own(nn.Module):
    """A layer of the user's own, whose inputs nobody knows how to unfold."""

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, columns))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def softmax_middle(answers: Tensor) -> Tensor:
    p = answers.softmax(1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None]


@pytest.mark.parametrize("classes", [4, 1])
def test_is_the_curvature_of_the_divergence(classes: int) -> None:
    """The mean over many passes is the matrix by its definition; one output is no score, and counts by its square."""
    torch.manual_seed(0)
    model = nn.Sequential(Own(2, 3), nn.Tanh(), nn.Linear(2, classes))
    batch = torch.randn(3, 3)
    batches = [batch] * 500
    found = measured(model, batches)["0.weight"]
    middle = softmax_middle if classes > 1 else lambda a: torch.eye(1).expand(3, 1, 1) * 3 / a.square().sum()
    wanted = exact(model, batches[:1], middle)
    blocks = wanted.reshape(2, 3, 2, 3)
    rows = torch.stack([blocks[r, :, r].diagonal().mean() for r in range(2)])
    torch.testing.assert_close(found.rows[0], rows, rtol=0.2, atol=0)
    scale = found.rows[0].mean() + found.rows[0]
    shared = sum(blocks[r, :, r] / scale[r] for r in range(2))
    total = sum(half.total[0] for half in found.gradients)
    direction = total / total.diagonal().mean()
    torch.testing.assert_close(direction, shared / shared.diagonal().mean(), rtol=0.2, atol=0.1)


def test_predicts_the_divergence() -> None:
    """KL(answers || answers after a small change e) = 1/2 e^T F e, here for a change of one row."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    batch = torch.randn(8, 5)
    wanted = model(batch).detach()
    curvature = exact(model, [batch], softmax_middle)
    change = torch.zeros(4, 5)
    change[1] = 0.01 * torch.randn(5)
    with torch.no_grad():
        model[0].weight += change
        found = model(batch)
    predicted = float(change.flatten() @ curvature @ change.flatten()) / 2 / len(batch)
    assert fisher.divergence([found], [wanted]) == pytest.approx(predicted, rel=0.05)


def test_divergence_of_other_answers() -> None:
    a, b = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    expected = float((a - b).square().sum() / b.square().sum() / 2)
    assert fisher.divergence([a], [b]) == pytest.approx(expected, rel=1e-5)
    assert fisher.divergence([a, b], [b, b]) == pytest.approx(expected, rel=1e-5)
    assert fisher.divergence([a], [torch.zeros(4, 3, 2)]) > 1


def test_mirror_images_count_where_they_are_answered_alike() -> None:
    images = torch.randn(8, 1, 4, 4)
    even = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 3))
    one_sided = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        one_sided[1].weight *= 40
    assert fisher.symmetric(even, images)
    assert not fisher.symmetric(one_sided, images)
    assert not fisher.symmetric(nn.Identity(), images)  # no scores
    x, y = fisher.mirrored((images, torch.arange(8.0)))
    assert torch.equal(x, images.flip(3))
    assert torch.equal(y, torch.arange(8.0))


def test_what_is_chance_in_rows_is_taken_out() -> None:
    """Rows that are alike but for chance come out alike; rows that differ keep their difference."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.tensor([1.0, 1.0, 1.0, 8.0])[:, None]
    spread = []
    for factors in (torch.ones(4, 1), sizes):
        found = fisher.Information.empty(Matrices((4, 6)))
        for _ in range(40):
            found.add(factors * torch.randn(4, 1, generator=draw) * torch.ones(4, 6))
        spread.append((found.rows.max() / found.rows.min(), found.shrunk().max() / found.shrunk().min()))
    assert spread[0][1] < spread[0][0] ** 0.5
    assert spread[1][1] > 15


def test_what_no_answer_depends_on_is_absent() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    assert measured(Spare(), [torch.randn(2, 3)]).keys() == {"used.weight", "used.bias"}


def test_leaves_the_network_alone_and_needs_examples() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
    model.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured(model, [torch.randn(4, 3)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    with pytest.raises(StepError, match="there are no training examples"):
        fisher.information(model, {}, [], Context(task=Toy(torch.randn(1, 3))))
