"""The layers at either end of a network, and what is between layers."""

from __future__ import annotations

from collections.abc import Collection

from rarefy.graph.flow import Flow, Value


def first_and_last(seen: Flow, layers: Collection[str]) -> tuple[set[str], set[str]]:
    """Of the modules at the paths `layers`: those that read the network's input with no other between, and those that
    no other reads from on the way to its output."""
    given = {value for path in layers for value in seen.outputs.get(path, [])}
    fed = reached(seen, given, set())
    read = {value for path in layers for value in seen.inputs.get(path, [])}
    reaching = set(read)
    for step in reversed(seen.steps):
        if reaching.intersection(step.outputs):
            reaching.update(step.inputs)
    first = {path for path in layers if set(seen.inputs.get(path, [])) - fed}
    last = {path for path in layers if set(seen.outputs.get(path, [])) - reaching}
    return first, last


def between(seen: Flow, some: Collection[str], layers: Collection[str]) -> set[Value]:
    """The values that come from the modules at `some`, with no other of `layers` in between."""
    given = {value for path in some for value in seen.outputs.get(path, [])}
    return reached(seen, given, {value for path in layers for value in seen.outputs.get(path, [])} - given)


def reached(seen: Flow, values: Collection[Value], closed: Collection[Value]) -> set[Value]:
    """The values, and all that is made of them, but for what is `closed` and what is made of that alone."""
    found = set(values)
    for step in seen.steps:
        if found.intersection(step.inputs):
            found.update(set(step.outputs).difference(closed))
    return found
