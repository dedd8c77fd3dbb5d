"""No clock is trusted here: verdicts on made-up samples, the order of calls under a counting clock."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import parser

from rarefy.errors import InputError
from rarefy.measure import compare, latency
from rarefy.measure.latency import OPENINGS, median_interval, record, sample, verdict


def times(openings: int, rounds: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return scale * (1 + 0.02 * generator.standard_normal((openings, rounds, 2)))


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.5, 0.96, "faster"),
        (0.5, 0.98, "unchanged"),
        (0.9, 1.1, "unchanged"),
        (1.02, 1.5, "unchanged"),
        (1.04, 1.5, "slower"),
    ],
)
def test_the_verdict_needs_the_whole_interval_beyond_the_margin(low: float, high: float, word: str):
    assert verdict(low, high) == word


@pytest.mark.parametrize(("scale", "word"), [(0.8, "faster"), (1.0, "unchanged"), (1.25, "slower")])
def test_record_of_synthetic_samples(scale: float, word: str):
    made = record(times(8, 40, 5 * scale, seed=1), times(8, 40, 5, seed=2), threads=2, batch=3)
    assert made.verdict == word
    assert made.low < scale < made.high
    assert made.ratio == pytest.approx(scale, rel=0.02)
    assert made.this.median_ms == pytest.approx(5 * scale, rel=0.02)
    assert made.original.median_ms < made.original.p90_ms < 5.5
    assert (made.threads, made.batch, made.rounds) == (2, 3, 320)


def test_a_drifting_machine_does_not_matter():
    drift = np.linspace(1, 4, 40)[None, :, None]
    made = record(times(8, 40, seed=1) * drift, times(8, 40, seed=2) * drift, 1, 1)
    assert made.verdict == "unchanged"
    assert made.high - made.low < 0.02


def test_interruptions_do_not_matter():
    slow = 1 + 4 * (np.random.default_rng(5).random((8, 40, 2)) < 0.3)
    made = record(times(8, 40, 0.8, seed=1) * slow, times(8, 40, seed=2), 1, 1)
    assert made.ratio == pytest.approx(0.8, rel=0.03)
    assert made.verdict == "faster"


def test_openings_that_differ_widen_the_interval():
    luck = np.array([0.9, 0.95, 0.98, 1, 1, 1.02, 1.05, 1.1])[:, None, None]
    made = record(times(8, 40, 0.96, seed=1) * luck, times(8, 40, seed=2), 1, 1)
    alike = record(times(8, 40, 0.96, seed=1), times(8, 40, seed=2), 1, 1)
    assert made.verdict == "unchanged"
    assert made.high - made.low > 4 * (alike.high - alike.low)


def test_the_interval_is_repeatable_and_as_wide_as_theory_says():
    covered, width = 0, 0.0
    for seed in range(60):
        ratios = np.random.default_rng(seed).normal(1, 0.1, (8, 25))
        low, high = median_interval(ratios, resamples=300)
        assert (low, high) == median_interval(ratios, resamples=300)
        covered += low <= 1 <= high
        width += (high - low) / 60
    assert covered >= 51  # of 60, 57 expected
    # the median of n normal values has the standard deviation 1.2533 sigma / sqrt(n)
    assert width == pytest.approx(2 * 1.96 * 1.2533 * 0.1 / np.sqrt(200), rel=0.25)


def test_turns_are_there_and_back_and_the_order_alternates():
    called: list[str] = []
    ticks = itertools.count(0, 1_000_000)  # a millisecond for each look at the clock

    def opener(name: str):
        called.append(name.upper())
        return lambda: called.append(name)

    found = sample([lambda: opener("a"), lambda: opener("b"), lambda: opener("c")], 0, 16, lambda: next(ticks))
    assert found.shape == (OPENINGS, 2, 3, 2)
    line = "".join(called)
    warm, turn = "aaaaaabbbbbbcccccc", "abccba"
    forth, back = "ABC" + warm + 2 * turn, "CBA" + warm[::-1] + 2 * "cbaabc"
    assert line == OPENINGS // 2 * (forth + back)


def test_times_go_to_the_file_they_belong_to():
    now = [0]

    def opener(milliseconds: int):
        def call():
            now[0] += milliseconds * 1_000_000

        return lambda: call

    found = sample([opener(1), opener(5)], 0, 8, lambda: now[0])
    assert (found[:, :, 0] == 1).all()
    assert (found[:, :, 1] == 5).all()


def test_short_calls_are_timed_together():
    now = [0]

    def call():
        now[0] += 1000

    calls = [0]

    def counted():
        calls[0] += 1
        call()

    found = sample([lambda: counted], 0, 1, lambda: now[0])
    assert calls[0] == OPENINGS * (6 + 2 * 200)  # 200 of 1 us make 0.2 ms
    assert found == pytest.approx(0.001)


def save(path, text: str):
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["": 21]> {text}')
    onnx.save(model, path)
    return path


@pytest.fixture
def small(tmp_path):
    return save(tmp_path / "small.onnx", "g (float[N, 4] x, int64[N] i) => (y) { y = Relu(x) }")


def test_real_files(small):
    made = latency(small, small, batch=2, seconds=0.01, rounds_min=5)
    assert made.rounds >= 5
    assert 0 < made.low <= made.ratio <= made.high
    assert len(compare([small, small], small, threads=2, seconds=0.01, rounds_min=1)) == 2


def test_open_dimensions_need_sizes(tmp_path):
    file = save(tmp_path / "open.onnx", "g (float[N, 3, H, W] x) => (y) { y = Relu(x) }")
    with pytest.raises(InputError, match=r"input 'x' has open dimensions besides the batch \(N, 3, H, W\)"):
        latency(file, file)
    assert latency(file, file, shapes={"x": (3, 8, 8)}, seconds=0.01, rounds_min=1).rounds >= 1


def test_a_fixed_batch_is_kept(tmp_path):
    file = save(tmp_path / "fixed.onnx", "g (float[4, 3] x) => (y) { y = Relu(x) }")
    with pytest.raises(InputError, match="fixed batch of 4, not 1: measure it with batch 4"):
        latency(file, file)
    assert latency(file, file, batch=4, seconds=0.01, rounds_min=1).batch == 4


def test_no_inputs_and_no_graph(tmp_path):
    empty = save(tmp_path / "none.onnx", "g () => (y) { y = Constant <value_float = 1.0> () }")
    with pytest.raises(InputError, match="the graph has no inputs"):
        latency(empty, empty)
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"no graph at all")
    with pytest.raises(InputError, match=r"garbage\.onnx cannot be run"):
        latency(garbage, garbage)
    with pytest.raises(InputError, match="does not exist"):
        latency(tmp_path / "gone.onnx", empty)


def test_text_inputs_are_refused(tmp_path):
    file = save(tmp_path / "text.onnx", "g (string[N] x) => (y) { y = Identity(x) }")
    with pytest.raises(InputError, match="only numbers can be made up"):
        latency(file, file)


def test_impossible_settings(small):
    with pytest.raises(InputError, match="must be 1 or more, not 0, 1, 30"):
        latency(small, small, threads=0)
