"""One contract for every step and every encoding, on every kind of network. A new method is covered unedited."""

from __future__ import annotations

import copy
import json
import math
from itertools import permutations
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from models import CASES, EXPORTED, exporter, outputs
from rarefy import encodings, load, load_into, pack, steps
from rarefy.encodings import adopted
from rarefy.errors import SettingsError, StepError
from rarefy.export.onnx import Exporter, TensorExporter
from rarefy.files import load_tensors, model_tensors, restore, save_tensors
from rarefy.graph.weights import Weight, weights, why_not, why_small
from rarefy.measure import answer
from rarefy.numerics.subvectors import Subvectors
from rarefy.runtime import session
from rarefy.step import Context, Plan, Step
from rarefy.steps import ClusterWeights, Half, PruneWeights
from rarefy.task import Task, forward

CHANGING = [cls for cls in steps.ALL if cls.structural or not cls.trains]
EVERYWHERE = (PruneWeights, ClusterWeights, Half)  # they find something to do in every network
ORDERS = [
    *permutations([PruneWeights(sparsity=0.6), ClusterWeights(bits=3), Half()]),
    (PruneWeights(sparsity=0.7), PruneWeights(sparsity=0.5)),
    (PruneWeights(sparsity=0.5), Half(), PruneWeights(sparsity=0.8)),
    (ClusterWeights(k=40), ClusterWeights(bits=2)),
    (ClusterWeights(bits=4), PruneWeights(sparsity=0.5), ClusterWeights(bits=3), PruneWeights(sparsity=0.7)),
    (Half(format="bfloat16"), ClusterWeights(bits=4, biases=True), PruneWeights(sparsity=0.3, scope="global")),
]

by_step = pytest.mark.parametrize("cls", steps.ALL, ids=lambda cls: cls.__name__)
by_change = pytest.mark.parametrize("cls", CHANGING, ids=lambda cls: cls.__name__)
by_model = pytest.mark.parametrize("name", CASES)
by_order = pytest.mark.parametrize("order", ORDERS, ids=lambda o: "-".join(type(s).__name__ for s in o))


def usual(cls: type[Step]) -> Step:
    return cls(**cls.usual)


def context(name: str, seed: int = 0) -> Context:
    return Context(task=CASES[name].task(), seed=seed)


def changed(name: str, *order: Step, seed: int = 0) -> nn.Module:
    """Steps for some kinds of layers may find none in a network, and say so."""
    model = CASES[name].model(seed)
    for step in order:
        try:
            model = step(model, CASES[name].task())
        except StepError as error:
            if isinstance(step, EVERYWHERE) or not str(error).startswith(f"{type(step).__name__} found no"):
                raise
            pytest.skip(str(error))
    return model


def planned(step: Step, name: str, model: nn.Module) -> Plan:
    try:
        return step.plan(model, context(name))
    except StepError as error:
        if isinstance(step, EVERYWHERE) or not str(error).startswith(f"{type(step).__name__} found no"):
            raise
        pytest.skip(str(error))


def answers(model: nn.Module, name: str) -> list[Tensor]:
    with torch.no_grad():
        return outputs(forward(model, CASES[name].batch()))


def snapshot(model: nn.Module) -> dict[str, Any]:
    tensors = {n: t.detach().clone() for n, t in model.state_dict(keep_vars=True).items()}
    state = {n: (type(m), m.training, len(m._forward_hooks)) for n, m in model.named_modules()}
    return {"tensors": tensors, "state": state, "free": [(n, p.requires_grad) for n, p in model.named_parameters()]}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return bool(a == b)


def form(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {n: (tuple(t.shape), t.dtype) for n, t in model_tensors(model).items()}


def train(model: nn.Module, name: str, turns: int = 2) -> list[float]:
    """A plain loop, by someone who knows nothing of encodings; gives the norms of the gradients."""
    task, norms = CASES[name].task(), []
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.05)
    model.train()
    for _ in range(turns):
        optimizer.zero_grad()
        task.loss(forward(model, task.inputs), None).backward()
        norms += [float(p.grad.norm()) for p in model.parameters() if p.grad is not None]
        optimizer.step()
    model.eval()
    return norms


