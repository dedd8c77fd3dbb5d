"""The sentence, the tables and their sums: golden words, made of the record's figures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rarefy.records import Outcome, RunRecord
from rarefy.report import layers, steps
from rarefy.report.figures import before_after
from rarefy.report.summary import headline, tiles

MakeRun = Callable[..., RunRecord]


def end(run: RunRecord) -> Outcome:
    assert run.outcome is not None
    return run.outcome


def test_headline(make_run: MakeRun) -> None:
    assert headline("runs/lenet5", make_run()) == (
        "runs/lenet5: 1,725 KB → 15.0 KB (115x smaller), accuracy 99.16 % → 99.13 % "
        "(95 % interval 98.95 to 99.31 %), latency unchanged in 1 of 2 settings, faster in 1 (0.84x to 1.01x the time)"
    )


def test_headline_with_one_verdict(make_run: MakeRun) -> None:
    run = make_run()
    run.outcome = end(run).model_copy(update={"latency": end(run).latency[:1]})
    assert headline("lenet5", run).endswith(", latency unchanged (1.01x the time)")


def test_headline_of_a_killed_run(make_run: MakeRun) -> None:
    run = make_run()
    killed = run.model_copy(update={"outcome": None, "steps": run.steps[:1]})
    assert headline("lenet5", killed) == (
        "lenet5: not finished, 1 step done; so far 1,725 KB → 180 KB (9.58x smaller), "
        "accuracy 99.16 % → 97.44 % (95 % interval 97.13 to 97.75 %)"
    )
    nothing = killed.model_copy(update={"steps": [], "original": None})
    assert headline("lenet5", nothing) == "lenet5: not finished, 0 steps done"
    assert tiles(nothing) == []
    assert before_after(nothing) == []


def test_headline_of_a_run_that_was_not_judged(make_run: MakeRun) -> None:
    assert headline("x", make_run(score=None)).startswith("x: 1,725 KB → 15.0 KB (115x smaller), latency ")


def test_a_larger_file_is_called_larger(make_run: MakeRun) -> None:
    only_a_bias = make_run(shapes=[("b", [20])])
    assert headline("x", only_a_bias).startswith("x: 720 B → 1.49 KB (2.07x larger), ")


def test_tiles(make_run: MakeRun) -> None:
    assert [tuple(tile) for tile in tiles(make_run())] == [
        ("115x smaller", "1,725 KB of float32 → 15.0 KB .rfy"),
        ("−0.03 points", "accuracy 99.16 % → 99.13 %"),
        ("unchanged", "latency, 1.01x the time at 1 thread, batch 1; 2 settings below"),
        ("10.12 %", "of 431,080 weights are not zero"),
    ]


def test_before_and_after(make_run: MakeRun) -> None:
    words = [
        " | ".join(filter(None, (row.label, *row.before, *row.after, row.change))) for row in before_after(make_run())
    ]
    assert words == [
        "What is shipped: float32 → .rfy | 1,725 KB | 1,724,960 B | 15.0 KB | 15,032 B | 115x smaller",
        "Float32 tensors, .safetensors | 1,725 KB | 1,724,960 B | 1,725 KB | 1,724,960 B | unchanged",
        "ONNX file | 1,726 KB | 1,726,420 B | 1,726 KB | 1,726,420 B | unchanged",
        "Pack, .rfy | 1,580 KB | 1,580,000 B | 15.0 KB | 15,032 B | 105x smaller",
        "Parameters | 431,080 | 431,080 | unchanged",
        "Non-zero weights | 431,080 | 43,630 | 9.88x fewer",
        "MACs of one example | 2,293,000 | 2,293,000 | unchanged",
        "Accuracy on 10,000 examples, onnxruntime | 99.16 % | 98.98 to 99.34 % | 99.13 % | 98.95 to 99.31 % "
        "| −0.03 points",
        "Same answer as the original | – | 99.57 %",
        "Peak memory above the bare engine | 11.4 MB | 11,400,000 B | 9.80 MB | 9,800,000 B | 1.16x smaller",
        "Energy of one inference (estimate) | 52.0 µJ | 41.0 µJ | 1.27x less",
    ]


def test_energy_from_counters_is_called_measured(make_run: MakeRun) -> None:
    run = make_run()
    energy = end(run).energy
    assert energy is not None
    run.outcome = end(run).model_copy(update={"energy": energy.model_copy(update={"source": "cpu counters"})})
    assert before_after(run)[-1].label == "Energy of one inference (measured)"


def test_without_an_original_only_what_is_known_is_said(make_run: MakeRun) -> None:
    run = make_run(original=None)
    assert headline("x", run).startswith("x: 15.0 KB, accuracy 99.13 % (95 % interval ")
    assert {row.before.text for row in before_after(run)[:-2]} == {"–"}
    assert layers.totals(run, end(run)).whole.before is None


def test_every_step_is_a_station(make_run: MakeRun) -> None:
    run = make_run()
    rows = steps.stations(run)
    assert [(row.name, row.size, row.score, row.seconds) for row in rows] == [
        ("Original", "1,725 KB float32", "99.16 %", ""),
        ("1 PruneWeights", "180 KB .rfy", "97.44 %", "12.3 s"),
        ("2 Finetune", "180 KB .rfy", "99.21 %", "24.6 s"),
        ("3 ClusterWeights", "15.0 KB .rfy", "99.02 %", "36.9 s"),
        ("4 Finetune", "15.0 KB .rfy", "99.13 %", "49.2 s"),
    ]
    assert [row.share for row in rows][:2] == [100, pytest.approx(10.435, abs=1e-3)]
    for row in rows:
        assert row.strip is not None
        assert 0 <= row.strip.low < row.strip.value < row.strip.high <= 100
        assert rows[0].strip is not None
        assert row.strip.original == rows[0].strip.value


def test_a_step_that_was_not_measured_has_no_figures(make_run: MakeRun) -> None:
    run = make_run(original=None)
    run.steps = [run.steps[0].model_copy(update={"measurement": None})]
    (row,) = steps.stations(run)
    assert (row.size, row.score, row.share, row.strip) == ("–", "–", None, None)


def test_tensors_and_graph_add_up_to_the_files(make_run: MakeRun) -> None:
    run = make_run()
    sums = layers.totals(run, end(run))
    assert sums.rest == ("Graph and headers", 640, 1412)
    assert run.original is not None
    assert sums.whole == ("Whole file", run.original.sizes.safetensors, end(run).measurement.sizes.rfy)
    assert sums.mismatch == ""


def test_a_sum_that_is_not_the_file_is_said(make_run: MakeRun) -> None:
    run = make_run()
    run.outcome = end(run).model_copy(update={"graph_bytes": 1000})
    assert layers.totals(run, end(run)).mismatch == "The parts add up to 14,620 B, but the file has 15,032 B."


def test_bars_add_up_and_small_tensors_share_one(make_run: MakeRun) -> None:
    run = make_run(shapes=[(f"l{i}.weight", [10 + i, 100]) for i in range(300)])
    rows = layers.bars(run, end(run))
    assert len(rows) == layers.BARS + 2
    assert (rows[-2].name, rows[-1].name) == ("288 other tensors", "Graph and headers")
    assert run.original is not None
    assert sum(row.before or 0 for row in rows) == run.original.sizes.safetensors
    assert sum(row.after for row in rows) == end(run).measurement.sizes.rfy


def test_the_largest_tensors_are_pictured_in_order(make_run: MakeRun) -> None:
    run = make_run(shapes=[(f"l{i}.weight", [10 + i % 20, 100]) for i in range(40)])
    names = [layer.tensor for layer in layers.pictured(end(run))]
    assert names == [f"l{i}.weight" for i in (14, 15, 16, 17, 18, 19, 34, 35, 36, 37, 38, 39)]
