"""Names replaced by where the value comes from, so that repeated blocks of a network become the same bytes.

In the main graph, nodes then refer to their inputs by these words:

    w      the next initialiser not yet used        w7     initialiser 7
    3      the value made three values ago          i0     graph input 0
    :x     the value named x                        (empty) an optional input that is left out

and to their outputs by `o` (any name), `y2` (graph output 2), or nothing. Initialisers are in the order of
their first use, without a name. Reading gives them back as w0, w1, ... and v0, v1, ...; graph inputs and
outputs keep their names, and so does an initialiser that is an input or output of the graph, or that no
node uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import onnx

from rarefy.errors import PackError


def hideable(model: onnx.ModelProto) -> bool:
    """Whether names are used only where `hide` looks: no subgraphs, annotations, sparse initialisers."""
    graph = model.graph
    if graph.quantization_annotation or graph.sparse_initializer or graph.value_info or model.training_info:
        return False
    if any(attribute.HasField("g") or attribute.graphs for node in graph.node for attribute in node.attribute):
        return False
    outputs = [name for node in graph.node for name in node.output if name]
    weights = [tensor.name for tensor in graph.initializer]
    inputs = [value.name for value in graph.input]
    made = outputs + weights + [name for name in inputs if name not in set(weights)]
    unique = len(set(made)) == len(made)
    known = set(made)
    ordered = unique and _in_order(graph, set(weights) | set(inputs))
    return ordered and all(value.name in known for value in graph.output)


def _in_order(graph: onnx.GraphProto, seen: set[str]) -> bool:
    for node in graph.node:
        if not all(name in seen for name in node.input if name):
            return False
        seen.update(node.output)
    return True


def hide(graph: onnx.GraphProto) -> None:
    """Replace the names, in place; `hideable` must hold, and the initialisers be sorted."""
    inputs = {value.name: index for index, value in enumerate(graph.input)}
    results = {value.name: index for index, value in enumerate(graph.output)}
    order = _order(graph)
    made: dict[str, int] = {}
    used = 0
    for node in graph.node:
        words = []
        for name in node.input:
            if name in order:
                words.append("w" if order[name] == used else f"w{order[name]}")
                used = max(used, order[name] + 1)
            elif name in made:
                words.append(str(len(made) - made[name]))
            else:
                words.append("" if not name else f"i{inputs[name]}" if name in inputs else f":{name}")
        node.input[:] = words
        for index, name in enumerate(node.output):
            made[name or f"absent {len(made)}"] = len(made)
            node.output[index] = "" if not name else f"y{results[name]}" if name in results else "o"
    for tensor in graph.initializer:
        if tensor.name in order:
            tensor.ClearField("name")


def _order(graph: onnx.GraphProto) -> dict[str, int]:
    """The initialisers that lose their names, numbered by first use."""
    kept = {value.name for value in [*graph.input, *graph.output]}
    weights = {tensor.name for tensor in graph.initializer} - kept
    used = dict.fromkeys(name for node in graph.node for name in node.input if name in weights)
    return {name: index for index, name in enumerate(used)}


def sort(graph: onnx.GraphProto) -> None:
    """Put the initialisers in the order in which `hide` wants them, in place."""
    order = _order(graph)
    graph.initializer.sort(key=lambda tensor: order.get(tensor.name, len(order)))


def reveal(graph: onnx.GraphProto) -> None:
    """The inverse of `hide`, with new names, in place. Raises `PackError` where a word means nothing."""
    taken = {value.name for value in [*graph.input, *graph.output]} | {t.name for t in graph.initializer}
    weights = _fresh("w", taken)
    values = _fresh("v", taken)
    for tensor in graph.initializer:
        if not tensor.name:
            tensor.name = next(weights)
    reader = _Words(graph)
    for node in graph.node:
        node.input[:] = [reader.input(word) for word in node.input]
        node.output[:] = [reader.output(word, values) for word in node.output]


def _fresh(prefix: str, taken: set[str]) -> Iterator[str]:
    return (name for number in count() if (name := f"{prefix}{number}") not in taken)


class _Words:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._weights = [tensor.name for tensor in graph.initializer]
        self._inputs = [value.name for value in graph.input]
        self._results = [value.name for value in graph.output]
        self._made: list[str] = []
        self._used = 0

    def input(self, word: str) -> str:
        if not word or word[0] == ":":
            return word[1:]
        if word[0] == "w":
            index = self._number(word[1:]) if len(word) > 1 else self._used
            self._used = max(self._used, index + 1)
            return self._pick(self._weights, index, word)
        if word[0] == "i":
            return self._pick(self._inputs, self._number(word[1:]), word)
        return self._pick(self._made, len(self._made) - self._number(word), word)

    def output(self, word: str, values: Iterator[str]) -> str:
        name = ""
        if word == "o":
            name = next(values)
        elif word:
            name = self._pick(self._results, self._number(word[1:]), word)
        self._made.append(name)
        return name

    @staticmethod
    def _number(digits: str) -> int:
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise PackError(f"corrupted: {digits[:20]!r} where a number should be, in the graph's names")
        return int(digits)

    @staticmethod
    def _pick(names: list[str], index: int, word: str) -> str:
        if not 0 <= index < len(names):
            raise PackError(f"corrupted: the graph's name {word[:20]!r} points at nothing")
        return names[index]
