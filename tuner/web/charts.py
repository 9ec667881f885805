"""The figures: plain dictionaries that Plotly draws.

Colours are names of the style sheet's variables (`--accent`); the page's script fills them in, so
that a figure fits the light and the dark look alike. Text that users chose is escaped: Plotly
reads a subset of HTML in it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from tuner.study import Goal, Metric, Trial, TrialState
from tuner.web import format

Figure = dict[str, Any]
Series = Sequence[tuple[int, float]]

#: More points than this tell the eye nothing and cost the browser much.
MAX_POINTS = 1500

_VALUED: dict[TrialState, tuple[str, dict[str, Any]]] = {
    TrialState.SUCCEEDED: ("succeeded", {"color": "--point", "size": 6}),
    TrialState.PRUNED: (
        "pruned",
        {"color": "--pruned", "size": 6, "symbol": "circle-open", "line": {"width": 1.2}},
    ),
    TrialState.RUNNING: ("running", {"color": "--running", "size": 7, "symbol": "diamond-open"}),
}


def progress(trials: Iterable[Trial], metric: Metric, *, by_time: bool = False) -> Figure:
    """The best value so far as a step line, over each trial's value.

    Args:
        trials: every trial of the study, in any order.
        metric: what the study optimizes.
        by_time: place trials by when they ended, rather than by their number.
    """
    ordered = sorted(trials, key=(lambda t: _ended(t) or t.create_time) if by_time else _number)
    best = _improvements(ordered, metric)
    chosen = _thinned(ordered, {trial.number for trial in best})
    place = _ended if by_time else _number
    counted = [trial for trial in chosen if not _is_beyond(trial)]
    data = [_points(counted, metric, state, place) for state in _VALUED]
    data.append(_beyond(chosen, metric, place))
    data.append(_failures(chosen, place))
    if best:
        data.append(_best_line(best, ordered, metric, place))
    values = [v for t in ordered if (v := format.result(t, metric)) is not None]
    axis: dict[str, Any] = {"title": title("ended" if by_time else "trial")}
    axis |= {"type": "date"} if by_time else {}
    return figure([trace for trace in data if trace["x"]], axis, _axis(values))


def _number(trial: Trial) -> int:
    return trial.number


def _ended(trial: Trial) -> datetime | None:
    return trial.end_time


def _improvements(trials: Sequence[Trial], metric: Metric) -> list[Trial]:
    """The trials that were the best when they ended; only complete results within the constraints
    count."""
    best: list[Trial] = []
    record = math.nan
    for trial in trials:
        value = format.result(trial, metric)
        within = trial.within_constraints is not False
        if trial.state is TrialState.SUCCEEDED and within and value is not None:
            if metric.goal.better(value, record):
                best.append(trial)
                record = value
    return best


def _thinned(trials: Sequence[Trial], keep: set[int]) -> Sequence[Trial]:
    """At most MAX_POINTS trials, evenly drawn, with those to `keep` among them."""
    if len(trials) <= MAX_POINTS:
        return trials
    stride = math.ceil(len(trials) / MAX_POINTS)
    return [t for i, t in enumerate(trials) if i % stride == 0 or t.number in keep]


def _is_beyond(trial: Trial) -> bool:
    return trial.state.is_finished and trial.within_constraints is False


def _points(trials: Sequence[Trial], metric: Metric, state: TrialState, place: Any) -> Figure:
    name, marker = _VALUED[state]
    return _marked([t for t in trials if t.state is state], metric, name, marker, place)


def _beyond(trials: Sequence[Trial], metric: Metric, place: Any) -> Figure:
    """Results that do not count."""
    marker = {"color": "--failed", "size": 6, "symbol": "circle-open", "line": {"width": 1.2}}
    chosen = [trial for trial in trials if _is_beyond(trial)]
    return _marked(chosen, metric, "beyond a constraint", marker, place)


def _marked(
    trials: Sequence[Trial], metric: Metric, name: str, marker: dict[str, Any], place: Any
) -> Figure:
    shown = [
        (trial, value)
        for trial in trials
        if (value := format.result(trial, metric)) is not None
        and math.isfinite(value)
        and place(trial) is not None
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [_plain(place(trial)) for trial, _ in shown],
        "y": [value for _, value in shown],
        "customdata": [trial.number for trial, _ in shown],
        "marker": marker,
        "hovertemplate": "trial %{customdata}: %{y:.5g}<extra>" + name + "</extra>",
    }


def _failures(trials: Sequence[Trial], place: Any) -> Figure:
    """Trials without a value, as crosses along the foot of the figure."""
    ended = (TrialState.FAILED, TrialState.INFEASIBLE)
    shown = [t for t in trials if t.state in ended and place(t) is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "failed",
        "x": [_plain(place(trial)) for trial in shown],
        "y": [0.02] * len(shown),
        "yaxis": "y2",
        "customdata": [[trial.number, trial.state.value.lower()] for trial in shown],
        "marker": {
            "size": 7,
            "symbol": "x-thin",
            "line": {"width": 2, "color": "--failed"},
        },
        "hovertemplate": "trial %{customdata[0]}: %{customdata[1]}<extra></extra>",
    }


def _best_line(
    best: Sequence[Trial], trials: Sequence[Trial], metric: Metric, place: Any
) -> Figure:
    ends = [place(t) for t in trials if t.state.is_finished and place(t) is not None]
    values = [format.result(trial, metric) for trial in best]
    numbers = [trial.number for trial in best]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": [_plain(x) for x in [*(place(trial) for trial in best), max(ends)]],
        "y": [*values, values[-1]],
        "customdata": [*numbers, numbers[-1]],
        "line": {"color": "--accent", "width": 2.5, "shape": "hv"},
        "hovertemplate": "best %{y:.5g}, trial %{customdata}<extra></extra>",
    }


def curves(
    series: Mapping[int, Series],
    states: Mapping[int, TrialState],
    best: int | None,
) -> Figure:
    """A metric by step, one line per trial, the best trial's on top.

    Args:
        series: the points of each trial by its number.
        states: the state of each of these trials.
        best: the number of the best trial.
    """
    looks: dict[str, tuple[list[int], dict[str, Any]]] = {
        "pruned": ([], {"color": "--pruned", "width": 1}),
        "ended": ([], {"color": "--curve", "width": 1.2}),
        "running": ([], {"color": "--running", "width": 1.6, "dash": "dot"}),
    }
    for number in sorted(series.keys() - {best}):
        state = states[number]
        kind = "pruned" if state is TrialState.PRUNED else "ended"
        looks[kind if state.is_finished else "running"][0].append(number)
    data = [_lines(name, series, numbers, line) for name, (numbers, line) in looks.items()]
    if best is not None and best in series:
        line = {"color": "--accent", "width": 2.8}
        data.append(_lines(f"best: trial {best}", series, [best], line))
    values = [value for points in series.values() for _, value in points]
    axis = {"title": title("step")}
    return figure([trace for trace in data if trace["x"]], axis, _axis(values))


def _lines(
    name: str, series: Mapping[int, Series], numbers: Iterable[int], line: dict[str, Any]
) -> Figure:
    """One trace for many trials: gaps part their lines."""
    x: list[int | None] = []
    y: list[float | None] = []
    trials: list[int | None] = []
    drawn = {number: series[number] for number in numbers if series[number]}
    for number, points in drawn.items():
        x += [*(step for step, _ in points), None]
        y += [*(finite(value) for _, value in points), None]
        trials += [*([number] * len(points)), None]
    sparse = len(drawn) == 1 or max(map(len, drawn.values()), default=0) < 3
    return {
        "type": "scatter",
        "mode": "lines+markers" if sparse else "lines",
        "name": name,
        "x": x,
        "y": y,
        "customdata": trials,
        "line": line,
        "marker": {"size": 4},
        "connectgaps": False,
        "hovertemplate": "trial %{customdata}, step %{x}: %{y:.5g}<extra></extra>",
    }


def metrics(series: Mapping[str, Series]) -> Figure:
    """The metrics of one trial that share a scale, such as `loss` and `val_loss`."""
    looks = ({"color": "--accent", "width": 2.2}, {"color": "--curve-strong", "width": 1.6})
    data = []
    # Validation first: it is what the study looks at, and so it has the accent.
    names = sorted(series, key=lambda name: (not name.startswith("val_"), name))
    for index, name in enumerate(names):
        line = dict(looks[min(index, 1)]) | ({"dash": "dot"} if index > 1 else {})
        trace = _lines(html.escape(name), {0: series[name]}, [0], line)
        trace["hovertemplate"] = "step %{x}: %{y:.5g}<extra>%{fullData.name}</extra>"
        del trace["customdata"]
        data.append(trace)
    values = [value for points in series.values() for _, value in points]
    axis = {"title": title("step")}
    drawn = figure(data, axis, _axis(values))
    drawn["layout"]["height"] = 220
    return drawn


def finite(value: float) -> float | None:
    """None for what JSON and Plotly cannot show."""
    return value if math.isfinite(value) else None


def view(values: Iterable[float]) -> tuple[float, float] | None:
    """The range that shows the bulk of `values`: a few far off must not flatten the rest."""
    ordered = sorted(v for v in values if math.isfinite(v))
    if len(ordered) < 8:
        return None
    quarter, three = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    fence = 3 * (three - quarter) or abs(three) or 1.0
    low, high = max(ordered[0], quarter - fence), min(ordered[-1], three + fence)
    if (low, high) == (ordered[0], ordered[-1]):
        return None
    margin = 0.06 * (high - low)
    return low - margin, high + margin


def title(text: str) -> dict[str, Any]:
    """An axis's title."""
    return {"text": text, "standoff": 8, "font": {"size": 12, "color": "--muted"}}


