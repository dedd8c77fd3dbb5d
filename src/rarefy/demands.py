"""What a user demands of a finished run."""

from __future__ import annotations

from rarefy.errors import DemandError
from rarefy.run import Run


def demand(run: Run, speedup: float | None = None, drop: float | None = None) -> None:
    """Raise `DemandError` if a finished run is not `speedup` times as fast (median latency, batch 1, one thread) or
    has lost more than `drop` points of the metric."""
    outcome, original, missed = run.record.outcome, run.record.original, []
    if outcome is None or original is None:
        return
    if speedup is not None:
        gained = 1 / outcome.latency[0].ratio if outcome.latency else 0.0
        if gained < speedup:
            missed.append(f"a speed-up of {speedup:g} was required, {gained:.2f} was measured")
    if drop is not None and original.quality and outcome.measurement.quality:
        lost = 100 * (original.quality.value - outcome.measurement.quality.value)
        if lost > drop:
            missed.append(f"at most {drop:g} points may be lost, {lost:.2f} were")
    if missed:
        raise DemandError(f"{'; '.join(missed)}. The results are in {run.folder}")
