"""What a program measures: the file that Cloud ML Engine's `hypertune` package writes.

Each line is a JSON object: `timestamp`, `trial`, `global_step`, `checkpoint_path` and one metric,
all values but the time as text. The package keeps the last 100 lines and writes the file anew for
each, so that a reader may find it empty, or a part of a line at its end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

#: A record's keys that are no metric.
_FIELDS = frozenset({"timestamp", "trial", "global_step", "checkpoint_path"})
#: How much of the file's end is looked at, and how many lines are remembered as seen.
_TAIL_BYTES = 1_000_000
_REMEMBERED = 10_000
#: How much of a line that cannot be read is shown.
_SHOWN_BYTES = 100

Record = Mapping[str, object]


class MetricFile:
    """The records of a file that is written while it is read, each of them once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._seen: dict[bytes, None] = {}

    def read(self, *, whole: bool = False) -> list[Record]:
        """The records since the last call.

        Args:
            whole: whether nobody writes any more, so that the last line needs no end.
        """
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_size)
            if stamp == self._stamp and not whole:
                return []
            with self._path.open("rb") as file:
                file.seek(max(0, found.st_size - _TAIL_BYTES))
                content = file.read()
        except FileNotFoundError:
            return []
        self._stamp = stamp
        *lines, last = content.split(b"\n")
        return [*self._new([*lines, last] if whole else lines)]

    def fault(self) -> str:
        """What to say of the first line that holds no metric, once nobody writes any more."""
        if not self._path.is_file():
            return ""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                record = _record(line)
                if line.strip() and (record is None or not any(_metrics_of(record))):
                    shown = line.rstrip()[:_SHOWN_BYTES].decode(errors="replace")
                    return (
                        f"line {number} of {self._path} could not be read: it should be a JSON "
                        'object with a metric and its number, like {"global_step": "1", "auc": '
                        f'"0.9"}}, but is {shown!r}'
                    )
        return ""

    def _new(self, lines: Iterable[bytes]) -> Iterator[Record]:
        for line in lines:
            if line in self._seen:
                continue
            record = _record(line)
            if record is not None:
                self._seen[line] = None
                yield record
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]


def _record(line: bytes) -> Record | None:
    """The record of a line; None for what is none, or only the rest of one."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class Steps:
    """Puts records together to the measurements of steps.

    A record without a step, or with step 0, is the next one of its metric. What was measured
    before any of the wanted metrics was is held back: a first report without one ends a trial.

    Args:
        wanted: the metrics that a result must have.
    """

    def __init__(self, wanted: Iterable[str]) -> None:
        self._wanted = frozenset(wanted)
        self._counts: dict[str, int] = {}
        self._begun = False
        self._step = 0
        self._metrics: dict[str, float] = {}
        self._is_told = True
        #: The metrics that were measured, and whether all wanted ones were at one step.
        self.names: set[str] = set()
        self.is_complete = False

    def add(self, records: Iterable[Record]) -> Iterator[tuple[int, Mapping[str, float]]]:
        """Yields the step and the metrics of what is whole; a later one of a step has them all."""
        for record in records:
            for name, value in _metrics_of(record):
                step = self._step_of(record, name)
                if step != self._step:
                    yield from self.flush()
                    self._step, self._metrics = step, {}
                self._metrics[name] = value
                self._is_told = False
                self.names.add(name)
            if self._wanted <= self._metrics.keys():
                self.is_complete = True
                yield from self.flush()

    def flush(self) -> Iterator[tuple[int, Mapping[str, float]]]:
        """Yields the step that waits for more of its metrics, if one does."""
        self._begun = self._begun or bool(self._wanted & self._metrics.keys())
        if not self._is_told and self._begun:
            self._is_told = True
            yield self._step, dict(self._metrics)

    def _step_of(self, record: Record, name: str) -> int:
        self._counts[name] = self._counts.get(name, 0) + 1
        step = _number(record.get("global_step"))
        if step is not None and math.isfinite(step) and step >= 1:
            return int(step)
        return self._counts[name]


def _metrics_of(record: Record) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        number = None if name in _FIELDS else _number(value)
        if number is not None:
            yield name, number


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
