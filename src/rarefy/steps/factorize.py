"""Low rank: one layer becomes a chain of smaller ones."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator
from torch import nn

from rarefy import encodings, factoring
from rarefy.budget import TOLERANCE
from rarefy.calibration import Spread, spreads
from rarefy.errors import StepError
from rarefy.factoring import Geometry, Layer
from rarefy.factoring.positions import geometry
from rarefy.factoring.table import Table, words
from rarefy.graph.modules import replaced
from rarefy.graph.weights import Weight, chosen, surveyed, why_not, why_small
from rarefy.numerics import allotment
from rarefy.settings import Settings
from rarefy.stand_in import hooked, read_by_code
from rarefy.step import Context, Plan, Step

Name = Literal["auto", "svd", "spatial", "tucker", "cp"]
_WIDEST = 8192  # inputs of a layer whose second moment is still kept: 256 MB


class Rank(Settings):
    """The rank of a layer: exactly one of the two."""

    energy: float | None = Field(None, gt=0, le=1, description="share of the squared weights (of the output) kept")
    rank: int | tuple[int, int] | None = Field(None, description="for tucker a pair: channels out and in of the core")
    method: Name | None = Field(None, description="another than that of the step")

    @model_validator(mode="after")
    def _one(self) -> Rank:
        if (self.energy is None) == (self.rank is None):
            raise ValueError("give either energy or rank")
        if min(self.ranks, default=1) < 1:
            raise ValueError("a rank is at least 1")
        return self

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank as a tuple; empty where the energy decides."""
        return () if self.rank is None else (self.rank,) if isinstance(self.rank, int) else self.rank


