"""How values read on a page."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.unit.web_source import SPACE, a_study, some_trials
from tuner.space import Group
from tuner.study import Cost, Limits, TrialCounts, TrialState
from tuner.web import format


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.0000"),
        (0.91324, "0.9132"),
        (-0.5, "−0.5000"),
        (12.3456, "12.346"),
        (1234.56, "1,234.6"),
        (123456.7, "123,457"),
        (3.2e-7, "3.2e-07"),
        (1.5e12, "1.5e+12"),
        (float("nan"), "NaN"),
        (float("inf"), "∞"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert format.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (True, "true"), (3, "3"), (0.00123456, "0.001235"), ("relu", "relu")],
)
def test_values_of_parameters(value: object, text: str) -> None:
    assert format.value(value) == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (65, "1 min 5 s"),
        (3900, "1 h 5 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format.duration(timedelta(seconds=seconds)) == text


def test_a_cost_says_only_what_was_held() -> None:
    hours = timedelta(hours=2)
    assert format.cost(Cost()) == "nothing yet"
    assert format.cost(Cost(worker_time=hours)) == "2 h of workers"
    everything = Cost(worker_time=hours, cpu_time=4 * hours, gpu_time=hours / 2)
    assert format.cost(everything) == "2 h of workers, 8 h of CPUs, 1 h of GPUs"


def test_limits_say_only_what_is_set() -> None:
    limits = Limits(parallel=2, duration=timedelta(hours=1), failed_trials=3)
    assert format.limits(limits) == "2 at once, within 1 h, 3 failed"
    assert format.limits(Limits()) == "no other limit"


def test_a_progress_bar_has_a_part_for_each_state_within_its_whole() -> None:
    counts = TrialCounts(queued=3, running=1, succeeded=4, failed=1)
    parts = list(format.segments(counts, limit=20))
    assert [(part.state, part.offset, part.width) for part in parts] == [
        (TrialState.SUCCEEDED, 0.0, 20.0),
        (TrialState.FAILED, 20.0, 5.0),
        (TrialState.RUNNING, 25.0, 5.0),
    ]


def test_more_trials_than_the_limit_fill_the_bar_and_no_more() -> None:
    parts = list(format.segments(TrialCounts(succeeded=30), limit=20))
    assert [part.width for part in parts] == [100.0]


def test_parameters_are_grouped_in_the_order_of_the_space() -> None:
    groups = format.grouped(a_study())
    assert list(groups) == [Group.MODEL, Group.PREPROCESSING, Group.TRAINING]
    assert groups[Group.PREPROCESSING][1:3] == [
        "native_country.encoding",
        "native_country.vocabulary",
    ]
    assert sum(map(len, groups.values())) == len(list(SPACE.walk()))


def test_the_duration_of_a_trial_is_known_when_it_has_ended() -> None:
    trials = some_trials(5)
    took = format.took(trials[0])
    assert took is not None and took > timedelta(0)
    assert format.took(trials[-1]) is None
