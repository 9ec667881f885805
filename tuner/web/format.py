"""How values, times and states read on a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from tuner.space import Group, Value
from tuner.study import (
    Cost,
    Limits,
    Measurement,
    Metric,
    Study,
    StudySpec,
    Trial,
    TrialCounts,
    TrialState,
)

#: The order of the states wherever they are counted, best first.
COUNTED: tuple[TrialState, ...] = (
    TrialState.SUCCEEDED,
    TrialState.PRUNED,
    TrialState.FAILED,
    TrialState.INFEASIBLE,
    TrialState.RUNNING,
    TrialState.QUEUED,
)
#: The order of the groups of parameters.
GROUPS: tuple[Group, ...] = (Group.MODEL, Group.PREPROCESSING, Group.TRAINING)


def number(value: float | None) -> str:
    """Five significant digits at most; a dash for nothing."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return {"inf": "∞", "-inf": "−∞"}.get(str(value), "NaN")
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return _signed(f"{value:.3g}")
    digits = max(0, 5 - len(str(int(abs(value)))))
    text = f"{value:,.{min(digits, 4)}f}"
    return _signed(text)


def _signed(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text


def value(item: Value | None) -> str:
    """A parameter's value; a dash where it is not active."""
    if item is None:
        return "–"
    if isinstance(item, bool):
        return "true" if item else "false"
    if isinstance(item, float):
        return _signed(f"{item:.4g}")
    return str(item)


def duration(span: timedelta | None) -> str:
    """The two largest units: `1 h 5 min`, `42 s`."""
    if span is None:
        return "–"
    seconds = max(0, round(span.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    for size, unit, smaller_size, smaller in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            rest = seconds % size // smaller_size
            return f"{seconds // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{seconds} s"


def cost(spent: Cost) -> str:
    """`2 h 5 min of workers, 8 h of CPUs`: what attempts took that have ended."""
    named = (("workers", spent.worker_time), ("CPUs", spent.cpu_time), ("GPUs", spent.gpu_time))
    return (
        ", ".join(f"{duration(time)} of {what}" for what, time in named if time) or "nothing yet"
    )


def moment(time: datetime) -> str:
    """A time in UTC; the page's script shows it in the reader's own words."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def limits(limit: Limits) -> str:
    """The limits besides the number of trials."""
    words = [
        ("{} at once", limit.parallel),
        ("within {}", limit.duration and duration(limit.duration)),
        ("{} without a better one", limit.no_improvement_trials),
        ("{} failed", limit.failed_trials),
        ("{} of workers' time", limit.worker_time and duration(limit.worker_time)),
    ]
    return ", ".join(text.format(amount) for text, amount in words if amount) or "no other limit"


def plural(count: int, word: str) -> str:
    """`1 trial`, `2 trials`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def result(trial: Trial, metric: Metric) -> float | None:
    """What the study compares the trial by, if it has it."""
    measured = trial.final_measurement
    return None if measured is None else measured.metrics.get(metric.name)


def others(trial: Trial, spec: StudySpec) -> Iterator[tuple[str, float | None]]:
    """The further metrics that count: optimized as well, or bounded."""
    measured = {} if trial.final_measurement is None else trial.final_measurement.metrics
    return ((name, measured.get(name)) for name in spec.metric_names[1:])


def bounds(spec: StudySpec, metric: str) -> str:
    """`≤ 50`: what a metric must keep to; empty without bounds."""
    return " ".join(c.describe() for c in spec.constraints if c.metric == metric)


def valued(trial: Trial, measurement: Measurement) -> Trial:
    """The trial as if `measurement` were its result: what there is while it runs."""
    return replace(trial, final_measurement=measurement)


def took(trial: Trial) -> timedelta | None:
    """How long the current or last attempt took, or nothing while it runs."""
    if trial.start_time is None or trial.end_time is None:
        return None
    return trial.end_time - trial.start_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A part of a progress bar; `offset` and `width` are percentages."""

    state: TrialState
    count: int
    offset: float
    width: float


def segments(counts: TrialCounts, limit: int) -> Iterator[Segment]:
    """The parts of a study's progress bar, as shares of its limit."""
    whole = max(limit + counts.past, counts.total, 1)
    offset = 0.0
    for state in COUNTED:
        count = counted(counts, state)
        if count and state is not TrialState.QUEUED:
            width = 100 * count / whole
            yield Segment(state=state, count=count, offset=round(offset, 3), width=round(width, 3))
            offset += width


def counted(counts: TrialCounts, state: TrialState) -> int:
    """How many trials are in `state`."""
    return int(getattr(counts, state.value.lower()))


def grouped(study: Study) -> dict[Group, list[str]]:
    """The names of the space's parameters by group, in the order of the space."""
    names: dict[Group, list[str]] = {group: [] for group in GROUPS}
    for parameter in study.spec.space.walk():
        names[parameter.group].append(parameter.name)
    return {group: members for group, members in names.items() if members}


def domains(study: Study) -> Mapping[str, str]:
    """What each parameter may take, in the words of a study file."""
    return {p.name: p.domain.describe() for p in study.spec.space.walk()}
