"""The parts of the documentation that are made from the code.

A line `<!-- generated: NAME -->` in a page of `docs/` is replaced when the site is built (as a hook of mkdocs), and
`<!-- measured: NAME COLUMN ... -->` by these columns of what a benchmark has left in `benchmarks/results` (or by all).
`python docs/generated.py` writes the tables and the example into README.md; a test holds them equal.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def methods_table() -> str:
    """Every step in a row."""
    from rarefy.inspection import table

    rows = [[f"`{m['name']}`", m["does"], m["gains"], m["paper"]] for m in table()]
    return _table(["step", "what it does", "what it gains, and what not", "paper"], rows)


def methods_sections() -> str:
    """Every step with its settings."""
    from rarefy.inspection import table

    return "\n\n".join(map(_method, table()))


def _method(method: dict[str, Any]) -> str:
    rows = [[f"`{s['name']}`", s["values"], _default(s["default"]), s["about"]] for s in method["settings"]]
    facts = {"Gains": method["gains"], "Needs at run time": method["needs"], "Paper": method["paper"]}
    return "\n\n".join(
        [
            f"## {method['name']}",
            method["does"],
            re.sub(r"(?m)^    (?=\S)", "", method["about"]),
            "  \n".join(f"**{name}:** {fact}." for name, fact in facts.items() if fact != "-"),
            _table(["setting", "values", "default", ""], rows),
        ]
    )


def _default(value: Any) -> str:
    return "not set" if value is None else f"`{value}`"


def commands() -> str:
    """Every command of the command line with its arguments and options."""
    from typer.main import get_command

    from rarefy.cli import app

    group: Any = get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    arguments = " ".join(p.metavar for p in command.params if p.param_type_name == "argument")
    rows = [
        [f"`{p.metavar or p.name.upper()}`" if p.param_type_name == "argument" else f"`{p.opts[0]}`", _about(p)]
        for p in command.params
    ]
    usage = f"```text\nrarefy {name} {arguments} [OPTIONS]\n```"
    return "\n\n".join([f"## {name}", command.help, usage.replace("  ", " "), _table(["", ""], rows)])


def _about(parameter: Any) -> str:
    default = parameter.default if isinstance(parameter.default, (str, int, float, Path)) else None
    words = (parameter.help or "").strip()
    if default is None or isinstance(default, bool):
        return words
    return f"{words}{'; ' if words else ''}default `{default}`"


def networks() -> str:
    """The zoo."""
    from rarefy.inspection import zoo_rows

    rows = [[f"`{r['name']}`", "x".join(map(str, r["input"])), r["paper"]] for r in zoo_rows()]
    return _table(["name", "input", "paper"], rows)


def recipes() -> str:
    """The recipes that come with rarefy."""
    from rarefy.recipe import Recipe, ready_recipes

    return _table(["name", ""], [[f"`{name}`", Recipe.load(name).about] for name in ready_recipes()])


def recipe_file() -> str:
    """One of them in full."""
    text = (ROOT / "src/rarefy/recipes/deep-compression.yaml").read_text()
    return f"```yaml\n{text}```"


def quickstart() -> str:
    """The example, without its docstring."""
    code = (ROOT / "examples/quickstart.py").read_text().split('"""')[2].strip()
    return f"```python\n{code}\n```"


PUBLISHED = {  # Han, Mao, Dally 2016
    "lenet-300-100": "40x, error 1.64 to 1.58 %",
    "lenet5": "39x, error 0.80 to 0.74 %",
    "resnet20": "-",
}


def measured(name: str) -> list[dict[str, str]]:
    """The rows of a benchmark, of all machines that it ran on; files are named by them."""
    found = []
    for path in sorted((ROOT / "benchmarks/results").glob(f"{name}--*.csv")):
        machine = re.sub(r"-\d+-cores-torch-.*", "", path.stem.split("--")[1]).replace("-", " ")
        with path.open(newline="") as file:
            found += [{**row, "machine": machine} for row in csv.DictReader(file)]
    return found


def measured_table(name: str, columns: Sequence[str] = ()) -> str:
    """As they are in the files; empty where one has not the column."""
    rows = measured(name)
    known = dict.fromkeys(column for row in rows for column in row)
    if missing := set(columns) - known.keys():
        raise KeyError(f"no table of {name} has {', '.join(sorted(missing))}")
    head = list(columns or known)
    cells = [[row.get(h, "") for h in head] for row in rows]
    return _table([h.replace("_", " ") for h in head], [line for line in cells if any(line)])


def results() -> str:
    """Deep Compression as measured: a row for each network and seed."""
    head = ["network", "seed", "float32 weights", "`.rfy`", "smaller", "test error, before and after", "published"]
    rows = [(row, known) for name, known in PUBLISHED.items() for row in measured(f"deep-compression-{name}")]
    return _table(head, [_result(row, published) for row, published in rows])


def _result(row: dict[str, str], published: str) -> list[str]:
    sizes = [f"{int(row[key]):,} bytes" for key in ("float32_bytes", "rfy_bytes")]
    errors = f"{row['base_error']} % to {row['error']} %"
    return [f"`{row['network']}`", row["seed"], *sizes, f"{row['ratio']}x", errors, published]


PARTS: dict[str, Callable[[], str]] = {
    "methods-table": methods_table,
    "methods": methods_sections,
    "commands": commands,
    "networks": networks,
    "recipes": recipes,
    "recipe-file": recipe_file,
    "quickstart": quickstart,
    "results": results,
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in a page; an unknown name is a `KeyError`. Called by mkdocs."""
    markdown = re.sub(r"<!-- generated: ([\w-]+) -->", lambda match: PARTS[match[1]](), markdown)
    return re.sub(r"<!-- measured: ([\w-]+)(.*?) -->", lambda m: measured_table(m[1], m[2].split()), markdown)


def readme(text: str) -> str:
    """README.md with its generated parts made anew."""
    for name, made in (("results", results()), ("methods", methods_table()), ("quickstart", quickstart())):
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n{made}\n{end}{after}"
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([c.replace("|", "\\|") for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    place = ROOT / "README.md"
    place.write_text(readme(place.read_text()))
