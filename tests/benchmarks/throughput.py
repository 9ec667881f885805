"""Examples per second of one worker whose rows are in memory, beside Keras's `fit`."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.feeding import BATCH_ROWS, BY_HAND, HELD, PRODUCTS, compare, write_rows
from tests.benchmarks.report import Report


def measure(folder: Path, quick: bool) -> Report:
    """Measures both in turn."""
    rows = 100_000 if quick else 500_000
    write_rows(folder, rows)
    contenders = [BY_HAND, HELD, PRODUCTS]
    found = compare(folder, contenders, allowed_bytes=0, rounds=3 if quick else 5)
    part = found[HELD]["examples/s"] / found[PRODUCTS]["examples/s"]
    return Report(
        title=f"{rows:,} rows of 10 columns in memory, batches of {BATCH_ROWS}, one worker",
        rows=found,
        ratios={"keras_fit": found[HELD]["examples/s"] / found[BY_HAND]["examples/s"]},
        notes=[f"Ours reaches {part:.0%} of what the network's matrix products alone allow."],
    )
