"""Which channels go: the least important, in numbers that the alignment allows, until a target is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Literal

import numpy as np

from rarefy.graph.channels import Channels, Group, Removed

Cost = Callable[[Removed], float]
LEVELS = 1000  # shares that are tried where every layer loses the same one
USUAL = (8, 4, 2, 1)  # alignments, the best first: engines compute 8 channels together, or more


class Choice:
    """Ways of removing more and more channels, by level: 0 removes none, `levels` all that may go.

    scores: one per atom. align: kept channels are a multiple of it; where `strict` is not set, also fewer than it.
    most: the largest share of a layer. own: layer (its place in `channels.groups`) -> the share that it loses anyway.
    """

    def __init__(
        self,
        channels: Channels,
        scores: np.ndarray,
        scope: Literal["layer", "global"],
        align: int,
        most: float,
        own: Mapping[int, float],
        strict: bool = True,
    ) -> None:
        self.channels, self.scope, self.own = channels, scope, own
        self.order = [group.atoms[np.argsort(scores[group.atoms], kind="stable")] for group in channels.groups]
        self.scores = [scores[atoms] for atoms in self.order]
        self.allowed = [_allowed(group, align, most, strict) for group in channels.groups]
        free = [s for i, s in enumerate(self.scores) if i not in own]
        self.thresholds = np.unique(np.concatenate([*free, [-np.inf, np.inf]]))
        self.levels = LEVELS if scope == "layer" else len(self.thresholds) - 1

    def counts(self, level: int) -> np.ndarray:
        """How many channels each group loses."""
        wanted = [self._wanted(i, level) for i in range(len(self.order))]
        return np.array([_nearest(a, w) for a, w in zip(self.allowed, wanted, strict=True)], np.int64)

    def _wanted(self, group: int, level: int) -> float:
        size = len(self.order[group])
        if group in self.own:
            return self.own[group] * size
        if self.scope == "layer":
            return size * level / LEVELS
        return float(np.searchsorted(self.scores[group], self.thresholds[level]))

    def removed(self, counts: np.ndarray) -> Removed:
        """The channels themselves: the least scores of each group."""
        result = self.channels.none()
        for atoms, count in zip(self.order, counts, strict=True):
            result[atoms[:count]] = True
        return result

    def below(self, threshold: float) -> np.ndarray:
        """The counts that remove the channels of lower scores than `threshold`."""
        wanted = [float(np.searchsorted(s, threshold)) for s in self.scores]
        wanted = [self.own[i] * len(self.order[i]) if i in self.own else w for i, w in enumerate(wanted)]
        return np.array([_nearest(a, w) for a, w in zip(self.allowed, wanted, strict=True)], np.int64)

    def reach(self, cost: Cost, share: float, slack: float) -> np.ndarray:
        """The counts at which `cost` (falling from 1) comes nearest to `share`: by level, then group by group, then by
        single groups that lose more or less than the others, until it is as near as `slack`."""
        low, high = 0, self.levels
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if cost(self.removed(self.counts(middle))) > share else (low, middle)
        before, after = self.counts(low), self.counts(high)
        changed = np.flatnonzero(before != after)
        steps = list(accumulate(changed.tolist(), lambda counts, i: _with(counts, i, after), initial=before))
        return self._nearer(min(steps, key=lambda counts: abs(cost(self.removed(counts)) - share)), cost, share, slack)

    def _nearer(self, counts: np.ndarray, cost: Cost, share: float, slack: float) -> np.ndarray:
        def miss(counts: np.ndarray) -> float:
            return abs(cost(self.removed(counts)) - share)

        while miss(counts) > slack:
            found = min(self._beside(counts), key=miss, default=counts)
            if miss(found) >= miss(counts):
                break
            counts = found
        return counts

    def _beside(self, counts: np.ndarray) -> Iterator[np.ndarray]:
        """One group loses the next larger or smaller number."""
        for i, allowed in enumerate(self.allowed):
            at = int(np.searchsorted(allowed, counts[i]))
            for other in (at - 1, at + 1):
                if i not in self.own and 0 <= other < len(allowed):
                    changed = counts.copy()
                    changed[i] = allowed[other]
                    yield changed

    def share(self, removed: Removed) -> float:
        """The share of the channels that may go that is left."""
        total = sum(len(g.atoms) * g.width for g in self.channels.groups)
        gone = sum(int(removed[g.atoms].sum()) * g.width for g in self.channels.groups)
        return 1 - gone / total


def _with(counts: np.ndarray, place: int, other: np.ndarray) -> np.ndarray:
    changed = counts.copy()
    changed[place] = other[place]
    return changed


def _allowed(group: Group, align: int, most: float, strict: bool) -> np.ndarray:
    """The numbers of channels that a group may lose, rising from 0; at least one channel stays."""
    size = len(group.atoms)
    counts = np.arange(1 + min(size - 1, int(most * size + 1e-9)))
    kept = (size - counts) * group.width
    aligned = (kept % align == 0) | (not strict) & (kept < align)
    allowed: np.ndarray = counts[aligned | (counts == 0)]
    return allowed


def _nearest(allowed: np.ndarray, wanted: float) -> int:
    """The allowed number nearest to what is wanted; of two, the lower."""
    return int(allowed[np.argmin(np.abs(allowed - wanted))])
