"""File size against accuracy without training: EfficientNet-Lite0 with its ImageNet weights.

    python benchmarks/size_curve.py                       five sizes, one draw of 150 photographs
    python benchmarks/size_curve.py --draws 5 --sizes 2050000
    python benchmarks/size_curve.py --uniform             plain Quantize of the weights through the same pack, beside

Data and network as in quantize_imagenet.py: for each draw 150 photographs to measure on, the 350 others judge.
Rows go to `benchmarks/results/`. NNCodec's points on the same network are in docs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import machine
import torch
from quantize_imagenet import Row, network, scores, task
from torch import Tensor, nn

from rarefy import pack
from rarefy.classification import Classification
from rarefy.export.onnx import Exporter
from rarefy.runtime import load
from rarefy.step import Step
from rarefy.steps import Quantize
from rarefy.steps.round_weights import RoundWeights

SIZES = (2_600_000, 2_300_000, 2_050_000, 1_800_000, 1_550_000)
UNIFORM = (6, 5, 4, 3)
EXAMPLES = 150


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    model, few = network(), next(iter(task(1, 0, False).judge()))[0][:2]
    original = _packed(model, few, folder / "float.rfy")
    steps: dict[str, Step] = {
        f"RoundWeights {size:,}": RoundWeights(size=size, examples=EXAMPLES) for size in arguments.sizes
    }
    if arguments.uniform:
        steps |= {f"Quantize {bits} bits": Quantize(weights=bits, activations=None) for bits in UNIFORM}
    for draw in range(arguments.draws):
        data = task(EXAMPLES, draw, False)
        wanted, right = scores(original, data)
        yield {"method": "float32", "draw": draw, "bytes": original.stat().st_size, "judged": len(right)} | _right(
            wanted, right
        )
        for method, step in steps.items():
            yield {"method": method, "draw": draw, **_row(step, model, data, few, folder, wanted, right)}


def _right(logits: Tensor, right: Tensor) -> Row:
    return {"right": int((logits.argmax(1) == right).sum())}


def _packed(model: nn.Module, few: Tensor, path: Path) -> Path:
    pack.write(Exporter(model, few).write(model).proto, path)
    return path


def _row(
    step: Step, model: nn.Module, data: Classification, few: Tensor, folder: Path, wanted: Tensor, right: Tensor
) -> Row:
    began = time.process_time()
    path = _packed(step(model, data), few, folder / "small.rfy")
    encoding, began = time.process_time() - began, time.process_time()
    load(path, threads=1)
    decoding = time.process_time() - began
    logits, _ = scores(path, data)
    divergence = nn.functional.kl_div(
        logits.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean"
    )
    row: Row = {"bytes": path.stat().st_size, "judged": len(right), **_right(logits, right)}
    row |= {"agreement": f"{float((wanted.argmax(1) == logits.argmax(1)).float().mean()):.4f}"}
    row |= {"kl": f"{float(divergence):.4f}", "encode_cpu_s": f"{encoding:.0f}", "decode_cpu_s": f"{decoding:.2f}"}
    return row


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="*", type=int, default=list(SIZES), help="bytes of the file")
    parser.add_argument("--draws", type=int, default=1, help="how often the photographs are drawn")
    parser.add_argument("--uniform", action="store_true", help="also the same bits for every weight")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine.describe())
    with TemporaryDirectory() as folder:
        for row in rows(arguments, Path(folder)):
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
            machine.save("size-curve", [row], key=("method", "draw"))


if __name__ == "__main__":
    main()
