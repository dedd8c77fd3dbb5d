"""What layers see: statistics of their inputs, streamed over training examples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rarefy.errors import DataError, StepError
from rarefy.step import Context
from rarefy.task import forward
from rarefy.train import evaluating

POSITIONS = 64  # of a layer's output that are looked at in each example

Hook = Callable[[nn.Module, Tensor, Tensor], None]  # module, its input, its output


def batches(context: Context, examples: int) -> Iterator[Any]:
    """The inputs of the first `examples` training examples (of all, where there are fewer), in an order that
    `context.seed` fixes. Raises `StepError` where the task has no training data."""
    try:
        source = context.task.train(seed=context.seed)
    except DataError as error:
        raise StepError(
            f"calibration needs training examples, and there are none ({error}); "
            "give data with a training part, or set data to 0 to look at the weights alone"
        ) from error
    left = examples
    for inputs, _ in source:
        size = _examples(inputs)
        yield inputs if size <= left else mapped(inputs, lambda tensor: tensor[:left])  # noqa: B023
        left -= size
        if left <= 0:
            return


def pieces(context: Context, examples: int, size: int) -> Iterator[Any]:
    """The same as `batches`, in batches of at most `size`."""
    for inputs in batches(context, examples):
        for start in range(0, _examples(inputs), size):
            yield mapped(inputs, lambda tensor: tensor[start : start + size])  # noqa: B023


def second_moments(
    model: nn.Module,
    paths: Iterable[str],
    context: Context,
    examples: int,
    positions: int = POSITIONS,
    centred: Collection[str] = (),
) -> dict[str, Tensor]:
    """E[x x^T] of what the Linear and Conv2d modules at `paths` multiply their weights with; of those in `centred`, the
    covariance.

    A convolution's x is its input unfolded, (in_channels / groups * kh * kw) values for each group and output
    position. Of an example's positions at most `positions` are taken, drawn at random (with repetition) as
    `context.seed` says. Gives for each path a float32 tensor (groups, features, features); what a batch never
    reaches is absent, what is called several times has the mean over all calls. Memory does not grow with `examples`.
    """
    means = {path: _Mean(path in centred) for path in paths}
    _look(model, means, context, examples, positions)
    return {path: mean.value for path, mean in means.items() if mean.count}


class Spread(NamedTuple):
    """The mean, (groups, features), and the covariance, (groups, features, features), of what a layer's weight is
    multiplied with."""

    mean: Tensor
    covariance: Tensor


def spreads(model: nn.Module, paths: Iterable[str], context: Context, examples: int) -> dict[str, Spread]:
    """As `second_moments`, but all centred, with their means."""
    means = {path: _Mean(centred=True) for path in paths}
    _look(model, means, context, examples, POSITIONS)
    return {path: Spread(mean.centre[..., 0], mean.value) for path, mean in means.items() if mean.count}


def _look(model: nn.Module, means: Mapping[str, _Mean], context: Context, examples: int, positions: int) -> None:
    def look(mean: _Mean) -> Hook:
        draw = torch.Generator().manual_seed(context.seed)

        def hook(module: nn.Module, x: Tensor, _output: Tensor) -> None:
            mean.add(unfolded(module, x, positions, draw))

        return hook

    with hooked(model, {path: look(mean) for path, mean in means.items()}), evaluating(model):
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        for inputs in batches(context, examples):
            forward(model, mapped(inputs, lambda tensor: tensor.to(device)))


@contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Call a hook after each call of the module at its path, with the module's (first) input and its output."""

    def wrapped(hook: Hook) -> Any:
        def run(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            hook(module, args[0] if args else next(iter(kwargs.values())), output)

        return run

    handles = [
        model.get_submodule(path).register_forward_hook(wrapped(hook), with_kwargs=True, prepend=True)
        for path, hook in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Mean:
    """The running mean of x x^T, or of (x - mean)(x - mean)^T; float32 stays accurate, as each batch enters with its
    share."""

    def __init__(self, centred: bool) -> None:
        self.centred, self.count = centred, 0
        self.value = self.centre = torch.empty(0)

    def add(self, x: Tensor) -> None:
        """x: (groups, n, features)."""
        if not x.shape[1]:
            return
        if self.count == 0:
            self.value = x.new_zeros(x.shape[0], x.shape[2], x.shape[2])
            self.centre = x.new_zeros(x.shape[0], x.shape[2], 1)
        count = self.count + x.shape[1]
        old, new = self.count / count, x.shape[1] / count
        if self.centred:
            mean = x.mean(1)[..., None]
            apart = mean - self.centre  # Chan, Golub, LeVeque 1979: two covariances become one
            self.value.baddbmm_(apart, apart.mT, beta=old, alpha=old * new)
            self.centre += new * apart
            x, old = x - mean.mT, 1.0
        self.value.baddbmm_(x.mT, x, beta=old, alpha=1 / count)
        self.count = count


def unfolded(module: nn.Module, x: Tensor, positions: int, draw: torch.Generator) -> Tensor:
    """(groups, n, features): what the weight of a Linear or Conv2d is multiplied with at each of the positions that are
    taken."""
    x = x.detach().float()
    if isinstance(module, nn.Conv2d):
        return _patches(module, x if x.ndim == 4 else x[None], positions, draw)
    x = x.reshape(x.shape[0] if x.ndim > 1 else 1, -1, x.shape[-1])  # (n, positions, features)
    chosen = _drawn(x.shape[0], x.shape[1], positions, draw).to(x.device)
    return x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2])).flatten(0, 1)[None]


def _patches(module: nn.Conv2d, x: Tensor, positions: int, draw: torch.Generator) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode)  # (N, C, H, W)
    (kh, kw), (dh, dw), (sh, sw) = module.kernel_size, module.dilation, module.stride
    height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    place = _drawn(x.shape[0], height * width, positions, draw)[..., None, None].to(x.device)  # (N, P, 1, 1)
    rows = place // width * sh + dh * torch.arange(kh, device=x.device)[:, None]
    columns = place % width * sw + dw * torch.arange(kw, device=x.device)
    image = torch.arange(x.shape[0], device=x.device)[:, None, None, None]
    found = x.movedim(1, -1)[image, rows, columns]  # (N, P, kh, kw, C)
    found = found.movedim(-1, 2).flatten(0, 1)  # (N P, C, kh, kw)
    return found.reshape(found.shape[0], module.groups, -1).transpose(0, 1)


def _drawn(examples: int, there: int, most: int, draw: torch.Generator) -> Tensor:
    if there <= most:
        return torch.arange(there).expand(examples, -1)
    return torch.randint(there, (examples, most), generator=draw)


def _examples(inputs: Any) -> int:
    if isinstance(inputs, Mapping):
        inputs = next(iter(inputs.values()))
    return len(inputs[0] if isinstance(inputs, (tuple, list)) else inputs)


def mapped(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The inputs of a batch, one tensor, several or a dict, each changed."""
    if isinstance(inputs, Mapping):
        return {name: change(tensor) for name, tensor in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(change(tensor) for tensor in inputs)
    return change(inputs)
