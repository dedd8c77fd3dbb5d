"""Finding teachers, and seeing before any training that they can teach this student."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rarefy import loading
from rarefy.encodings import copied
from rarefy.errors import StepError
from rarefy.files import model_tensors
from rarefy.lesson import Lesson, Pair, captured, logits
from rarefy.numerics.distillation import pooled_alike
from rarefy.records import TeacherRecord
from rarefy.step import Context
from rarefy.task import forward
from rarefy.teacher import ORIGINAL, Match, Source, Teacher
from rarefy.train import evaluate, evaluating


def lesson(step: str, settings: Teacher, student: nn.Module, context: Context) -> Lesson:
    """The teachers with all that is needed to learn from them.

    They are copies: nobody else's network is changed. Raises `StepError` where the student cannot learn from them.
    """
    from lightning_fabric.utilities import move_data_to_device

    networks = [_found(step, source, context, i) for i, source in enumerate(settings.networks)]
    device = next(student.parameters()).device
    for network in networks:
        network.to(device).eval()
        for parameter in network.parameters():
            parameter.requires_grad_(settings.mutual and parameter.is_floating_point())
    pairs = [pair for match in settings.features for pair in _pairs(step, match, networks[0], student)]
    inputs = move_data_to_device(next(iter(context.task.train(seed=context.seed)))[0], device)
    answer, found = _tried(f"{step}: the student", student, inputs, [p.student for p in pairs])
    wanted: dict[str, Tensor] = {}
    for i, (source, network) in enumerate(zip(settings.networks, networks, strict=True)):
        who, paths = f"{step}: the teacher {source.name}", [p.teacher for p in pairs] if i == 0 else []
        taught, features = _tried(who, network, inputs, paths)
        wanted |= features
        if settings.alpha > 0:
            _check_scores(who, settings, logits(taught), logits(answer))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        adapters = [_adapter(step, p, found[p.student], wanted[p.teacher]).to(device) for p in pairs]
    return Lesson(settings, networks, pairs, adapters)


def recorded(settings: Teacher, taught: Lesson, context: Context) -> list[TeacherRecord]:
    """Which networks taught, so that a reader of the run can tell."""
    return [
        TeacherRecord(
            network=source.network,
            weights=source.weights,
            sha256=_digest(network),
            parameters=sum(p.numel() for p in network.parameters()),
            score=None
            if settings.mutual or source.network == ORIGINAL
            else evaluate(network, context.task.judge(), context.task),
        )
        for source, network in zip(settings.networks, taught.teachers, strict=True)
    ]


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model_tensors(model).items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _found(step: str, source: Source, context: Context, index: int) -> nn.Module:
    if source.network != ORIGINAL:
        weights = Path(source.weights) if source.weights else None
        return copied(loading.network(source.network, weights, context.task, context.seed + 1 + index).model)
    if context.original is None:
        raise StepError(
            f"{step}: there is no original network to learn from: this run begins with one that has not been trained; "
            "give --weights, put a Train step before, or name another teacher in teacher.networks"
        )
    return copied(context.original)


def _pairs(step: str, match: Match, teacher: nn.Module, student: nn.Module) -> Iterator[Pair]:
    for theirs, own in match.layers.items():
        ends = _modules(step, "teacher", teacher, theirs), _modules(step, "student", student, own)
        if len(ends[0]) != len(ends[1]):
            raise StepError(
                f"{step}: {theirs!r} matches {len(ends[0])} modules of the teacher ({', '.join(ends[0][:5])}), "
                f"{own!r} matches {len(ends[1])} of the student ({', '.join(ends[1][:5])}); pair as many with as many"
            )
        yield from (Pair(one, two, match) for one, two in zip(*ends, strict=True))


def _modules(step: str, who: str, model: nn.Module, glob: str) -> list[str]:
    paths = [name for name, _ in model.named_modules() if name and "parametrizations" not in name.split(".")]
    found = [path for path in paths if fnmatch.fnmatchcase(path, glob)]
    if not found:
        known = ", ".join(paths[:8]) + (", ..." if len(paths) > 8 else "")
        raise StepError(f"{step}: no module of the {who} matches {glob!r}; it has {known or 'none'}")
    return found


def _tried(who: str, model: nn.Module, inputs: Any, paths: list[str]) -> tuple[Any, dict[str, Tensor]]:
    """The answer and the features of a batch."""
    try:
        with evaluating(model), captured(model, paths) as found:
            answer = forward(model, inputs)
    except Exception as error:  # a network can fail in any way
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        first = next((tuple(p.shape) for p in model.parameters()), ())
        raise StepError(
            f"{who} cannot take this task's inputs of shape {_shapes(inputs)}: its first weight has shape {first} "
            f"({what}); the teacher and the student must take the same inputs"
        ) from error
    if missing := [path for path in paths if path not in found]:
        raise StepError(f"{who}: {', '.join(missing)} gave no tensor while the network ran; choose other modules")
    return answer, found


def _check_scores(who: str, settings: Teacher, theirs: Any, own: Any) -> None:
    kinds = [f"{tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in (theirs, own)]
    if not (isinstance(theirs, Tensor) and isinstance(own, Tensor) and theirs.shape == own.shape):
        raise StepError(
            f"{who} gives outputs of shape {kinds[0]}, the student {kinds[1]}; to learn its answers they must be "
            "tensors of the same shape (or alpha 0, for features alone)"
        )
    if not -own.ndim <= settings.classes_dim < own.ndim or own.ndim < 2 or not own.is_floating_point():
        raise StepError(
            f"{who} and the student give outputs of shape {kinds[1]}, which have no scores of classes in dimension "
            f"{settings.classes_dim} (classes_dim); set alpha 0 to learn from features alone"
        )


def _adapter(step: str, pair: Pair, student: Tensor, teacher: Tensor) -> nn.Module:
    """What makes the student's features of the teacher's shape: nothing, a 1x1 convolution or a linear layer."""
    own, wanted = (tuple(t.shape) for t in pooled_alike(student, teacher))
    loss = pair.match.loss
    alike = {
        "hint": own == wanted,
        "attention": min(len(own), len(wanted)) > 2 and own[:1] + own[2:] == wanted[:1] + wanted[2:],
        "relation": own[:1] == wanted[:1],
    }
    if alike[loss]:
        return nn.Identity()
    if loss == "hint" and len(own) == len(wanted) == 4 and own[:1] == wanted[:1]:
        return nn.Conv2d(own[1], wanted[1], 1, bias=False)
    if loss == "hint" and len(own) in (2, 3) and own[:-1] == wanted[:-1]:
        return nn.Linear(own[-1], wanted[-1], bias=False)
    raise StepError(
        f"{step}: {pair.teacher} of the teacher gives features of shape {tuple(teacher.shape)}, {pair.student} of the "
        f"student {tuple(student.shape)}; {loss} cannot compare them: choose layers with as many dimensions and places"
    )


def _shapes(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        inputs = tuple(inputs.values())
    inputs = inputs if isinstance(inputs, (tuple, list)) else (inputs,)
    return ", ".join(str(tuple(x.shape)) if isinstance(x, Tensor) else type(x).__name__ for x in inputs)
