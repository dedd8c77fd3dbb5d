"""Small networks with everything that other people's networks have, to try every method on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from rarefy.encodings import adopted
from rarefy.export.onnx import Exporter
from rarefy.task import Task

CLASSES = 5


class Toy(Task):
    """Any network: its outputs are drawn to one; the score of an example is how near they come."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Any:
        return [(self.inputs, None)]

    def judge(self) -> Any:
        return [(self.inputs, None)]

    def loss(self, output: Any, target: Any) -> Tensor:
        return torch.stack([(o.float() - 1).square().mean() for o in outputs(output)]).sum()

    def metric(self, output: Any, target: Any) -> Tensor:
        return -(outputs(output)[0].float() - 1).square().flatten(1).mean(1)


def outputs(output: Any) -> list[Tensor]:
    """The tensors of an output, whatever its form."""
    leaves = torch.utils._pytree.tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]

    def model(self, seed: int = 0) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = self.make()
            for module in model.modules():  # as if trained: statistics that are not the initial ones
                if isinstance(module, nn.BatchNorm2d):
                    nn.init.uniform_(module.weight, 0.5, 1.5)
                    nn.init.normal_(module.bias, std=0.3)
                    nn.init.uniform_(module.running_var, 0.5, 1.5)
        return model.eval()

    def batch(self) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            return self.inputs()

    def task(self) -> Toy:
        return Toy(self.batch())


def image() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def _head(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


def _conv(into: int, out: int, size: int = 3, **more: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, size, padding=size // 2, bias=False, **more), nn.BatchNorm2d(out))


class Plain(nn.Sequential):
    """VGG-like; flatten -> Linear."""

    def __init__(self) -> None:
        super().__init__(_conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 16, CLASSES))


class Residual(nn.Module):
    """`+=`, F.relu, and a shortcut with a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = _conv(3, 8), _conv(8, 12, stride=2), _conv(12, 12)
        self.shortcut, self.head = _conv(8, 12, 1, stride=2), _head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.two(F.relu(self.one(x)))
        y += self.shortcut(x)
        return self.head(F.relu(y))


class Dense(nn.Module):
    """DenseNet-like, and a tensor concatenated with itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(12, 6, 3, padding=1), _head(18)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = torch.cat([x, x], 1)
        return self.head(torch.cat([x, F.relu(self.two(x))], 1))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.up(F.silu(self.down(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(scale)


class InvertedResidual(nn.Module):
    """MobileNet V3-like: expand, depthwise, squeeze-excite, project."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depthwise = _conv(3, 8), _conv(8, 16, 1), _conv(16, 16, groups=16)
        self.excite, self.project, self.head = SqueezeExcite(16), _conv(16, 8, 1), _head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        y = F.relu6(self.depthwise(F.relu6(self.expand(x))))
        return self.head(x + self.project(self.excite(y)))


class Shuffle(nn.Module):
    """ShuffleNet-like: chunk, grouped convolution, channel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped, self.head = _conv(3, 16), _conv(8, 8, groups=4), _head(16)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = self.stem(x).chunk(2, 1)
        x = torch.cat([kept, self.grouped(changed)], 1)
        n, c, h, w = x.shape
        return self.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


class Fire(nn.Module):
    """SqueezeNet-like."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(3, 4, 1)
        self.one, self.three, self.head = nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1), _head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return self.head(F.relu(torch.cat([self.one(x), self.three(x)], 1)))


class VisionTransformer(nn.Module):
    """Parameters directly on the root, attention, LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 5, 8))
        self.norm, self.attention = nn.LayerNorm(8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.query, self.head = nn.Linear(8, 24), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (n, 4, 8)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        q, k, v = self.query(x).unsqueeze(1).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v)[:, 0, 0])


class Transposed(nn.Module):
    """One output channel, one input channel, ConvTranspose2d with groups."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 1, 3, padding=1, bias=False)
        self.wide, self.up = nn.Conv2d(1, 8, 3, stride=2), nn.ConvTranspose2d(8, 4, 3, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.wide(self.one(x)))


class Twice(nn.Module):
    """One convolution, one ReLU and one parameter used more than once; a module at two paths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.relu = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        self.same, self.other = self.conv, nn.Conv2d(8, 8, 3, padding=1)
        self.other.weight = self.conv.weight
        self.head = _head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(self.relu(self.stem(x))))
        return self.head(self.other(self.same(x)))


