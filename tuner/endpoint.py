"""Endpoints, their traffic split and canaries, as plain values."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from tuner.errors import InvalidArgumentError
from tuner.model import check_model_id

SLOTS = 100
#: The upper bounds of the latencies that are counted together, in seconds: 0.5 ms to one minute,
#: each 1.35 times the one before, so that a quantile is known to a sixth.
LATENCY_BOUNDS = tuple(0.0005 * 1.35**power for power in range(40))
#: A header (and a key of gRPC's metadata): requests with the same key go to the same version.
STICKY_KEY = "x-tuner-key"


class CanaryState(StrEnum):
    """The states of a canary."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    ROLLED_BACK = "ROLLED_BACK"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A version that an endpoint serves."""

    version: int
    #: How much of the traffic it answers; at 0 it answers who names it.
    percent: int = 0
    #: How much of the traffic that others answer it is asked, too.
    shadow_percent: int = 0
    uri: str = ""
    sha256: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How many replicas a version has on each gateway."""

    #: Without traffic; 0 ends the last one after `idle_time`.
    min_replicas: int = 0
    max_replicas: int = 1
    #: How many calls under way one replica is meant to have, on average.
    target_concurrency: float = 16.0
    idle_time: timedelta = timedelta(minutes=5)
    #: The most calls that may be under way or wait; more are refused.
    max_queue: int = 1024

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise InvalidArgumentError(
                "`min_replicas` is 0 to `max_replicas`, which is at least 1, but got "
                f"{self.min_replicas} and {self.max_replicas}."
            )
        if not 0 < self.target_concurrency < 1e6:
            raise InvalidArgumentError(
                f"`target_concurrency` is above 0, but got {self.target_concurrency:g}."
            )
        if self.idle_time < timedelta(0):
            raise InvalidArgumentError(f"`idle_time` is no time ago, but got {self.idle_time}.")
        if self.max_queue < 1:
            raise InvalidArgumentError(f"`max_queue` is at least 1, but got {self.max_queue}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Which predictions are recorded, so that results that come later find them."""

    percent: float = 0.0
    keep_time: timedelta = timedelta(days=7)

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise InvalidArgumentError(
                f"the `percent` of recorded predictions is 0 to 100, but got {self.percent:g}."
            )
        if not timedelta(0) < self.keep_time <= timedelta(days=366):
            raise InvalidArgumentError(
                "predictions are recorded for more than no time and at most 366 days, but "
                f"`keep_time` is {self.keep_time}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A version that gets its traffic step by step, and loses it if it does worse."""

    #: The percents that it gets one after the other.
    steps: tuple[int, ...]
    #: 0 until it is deployed.
    version: int = 0
    step_time: timedelta = timedelta(minutes=5)
    #: How many requests each step needs.
    min_requests: int = 100
    #: By how much its share of errors may exceed that of the others.
    max_error_increase: float = 0.01
    #: How many times its median latency may be that of the others.
    max_latency_ratio: float = 2.0
    state: CanaryState = CanaryState.RUNNING
    step: int = 0
    step_start_time: datetime | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        steps = self.steps
        increases = all(a < b for a, b in pairwise(steps))
        if not (0 < len(steps) <= 100 and steps[0] >= 1 and steps[-1] <= 100 and increases):
            raise InvalidArgumentError(
                "a canary's `steps` are percents from 1 to 100, each above the one before, such "
                f"as 5, 25, 100; got {', '.join(map(str, steps)) or 'none'}."
            )
        if self.step_time < timedelta(0):
            raise InvalidArgumentError(f"`step_time` is not negative, but got {self.step_time}.")
        if self.min_requests < 1:
            raise InvalidArgumentError(
                f"`min_requests` is at least 1, but got {self.min_requests}."
            )
        if not 0 <= self.max_error_increase <= 1:
            raise InvalidArgumentError(
                f"`max_error_increase` is 0 to 1, but got {self.max_error_increase:g}."
            )
        if not 1 <= self.max_latency_ratio <= 1e6:
            raise InvalidArgumentError(
                "`max_latency_ratio` is at least 1 and at most a million, but got "
                f"{self.max_latency_ratio:g}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """An address under which versions of one model answer predictions."""

    endpoint_id: str
    model_id: str
    create_time: datetime
    update_time: datetime
    description: str = ""
    #: By version, increasing.
    deployments: tuple[Deployment, ...] = ()
    scaling: Scaling = Scaling()
    timeout: timedelta = timedelta(seconds=30)
    recording: Recording = Recording()
    canary: Canary | None = None
    #: Which version answers each hundredth of the keys.
    slots: tuple[int, ...] = ()
    creator: str = ""
    etag: str = ""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"endpoints/{self.endpoint_id}"

    def __post_init__(self) -> None:
        if self.timeout <= timedelta(0):
            raise InvalidArgumentError(f"`timeout` is above zero, but got {self.timeout}.")

    @property
    def percents(self) -> dict[int, int]:
        """How much of the traffic each version answers, by version."""
        return {each.version: each.percent for each in self.deployments}

    def with_deployments(self, deployments: Sequence[Deployment]) -> Endpoint:
        """The same endpoint with other versions or percents.

        Raises:
            InvalidArgumentError: the percents do not sum to 100, or a version is named twice.
        """
        ordered = tuple(sorted(deployments, key=lambda each: each.version))
        percents = {each.version: each.percent for each in ordered}
        if len(percents) < len(ordered):
            raise InvalidArgumentError("a version stands twice in the deployments of an endpoint.")
        for each in ordered:
            if not (0 <= each.percent <= 100 and 0 <= each.shadow_percent <= 100):
                raise InvalidArgumentError(
                    f"percents are 0 to 100, but version {each.version} got {each.percent} and "
                    f"{each.shadow_percent} as a shadow."
                )
        if ordered and sum(percents.values()) != 100:
            raise InvalidArgumentError(
                "the percents of an endpoint's versions sum to 100, but got "
                + " + ".join(map(str, percents.values()))
                + f" = {sum(percents.values())}."
            )
        return replace(self, deployments=ordered, slots=allotted(self.slots, percents))


@dataclass(slots=True, kw_only=True)
class Traffic:
    """What a version did in some time."""

    requests: int = 0
    #: Those that failed for a reason that is not the caller's.
    errors: int = 0
    #: Answers of a shadow that were not that of the version which answered.
    differences: int = 0
    #: By LATENCY_BOUNDS, errors left out; the last for what took longer.
    latencies: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    #: Those that were refused: the callers' mistakes, unless other versions take the same.
    refusals: int = 0

    def count(self, seconds: float, *, is_error: bool = False, is_refusal: bool = False) -> None:
        """Counts a call."""
        self.requests += 1
        self.refusals += is_refusal
        if is_error:
            self.errors += 1
        else:
            self.latencies[bisect_right(LATENCY_BOUNDS, seconds)] += 1

    def add(self, other: Traffic) -> None:
        """Counts what another one counted."""
        self.requests += other.requests
        self.errors += other.errors
        self.differences += other.differences
        self.refusals += other.refusals
        for place, count in enumerate(other.latencies):
            self.latencies[place] += count

    def since(self, before: Traffic) -> Traffic:
        """What was counted after it was as `before`."""
        return Traffic(
            requests=self.requests - before.requests,
            errors=self.errors - before.errors,
            differences=self.differences - before.differences,
            latencies=[a - b for a, b in zip(self.latencies, before.latencies, strict=True)],
            refusals=self.refusals - before.refusals,
        )

    def quantile(self, share: float) -> float | None:
        """The latency that this share of the calls did not exceed, in seconds; None without calls.

        It is linear within the calls that were counted together.
        """
        rank = share * sum(self.latencies)
        if not rank:
            return None
        before = 0
        for place, count in enumerate(self.latencies):
            if count and before + count >= rank:
                low = LATENCY_BOUNDS[place - 1] if place else 0.0
                high = LATENCY_BOUNDS[min(place, len(LATENCY_BOUNDS) - 1)]
                return low + (high - low) * (rank - before) / count
            before += count
        return LATENCY_BOUNDS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What a version did in a minute."""

    start_time: datetime
    version: int
    #: Whether it was only asked, too.
    shadow: bool
    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a version's predictions, by the name of the result."""

    version: int
    #: `accuracy`, `squared_error`, or what the reward is called.
    result: str
    #: How many predictions have such a result.
    count: int
    mean: float
    #: Of the results; 0 for a single one.
    standard_deviation: float
    #: To the version with the most results of this name.
    difference: float = 0.0
    #: How probable such a difference is by chance; None where that cannot be said.
    p_value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What is known of an endpoint's traffic and results."""

    #: Oldest first.
    minutes: tuple[Minute, ...]
    results: tuple[Result, ...]
    #: Now, on every gateway.
    replicas: tuple[Replicas, ...]

    @property
    def totals(self) -> dict[tuple[int, bool], Traffic]:
        """The minutes added up, by version and whether it was only asked, too."""
        added = dict[tuple[int, bool], Traffic]()
        for minute in self.minutes:
            added.setdefault((minute.version, minute.shadow), Traffic()).add(minute.traffic)
        return added


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """The replicas of a version on a gateway."""

    gateway: str = ""
    version: int
    #: How many can predict.
    ready: int = 0
    #: How many calls are under way or wait.
    calls: int = 0
    #: Why the last start failed; empty after one that did not.
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A gateway that reports."""

    gateway: str
    #: The host and process that it is.
    host: str
    rest_address: str
    grpc_address: str
    create_time: datetime
    report_time: datetime


def allotted(slots: Sequence[int], percents: Mapping[int, int]) -> tuple[int, ...]:
    """The slots after a change of percents; as few as possible change their version.

    Args:
        slots: The version of each slot before; empty: there were none.
        percents: By version; they sum to 100, or are empty.

    Returns:
        100 versions, or none without percents.
    """
    if not percents:
        return ()
    kept: dict[int, int] = dict.fromkeys(percents, 0)
    after = [0] * SLOTS
    for place, version in enumerate(slots):
        if kept.get(version, 0) < percents.get(version, 0):
            after[place] = version
            kept[version] += 1
    missing = [v for v, percent in percents.items() for _ in range(percent - kept[v])]
    free = (place for place, version in enumerate(after) if not version)
    for place, version in zip(free, missing, strict=True):
        after[place] = version
    return tuple(after)


def shared(percents: Mapping[int, int], version: int, percent: int) -> dict[int, int]:
    """The percents after one version gets a part; the others keep their proportions.

    Whole percents are dealt out by largest remainders (Hamilton's method); ties go to the version
    that comes first. Without another version that has traffic, this one gets all.
    """
    others = {v: part for v, part in percents.items() if v != version and part}
    if not others:
        return {**dict.fromkeys(percents, 0), version: 100}
    rest, whole = 100 - percent, sum(others.values())
    exact = {v: rest * part / whole for v, part in others.items()}
    dealt = {v: int(part) for v, part in exact.items()}
    left = rest - sum(dealt.values())
    for v in sorted(exact, key=lambda v: (dealt[v] - exact[v], v))[:left]:
        dealt[v] += 1
    return {**dict.fromkeys(percents, 0), **dealt, version: percent}


def slot_of(endpoint_id: str, key: bytes) -> int:
    """The slot of a key: the same on every gateway, and independent of other endpoints'."""
    digest = hashlib.blake2b(key, digest_size=8, key=endpoint_id.encode()[:64]).digest()
    return int.from_bytes(digest) % SLOTS


def parse_endpoint_name(name: str) -> str:
    """The id of `endpoints/{endpoint}`; raises InvalidArgumentError."""
    collection, _, endpoint_id = name.partition("/")
    if collection != "endpoints":
        raise InvalidArgumentError(
            f"an endpoint's name is endpoints/ENDPOINT, but got {name[:160]!r}."
        )
    return check_endpoint_id(endpoint_id)


def check_endpoint_id(endpoint_id: str) -> str:
    """Returns `endpoint_id` if it is one; raises InvalidArgumentError."""
    try:
        return check_model_id(endpoint_id)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message.replace("a model's", "an endpoint's")) from None
