"""The machine that a benchmark runs on: printed above its table, and part of the name of its result file.

Run alone, it prints the machine: `python benchmarks/machine.py`.
"""

from __future__ import annotations

import re

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


if __name__ == "__main__":
    print(describe())
