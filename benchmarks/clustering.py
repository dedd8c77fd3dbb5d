"""Time, error and memory of `rarefy.numerics.clustering` on the shapes weights have.

`over_optimum` compares with the exact optimum (kmeans1d) of a sample that it can solve, clustered alone; outliers
are all in the sample, since they decide. The errors of other starts are given as multiples of the optimal method's
on all n values. CPU seconds are those of all threads together, the least of three runs. `extra_mb` is the peak of
allocations beside the labels; the tensor takes 4 n bytes.

    python benchmarks/clustering.py --n 1000000 10000000 --csv clustering.csv
    python benchmarks/clustering.py --outliers
"""

from __future__ import annotations

import argparse
import platform
import time
import tracemalloc
from importlib.metadata import version
from pathlib import Path

import machine
import numpy as np
import numpy.typing as npt
from kmeans1d.core import cluster as exact

from rarefy.numerics.clustering import Clusters, cluster, distortion

Array = npt.NDArray[np.float32]
SHAPES = ["blocks", "laplace", "uniform", "sparse", "outliers", "bimodal", "levels", "sorted", "constant"]


def weights(shape: str, n: int, rng: np.random.Generator) -> Array:
    if shape in ("constant", "levels"):
        return rng.integers(0, 1 if shape == "constant" else 100, n).astype(np.float32)
    if shape == "uniform":
        return rng.uniform(-1, 1, n).astype(np.float32)
    data = rng.standard_normal(n, np.float32)
    if shape == "blocks":
        data *= np.resize(np.repeat(rng.uniform(0.01, 0.1, 64).astype(np.float32), 576), n)
    elif shape == "laplace":
        data = rng.laplace(0, 0.02, n).astype(np.float32)
    elif shape == "sparse":
        data[rng.random(n, np.float32) < 0.9] = 0
    elif shape == "outliers":
        data[rng.integers(0, n, max(3, n // 100_000))] *= 1000
    elif shape == "bimodal":
        data = np.copysign(1 + 0.01 * data, rng.uniform(-1, 1, n)).astype(np.float32)
    elif shape == "sorted":
        data.sort()
    return data


def cpu_seconds(values: Array, k: int, zero: bool, repeats: int) -> tuple[float, Clusters]:
    best = np.inf
    for _ in range(repeats):
        begin = time.process_time()
        result = cluster(values, k, zero=zero)
        best = min(best, time.process_time() - begin)
    return best, result


def extra_megabytes(values: Array, k: int, zero: bool) -> float:
    tracemalloc.start()
    labels = cluster(values, k, zero=zero).labels
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return (peak - labels.nbytes) / 1e6


def over_optimum(values: Array, k: int, zero: bool, size: int) -> float:
    far = np.flatnonzero(np.abs(values) > 20 * np.median(np.abs(values))) if not zero else []
    part = np.concatenate([values[:: max(1, values.size // size)], values[far[:1000]]])
    rest = part[part != 0] if zero else part
    labels, centroids = exact(rest.tolist(), k - zero)
    optimum = distortion(rest, np.array(centroids, np.float32), np.array(labels))
    error = cluster(part, k, zero=zero).error
    return error / optimum if optimum else 1 + error


def linear_without_lloyd(values: Array, k: int) -> float:
    low, high = float(values.min()), float(values.max())
    step = (high - low) / (k - 1) or 1.0
    labels = np.rint((values - low) / step).astype(np.uint16)
    return distortion(values, np.linspace(low, high, k).astype(np.float32), labels)


def row(shape: str, n: int, k: int, arguments: argparse.Namespace) -> dict[str, object]:
    values = weights(shape, n, np.random.default_rng(arguments.seed))
    zero = shape == "sparse"
    seconds, result = cpu_seconds(values, k, zero, arguments.repeats)
    others = {m: cluster(values, k, method=m, zero=zero).error for m in ("density", "linear", "random")}
    others["linear_no_lloyd"] = linear_without_lloyd(values, k)
    ratio = over_optimum(values, k, zero, arguments.sample) if arguments.sample else np.nan
    return {
        "data": shape,
        "n": n,
        "k": k,
        "cpu_seconds": f"{seconds:.3f}",
        "over_optimum": f"{ratio:.5f}",
        "extra_mb": f"{extra_megabytes(values, k, zero):.1f}",
        **{name: f"{error / result.error if result.error else 1 + error:.3f}" for name, error in others.items()},
        "seed": arguments.seed,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kmeans1d": version("kmeans1d"),
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[1_000_000, 10_000_000], help="numbers of values")
    parser.add_argument("--k", type=int, nargs="+", default=[16, 256], help="numbers of clusters")
    parser.add_argument("--data", nargs="+", choices=SHAPES, default=SHAPES)
    parser.add_argument("--sample", type=int, default=100_000, help="values for the exact optimum; 0 for none")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--outliers", action="store_true", help="10 million values with 1000-sigma outliers, k = 256")
    parser.add_argument("--csv", type=Path, help="write the rows here too")
    arguments = parser.parse_args()
    if arguments.outliers:
        arguments.n, arguments.k, arguments.data = [10_000_000], [256], ["outliers"]
    rows = []
    for n in arguments.n:
        for shape in arguments.data:
            for k in arguments.k:
                rows.append(row(shape, n, k, arguments))
                if len(rows) == 1:
                    print(*(f"{name:>15}" for name in list(rows[0])[:10]))
                print(*(f"{value!s:>15}" for value in list(rows[-1].values())[:10]), flush=True)
    print(f"{cpu_name()}, Python {platform.python_version()}, NumPy {np.__version__}, seed {arguments.seed}")
    if arguments.csv:
        machine.table(arguments.csv, rows)


if __name__ == "__main__":
    main()