@by_step
class TestClass:
    def test_says_what_it_is(self, cls: type[Step]) -> None:
        assert cls.summary()
        assert cls.gains
        assert cls.paper
        assert cls.__name__ in steps.__all__

    def test_settings_are_described_and_checked(self, cls: type[Step]) -> None:
        evident = {"epochs", "optimizer", "label_smoothing", "init", "score", "format", "batch_size"}
        bare = [name for name, field in cls.model_fields.items() if not field.description and name not in evident]
        assert not bare
        with pytest.raises(SettingsError, match=rf"{cls.__name__}\.colour: no such setting; {cls.__name__} has: "):
            cls(**cls.usual, colour="red")
        step = usual(cls)
        with pytest.raises(Exception, match="frozen"):
            step.anything = 1  # type: ignore[attr-defined]

    def test_settings_survive_json(self, cls: type[Step]) -> None:
        step = usual(cls)
        assert cls(**json.loads(json.dumps(step.model_dump(mode="json", exclude_defaults=True)))) == step


@by_step
@by_model
def test_the_users_model_is_untouched(cls: type[Step], name: str) -> None:
    case = CASES[name]
    model = case.model()
    before, here = snapshot(model), torch.get_rng_state()
    try:
        result = usual(cls)(model, case.task())
    except StepError:
        result = copy.deepcopy(model)
    assert same(before, snapshot(model))
    assert torch.equal(here, torch.get_rng_state())
    shared = {t.untyped_storage().data_ptr() for t in model.state_dict().values() if t.numel()}
    assert shared.isdisjoint(t.untyped_storage().data_ptr() for t in result.state_dict().values() if t.numel())
    if not cls.structural:
        free = {w.path: w.values.requires_grad for w in weights(adopted(copy.deepcopy(model)))}
        assert free == {w.path: w.values.requires_grad for w in weights(result)}


@by_change
@by_model
class TestPlan:
    def test_is_plain_data_and_changes_nothing(self, cls: type[Step], name: str) -> None:
        model = adopted(CASES[name].model())
        before = snapshot(model)
        plan = planned(usual(cls), name, model)
        assert same(before, snapshot(model))
        assert Plan(**json.loads(json.dumps(plan.model_dump(mode="json")))) == plan
        assert plan == usual(cls).plan(model, context(name))

    def test_lists_every_parameter(self, cls: type[Step], name: str) -> None:
        model = adopted(CASES[name].model())
        plan = planned(usual(cls), name, model)
        assert plan.do.keys() | plan.leave.keys() == {n for n, _ in model.named_parameters()}
        assert not plan.do.keys() & plan.leave.keys()
        assert all(plan.leave.values())
        assert all(note.done or note.left for note in plan.layer_notes())

    def test_alone_decides_the_structure(self, cls: type[Step], name: str) -> None:
        one, two = adopted(CASES[name].model()), adopted(CASES[name].model(seed=7))
        plan = planned(usual(cls), name, one)
        read, blank = Plan(**json.loads(plan.model_dump_json())), Context(task=cast(Task, None), blank=True)
        one, two = (usual(cls).apply(m, p, c) for m, p, c in ((one, plan, context(name)), (two, read, blank)))
        assert form(one) == form(two)
        restore(two, model_tensors(one), "test")
        assert all(torch.equal(a, b) for a, b in zip(answers(one, name), answers(two, name), strict=True))

    def test_is_the_same_for_the_same_seed(self, cls: type[Step], name: str) -> None:
        assert same(model_tensors(changed(name, usual(cls))), model_tensors(changed(name, usual(cls))))


