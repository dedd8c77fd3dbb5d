"""The run folder: what is in it, and how it shows itself.

::

    runs/lenet5/
      run.json               the record: recipe, environment, every step's plan, notes and measurements
      original.onnx          the network that the run began with (after its training, where the recipe trains it)
      steps/01-….safetensors the tensors after each step
      model.onnx  model.rfy  what is shipped
      report.html
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from rarefy.errors import RunError
from rarefy.files import write_whole
from rarefy.records import Measurement, RunRecord
from rarefy.report import units

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

MOST_BYTES = 1 << 28


@dataclass
class Run:
    """A folder and its record."""

    folder: Path
    record: RunRecord

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Read a run folder. Raises `RunError` where it is none, or where its record is damaged."""
        path = Path(folder) / "run.json"
        try:
            if path.stat().st_size > MOST_BYTES:
                raise RunError(f"{path} has {path.stat().st_size:,} bytes, more than a record can have")
            return cls(Path(folder), RunRecord.model_validate_json(path.read_bytes()))
        except OSError as error:
            raise RunError(f"{folder} is not a run folder: cannot read {path} ({error.strerror})") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(p) for p in first["loc"]) or "the whole"
            raise RunError(f"{path} is not the record of a run ({where}: {first['msg']})") from None

    def save(self) -> None:
        """Write the record, whole or not at all."""
        write_whole(self.folder / "run.json", self.record.model_dump_json(indent=1).encode())

    @property
    def rfy(self) -> Path:
        """The pack."""
        return self.folder / "model.rfy"

    @property
    def onnx(self) -> Path:
        """The same network as plain ONNX."""
        return self.folder / "model.onnx"

    @property
    def original(self) -> Path:
        """The network that the run began with, as ONNX."""
        return self.folder / "original.onnx"

    @property
    def report(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.record.outcome is not None

    def restore(self, model: nn.Module, step: int | None = None, *, trust: bool = False) -> nn.Module:
        """The network as it was after `step` (the last by default), to go on with: training, other steps, export.

        model: made as for the run (its weights do not matter); it is not changed. trust: run the code that a plan
        names, for a student of your own.
        """
        from rarefy.rebuild import rebuilt

        return rebuilt(self, model, step, trust)

    def measurements(self) -> list[tuple[str, Measurement]]:
        """The original and each step, with their names. A network that the recipe trained is its own first step."""
        rows = [] if self.record.trained_from_scratch else [("original", self.record.original)]
        for s in self.record.steps:
            rows += [(f"{s.index}. {s.name}", s.measurement), (f"{s.index}. without a teacher", s.alone)]
        return [(name, m) for name, m in rows if m is not None]

    def summary(self) -> str:
        """The result in one sentence."""
        before, outcome = self.record.original, self.record.outcome
        if before is None or outcome is None:
            return f"{self.record.name}: not finished, {len(self.record.steps)} steps done; continue with resume"
        after, words = outcome.measurement, []
        if after.sizes.rfy:
            ratio = before.sizes.safetensors / after.sizes.rfy
            words.append(f"{_kb(before.sizes.safetensors)} -> {_kb(after.sizes.rfy)} ({ratio:.1f}x smaller)")
        if before.quality and after.quality:
            words.append(f"{after.quality.metric} {before.quality.value:.2%} -> {after.quality.value:.2%}")
        if outcome.latency:
            words.append(f"latency {outcome.latency[0].verdict} ({outcome.latency[0].ratio:.2f}x)")
        return f"{self.record.name}: " + ", ".join(words)

    def __rich__(self) -> Table:
        from rich.table import Table

        table = Table(title=self.summary(), title_justify="left")
        for i, column in enumerate(_COLUMNS):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in self._rows():
            table.add_row(*row)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(width=120, force_terminal=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def _repr_html_(self) -> str:
        from html import escape

        def cells(kind: str, row: list[str]) -> str:
            return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in row) + "</tr>"

        body = "".join(cells("td", row) for row in self._rows())
        return f"<p>{escape(self.summary())}</p><table>{cells('th', list(_COLUMNS))}{body}</table>"

    def _rows(self) -> list[list[str]]:
        return [
            [
                name,
                _kb(m.sizes.safetensors),
                _kb(m.sizes.onnx),
                _kb(m.sizes.rfy),
                f"{m.nonzero:,}",
                "-" if m.macs is None else units.short(m.macs),
                f"{m.latency.ratio:.2f}x" if m.latency else "",
                f"{m.quality.value:.2%}" if m.quality else "-",
                f"{m.quality.agreement:.2%}" if m.quality and m.quality.agreement is not None else "-",
            ]
            for name, m in self.measurements()
        ]


_COLUMNS = ("after", "float32", "ONNX", ".rfy", "non-zero", "MACs", "time", "metric", "agreement")


def _kb(count: int | None) -> str:
    """Bytes in words; 1 KB = 1000 bytes."""
    if count is None:
        return "-"
    return f"{count / 1e6:,.2f} MB" if count >= 1e6 else f"{count / 1e3:,.2f} KB"


def sha256(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
