"""Channels as atoms: which positions of which tensors must go together.

Every channel that a layer makes is an *atom*, a number. A tensor's *labels* are a tensor of its shape that says for
each element which atom it belongs to. Reshaping, permuting, concatenating and splitting act on labels as they do on the
tensor itself, so they are followed exactly; adding two tensors unites the atoms of the elements that meet. 0 is no
atom: a position that always stays.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Atoms:
    """A union-find over atoms, and why some of them must stay."""

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self.kept: list[tuple[np.ndarray, str]] = []  # atoms and why they stay

    def __len__(self) -> int:
        return len(self._parent)

    def fresh(self, count: int) -> Tensor:
        """New atoms, shape (count,)."""
        first = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(first, first + count)])
        return torch.arange(first, first + count)

    def find(self, labels: np.ndarray) -> np.ndarray:
        """The representative of each atom: the least of those united with it."""
        roots: np.ndarray = self._parent[labels]
        while not np.array_equal(roots, self._parent[roots]):
            roots = self._parent[roots]
        self._parent[labels] = roots
        return roots

    def unite(self, one: Tensor, two: Tensor, why: str) -> None:
        """What is at the same place goes together; beside a position that always stays, an atom stays (`why`)."""
        both = torch.broadcast_tensors(_narrowed(one, two), _narrowed(two, one))  # type: ignore[no-untyped-call]
        a, b = (self.find(t.reshape(-1).numpy()) for t in both)
        self.keep(torch.from_numpy(np.concatenate([a[b == 0], b[a == 0]])), why)
        pairs = np.unique(np.stack([a, b], 1)[(a != b) & (a > 0) & (b > 0)], axis=0)
        if len(np.unique(pairs)) == pairs.size:  # nothing is met twice: all at once
            self._parent[pairs.max(1)] = pairs.min(1)
            return
        for left, right in pairs:
            first, second = self.find(np.array([left, right]))
            self._parent[max(first, second)] = min(first, second)

    def keep(self, labels: Tensor, why: str) -> None:
        """These atoms stay."""
        atoms = np.unique(core(labels).reshape(-1).numpy())
        if atoms[atoms > 0].size:
            self.kept.append((atoms[atoms > 0], why))

    def reasons(self) -> dict[int, str]:
        """Representative of each atom that stays -> the first reason."""
        found: dict[int, str] = {}
        for atoms, why in self.kept:
            for root in np.unique(self.find(atoms)):
                found.setdefault(int(root), why)
        return found

    def compact(self, labels: Tensor) -> Tensor:
        """The same labels by their representatives, with stride 0 along dimensions where they do not vary."""
        inner = core(labels)
        inner = torch.from_numpy(self.find(inner.reshape(-1).numpy())).view(inner.shape)
        for dim in range(inner.ndim):
            if inner.size(dim) > 1 and torch.equal(inner, inner.narrow(dim, 0, 1).expand_as(inner)):
                inner = inner.narrow(dim, 0, 1)
        return inner.expand(labels.shape)

    def flat(self, labels: Tensor, why: str) -> Tensor:
        """Labels that vary along one dimension only, so that what is removed leaves a whole tensor.

        Along other dimensions the positions are tied: of the groups x channels of a shuffle, every group loses the same
        channels. An image made of a vector varies by channel.
        """
        labels = self.compact(labels)
        dims = varying(labels)
        if len(dims) > 1:
            along = dims[0] if labels.ndim == 4 and dims == [1, 2, 3] else dims[-1]
            others = [d for d in dims if d != along]
            first = labels
            for dim in others:
                first = first.narrow(dim, 0, 1)
            self.unite(labels, first, why)
            labels = self.compact(labels)
        return labels


def varying(labels: Tensor) -> list[int]:
    """The dimensions along which compact labels vary."""
    return [d for d in range(labels.ndim) if labels.size(d) > 1 and labels.stride(d) != 0]


def spread(labels: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Labels of shape (n,) along dimension `dim` of a tensor of `shape`, the same everywhere else."""
    view = [1] * len(shape)
    view[dim] = -1
    return labels.view(view).expand(shape)


def along(labels: Tensor, dim: int) -> Tensor:
    """The labels along `dim`, shape (n,), where they vary along no other."""
    for other in range(labels.ndim):
        if other != dim % labels.ndim:
            labels = labels.narrow(other, 0, 1)
    return labels.reshape(-1)


def core(labels: Tensor) -> Tensor:
    """Labels without what is only repeated: size 1 along dimensions of stride 0."""
    for dim in range(labels.ndim):
        if labels.stride(dim) == 0 and labels.size(dim) > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def _narrowed(labels: Tensor, other: Tensor) -> Tensor:
    """Drop what broadcasting would only repeat in both."""
    labels = labels[(None,) * max(0, other.ndim - labels.ndim)]
    other = other[(None,) * max(0, labels.ndim - other.ndim)]
    for dim in range(labels.ndim):
        constant = [t.size(dim) == 1 or t.stride(dim) == 0 for t in (labels, other)]
        if all(constant):
            labels = labels.narrow(dim, 0, 1)
    return labels