@by_change
@by_model
class TestResult:
    def test_trains_and_keeps_what_was_fixed(self, cls: type[Step], name: str) -> None:
        model = changed(name, usual(cls))
        kept = {w.path: encodings.zeros(w) for w in weights(model)}
        values = {w.path: len(w.tensor.unique()) for w in weights(model) if encodings.find(w, encodings.Codebook)}
        before = answers(model, name)
        norms = train(model, name)
        assert norms
        assert all(map(math.isfinite, norms))
        assert max(norms) > 0
        assert not all(torch.equal(a, b) for a, b in zip(before, answers(model, name), strict=True))
        for weight in weights(model):
            zeros = kept[weight.path]
            assert zeros is None or not weight.tensor[zeros].any()
            if weight.path in values:
                assert len(weight.tensor.unique()) <= values[weight.path]

    def test_copies_are_apart(self, cls: type[Step], name: str) -> None:
        model = changed(name, usual(cls))
        before, twin = answers(model, name), copy.deepcopy(model)
        assert all(torch.equal(a, b) for a, b in zip(before, answers(twin, name), strict=True))
        train(twin, name, turns=1)
        encodings.decoded(twin)
        assert all(torch.equal(a, b) for a, b in zip(before, answers(model, name), strict=True))
        if not cls.structural:
            assert form(twin) == form(adopted(CASES[name].model()))
        train(model, name, turns=1)

    def test_is_saved_and_restored_to_the_bit(self, cls: type[Step], name: str, tmp_path: Path) -> None:
        model = changed(name, usual(cls))
        train(model, name, turns=1)
        save_tensors(tmp_path / "t.safetensors", model_tensors(model))
        other = changed(name, usual(cls))
        restore(other, load_tensors(tmp_path / "t.safetensors")[0], "test")
        assert all(torch.equal(a, b) for a, b in zip(answers(model, name), answers(other, name), strict=True))

    def test_decodes_to_a_plain_network(self, cls: type[Step], name: str) -> None:
        model = changed(name, usual(cls))
        plain = encodings.decoded(copy.deepcopy(model))
        if not cls.structural:
            assert form(plain) == form(adopted(CASES[name].model()))
            assert [type(m) for m in plain.modules()] == [type(m) for m in adopted(CASES[name].model()).modules()]
        assert all(
            torch.allclose(a, b, atol=1e-6) for a, b in zip(answers(model, name), answers(plain, name), strict=True)
        )


def check_file(model: nn.Module, name: str, folder: Path, structural: bool = False) -> onnx.ModelProto:
    """The file is sound, answers like torch in every way it can be run, and is the same when packed."""
    writer = Exporter(model, CASES[name].batch()) if structural else exporter(name)
    exported = writer.write(model)
    onnx.checker.check_model(exported.proto, full_check=True)
    data, wanted = exported.proto.SerializeToString(), answers(model, name)
    for optimise in (True, False):
        got = outputs(answer(session(data, optimise=optimise))(CASES[name].batch()))
        rounds = any(encodings.find(w, encodings.Affine) for w in weights(model))  # a sum on an edge may go either way
        for a, b in zip(wanted, got, strict=True):
            assert (a - b).abs().max() <= (0.02 if rounds else 1e-5) * a.abs().max(), f"optimise={optimise}"
    (folder / "m.onnx").write_bytes(data)
    pack.write(exported.proto, folder / "m.rfy")
    one, two = (answer(load(folder / f"m.{kind}"))(CASES[name].batch()) for kind in ("onnx", "rfy"))
    assert all(torch.equal(a, b) for a, b in zip(outputs(one), outputs(two), strict=True))
    check_stored(exported.parts, exported.proto, model)
    return exported.proto


