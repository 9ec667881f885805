"""Examples per second of one worker that streams ten times the rows its memory may hold."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.feeding import (
    BATCH_ROWS,
    BY_HAND,
    HELD,
    PASS,
    STREAMED,
    compare,
    write_rows,
)
from tests.benchmarks.report import Report

#: How many times the allowed memory the encoded rows take.
TIMES = 10
#: Of an encoded row: ten numbers or so, and ten ids.
_ENCODED_BYTES = 4 * 13


def measure(folder: Path, quick: bool) -> Report:
    """Measures streaming beside both ways of holding all rows."""
    rows = 200_000 if quick else 3_000_000
    size = write_rows(folder, rows)
    allowed = rows * _ENCODED_BYTES // TIMES
    found = compare(folder, [BY_HAND, HELD, STREAMED, PASS], allowed, rounds=3)
    streamed = found[STREAMED]
    private = streamed["private MiB"] - streamed["before"]
    return Report(
        title=f"{rows:,} rows of 10 columns in {size >> 20} MiB of Parquet, "
        f"batches of {BATCH_ROWS}, one worker",
        rows=found,
        ratios={
            "in_memory": streamed["examples/s"] / found[BY_HAND]["examples/s"],
            "held": streamed["examples/s"] / found[HELD]["examples/s"],
        },
        notes=[
            f"{allowed / (1 << 20):.1f} MiB are allowed for encoded rows, a {TIMES}th of what all "
            f"of them take. Streaming took {private:.0f} MiB of private memory, training itself "
            "included. The rest of its RSS is mapped files: all workers of a machine share their "
            "pages, and the system takes them back when it needs them.",
        ],
    )
