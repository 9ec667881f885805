"""The figures of endpoints: calls and latencies by minute."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from tuner.endpoint import Minute
from tuner.web.charts import Figure, figure, title

#: One for each version, in turn.
COLOURS = ("--accent", "--preprocessing", "--training", "--failed", "--curve-strong")
_MINUTE = timedelta(minutes=1)


def requests(minutes: Iterable[Minute], window: timedelta, now: datetime) -> Figure:
    """Calls per minute that each version answered, one on top of the other, and errors as line.

    Args:
        minutes: What was counted.
        window: How much time is shown.
        now: When it ends.
    """
    shown = [minute for minute in minutes if not minute.shadow]
    data: list[Figure] = []
    for place, version in enumerate(_versions(shown)):
        own = [minute for minute in shown if minute.version == version]
        data.append(
            {
                "type": "bar",
                "name": f"version {version}",
                "x": [_middle(minute.start_time) for minute in own],
                "y": [minute.traffic.requests for minute in own],
                "width": _MINUTE.total_seconds() * 1000,
                "marker": {"color": COLOURS[place % len(COLOURS)]},
                "hovertemplate": "%{y} calls<extra>%{fullData.name}</extra>",
            }
        )
    errors: dict[datetime, int] = defaultdict(int)
    for minute in shown:
        errors[minute.start_time] += minute.traffic.errors
    if any(errors.values()):
        times = sorted(errors)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "errors",
                "x": [_middle(time) for time in times],
                "y": [errors[time] for time in times],
                "line": {"color": "--failed", "width": 2},
                "hovertemplate": "%{y} errors<extra></extra>",
            }
        )
    drawn = figure(
        data, _times(window, now), {"title": title("calls a minute"), "rangemode": "tozero"}
    )
    drawn["layout"]["barmode"] = "stack"
    return drawn


def latencies(minutes: Iterable[Minute], window: timedelta, now: datetime) -> Figure:
    """The latencies that half of the calls, and 99 of 100, did not exceed, in milliseconds.

    Args:
        minutes: What was counted.
        window: How much time is shown.
        now: When it ends.
    """
    shown = [minute for minute in minutes if not minute.shadow]
    data: list[Figure] = []
    for place, version in enumerate(_versions(shown)):
        colour = COLOURS[place % len(COLOURS)]
        for name, share, dash in (("p50", 0.5, "solid"), ("p99", 0.99, "dot")):
            points = [
                (_middle(minute.start_time), 1000 * seconds)
                for minute in shown
                if minute.version == version
                and (seconds := minute.traffic.quantile(share)) is not None
            ]
            if points:
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines+markers",
                        "name": f"version {version}, {name}",
                        "x": [x for x, _ in points],
                        "y": [y for _, y in points],
                        "line": {"color": colour, "width": 2, "dash": dash},
                        "marker": {"size": 4},
                        "hovertemplate": "%{y:.3g} ms<extra>%{fullData.name}</extra>",
                    }
                )
    return figure(
        data, _times(window, now), {"title": title("milliseconds"), "rangemode": "tozero"}
    )


def _times(window: timedelta, now: datetime) -> dict[str, object]:
    """The axis: whole minutes, so that it is the same figure within one."""
    end = now.replace(second=0, microsecond=0) + _MINUTE
    return {"type": "date", "range": [(end - window).isoformat(), end.isoformat()]}


def _versions(minutes: Sequence[Minute]) -> list[int]:
    return sorted({minute.version for minute in minutes})


def _middle(start: datetime) -> str:
    return (start + _MINUTE / 2).isoformat()
