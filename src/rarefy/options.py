"""The options that several commands share, and what their words mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rarefy.errors import InputError

if TYPE_CHECKING:
    from rarefy.task import Task

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="zoo name, package.module:function, or path/file.py:function")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="DATA", help="folder of class folders, IDX folder, .npz, 'digits', or module:function"
    ),
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="safetensors, or .pt with a state dict")]
Engines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help="onnxruntime (the default) or openvino; given several times, they are compared",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on standard output")]
Size = Annotated[int | None, typer.Option(metavar="PIXELS", help="for folders of images", min=1)]
Numbers = Annotated[
    str | None, typer.Option(metavar="X,...", help="of the channels, on the 0..1 scale: 0.49,0.48,0.45")
]


def needed(data: str | None) -> str:
    """The data, or `InputError`."""
    if data is None:
        raise InputError("--data is missing: what should the network be trained and judged on? (--data digits to try)")
    return data


def judging(
    data: str | None, resize: int | None, crop: int | None, mean: str | None = None, std: str | None = None
) -> Task | None:
    """The task to judge on, where data are given."""
    if data is None:
        return None
    from rarefy import loading

    return loading.task(data, resize=resize, crop=crop, mean=numbers("--mean", mean), std=numbers("--std", std))


def numbers(option: str, text: str | None) -> list[float] | None:
    """What an option such as `--mean 0.49,0.48,0.45` says."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: expected numbers such as 0.5 or 0.49,0.48,0.45, not {text!r}") from None