def _axis(values: Iterable[float]) -> dict[str, Any]:
    bulk = view(values)
    return {} if bulk is None else {"range": list(bulk)}


def _plain(x: Any) -> Any:
    return x.isoformat() if isinstance(x, datetime) else x


def figure(data: list[Figure], x: dict[str, Any], y: dict[str, Any]) -> Figure:
    """A figure in the house style, from its traces and what is special about its axes."""
    shared = {
        "gridcolor": "--grid",
        "linecolor": "--line",
        "zeroline": False,
        "automargin": True,
        "tickfont": {"color": "--muted"},
    }
    layout = {
        "xaxis": shared | {"showgrid": False, "ticks": "outside", "tickcolor": "--line"} | x,
        "yaxis": shared | {"nticks": 6} | y,
        "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        "margin": {"l": 8, "r": 12, "t": 30, "b": 8},
        "height": 300,
        "paper_bgcolor": "--panel",
        "plot_bgcolor": "--panel",
        "font": {"color": "--text", "size": 12, "family": "--font"},
        "hoverlabel": {
            "bgcolor": "--raised",
            "bordercolor": "--line",
            "font": {"color": "--text"},
        },
        "legend": {
            "orientation": "h",
            "x": 0,
            "y": 1.0,
            "yanchor": "bottom",
            "font": {"size": 11},
        },
        "showlegend": True,
        "hovermode": "closest",
        "dragmode": "zoom",
        # The same value keeps the reader's zoom through every update.
        "uirevision": "kept",
    }
    return {"data": data, "layout": layout}


def best_first(trials: Iterable[Trial], metric: Metric) -> list[Trial]:
    """Complete results first, best first; then pruned ones, those beyond a constraint, and those
    without a value."""
    sign = -1.0 if metric.goal is Goal.MAXIMIZE else 1.0

    def rank(trial: Trial) -> tuple[int, float, int]:
        value = format.result(trial, metric)
        if value is None or math.isnan(value):
            return 4, 0.0, trial.number
        if trial.within_constraints is False:
            return 3, sign * value, trial.number
        order = {TrialState.SUCCEEDED: 0, TrialState.PRUNED: 1}
        return order.get(trial.state, 2), sign * value, trial.number

    return sorted(trials, key=rank)
