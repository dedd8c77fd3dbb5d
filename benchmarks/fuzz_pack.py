"""Mutated packs: every one must be read, or refused with a `PackError`, in bounded time and memory.

    python benchmarks/fuzz_pack.py [--cases 300000] [--seed 0] [--memory-mb 256] [--seconds 2]

Three quarters of the mutations get a valid length and checksum, so that they reach what lies behind.
Anything else than a model or a `PackError`, more than `--seconds` of CPU for a case, or more memory than the
address space may grow by, ends the run with the case written to `fuzz-failure.rfy`.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rarefy import pack
from rarefy.errors import PackError
from rarefy.pack import squeeze, symbols
from rarefy.pack.bits import Reader, varint
from rarefy.pack.container import sealed, unsealed
from rarefy.pack.model import HIDDEN

Random = np.random.Generator
MAX_BYTES = 1 << 20


def seeds() -> list[bytes]:
    """Small packs that between them use every coding."""
    rng = np.random.default_rng(0)

    def model(arrays: dict[str, np.ndarray], more: list[TensorProto]) -> onnx.ModelProto:
        nodes = [helper.make_node("Shape", [name], [f"{name}.o"]) for name in arrays]
        weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
        outputs = [helper.make_tensor_value_info(f"{name}.o", TensorProto.INT64, [None]) for name in arrays]
        return helper.make_model(helper.make_graph(nodes, "g", [], outputs, weights + more))

    sparse = np.where(rng.random(3000) < 0.9, 0, rng.integers(1, 16, 3000)).astype(np.uint8)
    floats = np.where(rng.random(1000) < 0.8, 0, rng.normal(size=1000)).astype(np.float32)
    arrays = {
        "sparse": sparse,
        "dense": rng.integers(0, 256, 2000).astype(np.uint8),
        "skewed": np.minimum(rng.geometric(0.05, 5000), 255).astype(np.uint8),
        "floats": floats,
        "halves": rng.normal(size=500).astype(np.float16),
        "doubles": rng.normal(size=300),
        "palette": rng.choice(rng.normal(size=20).astype(np.float32), 2000),
        "offsets": rng.integers(-300, 300, 2000).astype(np.int16),
        "wide": rng.integers(-(2**40), 2**40, 200),
        "ones": np.ones(1000, np.float32),
        "classes": rng.geometric(np.outer(2.0 ** -rng.integers(0, 5, 40), np.ones(50))).clip(0, 255).astype(np.uint8),
        "again": sparse,
    }
    low = helper.make_tensor("low", TensorProto.INT4, [1001], rng.binomial(7, 0.2, 1001))
    large = {"large": np.where(rng.random(70_000) < 0.99, 0, 3).astype(np.uint8)}
    few = {"few": rng.integers(0, 5, 60).astype(np.uint8)}
    packs = [pack.encode(model(arrays, [low])), pack.encode(model(large, [])), pack.encode(model(few, []))]
    with mock.patch.object(symbols, "PAIRED", 100):
        packs.append(pack.encode(model({"pairs": np.repeat(rng.integers(0, 4, 2000), 2).astype(np.uint8)}, [])))
    return packs + [with_plain_graph(data) for data in packs]


def with_plain_graph(data: bytes) -> bytes:
    """The same pack with its graph not squeezed, so that mutations reach dimensions, types and names."""
    reader = Reader(unsealed(data))
    method, size = reader.byte(), reader.varint()
    plain = squeeze.unsqueeze(method & ~HIDDEN, bytes(reader.take(reader.varint())), size)
    head = bytes([squeeze.STORED | method & HIDDEN]) + varint(size) + varint(size)
    return sealed(head + plain + bytes(reader.take(reader.left)))


def flip(data: bytearray, rng: Random) -> None:
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)


def overwrite(data: bytearray, rng: Random) -> None:
    at, count = rng.integers(len(data)), rng.integers(1, 9)
    data[at : at + count] = rng.bytes(min(count, len(data) - at))


def truncate(data: bytearray, rng: Random) -> None:
    del data[rng.integers(len(data)) :]


def extend(data: bytearray, rng: Random) -> None:
    data += rng.bytes(rng.integers(1, 50))


def insert_huge(data: bytearray, rng: Random) -> None:
    huge = [
        b"\xff" * 9 + b"\x01",
        b"\xff" * 12,
        b"\xff\xff\xff\xff\x0f",
        b"\x80" * 9 + b"\x01",
        b"\x00",
        b"\x80\x80\x40",
    ]
    at = rng.integers(len(data) + 1)
    data[at : at + rng.integers(0, 4)] = huge[rng.integers(len(huge))]


def drop(data: bytearray, rng: Random) -> None:
    at = rng.integers(len(data))
    del data[at : at + rng.integers(1, 9)]


def repeat(data: bytearray, rng: Random) -> None:
    start, end = np.sort(rng.integers(0, len(data) + 1, 2))
    at = rng.integers(len(data) + 1)
    data[at:at] = data[start : min(end, start + 200)]


def header(data: bytearray, rng: Random) -> None:
    data[rng.integers(min(40, len(data)))] = rng.integers(256)


MUTATIONS: list[Callable[[bytearray, Random], None]] = [
    flip,
    overwrite,
    truncate,
    extend,
    insert_huge,
    drop,
    repeat,
    header,
]


def cases(rng: Random) -> Iterator[bytes]:
    """Mutations without end; the bodies of most are sealed again."""
    whole = seeds()
    while True:
        seed = whole[rng.integers(len(whole))]
        resealed = rng.random() < 0.75
        data = bytearray(unsealed(seed) if resealed else seed)
        for _ in range(rng.integers(1, 3)):
            if data:
                MUTATIONS[rng.integers(len(MUTATIONS))](data, rng)
        yield sealed(bytes(data)) if resealed else bytes(data)


def outcome(data: bytes) -> str:
    """What becomes of a case, in a few words without its numbers."""
    try:
        pack.decode(data, max_bytes=MAX_BYTES)
    except PackError as error:
        words = str(error).split(":")
        detail = words[1] if words[0] == "corrupted" else words[0]
        return "refused: " + " ".join(w if w.strip(",;").isalpha() else "N" for w in detail.split()[:6])
    return "read"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number, data in zip(range(options.cases), cases(rng), strict=False):
        if number == 1000:  # everything is loaded: from here on, little may be asked for
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + options.memory_mb * 2**20,) * 2)
        start = time.process_time()
        try:
            outcomes[outcome(data)] += 1
        except BaseException:
            Path("fuzz-failure.rfy").write_bytes(data)
            raise
        spent = time.process_time() - start
        slowest = max(slowest, spent)
        if spent > options.seconds:
            Path("fuzz-failure.rfy").write_bytes(data)
            print(f"case {number} took {spent:.1f} s", file=sys.stderr)
            return 1
    for words, count in outcomes.most_common():
        print(f"{count:8,}  {words}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.cases:,} cases, slowest {1000 * slowest:.0f} ms of CPU, peak memory {peak:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
