"""How the command line shows results: tables for people, one JSON object for programs."""

from __future__ import annotations

import json as json_
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rarefy.pack import Contents
    from rarefy.run import Run
    from rarefy.step import Progress
    from rarefy.verification import Check


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar with the time left on standard error; silence where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        current: list[Any] = ["", None]

        def update(label: str, done: int, of: int) -> None:
            if label != current[0]:
                if current[1] is not None:
                    bar.remove_task(current[1])
                current[:] = [label, bar.add_task(label, total=of)]
            bar.update(current[1], completed=done, total=of)

        yield update


def run(result: Run, json: bool) -> None:
    """A finished run: its table, and where its files are."""
    if not result.finished:  # another process has the results
        return
    if json:
        _json({"folder": str(result.folder), "record": json_.loads(result.record.model_dump_json())})
        return
    _print(result)
    for path in (result.rfy, result.onnx, result.report):
        _plain(f"{path}  ({path.stat().st_size:,} bytes)")


def layers(name: str, rows: Sequence[dict[str, Any]], json: bool) -> None:
    """The layers of a network."""
    total = sum(r["weights"] for r in rows)
    if json:
        _json({"model": name, "parameters": total, "layers": list(rows)})
        return
    cells = [
        [
            r["parameter"],
            r["layer"],
            "x".join(map(str, r["shape"])),
            f"{r['weights']:,}",
            f"{r['macs']:,}" if r["macs"] else "",
            ", ".join(r["steps"]),
        ]
        for r in rows
    ]
    _table(
        f"{name}: {total:,} parameters",
        ["parameter", "layer", "shape", "weights >", "MACs >", "steps that take it"],
        cells,
    )


def measured(rows: Sequence[dict[str, Any]], json: bool) -> None:
    """Files side by side."""
    if json:
        _json({"files": list(rows)})
        return
    t = rows[0]["latency"]
    engines = list(dict.fromkeys(r["engine"] for r in rows))
    title = f"{', '.join(engines)}, {t['threads']} thread(s), batch {t['batch']}, {t['rounds']} rounds in turns"
    columns = [_quantities(r) for r in rows]
    cells = [[name, *(column[name] for column in columns)] for name in columns[0]]
    heads = [r["file"] if len(engines) == 1 else f"{r['file']} in {r['engine']}" for r in rows]
    _table(title, ["", *(f"{head} >" for head in heads)], cells)


def _quantities(row: dict[str, Any]) -> dict[str, str]:
    quality, latency, memory, macs = row["quality"], row["latency"], row["memory_bytes"], row["macs"]
    shown = {
        "bytes": f"{row['bytes']:,}",
        "parameters": f"{row['parameters']:,}",
        "non-zero": f"{row['nonzero']:,}",
        "multiply-accumulates": "-" if macs is None else f"{macs:,}",
        "median ms": f"{latency['this']['median_ms']:.3f}",
        "90th percentile ms": f"{latency['this']['p90_ms']:.3f}",
        "time against the first": f"{latency['ratio']:.2f}x, {latency['verdict']}",
        "peak memory": "-" if memory is None else f"{memory / 1e6:.1f} MB",
    }
    if quality is not None:
        shown[quality["metric"]] = f"{quality['value']:.2%}"
        shown["its 95 % interval"] = f"{quality['low']:.2%} .. {quality['high']:.2%}"
    return shown


def packed(source: Path, target: Path, contents: Contents, json: bool) -> None:
    """What a pack cost."""
    before = source.stat().st_size
    if json:
        tensors = [vars(t) for t in contents.tensors]
        _json(
            {
                "file": str(target),
                "bytes": contents.total,
                "source_bytes": before,
                "graph_bytes": contents.graph,
                "tensors": tensors,
            }
        )
        return
    cells = [
        [t.name, t.dtype.lower(), "x".join(map(str, t.shape)), t.coding, f"{t.bytes:,}"]
        for t in sorted(contents.tensors, key=lambda t: -t.bytes)[:20]
    ]
    _table(f"{source} -> {target}", ["tensor", "type", "shape", "coding", "bytes >"], cells)
    _plain(
        f"{before:,} -> {contents.total:,} bytes ({before / contents.total:.2f}x smaller), "
        f"graph and headers {contents.graph:,}"
    )


def unpacked(source: Path, target: Path, json: bool) -> None:
    """What an ONNX file was made."""
    size = target.stat().st_size
    if json:
        _json({"file": str(target), "bytes": size, "source_bytes": source.stat().st_size})
    else:
        _plain(f"{source} ({source.stat().st_size:,} bytes) -> {target} ({size:,} bytes)")


def checks(found: Sequence[Check], json: bool) -> None:
    """Claims and whether they hold."""
    if json:
        _json({"holds": all(c.holds for c in found), "claims": [vars(c) for c in found]})
        return
    cells = [[c.claim, c.claimed, c.found, "holds" if c.holds else "DOES NOT HOLD"] for c in found]
    _table("claims", ["claim", "claimed >", "found >", ""], cells)


def methods(rows: Sequence[dict[str, Any]], json: bool) -> None:
    """All steps."""
    if json:
        _json({"methods": list(rows)})
        return
    cells = [[r["name"], r["does"], r["gains"]] for r in rows]
    _table("steps", ["step", "what it does", "what it gains"], cells)
    _plain("rarefy methods NAME shows the settings of one.")


def method(row: dict[str, Any], json: bool) -> None:
    """One step with its settings."""
    if json:
        _json(row)
        return
    _plain(
        f"{row['name']}: {row['does']}\n\n{row['about']}\n\n"
        f"gains: {row['gains']}\nneeds: {row['needs']}\npaper: {row['paper']}\n"
    )
    cells = [[s["name"], s["values"], str(s["default"]), s["about"]] for s in row["settings"]]
    _table("settings", ["setting", "values", "default", ""], cells)


def written(path: Path, json: bool) -> None:
    """A file that was made."""
    if json:
        _json({"file": str(path), "bytes": path.stat().st_size})
    else:
        _plain(f"{path}  ({path.stat().st_size:,} bytes)")


def version(number: str, verbose: bool) -> None:
    """The version, and what it runs on."""
    _plain(f"rarefy {number}")
    if verbose:
        from rarefy.kernels import features
        from rarefy.measure import environment

        found = environment()
        _plain(
            f"{found.machine}, {found.cores} cores, {' '.join(found.cpu_features)}\n"
            f"{found.system}, Python {found.python}"
        )
        _plain(", ".join(f"{name} {v}" for name, v in found.versions.items()))
        _plain(f"binary kernels: {features()}")


def _json(value: dict[str, Any]) -> None:
    sys.stdout.write(json_.dumps(value, indent=1) + "\n")


def _plain(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print(thing: Any) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(thing)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns whose name ends in " >" are right-aligned."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        right = column.endswith(" >")
        table.add_column(column.removesuffix(" >"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    _print(table)
