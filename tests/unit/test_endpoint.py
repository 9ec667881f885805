"""Traffic splits, histograms, canaries and results as values, and their way over the wire."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.unit.test_convert import finite, texts, times
from tuner import convert_endpoint as convert
from tuner.canary import chance_of_more_errors, judged
from tuner.endpoint import (
    LATENCY_BOUNDS,
    Canary,
    CanaryState,
    Deployment,
    Endpoint,
    Gateway,
    Minute,
    Recording,
    Replicas,
    Result,
    Scaling,
    Traffic,
    allotted,
    check_endpoint_id,
    parse_endpoint_name,
    shared,
    slot_of,
)
from tuner.errors import InvalidArgumentError
from tuner.results import graded
from tuner.service.significance import compared, welch

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ENDPOINT = Endpoint(endpoint_id="live", model_id="adult", create_time=NOW, update_time=NOW)


@st.composite
def splits(draw: st.DrawFn) -> dict[int, int]:
    """Percents by version that sum to 100."""
    versions = draw(st.lists(st.integers(1, 9), min_size=1, max_size=6, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=len(versions) - 1, max_size=5)))
    bounds = [0, *cuts[: len(versions) - 1], 100]
    parts = [high - low for low, high in pairwise(bounds)]
    return dict(zip(versions, parts, strict=True))


def _moved(before: tuple[int, ...], after: tuple[int, ...]) -> int:
    return sum(a != b for a, b in zip(before, after, strict=True))


@given(splits(), splits(), splits())
def test_slots_move_as_little_as_they_can(
    one: dict[int, int], two: dict[int, int], three: dict[int, int]
) -> None:
    slots = allotted(allotted((), one), two)
    after = allotted(slots, three)
    assert Counter(after) == {v: part for v, part in three.items() if part}
    least = sum(max(0, part - three.get(version, 0)) for version, part in two.items())
    assert _moved(slots, after) == least
    assert allotted(after, {}) == ()


@given(splits(), st.integers(1, 9), st.integers(0, 100))
def test_the_others_keep_their_proportions(
    before: dict[int, int], version: int, percent: int
) -> None:
    after = shared(before, version, percent)
    assert sum(after.values()) == 100 and min(after.values()) >= 0
    others = {v: part for v, part in before.items() if v != version and part}
    assert after[version] == (percent if others else 100)
    for v, part in others.items():
        assert abs(after[v] - part * (100 - percent) / sum(others.values())) < 1


@given(st.lists(st.floats(0, 70), min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_is_known_to_its_bucket(seconds: list[float], share: float) -> None:
    traffic = Traffic()
    for each in seconds:
        traffic.count(each)
    exact = sorted(seconds)[max(math.ceil(share * len(seconds)) - 1, 0)]
    found = traffic.quantile(share)
    if share > 0 and exact < LATENCY_BOUNDS[-1]:
        assert found is not None and found <= max(exact, LATENCY_BOUNDS[0]) * 1.351
        assert found >= exact / 1.351 - LATENCY_BOUNDS[0]


def test_traffic_adds_up() -> None:
    one, two = Traffic(), Traffic()
    assert one.quantile(0.5) is None
    one.count(0.01)
    two.count(100.0)
    two.count(0.01, is_error=True)
    two.differences = 1
    one.add(two)
    assert (one.requests, one.errors, one.differences, sum(one.latencies)) == (3, 1, 1, 2)
    assert one.latencies[-1] == 1 and one.quantile(1.0) == LATENCY_BOUNDS[-1]


def test_keys_fall_into_slots_evenly() -> None:
    slots = Counter(slot_of("live", str(key).encode()) for key in range(20_000))
    assert set(slots) <= set(range(100)) and min(slots.values()) > 130
    assert slot_of("live", b"ann") == slot_of("live", b"ann")
    assert {slot_of(f"e{n}", b"ann") for n in range(50)} > {slot_of("e0", b"ann")}


# --- canaries -------------------------------------------------------------------------------


def _traffic(requests: int, errors: int = 0, seconds: float = 0.01) -> Traffic:
    traffic = Traffic()
    for number in range(requests):
        traffic.count(seconds, is_error=number < errors)
    return traffic


@given(st.integers(1, 400), st.integers(0, 400), st.integers(1, 4000), st.integers(0, 40))
def test_the_chance_of_errors_is_fishers(own: int, failed: int, others: int, more: int) -> None:
    failed, more = min(failed, own), min(more, others)
    found = chance_of_more_errors(
        Traffic(requests=own, errors=failed), Traffic(requests=others, errors=more)
    )
    table = [[failed, own - failed], [more, others - more]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_chance_of_many_errors_is_known_at_once() -> None:
    own, others = Traffic(requests=40_000, errors=5_000), Traffic(requests=200_000, errors=24_400)
    table = [[5_000, 35_000], [24_400, 175_600]]
    expected = stats.fisher_exact(table, alternative="greater").pvalue
    assert chance_of_more_errors(own, others) == pytest.approx(expected, rel=1e-2)
    huge = Traffic(requests=2**62, errors=2**61)
    assert chance_of_more_errors(huge, huge) == pytest.approx(0.5)
    none = Traffic(requests=2**62)
    assert chance_of_more_errors(none, none) == 1.0
    assert chance_of_more_errors(huge, Traffic(requests=1)) == 1.0


@pytest.mark.parametrize(
    ("own", "others", "elapsed", "expected"),
    [
        (_traffic(0), _traffic(5000), 0, CanaryState.RUNNING),
        # Nothing to compare with: it goes on by itself.
        (_traffic(50, 50), _traffic(0), 0, CanaryState.RUNNING),
        # Sure, but not more than it may.
        (_traffic(10_000, 60), _traffic(10_000, 10), 0, CanaryState.RUNNING),
        # More than it may, but not sure.
        (_traffic(10, 1), _traffic(50, 1), 0, CanaryState.RUNNING),
        (_traffic(50, 5), _traffic(1000, 5), 0, CanaryState.ROLLED_BACK),
        (_traffic(19, seconds=1), _traffic(500), 0, CanaryState.RUNNING),
        (_traffic(20, seconds=1), _traffic(500), 0, CanaryState.ROLLED_BACK),
        (_traffic(500, seconds=1), _traffic(19), 0, CanaryState.RUNNING),
        (_traffic(500, seconds=0.015), _traffic(500), 0, CanaryState.RUNNING),
        (_traffic(19), _traffic(500), 60, CanaryState.RUNNING),
        (_traffic(20), _traffic(500), 59, CanaryState.RUNNING),
    ],
)
def test_a_canary_is_judged(
    own: Traffic, others: Traffic, elapsed: int, expected: CanaryState
) -> None:
    canary = Canary(version=2, steps=(5, 50), min_requests=20, step_time=60 * SECOND)
    moved = judged(canary, own, others, elapsed * SECOND)
    assert moved.state is expected and moved.step == 0
    assert bool(moved.reason) == (expected is CanaryState.ROLLED_BACK)
    if expected is CanaryState.RUNNING:
        assert moved == canary


def test_a_canary_ends_with_its_last_step() -> None:
    canary = Canary(version=2, steps=(5, 50), min_requests=20, step_time=60 * SECOND)
    second = judged(canary, _traffic(20), _traffic(100), 60 * SECOND)
    assert second == replace(canary, step=1)
    done = judged(second, _traffic(20), _traffic(100), 60 * SECOND)
    assert done.state is CanaryState.SUCCEEDED and "0 of 20 requests failed" in done.reason


# --- results --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "label", "expected"),
    [
        ({"predictions": [{"classes": ["a", "b"], "scores": [0.2, 0.8]}]}, "b", ("accuracy", 1)),
        ({"predictions": [{"predicted": "a", "scores": [0.2, 0.8]}]}, "b", ("accuracy", 0)),
        ({"predictions": [{"predicted": "1"}]}, "1.0", ("accuracy", 1)),
        ({"outputs": {"classes": [["a", "b"]], "scores": [[0.9, 0.1]]}}, "a", ("accuracy", 1)),
        ({"predictions": [[0.1, 0.7, 0.2]]}, "1", ("accuracy", 1)),
        ({"predictions": [[0.1, 0.7, 0.2]]}, "2", ("accuracy", 0)),
        ({"results": [[["a", 0.3], ["b", 0.7]]]}, "b", ("accuracy", 1)),
        ({"predictions": ["yes"]}, "yes", ("accuracy", 1)),
        ({"predictions": [True]}, "1", ("accuracy", 1)),
        ({"predictions": [False]}, "True", ("accuracy", 0)),
        ({"predictions": [{"value": 2.5}]}, "3", ("squared_error", 0.25)),
        ({"predictions": [[2.5]]}, "3", ("squared_error", 0.25)),
        ({"results": [2.5]}, "2", ("squared_error", 0.25)),
        ({"outputs": [2.5]}, "2", ("squared_error", 0.25)),
        (
            {"outputs": [{"name": "scores", "shape": [1, 2], "data": [0.1, 0.9]}]},
            "1",
            ("accuracy", 1),
        ),
        (
            {"outputs": [{"name": "value", "shape": [1], "data": [2.5]}]},
            "3",
            ("squared_error", 0.25),
        ),
        ({"predictions": [2.5]}, "cat", None),
        ({"predictions": [2.5]}, "nan", None),
        ({"predictions": [1e300]}, "0", None),
        ({"predictions": [None]}, "0", None),
        ({"predictions": []}, "0", None),
        ({"predictions": [{"x": 1, "y": 2}]}, "0", None),
        ({"error": "no"}, "0", None),
        ([1], "0", None),
    ],
)
def test_labels_are_compared_with_answers(
    answer: object, label: str, expected: tuple[str, float] | None
) -> None:
    assert graded(json.dumps(answer), 0, label) == expected


def test_what_is_no_answer_has_no_label() -> None:
    for answer in ("", "{", "null", "[]", '{"predictions": 3}', "[" * 4000):
        assert graded(answer, 0, "1") is None
    assert graded('{"predictions": [1, 2]}', 1, "2") == ("squared_error", 0.0)
    assert graded('{"predictions": [1, 2]}', 2, "2") is None
    assert graded('{"predictions": [1, 2]}', -1, "2") is None


def _result(version: int, count: int, mean: float, deviation: float) -> Result:
    return Result(
        version=version, result="r", count=count, mean=mean, standard_deviation=deviation
    )


@given(
    st.integers(2, 10**6),
    st.integers(2, 10**6),
    st.floats(-1e3, 1e3),
    st.floats(0.01, 1e3),
    st.floats(0.01, 1e3),
)
def test_welch_is_scipys(n: int, m: int, shift: float, sd: float, other: float) -> None:
    found = welch(_result(1, n, shift, sd), _result(2, m, 0.0, other))
    expected = stats.ttest_ind_from_stats(shift, sd, n, 0.0, other, m, equal_var=False)
    assert found == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-300)


def test_versions_are_compared_with_the_one_that_has_most() -> None:
    few, many, one = _result(1, 5, 2.0, 0.5), _result(2, 50, 1.0, 0.5), _result(3, 1, 4.0, 0.0)
    found = compared([few, many, one])
    assert [each.difference for each in found] == [1.0, 0.0, 3.0]
    assert found[1] == many and found[2].p_value is None
    assert found[0].p_value == welch(few, many) and found[0].p_value is not None
    assert welch(_result(1, 9, 1.0, 0.0), _result(2, 9, 0.0, 0.0)) is None
    assert welch(_result(1, 9, 1e100, 1e100), _result(2, 9, 0.0, 1e100)) is not None


# --- rules and the wire ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Canary(steps=()), "steps"),
        (lambda: Canary(steps=(5, 5)), "each above the one before"),
        (lambda: Canary(steps=(5, 101)), "steps"),
        (lambda: Canary(steps=(5,), step_time=-SECOND), "step_time"),
        (lambda: Canary(steps=(5,), min_requests=0), "min_requests"),
        (lambda: Canary(steps=(5,), max_error_increase=math.nan), "max_error_increase"),
        (lambda: Canary(steps=(5,), max_latency_ratio=math.inf), "max_latency_ratio"),
        (lambda: Scaling(min_replicas=2), "max_replicas"),
        (lambda: Scaling(target_concurrency=0), "target_concurrency"),
        (lambda: Scaling(max_queue=0), "max_queue"),
        (lambda: Scaling(idle_time=-SECOND), "idle_time"),
        (lambda: Recording(percent=math.nan), "percent"),
        (lambda: Recording(keep_time=timedelta(0)), "keep_time"),
        (lambda: replace(ENDPOINT, timeout=timedelta(0)), "timeout"),
        (lambda: check_endpoint_id("a/b"), "endpoint's name is"),
        (lambda: parse_endpoint_name("models/a"), "endpoints/ENDPOINT"),
        (lambda: ENDPOINT.with_deployments([Deployment(version=1)]), "sum to 100"),
        (
            lambda: ENDPOINT.with_deployments([Deployment(version=1, percent=50)] * 2),
            "stands twice",
        ),
        (lambda: ENDPOINT.with_deployments([Deployment(version=1, percent=-1)]), "0 to 100"),
    ],
)
def test_what_cannot_be_is_refused(make: object, says: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidArgumentError, match=says):
        make()


whole = st.integers(0, 2**31 - 1)
lasting = st.timedeltas(timedelta(microseconds=1), timedelta(days=366))
deployments = st.builds(
    Deployment,
    version=st.integers(1, 2**31 - 1),
    percent=st.integers(0, 100),
    shadow_percent=st.integers(0, 100),
    uri=texts,
    sha256=texts,
    aliases=st.lists(texts, max_size=2).map(tuple),
)
canaries = st.builds(
    Canary,
    version=whole,
    steps=st.sets(st.integers(1, 100), min_size=1).map(lambda s: tuple(sorted(s))),
    step_time=lasting,
    min_requests=st.integers(1, 2**31 - 1),
    max_error_increase=st.floats(0.001, 1),
    max_latency_ratio=st.floats(1, 100),
    state=st.sampled_from(CanaryState),
    step=st.integers(0, 99),
    step_start_time=st.one_of(st.none(), times),
    reason=texts,
)
endpoints = st.builds(
    Endpoint,
    endpoint_id=st.just("live"),
    model_id=st.just("adult"),
    create_time=times,
    update_time=times,
    description=texts,
    deployments=st.lists(deployments, max_size=3).map(tuple),
    scaling=st.builds(
        Scaling,
        min_replicas=st.integers(0, 3),
        max_replicas=st.integers(3, 9),
        target_concurrency=st.floats(0.1, 1000),
        idle_time=lasting,
        max_queue=st.integers(1, 2**31 - 1),
    ),
    timeout=lasting,
    recording=st.builds(Recording, percent=st.floats(0, 100), keep_time=lasting),
    canary=st.one_of(st.none(), canaries),
    slots=st.one_of(st.just(()), splits().map(lambda split: allotted((), split))),
    creator=texts,
    etag=texts,
)
counts = st.integers(0, 2**62)
bound_counts = st.lists(counts, min_size=len(LATENCY_BOUNDS) + 1, max_size=len(LATENCY_BOUNDS) + 1)
traffics = st.builds(
    lambda few, latencies: Traffic(
        requests=few[2], errors=few[0], differences=few[1], latencies=latencies
    ),
    st.lists(counts, min_size=3, max_size=3).map(sorted),
    bound_counts,
)


@given(endpoints)
def test_an_endpoint_round_trips(endpoint: Endpoint) -> None:
    assert convert.endpoint_from_proto(convert.endpoint_to_proto(endpoint)) == endpoint


@given(
    st.builds(Minute, start_time=times, version=whole, shadow=st.booleans(), traffic=traffics),
    st.builds(
        Result,
        version=whole,
        result=texts,
        count=counts,
        mean=finite,
        standard_deviation=finite,
        difference=finite,
        p_value=st.one_of(st.none(), st.floats(0, 1)),
    ),
    st.builds(Replicas, gateway=texts, version=whole, ready=whole, calls=whole, failure=texts),
    st.builds(
        Gateway,
        gateway=texts,
        host=texts,
        rest_address=texts,
        grpc_address=texts,
        create_time=times,
        report_time=times,
    ),
)
def test_what_is_reported_round_trips(
    minute: Minute, result: Result, replicas: Replicas, gateway: Gateway
) -> None:
    assert convert.minute_from_proto(convert.minute_to_proto(minute)) == minute
    assert convert.result_from_proto(convert.result_to_proto(result)) == result
    assert convert.replicas_from_proto(convert.replicas_to_proto(replicas)) == replicas
    assert convert.gateway_from_proto(convert.gateway_to_proto(gateway)) == gateway
