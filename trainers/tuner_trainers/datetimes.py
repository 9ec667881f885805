"""Chooses the layers of a datetime feature, from its settings and the statistics of its column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tuner.errors import DataError
from tuner.space import Value
from tuner_trainers import times
from tuner_trainers.column_statistics import ColumnStatistics
from tuner_trainers.derived import instants_of, no_times, unit_of
from tuner_trainers.layers import RawLayer
from tuner_trainers.scaling import moments
from tuner_trainers.statistics import Statistics
from tuner_trainers.time_layers import NumberTime, TextTime, TimeNumbers

Numbers = npt.NDArray[np.float64]

#: Years are scaled as if all were as long as in the Gregorian calendar's mean.
_YEAR_SECONDS = 365.2425 * 86400


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLayers:
    """The layers of a datetime feature.

    `read` makes a time of a raw column; `numbers` makes numbers of it, unless nothing was asked
    for that is one; each part in `one_hot` becomes an id.
    """

    read: RawLayer
    numbers: TimeNumbers | None
    one_hot: tuple[str, ...]


def time_layers(
    column: ColumnStatistics, statistics: Statistics, settings: Mapping[str, Value | None]
) -> TimeLayers:
    """Chooses the layers; raises DataError if the column has no time."""
    day_first = bool(settings["day_first"])
    unit = str(settings["unit"] or unit_of(column))
    read = TextTime(day_first) if column.kind == "string" else NumberTime(unit)
    found = instants_of(column, statistics.derived, day_first, unit)
    if not len(found.values):
        raise DataError(no_times(column))
    chosen = {part: settings[part] or _default(part, found.values) for part in times.PARTS}
    cyclic = tuple(part for part, how in chosen.items() if how == "cyclic")
    one_hot = tuple(part for part, how in chosen.items() if how == "one_hot")
    singles = {name for name in ("year", "weekend", "elapsed") if settings[name]}
    mean, variance = moments(found.values, found.weights)
    spread = float(np.sqrt(variance)) or 1.0
    year = (1970 + mean / _YEAR_SECONDS, max(spread / _YEAR_SECONDS, 1.0))
    numbers = TimeNumbers(
        cyclic=cyclic,
        year=year if "year" in singles else None,
        weekend="weekend" in singles,
        elapsed=(mean, spread) if "elapsed" in singles else None,
        # A trial that draws nothing still sees whether there is a time.
        indicator=found.missing or not (cyclic or one_hot or singles),
    )
    return TimeLayers(
        read=read, numbers=numbers if numbers.output_width else None, one_hot=one_hot
    )


def _default(part: str, instants: Numbers) -> str:
    return "cyclic" if part != "minute" and times.covers(instants, part) else "none"
