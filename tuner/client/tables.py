"""Studies and trials as text and tables that fit the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tuner.client.study import Importance, Trial
from tuner.model import VersionState
from tuner.space import Value
from tuner.study import Goal, Origin, StudySpec, StudyState, TrialState

STATE_STYLES: Mapping[str, str] = {
    TrialState.QUEUED: "dim",
    TrialState.RUNNING: "cyan",
    TrialState.SUCCEEDED: "green",
    TrialState.PRUNED: "yellow",
    TrialState.FAILED: "red",
    TrialState.INFEASIBLE: "magenta",
    VersionState.PUBLISHING: "cyan",
    VersionState.READY: "green",
    VersionState.REJECTED: "red",
    VersionState.DELETING: "dim",
    StudyState.PREPARING: "cyan",
    StudyState.ACTIVE: "cyan",
    StudyState.PAUSED: "yellow",
    StudyState.COMPLETED: "green",
    StudyState.STOPPED: "red",
}
_NAME_WIDTH = 18
#: Narrower than this a cut column says nothing.
_LEAST_WIDTH = 12
#: What a table needs beside its parameters and further metrics: number, state, value, step, time.
_FIXED_WIDTH = 46
#: Stands before a value that is beyond a constraint.
_BEYOND = "! "


def number(value: float) -> str:
    """A measured value: four decimals where they mean something, else four digits."""
    if not math.isfinite(value):
        return str(value)
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.4f}"
    return f"{value:.4g}"


def setting(value: Value) -> str:
    """A parameter's value, short."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(time: timedelta) -> str:
    """12 s, 3 m 05 s, 1 h 02 m or 90 d 00 h."""
    seconds = round(time.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} m {seconds % 60:02} s"
    if seconds < 48 * 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02} m"
    return f"{seconds // 86400} d {seconds % 86400 // 3600:02} h"


def age(time: datetime) -> str:
    """How long ago."""
    return duration(max(datetime.now(UTC) - time, timedelta(0)))


def state(value: TrialState | StudyState | VersionState) -> Text:
    """A state in its colour."""
    return Text(value.lower(), style=STATE_STYLES[value])


def table(*, title: str | None = None) -> Table:
    """An empty table in the house style."""
    return Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def fitted(view: Table, console: Console, *flexible: str) -> Table:
    """The table, with some columns cut as far as a narrow terminal makes it necessary."""
    unlimited = console.options.update(max_width=10_000)
    excess = console.measure(view, options=unlimited).maximum - console.width
    for column in view.columns:
        if column.header in flexible and excess > 0:
            natural = max(console.measure(cell).maximum for cell in column.cells)
            column.max_width = max(natural - excess, _LEAST_WIDTH)
            column.overflow = "ellipsis"
            excess -= natural - column.max_width
    return view


def parameters(values: Mapping[str, Value]) -> str:
    """`layers=3 units=128`."""
    return " ".join(f"{name}={setting(value)}" for name, value in values.items())


def ordered(names: Iterable[str], spec: StudySpec) -> list[str]:
    """Names in the order of the space; what it does not know comes last."""
    known = {parameter.name: place for place, parameter in enumerate(spec.space.walk())}
    return sorted(set(names), key=lambda name: (known.get(name, len(known)), name))


def trials(
    rows: Sequence[Trial],
    spec: StudySpec,
    *,
    width: int,
    best: int | None = None,
    latest: Mapping[int, tuple[int, float | None]] | None = None,
) -> Table:
    """Trials with as many of their parameters as fit.

    Args:
        rows: the trials, in order.
        spec: what names the metric and orders the parameters.
        width: of the terminal.
        best: the number of the trial to mark.
        latest: the last (step, value) that running trials reported, by number.
    """
    names = ordered((name for row in rows for name in row.parameters), spec)
    metrics = [_measured(name, rows, spec) for name in spec.metric_names[1:]]
    costs = _costs(rows, spec)
    others = sum(2 + max(map(len, cells)) for cells in (*metrics, *costs))
    shown, hidden = _fitting(names, rows, width - _FIXED_WIDTH - others)
    view = table()
    fixed = ("trial", "state", *spec.metric_names, "step", "time", *(c[0] for c in costs))
    for heading in (*fixed, *shown):
        view.add_column(
            _headed(heading, shown),
            justify="left" if heading == "state" else "right",
            no_wrap=True,
            overflow="ellipsis",
        )
    for place, row in enumerate(rows):
        cells = [setting(row.parameters[n]) if n in row.parameters else "" for n in shown]
        style = "dim" if spec.beyond(row.record.final_measurement) else ""
        view.add_row(
            *_leading(row, spec, (latest or {}).get(row.number), [m[place + 1] for m in metrics]),
            *(column[place + 1] for column in costs),
            *cells,
            style="bold" if row.number == best else style,
        )
    notes = [f"! beyond a constraint: {constraints(spec)}"] if _any_beyond(rows, spec) else []
    if hidden:
        noun = "parameter" if len(hidden) == 1 else "parameters"
        notes.append(f"and {len(hidden)} more {noun}; --json has them all")
    view.caption, view.caption_justify = "; ".join(notes) or None, "left"
    return view