def check_stored(parts: dict[str, list[str]], proto: onnx.ModelProto, model: nn.Module) -> None:
    """Nothing is in the file beside what the encodings say: no mask, no float copy."""
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    assert len(held) == len(proto.graph.initializer)
    for weight in weights(model):
        if weight.path not in parts:
            continue  # the network does not use it
        named = [held[part] for part in parts[weight.path]]
        written = sum(8 * len(tensor.raw_data) for tensor in named)
        said = encodings.stored_bits(weight)
        indices = sum(math.prod(t.dims) for t in named if t.name.endswith(".indices"))
        assert said <= written <= said + 8 * indices + 4  # an index takes 4, 8 or 16 bits before it is packed
        floats = [t for t in named if t.data_type in (1, 10, 11, 16)]
        integers = encodings.find(weight, encodings.Affine, encodings.FewLevels)
        if isinstance(integers, (encodings.Affine, encodings.FewLevels)):
            assert sum(math.prod(t.dims) for t in floats) == integers.scale.numel()
        elif encodings.find(weight, encodings.Grid):
            assert sum(math.prod(t.dims) for t in floats) == 1  # the base of the steps
        elif weight.tensor.is_floating_point():
            assert sum(math.prod(t.dims) for t in floats) == encodings.stored(weight).numel()
    used = {part for named in parts.values() for part in named}
    stray = [t for t in held.values() if t.name not in used and t.data_type in (1, 9, 10, 16)]
    assert sum(math.prod(t.dims) for t in stray) < 16, "a float copy or a mask is left in the graph"


@by_change
@pytest.mark.parametrize("name", EXPORTED)
def test_file(cls: type[Step], name: str, tmp_path: Path) -> None:
    """One graph serves all: it was traced from other weights."""
    check_file(changed(name, usual(cls), seed=5), name, tmp_path, cls.structural)


@by_order
class TestOrder:
    def test_keeps_zeros_and_stores_what_it_says(self, order: tuple[Step, ...]) -> None:
        for name in ("twice", "loose", "tied"):
            model, held = CASES[name].model(), dict[str, Tensor]()
            for step in order:
                model = step(model, CASES[name].task())
                for weight in weights(model):
                    before, zeros = held.get(weight.path), encodings.zeros(weight)
                    if before is not None:
                        assert zeros is not None
                        assert bool(zeros[before].all())
                    if zeros is not None:
                        assert not weight.tensor[zeros].any()
                        held[weight.path] = zeros
            assert held or not any(isinstance(s, PruneWeights) for s in order)
            assert all(map(math.isfinite, train(model, name)))
            assert all(not w.tensor[held[w.path]].any() for w in weights(model) if w.path in held)

    def test_file(self, order: tuple[Step, ...], tmp_path: Path) -> None:
        model = changed("twice", *order)
        proto = check_file(model, "twice", tmp_path)
        kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
        coded = [w for w in weights(model) if encodings.find(w, encodings.Codebook)]
        assert all(kinds[f"{w.path}.indices"] in (onnx.TensorProto.UINT4, onnx.TensorProto.UINT8) for w in coded)


@by_change
def test_tensors_of_a_network_that_cannot_be_exported(cls: type[Step], tmp_path: Path) -> None:
    for name in ("twice",) if cls.structural else ("loop", "loose", "twice"):
        model = changed(name, usual(cls))
        exported = TensorExporter("it cannot").write(model)
        assert not exported.runs
        onnx.checker.check_model(exported.proto, full_check=True)
        check_stored(exported.parts, exported.proto, model)
        pack.write(exported.proto, tmp_path / "m.rfy")
        fresh = encodings.decoded(changed(name, usual(cls), seed=9)) if cls.structural else CASES[name].model(seed=9)
        load_into(tmp_path / "m.rfy", fresh)
        # the sums of binary layers are counted; with decoded weights they are added up
        near = dict.fromkeys(("rtol", "atol"), 1e-5 if cls is steps.Binarize else 0)
        torch.testing.assert_close(answers(fresh, name), answers(model, name), **near)


@by_change
def test_nothing_eligible_is_an_error(cls: type[Step]) -> None:
    with pytest.raises(StepError, match=rf"^{cls.__name__} found no"):
        usual(cls).plan(nn.LSTM(3, 4), context("plain"))
    with pytest.raises(StepError, match=rf"^{cls.__name__} found no"):
        usual(cls).plan(nn.ReLU(), context("plain"))
    with pytest.raises(StepError, match=rf"^{cls.__name__} found no"):
        usual(cls).plan(nn.Linear(30, 30).double(), context("plain"))


