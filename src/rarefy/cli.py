"""The command line. Heavy libraries load inside the commands, so that help answers at once."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from rarefy import __version__, show
from rarefy.errors import DemandError, InputError, RarefyError

app = typer.Typer(
    help="Makes trained PyTorch networks small and fast enough to ship, and proves it on the shipped file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="zoo name, package.module:function, or path/file.py:function")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="DATA", help="folder of class folders, IDX folder, .npz, 'digits', or module:function"
    ),
]
Weights = Annotated[Path | None, typer.Option(help="safetensors, or .pt with a state dict")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
Size = Annotated[int | None, typer.Option(help="pixels, for folders of images", min=1)]
Numbers = Annotated[str | None, typer.Option(help="per channel on the 0..1 scale: 0.5 or 0.49,0.48,0.45")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="with --version: also of what it runs on")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,  # noqa: ARG001  (read by main)
) -> None:
    if version:
        show.version(__version__, verbose)
        raise typer.Exit


@app.command()
def compress(
    model: Model,
    data: Data = None,
    recipe: Annotated[str, typer.Option(help="a recipe file, or the name of a ready one")] = "deep-compression",
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="folder for the results; runs/MODEL by default")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
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
    """Take a network through a recipe: measured after each step, exported, packed, verified, reported."""
    from rarefy import loading
    from rarefy.conduct import demand
    from rarefy.recipe import Recipe

    plan = Recipe.load(recipe)
    _threads(threads)
    task = loading.task(
        _needed(data),
        batch_size=batch_size,
        holdout=holdout,
        resize=resize,
        crop=crop,
        mean=_floats(mean),
        std=_floats(std),
        seed=seed,
    )
    network = loading.network(model, weights, task, seed)
    with show.progress() as progress:
        run = plan.run(
            network.model,
            task,
            out=out or Path("runs") / Path(model.partition(":")[0]).stem,
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("runs/demo"), json: Json = False
) -> None:
    """The whole way on the embedded digits, offline, in about a minute."""
    import shutil

    from rarefy import loading
    from rarefy.recipe import Recipe
    from rarefy.run import Run

    if (out / "run.json").exists():
        Run.open(out)  # refuses to touch what is no run
        shutil.rmtree(out)
    task = loading.task("digits", batch_size=32)
    network = loading.network("lenet5-digits", None, task)
    with show.progress() as progress:
        run = Recipe.load("demo").run(
            network.model,
            task,
            out=out,
            trained=False,
            name="lenet5-digits",
            command=f"rarefy demo --out {shlex.quote(str(out))}",
            progress=progress,
        )
    show.run(run, json)


@app.command()
def inspect(model: Model, data: Data = None, weights: Weights = None, json: Json = False) -> None:
    """The layers of a network: shape, weights, multiply-accumulates, and what could be done to each."""
    from rarefy import loading
    from rarefy.inspection import inspected

    task = loading.task(data) if data else None
    network = loading.network(model, weights, task)
    show.layers(network.name, inspected(network, task), json)


@app.command()
def measure(
    files: Annotated[list[str], typer.Argument(metavar="FILE|MODEL...", help=".onnx, .rfy, or a network")],
    data: Data = None,
    weights: Weights = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    batch: Annotated[int, typer.Option(min=1)] = 1,
    resize: Size = None,
    crop: Size = None,
    mean: Numbers = None,
    std: Numbers = None,
    json: Json = False,
) -> None:
    """Size, accuracy, latency, operations and memory of files, side by side; the first is what the others are compared to."""
    from rarefy import loading
    from rarefy.inspection import measured

    given = dict(resize=resize, crop=crop, mean=_floats(mean), std=_floats(std))
    task = loading.task(data, **given) if data else None  # type: ignore[arg-type]
    show.measured(measured(files, task, weights, threads, batch), json)


@app.command()
def pack(
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="FILE.rfy by default")] = None,
    json: Json = False,
) -> None:
    """Pack any ONNX file: the same network, its tensors entropy-coded without loss."""
    from rarefy import measure as measuring
    from rarefy import pack as packing

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
    """Recompute every claim of a pack or a run; exit status 1 where one does not hold."""
    from rarefy import loading
    from rarefy.verify import verify as check

    given = dict(resize=resize, crop=crop, mean=_floats(mean), std=_floats(std))
    task = loading.task(data, **given) if data else None  # type: ignore[arg-type]
    checks = check(path, task)
    show.checks(checks, json)
    if not all(c.holds for c in checks):
        raise DemandError(f"{sum(not c.holds for c in checks)} of {len(checks)} claims of {path} do not hold")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="report.html in the first run by default")] = None,
    json: Json = False,
) -> None:
    """One page for one run, a comparison for several."""
    from rarefy import report as reporting
    from rarefy.run import Run

    opened = [Run.open(folder) for folder in runs]
    name = "report.html" if len(runs) == 1 else "comparison.html"
    path = reporting.write([(r.folder.name, r.record) for r in opened], out or opened[0].folder / name)
    show.written(path, json)


@app.command()
def methods(name: Annotated[str | None, typer.Argument(metavar="NAME")] = None, json: Json = False) -> None:
    """Every step: what it does, what it gains, what it needs at run time, its settings, its paper."""
    from rarefy.inspection import method, table

    if name is None:
        show.methods(table(), json)
    else:
        show.method(method(name), json)


def main() -> NoReturn:
    """Run a command; every error is one clear line and an exit status."""
    debug = "--debug" in sys.argv
    try:
        app(standalone_mode=False)
        sys.exit(0)
    except RarefyError as error:
        _fail(f"rarefy: {error}", error.exit_status, debug)
    except typer.Abort:
        _fail("rarefy: aborted", 130, debug)
    except KeyboardInterrupt:
        _fail("rarefy: interrupted; a compression continues with --resume", 130, debug)
    except Exception as error:
        if hasattr(error, "format_message"):
            _fail(f"rarefy: {error.format_message()} (see rarefy --help)", 2, debug)
        _fail(f"rarefy: unexpected {type(error).__name__}: {error} (--debug shows where)", 1, debug)


def _fail(text: str, status: int, debug: bool) -> NoReturn:
    if debug:
        import traceback

        traceback.print_exc()
    print(text, file=sys.stderr)
    sys.exit(status)


def _needed(data: str | None) -> str:
    if data is None:
        raise InputError("--data is missing: what should the network be trained and judged on? (--data digits to try)")
    return data


def _threads(count: int | None) -> None:
    if count is not None:
        import torch

        torch.set_num_threads(count)


def _floats(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"expected numbers such as 0.49,0.48,0.45, not {text!r}") from None
