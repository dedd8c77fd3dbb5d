"""The machine that a benchmark runs on: printed above its table, and part of the name of its result file.

Run alone, it prints the machine: `python benchmarks/machine.py`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rarefy.measure import environment


def describe() -> str:
    """The machine and the versions in a few lines."""
    here = environment()
    versions = ", ".join(f"{name} {version}" for name, version in here.versions.items())
    return "\n".join(
        [
            f"{here.machine}, {here.cores} cores, {here.system}",
            f"CPU features: {', '.join(here.cpu_features) or 'none known'}",
            f"Python {here.python}, {versions}",
        ]
    )


def slug() -> str:
    """A short name of the machine and the main versions for file names."""
    here = environment()
    words = f"{here.machine} {here.cores} cores torch {here.versions['torch']}"
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-")


def save(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as CSV, with a column for every name that any of them has."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    print(describe())