@by_change
def test_globs_and_broken_weights(cls: type[Step]) -> None:
    model = CASES["plain"].model()
    with pytest.raises(StepError, match=rf"^{cls.__name__}: no parameter matches 4.wieght; the network has 0\.0\.wei"):
        usual(cls).replace(skip=("4.wieght",)).plan(model, context("plain"))
    with torch.no_grad():
        model.get_parameter("4.weight")[0, 0] = math.nan
    with pytest.raises(StepError, match=rf"^{cls.__name__}: NaN or infinite values in 4\.weight; train"):
        usual(cls).plan(model, context("plain"))
    plan = planned(usual(cls).replace(skip=("4",)), "plain", model)
    if "4.weight" in plan.leave:
        assert plan.leave["4.weight"] == plan.leave["4.bias"] == "skipped, as set"
    else:  # it makes what it made, of fewer inputs
        assert cls.structural
        assert plan.do["4.weight"]["keep"].keys() == {"1"}


def example(cls: type[encodings.Encoding], weight: Tensor) -> tuple[encodings.Encoding, Tensor]:
    """An encoding of `weight` and its values; its constructors differ."""
    if cls is encodings.Codebook:
        return encodings.Codebook(torch.randint(0, 5, weight.shape), 5), torch.randn(5)
    if cls is encodings.ProductCodebook:
        cut = Subvectors.near(tuple(weight.shape), 4, "channels")
        return cls(torch.randint(0, 5, (2, len(weight), cut.count)), cut, 5), torch.randn(2, 1, 5, cut.length)
    if cls is encodings.Mask:
        return encodings.Mask(torch.rand(weight.shape) > 0.5), weight
    if cls is encodings.Affine:
        return encodings.Affine.of(weight, 4), weight
    if cls is encodings.Grid:
        return encodings.Grid.of(weight), weight
    if issubclass(cls, encodings.FewLevels):
        return cls(tuple(weight.shape)).fit(weight), weight
    if issubclass(cls, encodings.Structured):
        return cls.of(weight, 3, **({"rank": 2} if cls is encodings.Displacement else {}))
    return cls(), weight


def check_cut(weight: Weight) -> None:
    """An encoding whose weight is cut decodes to the cut weight. On a copy."""
    for dim in range(weight.tensor.ndim):
        module = copy.deepcopy(weight.module)
        twin = next(w for w in weights(module) if w.tensor.shape == weight.tensor.shape and encodings.chain(w))
        positions = torch.arange(0, twin.tensor.shape[dim], 2)
        wanted = twin.tensor.detach().index_select(dim, positions)
        encodings.cut(twin, dim, positions)
        assert torch.equal(twin.tensor, wanted)


@pytest.mark.parametrize("cls", encodings.ALL, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("name", ["plain", "twice", "tied", "transformer", "loose"])
def test_encoding(cls: type[encodings.Encoding], name: str) -> None:
    torch.manual_seed(0)
    model = adopted(CASES[name].model())
    assert cls.__doc__
    assert cls.__name__ in encodings.__all__
    for weight in weights(model):
        if why_not(weight) or why_small(weight):
            continue
        shape, path = weight.tensor.shape, weight.path
        link, values = example(cls, weight.tensor.detach())
        encodings.encode(weight, [link], values)
        assert weight.tensor.shape == shape
        assert encodings.find(weight, cls) is link
        assert all(getattr(m, n) is not None and encodings.chain(weight) == (link,) for m, n in weight.owners)
        assert np.array_equal(weight.tensor.detach().numpy(), link(weight.values).detach().numpy())
        assert link.describe() in encodings.describe(weight)
        assert encodings.stored_bits(weight) > 0
        zeros = encodings.zeros(weight)
        assert zeros is None or (zeros.shape == shape and not weight.tensor[zeros].any())
        assert path in {w.path for w in weights(model)}
        if cls.cuttable:
            check_cut(weight)
    assert all(map(math.isfinite, train(model, name)))