def _measured(name: str, rows: Sequence[Trial], spec: StudySpec) -> list[str]:
    """A column of another metric than the first: its heading and its values."""
    cells = [_short(name)]
    for row in rows:
        value = row.metrics.get(name)
        mark = _BEYOND if name in spec.beyond(row.record.final_measurement) else ""
        cells.append("" if value is None else mark + number(value))
    return cells


def _costs(rows: Sequence[Trial], spec: StudySpec) -> list[list[str]]:
    """A column of the workers' time, where it is not what the last attempt took."""
    if spec.resources.occupied == 1 and all(row.record.attempt <= 1 for row in rows):
        return []
    times = [row.record.cost.worker_time for row in rows]
    return [["cost", *(duration(time) if time else "" for time in times)]]


def _any_beyond(rows: Sequence[Trial], spec: StudySpec) -> bool:
    return any(spec.beyond(row.record.final_measurement) for row in rows)


def _leading(
    row: Trial, spec: StudySpec, latest: tuple[int, float | None] | None, others: Sequence[str]
) -> list[str | Text]:
    final = row.record.final_measurement
    step, value = (final.step, row.value) if final else latest or (None, None)
    mark = _BEYOND if spec.metric.name in spec.beyond(final) else ""
    return [
        str(row.number),
        state(row.state),
        "" if value is None else mark + number(value),
        *others,
        "" if step is None else str(step),
        _elapsed(row),
    ]


def _elapsed(row: Trial) -> str:
    start, end = row.record.start_time, row.record.end_time
    if row.record.origin is Origin.PAST:
        return "past"
    if start is None:
        return ""
    return duration(max((end or datetime.now(UTC)) - start, timedelta(0)))


def _fitting(
    names: Sequence[str], rows: Sequence[Trial], width: int
) -> tuple[list[str], list[str]]:
    shown: list[str] = []
    for place, name in enumerate(names):
        cells = [setting(row.parameters[name]) for row in rows if name in row.parameters]
        width -= 2 + max(map(len, (*_headed(name, names).split("\n"), *cells)))
        if width < 0:
            return shown, list(names[place:])
        shown.append(name)
    return shown, []


def _headed(name: str, names: Sequence[str]) -> str:
    """A heading: `FEATURE.SETTING` in two lines, and beside such the others in the lower one."""
    feature, _, word = name.rpartition(".")
    if feature:
        return f"{_short(feature)}\n{_short(word)}"
    return ("\n" if any("." in other for other in names) else "") + _short(name)


def _short(name: str) -> str:
    """A word short enough for a column: its end tells most."""
    return name if len(name) <= _NAME_WIDTH else "…" + name[1 - _NAME_WIDTH :]


def importance(shares: Importance, *, most: int = 10) -> Table:
    """What mattered, as bars."""
    view = table()
    view.add_column("parameter", no_wrap=True)
    view.add_column("share", justify="right")
    view.add_column("")
    for name, share in list(shares.parameters.items())[:most]:
        view.add_row(name, f"{share:.0%}", _bar(share))
    return view


def groups(shares: Importance) -> str:
    """`preprocessing 61% · training 30% · model 9%`."""
    return " · ".join(f"{name} {share:.0%}" for name, share in shares.groups.items())


def _bar(share: float, width: int = 24) -> Text:
    return Text("█" * round(share * width), style="cyan")


def goals(spec: StudySpec) -> str:
    """`auc ↑ latency ↓`: what is optimized."""
    return " ".join(f"{metric.name} {arrow(metric.goal)}" for metric in spec.metrics)


def constraints(spec: StudySpec) -> str:
    """`size ≤ 5, auc ≥ 0.8`: what trials must keep to."""
    return ", ".join(f"{c.metric} {c.describe()}" for c in spec.constraints)


def result(trial: Trial, spec: StudySpec) -> str:
    """`auc=0.9123 latency=61.2`: everything that counts; empty without a result."""
    shown = [name for name in spec.metric_names if name in trial.metrics]
    return " ".join(f"{name}={number(trial.metrics[name])}" for name in shown)


def arrow(goal: Goal) -> str:
    """Which direction is better."""
    return "↑" if goal is Goal.MAXIMIZE else "↓"