class Tied(nn.Module):
    """A language model's embedding that is its head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mix(self.embedding(tokens))))


class Recurrent(nn.Module):
    """An LSTM keeps its weights in a buffer of its own; its output is nested."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, state = self.memory(x)
        return self.head(x[:, -1]), state


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(6, 8), nn.Linear(4, 8)
        self.head = nn.Bilinear(8, 8, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.left(a), self.right(b)
        return self.head(left, right), left


class Named(nn.Module):
    """A dict in, in another order than the arguments, and a dict out; a flag; a size that is looked at."""

    def __init__(self, deep: bool = True) -> None:
        super().__init__()
        self.deep, self.picture, self.text = deep, nn.Conv2d(3, 8, 3), nn.Linear(6, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        if image.shape[1] != 3:
            raise ValueError("expected three channels")
        features = self.picture(image).mean((2, 3)) + self.text(text)
        if self.deep:
            features = F.relu(features)
        return {"scores": self.head(features), "features": features}


class Loop(nn.Module):
    """Control flow that depends on data: no exporter takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.norm, self.head = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES)
        self.head.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x[0].abs().sum().item()) % 3 + 1):
            x = self.norm(self.turn(x))
        return self.head(x)


class Frozen(nn.Module):
    """BatchNorm that stays in eval mode, frozen parameters, weight_norm, a hook."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = _conv(3, 8).requires_grad_(False)
        self.normed = parametrizations.weight_norm(nn.Conv2d(8, 8, 3))
        self.head = _head(8)
        self.head.register_forward_hook(_doubled)

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.conv.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.normed(self.conv(x)))


def _doubled(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


class Loose(nn.Module):
    """Parameters on the root and in lists; unused, empty, a single number, float64, integer; a buffer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.tensor(1.5))
        self.parts = nn.ParameterList([nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))])
        self.named = nn.ParameterDict({"last": nn.Parameter(torch.randn(8, CLASSES))})
        self.unused, self.empty = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.zeros(0, 8))
        self.fine = nn.Parameter(torch.randn(CLASSES, CLASSES, dtype=torch.float64))
        self.single = nn.Parameter(torch.randn(1, 1))
        self.counts = nn.Parameter(torch.arange(CLASSES), requires_grad=False)
        self.register_buffer("shift", torch.randn(CLASSES))
        self.register_buffer("forgotten", torch.arange(CLASSES) / 2, persistent=False)
        self.register_buffer("again", self.shift)
        self.absent = nn.Linear(8, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x @ self.weight, self.parts[0], self.parts[1]) * self.scale
        x = torch.cat([x, self.empty], 0) @ self.named["last"]
        return (x.double() @ self.fine).float() * self.single + self.counts + self.again + self.forgotten


CASES: dict[str, Case] = {
    "plain": Case(Plain, image),
    "residual": Case(Residual, image),
    "dense": Case(Dense, image),
    "inverted": Case(InvertedResidual, image),
    "shuffle": Case(Shuffle, image),
    "fire": Case(Fire, image),
    "transformer": Case(VisionTransformer, image),
    "transposed": Case(Transposed, image),
    "twice": Case(Twice, image),
    "tied": Case(Tied, lambda: torch.randint(0, 11, (4, 6))),
    "recurrent": Case(Recurrent, lambda: torch.randn(4, 3, 6)),
    "two-inputs": Case(TwoInputs, lambda: (torch.randn(4, 6), torch.randn(4, 4))),
    "named": Case(Named, lambda: {"text": torch.randn(4, 6), "image": image()}),
    "loop": Case(Loop, lambda: torch.randn(4, 6)),
    "frozen": Case(Frozen, image),
    "loose": Case(Loose, lambda: torch.randn(4, 6)),
}

EXPORTED = ("inverted", "transformer", "twice", "tied", "named", "loose", "frozen")


@cache
def exporter(name: str) -> Exporter:
    """Tracing takes seconds, so it is done once per network."""
    return Exporter(adopted(CASES[name].model()), CASES[name].batch())