class Factorize(Step):
    """Replaces fully connected layers and convolutions by two to four smaller ones of low rank.

    minimise  ||W - W_r||^2, or with `data` the error of the output, E ||W x - W_r x - b||^2, over all W_r of rank r;
    its mean b goes to the bias, which layers that have none are given then.
    `svd`: a Linear as two, a convolution as a narrow one and a 1x1 one; `spatial`: kh x 1, then 1 x kw; `tucker`: 1x1,
    a kernel between fewer channels, 1x1; `cp`: 1x1, two depthwise, 1x1. `auto`: at each cost, whichever of the first
    three keeps most energy. What a 1x1 convolution is, is svd. The rank keeps a share of the energy, or meets a
    budget over all layers together: allotted by the relative error that each rank causes (`uniform`: the same share for
    each, the baseline). Layers that would not have both fewer parameters and fewer multiply-accumulates are left.
    """

    gains: ClassVar[str] = (
        "bytes and time: fewer multiplications, in ordinary layers; thin layers may gain bytes and no time"
    )
    paper: ClassVar[str] = (
        "Denton et al. 2014 (arXiv:1404.0736), Jaderberg et al. 2014 (arXiv:1405.3866), Zhang et al. 2015 "
        "(arXiv:1505.06798), Kim et al. 2016 (arXiv:1511.06530), Lebedev et al. 2015 (arXiv:1412.6553)"
    )
    structural: ClassVar[bool] = True
    usual: ClassVar[dict[str, Any]] = {"energy": 0.5}

    method: Name = Field("auto", description="how a convolution is factored; 1x1 ones and Linears always by svd")
    energy: float | None = Field(None, gt=0, le=1, description="share of each layer's energy that is kept")
    parameters: float | None = Field(None, gt=0, lt=1, description="share left of the parameters of all these layers")
    macs: float | None = Field(None, gt=0, lt=1, description="share left of the multiply-accumulates of these layers")
    allot: Literal["error", "uniform"] = Field("error", description="how a budget is shared out over the layers")
    data: int = Field(0, ge=0, description="training examples on which the output's error counts; 0: the weights'")
    align: int = Field(8, ge=1, le=256, description="ranks are multiples of this in layers large enough for it")
    layers: dict[str, Rank] = Field({}, description="glob -> a rank of its own; the first that matches counts")
    skip: tuple[str, ...] = Field((), description="globs of parameters or modules to leave")

    @model_validator(mode="after")
    def _amount(self) -> Factorize:
        given = [name for name in ("energy", "parameters", "macs") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.layers):
            came = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of energy, parameters, macs (or ranks in layers), not {came}")
        return self

    def plan(self, model: nn.Module, context: Context) -> Plan:
        """The method and rank of each layer."""
        found = surveyed("Factorize", model, self.layers, self.skip)
        plan = Plan(leave={w.path: reason for w in found if (reason := self._why_not(w))})
        open_ = {w.path: w for w in found if w.path not in plan.leave}
        homes = {_home(path): path for path in open_}
        seen = geometry(model, homes, context) if open_ else {}
        plan.leave |= {homes[home]: why for home, why in read_by_code(model, seen, context).items()}
        open_ = {path: w for path, w in open_.items() if path not in plan.leave}
        tables = self._tables(model, {path: w for path, w in open_.items() if _home(path) in seen}, seen, context)
        rows = self._rows(tables, plan)
        for path in open_:
            if _home(path) not in seen:
                plan.leave[path] = "the network does not call its layer on an example, but may use the weight directly"
            elif path not in plan.leave:
                self._decide(plan, path, tables[path], rows[path])
        if not plan.do:
            raise StepError(_nothing(plan))
        return plan

    def _why_not(self, weight: Weight) -> str | None:
        module, name = weight.module, weight.path.rpartition(".")[2]
        if chosen(weight.path, self.skip):
            return "skipped, as set"
        if name == "bias" and type(module) in (nn.Linear, nn.Conv2d):
            return f"a bias, {weight.tensor.numel()} values: stays as it is, on the last of the layer's parts"
        if encodings.chain(weight):
            return f"stored as {encodings.describe(weight)} already: put Factorize before the step that did it"
        if reason := why_not(weight) or why_small(weight):
            return reason
        if name != "weight" or not (type(module) is nn.Linear or type(module) is nn.Conv2d):
            return f"part of {type(module).__name__}, which is not a plain Linear or Conv2d"
        if len(weight.owners) > 1:
            return f"shared by {len(weight.owners)} layers"
        return hooked(module) or _depthwise(module) or self._why_no_method(weight, module)

    def _why_no_method(self, weight: Weight, layer: Layer) -> str | None:
        own, name = self._own(weight.path), self._method(weight.path)
        if own is None and self.energy is None and self.parameters is None and self.macs is None:
            return "no rank is set for it"
        if not factoring.suiting(layer, name):
            return f"{name} does not apply: {factoring.METHODS[name].why_not(layer)}"
        return None

    def _own(self, path: str) -> Rank | None:
        return next((rank for glob, rank in self.layers.items() if chosen(path, [glob])), None)

    def _method(self, path: str) -> str:
        own = self._own(path)
        return own.method if own and own.method else self.method

    def _tables(
        self, model: nn.Module, open_: dict[str, Weight], seen: dict[str, Geometry], context: Context
    ) -> dict[str, Table]:
        seen_by, tables = self._spreads(model, list(open_), context), dict[str, Table]()
        for done, (path, weight) in enumerate(open_.items()):
            layer = _layer(weight.module)
            methods = factoring.suiting(layer, self._method(path))
            moment = seen_by[path].covariance if path in seen_by else None
            tables[path] = Table.of(layer, methods, moment, seen[_home(path)], self.align)
            context.progress("Factorize", done + 1, len(open_))
        return tables

    def _spreads(self, model: nn.Module, paths: list[str], context: Context) -> dict[str, Spread]:
        """By the weight's path; nothing for layers too wide, which are judged by their weights."""
        narrow = {_home(p): p for p in paths if model.get_parameter(p)[0].numel() <= _WIDEST}
        if not self.data or not narrow:
            return {}
        return {narrow[home]: seen for home, seen in spreads(model, narrow, context, self.data).items()}

    def _rows(self, tables: dict[str, Table], plan: Plan) -> dict[str, int]:
        """The row of its table that each layer takes; those with a reason to be left go to the plan."""
        rows, shared = dict[str, int](), dict[str, Table]()
        for path, table in tables.items():
            own = self._own(path)
            if own and own.ranks:
                if (row := _row_of(path, table, own.ranks)) is None:
                    plan.leave[path] = f"rank {words(own.ranks)} would cost more than the layer itself"
                else:
                    rows[path] = row
            elif energy := own.energy if own else self.energy:
                rows[path] = table.keeping(energy)
            elif len(table.rows(aligned=False)) > 1:
                shared[path] = table
            else:
                plan.leave[path] = "no rank has both fewer parameters and fewer multiply-accumulates"
        if shared:
            rows |= dict(zip(shared, self._shared(list(shared.values())), strict=True))
        return rows

    def _shared(self, tables: list[Table]) -> list[int]:
        """One budget for all. Ranks need not be aligned where the budget could not be met otherwise."""
        kind = "macs" if self.macs is not None else "parameters"
        share = self.macs or self.parameters or 1.0
        choose, left = allotment.by_error if self.allot == "error" else allotment.uniform, list[float]()
        for aligned in (True, False):
            rows = [table.rows(aligned) for table in tables]
            options = [table.options(r, kind) for table, r in zip(tables, rows, strict=True)]
            total = sum(float(o.cost[-1]) for o in options)
            picked = choose(options, share * total)
            left.append(sum(float(o.cost[p]) for o, p in zip(options, picked, strict=True)) / total)
            if (1 - TOLERANCE) * share <= left[-1] <= share * (1 + 1e-9):
                return [int(r[p]) for r, p in zip(rows, picked, strict=True)]
        raise StepError(
            f"Factorize cannot leave {share:.1%} of the {kind} of the layers that it can factor within "
            f"{TOLERANCE:.0%}: {left[-1]:.1%} is the nearest that was reached; ask for that much, or skip fewer layers"
        )

    def _decide(self, plan: Plan, path: str, table: Table, row: int) -> None:
        kept, before = 1 - float(table.error[row]), int(table.parameters[-1])
        if table.method[row] < 0:
            plan.leave[path] = "keeping what is asked for of its energy has no rank that saves anything"
            if self.energy is None and self._own(path) is None:
                plan.leave[path] = "the budget is met without it, and its rank would cause more error than others'"
        else:
            method, after = table.methods[table.method[row]].name, int(table.parameters[row])
            bias = {"bias": True} if table.bias else {}
            plan.do[path] = {"method": method, "rank": list(table.rank(row)), "energy": round(kept, 6), **bias}
            plan.notes[path] = (
                f"{method}, rank {words(table.rank(row))}: {before / after:.1f}x fewer parameters, "
                f"{table.macs[-1] / table.macs[row]:.1f}x fewer multiply-accumulates, {kept:.1%} of the energy"
            )

    def apply(self, model: nn.Module, plan: Plan, context: Context) -> nn.Module:
        """Build each chain and fill it."""
        seen = {} if context.blank else self._spreads(model, list(plan.do), context)
        for done, (path, decision) in enumerate(plan.do.items()):
            layer = _layer(model.get_submodule(_home(path)))
            method, ranks = factoring.METHODS[decision["method"]], tuple(decision["rank"])
            chain = factoring.shaped(layer, method, ranks, bias=decision.get("bias", False))
            if not context.blank:
                factoring.fill(chain, layer, method, ranks, seen.get(path))
            model = replaced(model, _home(path), chain)
            context.progress("Factorize", done + 1, len(plan.do))
        return model


def _home(path: str) -> str:
    return path.rpartition(".")[0]


def _layer(module: nn.Module) -> Layer:
    assert isinstance(module, (nn.Linear, nn.Conv2d))
    return module


def _depthwise(layer: Layer) -> str | None:
    found = isinstance(layer, nn.Conv2d) and 1 < layer.groups == layer.in_channels
    return "depthwise: there is no rank to lower" if found else None


def _row_of(path: str, table: Table, ranks: tuple[int, ...]) -> int | None:
    try:
        return table.row(ranks)
    except ValueError as error:
        raise StepError(f"Factorize: {_home(path) or 'the network'}: {error}; give at most that") from None


def _nothing(plan: Plan) -> str:
    reasons = "; ".join(f"{path}: {why}" for path, why in list(plan.leave.items())[:5])
    remedy = "ask for less energy or a smaller share, or leave the step out"
    return f"Factorize found no layer to factor ({reasons}); {remedy}"
