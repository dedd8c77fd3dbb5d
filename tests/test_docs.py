"""What the documentation says is run, and what it generates is up to date."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.main import get_command

from rarefy import steps
from rarefy.cli import app
from rarefy.recipe import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = SimpleNamespace(**runpy.run_path(str(ROOT / "docs" / "generated.py")))
OTHERS = {"pip", "make", "python", "bash"}


def blocks(page: Path, language: str) -> list[str]:
    text = GENERATED.on_page_markdown(page.read_text())
    return [code for kind, code in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if kind == language]


def having(language: str) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if blocks(page, language)]


def commands(page: Path) -> Iterator[list[str]]:
    for block in blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                yield shlex.split(line[2:], comments=True)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where only the examples are."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # a page may add to it
    return tmp_path


def as_index(page: Path) -> bool:
    return page.name == "index.md"  # its first block is the README's, which is run there


@pytest.mark.parametrize("page", [p for p in having("python") if not as_index(p.values[0])])
def test_python_examples_run(page: Path, workplace: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "docs"}
    pieces = blocks(page, "python")
    if page.name == "README.md":
        pieces += blocks(ROOT / "docs" / "index.md", "python")[1:]  # the start page goes on with the same run
    for code in pieces:
        exec(compile(code, f"<{page.name}>", "exec"), namespace)  # noqa: S102  (our own pages)


def test_the_start_page_begins_with_the_readme_s_example() -> None:
    assert blocks(ROOT / "docs" / "index.md", "python")[0] == blocks(ROOT / "README.md", "python")[0]


@pytest.mark.parametrize("page", having("console"))
def test_commands_exist_with_their_options(page: Path) -> None:
    group: Any = get_command(app)
    for words in commands(page):
        if words[0] == "rarefy":
            name, *rest = words[1:]
            if not name.startswith("-"):
                group.commands[name].make_context(name, rest)
        elif words[0] == "make":
            assert re.search(rf"(?m)^{words[1]}:", (ROOT / "Makefile").read_text()), words
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file(), words
        else:
            assert words[0] in OTHERS, words


def test_every_command_is_shown_somewhere() -> None:
    shown = {words[1] for page in PAGES for words in commands(page) if words[0] == "rarefy"}
    group: Any = get_command(app)
    assert set(group.commands) <= shown


@pytest.mark.parametrize("page", having("yaml"))
def test_recipes_are_valid(page: Path) -> None:
    for text in blocks(page, "yaml"):
        assert Recipe.from_dict(yaml.safe_load(text)).steps


def test_the_readme_is_up_to_date() -> None:
    text = (ROOT / "README.md").read_text()
    assert GENERATED.readme(text) == text, "run: python docs/generated.py"


def test_methods_page_shows_every_step_and_setting() -> None:
    page = GENERATED.on_page_markdown((ROOT / "docs" / "methods.md").read_text())
    for cls in steps.ALL:
        assert f"\n## {cls.__name__}\n" in page
        assert cls.gains in page
        section = page.split(f"\n## {cls.__name__}\n")[1].split("\n## ")[0]
        assert all(f"| `{name}` |" in section for name in cls.model_fields)


def test_command_line_page_shows_every_option() -> None:
    page = GENERATED.on_page_markdown((ROOT / "docs" / "cli.md").read_text())
    group: Any = get_command(app)
    for name, command in group.commands.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for parameter in command.params:
            assert (parameter.param_type_name == "argument") or f"`{parameter.opts[0]}`" in section


def test_every_page_is_in_the_navigation() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert sorted(re.findall(r"[\w-]+\.md", str(nav))) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


def test_links_within_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_nothing_is_loaded_from_elsewhere() -> None:
    for page in PAGES:
        assert not re.search(r"!\[[^]]*\]\(https?:|<script|<link|<iframe", page.read_text()), page


def test_the_example_of_a_model_makes_one() -> None:
    import torch

    network = runpy.run_path(str(ROOT / "examples" / "own_model.py"))["network"]()
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
