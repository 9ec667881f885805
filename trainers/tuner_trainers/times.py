"""Dates and times as seconds since 1970: how they are written, and the calendar's arithmetic.

What is here serves both the statistics (numpy and Arrow) and the model's graph (TensorFlow): text
is rewritten by the same RE2 expressions, and the arithmetic takes whole numbers of any library
that has Python's operators. A *wall* time is the one that was written, from which hours and days
are read; its *instant* is that in UTC, which differ where an offset is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Numbers = npt.NDArray[np.float64]

#: Parts of a time that come round again: the first value, how many there are, and after how many
#: seconds all of them have been.
PARTS: Mapping[str, tuple[int, int, float]] = {
    "month": (1, 12, 365 * 86400.0),
    "day": (1, 31, 31 * 86400.0),
    "weekday": (0, 7, 7 * 86400.0),
    "hour": (0, 24, 86400.0),
    "minute": (0, 60, 3600.0),
}

#: Seconds of a unit in which numbers count from 1970.
UNITS: Mapping[str, float] = {
    "seconds": 1.0,
    "milliseconds": 1e-3,
    "microseconds": 1e-6,
    "nanoseconds": 1e-9,
    "days": 86400.0,
}
#: Numbers such as 20130314.
YYYYMMDD = "yyyymmdd"
#: The seconds of the years 1 to 9999.
EARLIEST, LATEST = -62_135_596_800.0, 253_402_300_799.0

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
#: The number of a month by how it may be written.
MONTHS: Mapping[str, int] = {
    **{str(number): number for number in range(1, 13)},
    **{f"{number:02d}": number for number in range(1, 13)},
    **{name: number for number, name in enumerate(_MONTHS, start=1)},
}

#: Hour, minute, seconds, a or p of a.m. and p.m., and the offset from UTC.
_TIME = (
    r"(?:[t, ]+(\d{1,2}):?(\d{2})(?::?(\d{2}(?:[.,]\d{1,9})?)\d*)?(?: ?([ap])\.?m\.?)?"
    r"(?: ?(?:z|utc|gmt|([+-]\d{2}(?::?\d{2})?)))?)?$"
)
_NAME = f"({'|'.join(_MONTHS)})[a-z]*"
_WEEKDAY = r"^(?:[a-z]{3,9},? )?"
_YEAR_FIRST, _MONTH_FIRST, _DAY_FIRST = (r"\1|\2|\3", r"\3|\1|\2", r"\3|\2|\1")

#: Fields of a rewritten time: year, month, day, then those of _TIME, all of which may be empty.
FIELDS = 8
#: What a rewritten time looks like; seconds may have a fraction, the month may be a name.
REWRITTEN = (
    r"\d{4}\|(?:\d{1,2}|[a-z]{3})\|\d{1,2}\|\d{0,2}\|\d{0,2}\|(?:\d{2}(?:[.,]\d{1,9})?)?\|[ap]?"
    r"\|(?:[+-]\d{2}(?::?\d{2})?)?"
)
#: What stands for a text that is no time: a month that does not exist.
NO_TIME = "0|0|0|||||"


def rewrites(day_first: bool) -> list[tuple[str, str]]:
    """RE2 expressions with what each is rewritten to, for trimmed text in lower case.

    What none of them has made look like REWRITTEN is no time; none matches what another one has
    rewritten. A comma in the seconds that are left stands for a point.

    Args:
        day_first: whether 3/4/2013 is the third of April.
    """
    rest = r"|\4|\5|\6|\7|\8"
    numbers = _DAY_FIRST if day_first else _MONTH_FIRST
    dates = [
        (r"^(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})", _YEAR_FIRST),
        (r"^(\d{4})(\d{2})(\d{2})", _YEAR_FIRST),
        (r"^(\d{1,2})[-/](\d{1,2})[-/](\d{4})", numbers),
        (r"^(\d{1,2})\.(\d{1,2})\.(\d{4})", _DAY_FIRST),
        (rf"{_WEEKDAY}(\d{{1,2}})[- ]{_NAME}[-,. ]+(\d{{4}})", _DAY_FIRST),
        (rf"{_WEEKDAY}{_NAME}\.? (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})", _MONTH_FIRST),
    ]
    month_alone = (r"^(\d{4})-(\d{2})$", r"\1|\2|1|||||")
    return [*((date + _TIME, order + rest) for date, order in dates), month_alone]


def days_of(year: Any, month: Any, day: Any) -> Any:
    """Days since 1970 of dates, whole numbers all of them (H. Hinnant, chrono's algorithms)."""
    year = year - (14 - month) // 12  # a year starts in March, so that a leap day ends it
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * ((month + 9) % 12) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def date_of(days: Any) -> tuple[Any, Any, Any]:
    """Year, month and day of days since 1970: the inverse of `days_of`."""
    days = days + 719468
    era = days // 146097
    of_era = days - era * 146097
    year = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    from_march = (5 * of_year + 2) // 153
    month = (from_march + 2) % 12 + 1
    day = of_year - (153 * from_march + 2) // 5 + 1
    return year + era * 400 + (14 - month) // 12, month, day


def is_date(year: Any, month: Any, day: Any) -> Any:
    """Whether there is such a date in the years 1 to 9999."""
    _, same_month, same_day = date_of(days_of(year, month, day))
    exists = (month >= 1) & (month <= 12) & (same_month == month) & (same_day == day)
    return exists & (year >= 1) & (year <= 9999)


def part_of(name: str, seconds: Any) -> Any:
    """A part of wall times that are whole seconds since 1970, or the `year`."""
    days, rest = seconds // 86400, seconds % 86400
    if name == "weekday":
        return (days + 3) % 7  # 1970 began on a Thursday; 0 is Monday
    if name in ("hour", "minute"):
        return rest // 3600 if name == "hour" else rest % 3600 // 60
    return date_of(days)[("year", "month", "day").index(name)]


def clock(
    date: tuple[Any, Any, Any], hour: Any, minute: Any, am: Any, pm: Any, sign: Any, offset: Any
) -> tuple[Any, Any, Any]:
    """Puts a time together from whole numbers.

    Args:
        date: year, month and day.
        hour: as it is written.
        minute: the same.
        am: 1 where the hour is followed by a.m.
        pm: 1 where it is followed by p.m.
        sign: of the offset from UTC.
        offset: its hours and minutes, 530 for 5:30.

    Returns:
        Whether there is such a time; its wall time without the seconds; its offset in seconds.
    """
    half = am + pm
    hours = hour + 12 * pm - 12 * half * (hour // 12)
    exists = is_date(*date) & (hours <= 23) & (minute <= 59)
    exists = exists & ((half == 0) | ((hour >= 1) & (hour <= 12)))
    exists = exists & (offset // 100 <= 23) & (offset % 100 <= 59)
    wall = days_of(*date) * 86400 + hours * 3600 + minute * 60
    return exists, wall, sign * (offset // 100 * 3600 + offset % 100 * 60)


def of_texts(texts: Any, day_first: bool = False) -> Numbers:
    """The instants of an Arrow array of texts, NaN for what is no time."""
    rewritten = pc.ascii_lower(pc.ascii_trim_whitespace(texts))
    for pattern, replacement in rewrites(day_first):
        rewritten = pc.replace_substring_regex(rewritten, pattern, replacement)
        found = pc.match_substring_regex(rewritten, f"^(?:{REWRITTEN})$")
        if pc.all(found).as_py():  # most columns are written in one way
            break
    rewritten = pc.replace_substring(rewritten, ",", ".")
    fields = pc.list_flatten(pc.split_pattern(pc.if_else(found, rewritten, NO_TIME), "|"))
    year, month, day, hour, minute, second, half, offset = (
        fields.take(pa.array(np.arange(field, len(fields), FIELDS))) for field in range(FIELDS)
    )
    place = pc.fill_null(pc.index_in(month, pa.array(list(MONTHS))), len(MONTHS)).to_numpy()
    digits = pc.binary_join_element_wise(
        pc.replace_substring_regex(offset, "[^0-9]", ""), "00", ""
    )
    exists, wall, ahead = clock(
        (_whole(year), np.array([*MONTHS.values(), 0])[place], _whole(day)),
        _whole(hour),
        _whole(minute),
        _are(half, "a"),
        _are(half, "p"),
        1 - 2 * _are(pc.utf8_slice_codeunits(offset, 0, 1), "-"),
        _whole(pc.utf8_slice_codeunits(digits, 0, 4)),
    )
    seconds = pc.binary_join_element_wise("0", second, "").cast(pa.float64()).to_numpy()
    return np.where(exists & (seconds < 60.0), wall - ahead + seconds, np.nan)


def of_numbers(numbers: Numbers, unit: str) -> Numbers:
    """The instants of numbers in a unit of UNITS, or written YYYYMMDD; NaN for what is none."""
    known = np.isfinite(numbers) & (np.abs(numbers) <= largest(unit))
    numbers = np.where(known, numbers, 0.0)
    if unit == YYYYMMDD:
        whole = np.floor(numbers).astype(np.int64)
        date = digits_date(whole)
        return np.where(known & is_date(*date), days_of(*date) * 86400.0, np.nan)
    seconds = numbers * UNITS[unit]
    known &= (seconds >= EARLIEST) & (seconds <= LATEST)
    return np.where(known, seconds, np.nan)


def largest(unit: str) -> float:
    """How far from zero numbers of a unit may be."""
    return 9999_12_31.0 if unit == YYYYMMDD else LATEST / UNITS[unit]


def digits_date(number: Any) -> tuple[Any, Any, Any]:
    """Year, month and day of whole numbers such as 20130314."""
    return number // 10000, number // 100 % 100, number % 100


def unit_of(largest: float) -> str:
    """The unit of numbers, the largest of which is this far from 1970: seconds up to 5138."""
    for unit in ("seconds", "milliseconds", "microseconds"):
        if largest * UNITS[unit] < 1e11:
            return unit
    return "nanoseconds"


def covers(instants: Numbers, part: str) -> bool:
    """Whether increasing instants differ in a part, and span a round of it."""
    round_seconds = PARTS[part][2]
    if len(instants) < 2 or instants[-1] - instants[0] < round_seconds:
        return False
    values = part_of(part, np.floor(instants).astype(np.int64))
    return bool((values != values[0]).any())


def _whole(texts: Any) -> npt.NDArray[np.int64]:
    numbers: npt.NDArray[np.int64] = (
        pc.binary_join_element_wise("0", texts, "").cast(pa.int64()).to_numpy()
    )
    return numbers


def _are(texts: Any, text: str) -> npt.NDArray[np.int64]:
    return np.asarray(pc.equal(texts, text).to_numpy(zero_copy_only=False), np.int64)
