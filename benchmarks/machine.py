"""The machine that a benchmark runs on: printed above its table, and part of the name of its result file.

Run alone, it prints the machine: `python benchmarks/machine.py`.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rarefy.measure import environment

RESULTS = Path(__file__).parent / "results"


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


def save(name: str, rows: Sequence[Mapping[str, object]], key: Sequence[str] = ()) -> Path:
    """Rows as CSV in `results/`, in a file named by the machine and versions.

    key: the columns that name a row; with it, rows of earlier calls stay, but for those that were made again.
    """
    path = RESULTS / f"{name}--{slug()}.csv"
    merged = {tuple(str(row.get(k, "")) for k in key): row for row in [*rows_of(path), *rows]} if key else {}
    table(path, list(merged.values()) if key else rows)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    """What a table has, if it is there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Rows as CSV, with a column for every name that any of them has."""
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    print(describe())
