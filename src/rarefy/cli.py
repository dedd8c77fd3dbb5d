"""The command line. Heavy libraries load inside the commands, so that help answers at once."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from rarefy import __version__, show
from rarefy.errors import DemandError, InputError, RarefyError
from rarefy.options import Data, Engines, Json, Model, Numbers, Size, Weights, judging, needed, numbers

if TYPE_CHECKING:
    from rarefy.recipe import Recipe

app = typer.Typer(
    help="Makes trained PyTorch networks small and fast enough to ship, and proves it on the shipped file.",
    add_completion=False,
    rich_markup_mode=None,  # with it, help would import rich, which takes as long as all the rest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="with --version: also of what it runs on")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,  # noqa: ARG001  (main)
) -> None:
    if version:
        show.version(__version__, verbose)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def compress(
    model: Model,
    data: Data = None,
    recipe: Annotated[str, typer.Option(help="a recipe file, or the name of a ready one")] = "deep-compression",
    weights: Weights = None,
    student: Annotated[
        str | None, typer.Option(metavar="MODEL", help="network that the recipe's Distill step trains instead")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder for the results; runs/MODEL by default")] = None,
    seed: Annotated[int, typer.Option(help="of all randomness", min=0, max=2**32 - 1)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="continue an interrupted run")] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    holdout: Annotated[float, typer.Option(help="share of training examples to choose checkpoints by")] = 0.0,
    resize: Size = None,
    crop: Size = None,
    mean: Numbers = None,
    std: Numbers = None,
    processes: Annotated[int, typer.Option(help="to train with", min=1)] = 1,
    threads: Annotated[int | None, typer.Option(help="of each process", min=1)] = None,
    require_speedup: Annotated[float | None, typer.Option(help="fail if the result is not so much faster")] = None,
    max_drop: Annotated[float | None, typer.Option(help="fail if more points of the metric are lost")] = None,
    json: Json = False,
) -> None:
    """Take a network through a recipe, and ship it.

    It is measured after each step; at the end it is exported, packed, loaded back, compared and reported.
    """
    import torch

    from rarefy import loading
    from rarefy.demands import demand
    from rarefy.recipe import Recipe

    plan = Recipe.load(recipe)
    if student is not None:
        plan = _with_student(plan, student)
    if threads is not None:
        torch.set_num_threads(threads)
    task = loading.task(
        needed(data),
        batch_size=batch_size,
        holdout=holdout,
        resize=resize,
        crop=crop,
        mean=numbers("--mean", mean),
        std=numbers("--std", std),
        seed=seed,
    )
    network = loading.network(model, weights, task, seed)
    with show.progress() as progress:
        run = plan.run(
            network.model,
            task,
            out=out or Path("runs") / Path(model.partition(":")[0].removesuffix(".py")).name,
            seed=seed,
            resume=resume,
            trained=network.trained,
            processes=processes,
            name=model,
            weights=str(weights) if weights else None,
            command=shlex.join(["rarefy", *sys.argv[1:]]),
            progress=progress,
        )
    show.run(run, json)
    demand(run, require_speedup, max_drop)


def _with_student(recipe: Recipe, student: str) -> Recipe:
    """The recipe with another student in its first Distill step."""
    from rarefy.recipe import Recipe
    from rarefy.steps import Distill

    items = list(recipe.items)
    for i, item in enumerate(items):
        if isinstance(item, Distill):
            items[i] = item.replace(student=student)
            return Recipe(items, recipe.name, recipe.about)
    raise InputError(
        f"--student {student}: the recipe {recipe.name!r} has no Distill step that could train it (one inside a Repeat "
        "does not count); add `- Distill: {epochs: ...}`"
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/demo"), json: Json = False
) -> None:
    """The whole way on the embedded digits, offline, in a minute or two."""
    from rarefy.demo import demonstrate

    with show.progress() as progress:
        run = demonstrate(out, progress)
    show.run(run, json)


@app.command()
def inspect(
    model: Model,
    data: Data = None,
    weights: Weights = None,
    resize: Size = None,
    crop: Size = None,
    json: Json = False,
) -> None:
    """List the layers of a network, and what could be done to each.

    Shape, weights and multiply-accumulates of each, and the steps that would take it.
    """
    from rarefy import loading
    from rarefy.inspection import inspected

    task = judging(data, resize, crop)
    network = loading.network(model, weights, task)
    show.layers(network.name, inspected(network, task), json)


@app.command()
def measure(
    files: Annotated[list[str], typer.Argument(metavar="FILE|MODEL...", help=".onnx, .rfy, or a network")],
    data: Data = None,
    weights: Weights = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    engine: Engines = None,
    resize: Size = None,
    crop: Size = None,
    mean: Numbers = None,
    std: Numbers = None,
    json: Json = False,
) -> None:
    """Measure files or networks side by side.

    Size, accuracy, operations, latency and memory; the first is what the others are compared to.
    """
    from rarefy.inspection import measured

    task = judging(data, resize, crop, mean, std)
    show.measured(measured(files, task, weights, threads, batch, engine or ["onnxruntime"]), json)


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="FILE.rfy by default")] = None,
    json: Json = False,
) -> None:
    """Pack any ONNX file.

    The same network, its tensors entropy-coded without loss.
    """
    from rarefy import measure as measuring
    from rarefy import pack as packing

    if file.suffix == ".rfy":
        raise InputError(f"{file} is a pack already; `rarefy unpack` gives the ONNX file that it holds")
    target = out or file.with_suffix(".rfy")
    contents = packing.write(measuring.read(file), target)
    show.packed(file, target, contents, json)


@app.command()
def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE.rfy")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="FILE.onnx by default")] = None,
    json: Json = False,
) -> None:
    """Turn a pack back into plain ONNX."""
    from rarefy import pack as packing
    from rarefy.files import write_whole

    target = out or file.with_suffix(".onnx")
    write_whole(target, packing.read(file).SerializeToString())
    show.unpacked(file, target, json)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="FILE.rfy|RUN")],
    data: Data = None,
    resize: Size = None,
    crop: Size = None,
    mean: Numbers = None,
    std: Numbers = None,
    json: Json = False,
) -> None:
    """Recompute every claim of a pack or a run.

    Exit status 1 where one does not hold. With --data, what it answers is judged again too.
    """
    from rarefy.verification import verify as check

    checks = check(path, judging(data, resize, crop, mean, std))
    show.checks(checks, json)
    if not all(c.holds for c in checks):
        raise DemandError(f"{sum(not c.holds for c in checks)} of {len(checks)} claims of {path} do not hold")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="report.html in the first run by default")] = None,
    json: Json = False,
) -> None:
    """Write one page for one run, a comparison for several."""
    from rarefy import report as reporting
    from rarefy.run import Run

    opened = [Run.open(folder) for folder in runs]
    name = "report.html" if len(runs) == 1 else "comparison.html"
    path = reporting.write([(r.folder.name, r.record) for r in opened], out or opened[0].folder / name)
    show.written(path, json)


@app.command()
def methods(name: Annotated[str | None, typer.Argument(metavar="NAME")] = None, json: Json = False) -> None:
    """List the steps that a recipe can have.

    What each does, what it gains and what not; with NAME, its settings and its paper.
    """
    from rarefy.inspection import method, table

    if name is None:
        show.methods(table(), json)
    else:
        show.method(method(name), json)


def main() -> NoReturn:
    """Run a command; every error is one clear line and an exit status."""
    debug = "--debug" in sys.argv
    try:
        status = app([w for w in sys.argv[1:] if w != "--debug"], prog_name="rarefy", standalone_mode=False)
        sys.stdout.flush()
        if status == 130:  # typer's way to say it
            raise KeyboardInterrupt
        sys.exit(0)
    except RarefyError as error:
        _fail(str(error), error.exit_status, debug, all_alike=True)
    except typer.TyperException as error:
        _fail(f"{error.format_message()} (see rarefy --help)", 2, debug)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; a compression continues with --resume", 130, debug)
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _fail(f"cannot read or write {error.filename or 'a file'}: {error.strerror or error}", 2, debug)
    except Exception as error:
        left_alone = "by peer" in str(error)  # connection closed or reset: the first process has said why
        _fail(f"unexpected {type(error).__name__}: {error} (--debug shows where)", 1, debug, all_alike=left_alone)


def _fail(text: str, status: int, debug: bool, all_alike: bool = False) -> NoReturn:
    """all_alike: every process finds the same error, and the first one says it."""
    if debug:
        import traceback

        traceback.print_exc()
    if not all_alike or os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"rarefy: {text}", file=sys.stderr)
    sys.exit(status)
