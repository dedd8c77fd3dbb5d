"""How fast index tensors are packed and unpacked on one core, and how near to their entropy they come.

    python benchmarks/pack_speed.py [--symbols 20000000] [--repeats 3] [--csv FILE]

Times are of the whole coding of a tensor (histogram, table, coder), best of the repeats: by the clock, and by
the CPU time of the process, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import machine
import numpy as np

from rarefy.pack import tensors
from rarefy.pack.ans import Decoder, Encoder
from rarefy.pack.bits import Reader

COLUMNS = ["levels", "zeros", "symbols", "bytes", "over_entropy_percent", "encode_M_per_s", "decode_M_per_s",
           "encode_M_per_cpu_s", "decode_M_per_cpu_s", "machine", "python", "numpy"]  # fmt: skip
UINT8 = tensors.ELEMENTS[2]


def indices(levels: int, zeros: float, count: int) -> np.ndarray:
    """Codebook indices: bell-shaped over the levels, except for a share of zeros."""
    rng = np.random.default_rng(0)
    bell = np.clip(np.round(rng.normal(levels / 2, levels / 6, count)), 1 if zeros else 0, levels - 1)
    return np.where(rng.random(count) < zeros, 0, bell).astype(np.uint8)


def entropy_bytes(array: np.ndarray) -> float:
    counts = np.bincount(array)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum() / 8)


def encode(data: bytes, count: int) -> tuple[bytes, bytes]:
    coded = tensors.encode(data, UINT8, count)
    coder = Encoder()
    coder.push(coded.jobs)
    return coded.head, coder.finish()


def decode(head: bytes, stream: bytes, count: int) -> bytes:
    reader = Reader(head)
    return bytes(tensors.decode(reader, Decoder(stream), reader.byte(), UINT8, count))


def row(levels: int, zeros: float, count: int, repeats: int) -> dict[str, object]:
    array = indices(levels, zeros, count)
    data = array.tobytes()
    seconds = np.zeros((repeats, 4))
    for times in seconds:
        marks = [(time.perf_counter(), time.process_time())]
        head, stream = encode(data, count)
        marks.append((time.perf_counter(), time.process_time()))
        back = decode(head, stream, count)
        marks.append((time.perf_counter(), time.process_time()))
        if back != data:
            raise SystemExit("the indices came back wrong")
        times[:] = np.diff(np.array(marks), axis=0).T.ravel()  # encode, decode by the clock; then of the CPU
    encode_clock, decode_clock, encode_cpu, decode_cpu = count / seconds.min(0) / 1e6
    size = len(head) + len(stream)
    speeds = [f"{speed:.0f}" for speed in (encode_clock, decode_clock, encode_cpu, decode_cpu)]
    over = f"{100 * (size / entropy_bytes(array) - 1):.3f}"
    return dict(
        zip(
            COLUMNS,
            [
                levels,
                zeros,
                count,
                size,
                over,
                *speeds,
                platform.machine(),
                platform.python_version(),
                np.__version__,
            ],
            strict=True,
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--symbols", type=int, default=20_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows = [row(k, zeros, options.symbols, options.repeats) for k in (2, 16, 256) for zeros in (0.0, 0.9, 0.95)]
    print("levels  zeros      bytes  over entropy   encode  decode  M/s   encode  decode  M per CPU s")
    for r in rows:
        print(
            f"{r['levels']:6}  {r['zeros']:5.2f}  {r['bytes']:9,}  {r['over_entropy_percent']:>10} %   "
            f"{r['encode_M_per_s']:>6}  {r['decode_M_per_s']:>6}        {r['encode_M_per_cpu_s']:>6}  "
            f"{r['decode_M_per_cpu_s']:>6}"
        )
    if options.csv:
        machine.table(options.csv, rows)


if __name__ == "__main__":
    main()
