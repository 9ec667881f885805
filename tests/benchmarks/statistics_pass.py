"""One pass over Parquet for the statistics of all columns, beside DuckDB's SUMMARIZE.

    python -m tests.benchmarks.statistics_pass CONTENDER FOLDER

runs a contender in a process of its own, which makes one pass for each line that it reads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.report import Report
from tuner_trainers.portions import Here, Tell, Workers

SUMMARIZE, PLAIN = "DuckDB, SUMMARIZE", "DuckDB, no quantiles"
ALONE, TASKS = "ours, one process", "ours, Ray tasks"
_SEED, _ROUNDS = 7, 3
_PART_ROWS, _GROUP_ROWS = 500_000, 125_000
_WORDS = (8, 200, 20_000)
_NUMBERS = 6

T = TypeVar("T")
R = TypeVar("R")


def measure(folder: Path, quick: bool) -> Report:
    """Measures all in turn, so that a slow minute of the machine strikes all alike."""
    rows, rounds = (500_000, 1) if quick else (5_000_000, _ROUNDS)
    size = write_rows(folder / "rows", rows)
    found: dict[str, list[Mapping[str, float]]] = {}
    with ExitStack() as stack:
        contenders = (SUMMARIZE, PLAIN, ALONE, TASKS)
        ask = {name: stack.enter_context(_running(name, folder)) for name in contenders}
        for number in range(rounds + 1):  # the first pass starts processes, and does not count
            for name in contenders:
                print(f"{name}: pass {number} of {rounds}", file=sys.stderr, flush=True)
                found.setdefault(name, []).append(ask[name]())
    seconds = {name: median(f["seconds"] for f in passes[1:]) for name, passes in found.items()}
    columns = _NUMBERS + len(_WORDS) + 1
    return Report(
        title=f"{rows:,} rows of {columns} columns in {size >> 20} MiB of Parquet",
        rows={
            name: {
                "seconds": seconds[name],
                "rows/s": rows / seconds[name],
                "best seconds": min(f["seconds"] for f in passes[1:]),
                "peak RSS MiB": max(f["peak_mib"] for f in passes),
            }
            for name, passes in found.items()
        },
        ratios={
            "duckdb": seconds[TASKS] / seconds[SUMMARIZE],
            "one_process": seconds[ALONE] / seconds[SUMMARIZE],
            "no_quantiles": seconds[TASKS] / seconds[PLAIN],
        },
        notes=[
            "Ratios are times: ours over DuckDB's. SUMMARIZE estimates distinct values and three "
            "quantiles; ours has quantiles for 1,000 buckets, frequent values for vocabularies of "
            "100,000, what texts hold, and a fingerprint of all bytes.",
            "Memory is that of the process; of Ray tasks, that of the largest process, the one "
            "that puts together what they found included.",
        ],
    )


def write_rows(folder: Path, rows: int) -> int:
    """Writes rows of numbers, of which most differ, and texts, few and many; returns bytes."""
    folder.mkdir()
    random = np.random.default_rng(_SEED)
    words = [pa.array([f"word {i:05} of {count}" for i in range(count)]) for count in _WORDS]
    for part, start in enumerate(range(0, rows, _PART_ROWS)):
        count = min(_PART_ROWS, rows - start)
        columns: dict[str, Any] = {
            "normal": random.normal(size=count),
            "long_tail": random.lognormal(size=count),
            "decimal": np.round(random.normal(50.0, 15.0, count), 2),
            "missing": pa.array(random.normal(size=count), mask=random.random(count) < 0.1),
            "few": random.integers(0, 100, count),
            "many": random.integers(0, 10_000_000, count),
        }
        for number, known in enumerate(words):
            codes = (len(known) * random.random(count) ** 2).astype(np.int32)
            columns[f"text{number}"] = known.take(pa.array(codes))
        noisy = columns["normal"] + random.normal(size=count) > 0
        columns["label"] = pa.array(np.where(noisy, "yes", "no"))
        file = folder / f"{part:04}.parquet"
        pq.write_table(pa.table(columns), file, row_group_size=_GROUP_ROWS)
    return sum(file.stat().st_size for file in folder.iterdir())


@contextmanager
def _running(contender: str, folder: Path) -> Iterator[Callable[[], dict[str, float]]]:
    """A process of a contender; the function asks it for a pass."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.statistics_pass", contender, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask() -> dict[str, float]:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes.")
        process.stdin.write("\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{contender} ended with {process.wait(timeout=60)}.")
        answer: dict[str, float] = json.loads(line)
        return answer

    try:
        yield ask
        process.communicate(timeout=60)  # at the end of its input it ends, and Ray with it
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True, slots=True)
class _Watched:
    """Work whose results come with the most memory that their process has had, in MiB."""

    work: Callable[[Any, Tell], Any]

    def __call__(self, item: Any, tell: Tell) -> tuple[Any, float]:
        return self.work(item, tell), _peak_mib()


class _Watching:
    """Lets other workers work, and notes the memory that the largest of their processes had."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.peak_mib = 0.0

    def map(self, work: Callable[[T, Tell], R], items: Sequence[T], tell: Tell) -> Iterator[R]:
        for result, peak in self._workers.map(_Watched(work), items, tell):
            self.peak_mib = max(self.peak_mib, peak)
            yield result


def _peak_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("Linux says how much memory a process has had; this system does not.")


def _by_duckdb(contender: str, folder: Path) -> Iterator[float]:
    import duckdb

    rows = f"'{folder}/rows/*.parquet'"
    connection = duckdb.connect()
    query = f"SUMMARIZE SELECT * FROM {rows}"
    if contender == PLAIN:
        known = connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
        of_each = "count({0}), min({0}), max({0}), approx_count_distinct({0})"
        asked = [of_each.format(name) for name, *_ in known]
        asked += [f"avg({name}), stddev({name})" for name, kind, *_ in known if kind != "VARCHAR"]
        query = f"SELECT count(*), {', '.join(asked)} FROM {rows}"
    while True:
        connection.execute(query).fetchall()
        yield _peak_mib()


def _by_us(contender: str, folder: Path) -> Iterator[float]:
    from tuner_trainers import statistics

    with ExitStack() as stack:
        workers: Workers = Here()
        if contender == TASKS:
            from tuner.config import Settings
            from tuner.runner import environment

            environment.prepare(os.environ, own_cluster=True)
            from tuner.runner.cluster import Cluster  # imports Ray, which reads the environment
            from tuner.runner.portions import RayWorkers

            stack.enter_context(Cluster(Settings(data_dir=folder / "data")))
            workers = RayWorkers()
        while True:
            watching = _Watching(workers)
            statistics.scan(str(folder / "rows"), workers=watching)
            yield max(watching.peak_mib, _peak_mib())


def main(contender: str, folder: Path) -> None:
    """Answers each line of standard input with the figures of a pass."""
    passes = (_by_us if contender in (ALONE, TASKS) else _by_duckdb)(contender, folder)
    for _ in sys.stdin:
        start = time.perf_counter()
        peak = next(passes)
        figures = {"seconds": time.perf_counter() - start, "peak_mib": peak}
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
