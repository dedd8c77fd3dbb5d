"""The records poured into the templates: one HTML file that needs nothing else and asks no network."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from rarefy.errors import InputError
from rarefy.files import write_whole
from rarefy.records import ClassRecord, RunRecord, StepRecord
from rarefy.report import charts, compare, figures, layers, steps, summary, units

if TYPE_CHECKING:
    from jinja2 import Environment

# The macros of sections.html in the order of the page. A section that has nothing to say is left out.
SECTIONS = {
    "warnings": "Warnings",
    "result": "Before and after",
    "binary": "Binary layers on this machine",
    "progress": "After each step",
    "bytes": "Where the bytes went",
    "tensors": "Every tensor",
    "weights": "Distribution of the weights",
    "training": "Training curves",
    "classes": "Classes that lost most",
    "changed": "Examples whose answer changed",
    "parity": "The exported file against the network",
    "notes": "What each step did",
    "origin": "How to reproduce it",
}

# What no name needs, and what would turn the text around or break the file: shown as \u202e.
CONTROLS = {
    code: f"\\u{code:04x}"
    for code in (*range(9), 11, 12, *range(14, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


@dataclass(frozen=True)
class View:
    """A run on the page: its name there, the prefix of its anchors, and whether the page is its own."""

    label: str
    run: RunRecord
    key: str
    alone: bool

    @property
    def level(self) -> int:
        """The level of the headings of its sections."""
        return 2 if self.alone else 3

    @property
    def headline(self) -> str:
        """The run in one sentence."""
        return summary.headline(self.label, self.run)

    @property
    def metric(self) -> str:
        """What the judged scores are called."""
        measured = self.run.original or summary.last(self.run)
        return measured.quality.metric if measured and measured.quality else "score"

    def sections(self) -> list[tuple[str, str, str]]:
        """Anchor, title and HTML of every section that has content."""
        macros = _environment().get_template("sections.html").module
        bodies = {name: getattr(macros, name)(self) for name in SECTIONS}
        return [(f"{self.key}-{name}", SECTIONS[name], body) for name, body in bodies.items() if body.strip()]


def page(runs: Sequence[tuple[str, RunRecord]]) -> str:
    """One HTML page: the run, or the comparison of several followed by each of them.

    Args:
        runs: pairs of the name to show (the folder, say) and the record.

    Raises:
        InputError: there is no run.
    """
    if not runs:
        raise InputError("a report needs at least one run; none was given: name one or more run folders")
    alone = len(runs) == 1
    views = [View(label, run, f"r{at}", alone) for at, (label, run) in enumerate(runs, 1)]
    html = _environment().get_template("page.html").render(views=views, runs=runs, alone=alone)
    return html.translate(CONTROLS).encode("utf-8", "backslashreplace").decode()  # surrogates: names of files


def write(runs: Sequence[tuple[str, RunRecord]], path: Path) -> Path:
    """Write the page of these runs and return its path; what was there before stays until the new one is whole.

    Raises:
        InputError: there is no run, or the file cannot be written; nothing is left of it then.
    """
    write_whole(path, page(runs).encode())
    return path


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rarefy.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(units, name)
        for name in (
            "size",
            "count",
            "percent",
            "seconds",
            "milliseconds",
            "plain",
            "plural",
            "unbroken",
            "change",
        )
    }
    modules = (charts, compare, figures, layers, steps, summary, units)
    environment.globals |= {module.__name__.rpartition(".")[2]: module for module in modules}
    environment.globals |= {"inline": inline, "yaml": as_yaml, "losses": losses}
    return environment


def inline(name: str) -> tuple[str, str]:
    """One of our own files to stand in the page, and its hash for the content security policy."""
    from markupsafe import Markup

    text = files("rarefy.report").joinpath("templates", name).read_text("utf-8")
    digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


def as_yaml(run: RunRecord, step: StepRecord | None = None) -> str:
    """The recipe, or a step's settings, as the text of a recipe file."""
    record, field = (run, "recipe") if step is None else (step, "settings")
    plain = record.model_dump(mode="json", include={field})[field]
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=88).strip()


def losses(run: RunRecord, most: int = 10) -> list[ClassRecord]:
    """The classes that lost, most first."""
    classes = run.outcome.classes if run.outcome else []
    lost = [found for found in classes if found.after < found.before]
    return sorted(lost, key=lambda found: found.after - found.before)[:most]
