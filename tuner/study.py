"""Studies and trials as plain values: what is asked for, the states, and what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from tuner.early_stopping import Stopping
from tuner.errors import InvalidArgumentError
from tuner.space import Space, Value

STUDY_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")


class StudyState(StrEnum):
    """The states of a study."""

    #: A runner is reading the data to complete the features and the space.
    PREPARING = "PREPARING"
    #: Trials are proposed.
    ACTIVE = "ACTIVE"
    #: No new trial is proposed; running trials go on.
    PAUSED = "PAUSED"
    #: A limit was reached and every trial has ended.
    COMPLETED = "COMPLETED"
    #: Ended by a user, or because its data or trainer cannot be used.
    STOPPED = "STOPPED"

    @property
    def is_finished(self) -> bool:
        """Whether nothing more will be proposed unless a user resumes it."""
        return self in (StudyState.COMPLETED, StudyState.STOPPED)


class TrialState(StrEnum):
    """The states of a trial."""

    #: Proposed, or due again, and held by nobody.
    QUEUED = "QUEUED"
    #: Held by a worker through a lease.
    RUNNING = "RUNNING"
    #: Ended with a result.
    SUCCEEDED = "SUCCEEDED"
    #: Stopped early; its last measurement is partial.
    PRUNED = "PRUNED"
    #: Ended without a result.
    FAILED = "FAILED"
    #: Cannot be trained with its parameters.
    INFEASIBLE = "INFEASIBLE"

    @property
    def is_finished(self) -> bool:
        """Whether the trial has ended."""
        return self not in (TrialState.QUEUED, TrialState.RUNNING)


#: The legal moves of a study; storage checks the same table in SQL.
STUDY_MOVES: Mapping[StudyState, frozenset[StudyState]] = {
    StudyState.PREPARING: frozenset({StudyState.ACTIVE, StudyState.STOPPED}),
    StudyState.ACTIVE: frozenset({StudyState.PAUSED, StudyState.COMPLETED, StudyState.STOPPED}),
    StudyState.PAUSED: frozenset({StudyState.ACTIVE, StudyState.COMPLETED, StudyState.STOPPED}),
    StudyState.COMPLETED: frozenset({StudyState.ACTIVE}),
    StudyState.STOPPED: frozenset({StudyState.ACTIVE}),
}

#: The legal moves of a trial; storage checks the same table in SQL.
TRIAL_MOVES: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.QUEUED: frozenset({TrialState.RUNNING, TrialState.FAILED}),
    TrialState.RUNNING: frozenset(
        {
            TrialState.QUEUED,
            TrialState.SUCCEEDED,
            TrialState.PRUNED,
            TrialState.FAILED,
            TrialState.INFEASIBLE,
        }
    ),
    TrialState.SUCCEEDED: frozenset(),
    TrialState.PRUNED: frozenset(),
    TrialState.FAILED: frozenset({TrialState.QUEUED}),
    TrialState.INFEASIBLE: frozenset(),
}


class Goal(StrEnum):
    """Which direction of a metric is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    def better(self, a: float, b: float) -> bool:
        """Whether `a` is strictly better than `b`; NaN is worse than everything."""
        if a != a:
            return False
        if b != b:
            return True
        return a > b if self is Goal.MAXIMIZE else a < b


class Cause(StrEnum):
    """Why an attempt ended without a result."""

    LOST = "LOST"
    PREEMPTED = "PREEMPTED"
    USER_ERROR = "USER_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    INFEASIBLE = "INFEASIBLE"
    TIMED_OUT = "TIMED_OUT"
    #: A process of the worker died by itself, while its machine went on.
    CRASHED = "CRASHED"


class Strategy(StrEnum):
    """How the workers of a trial train together."""

    #: There is one.
    SINGLE = "single"
    #: In step, on the devices of one process.
    MIRRORED = "mirrored"
    #: In step, each in a process of its own.
    MULTI_WORKER = "multi_worker"
    #: Each by itself, on variables that parameter servers hold.
    PARAMETER_SERVER = "parameter_server"


class Selection(StrEnum):
    """Which of a trial's measurements is its result."""

    #: The best by the first metric, of those within the constraints if any is.
    BEST = "BEST"
    #: The one of the highest step.
    LAST = "LAST"


class Origin(StrEnum):
    """Where a trial comes from."""

    #: The search proposed it.
    PROPOSED = "PROPOSED"
    #: A user asked for it.
    GIVEN = "GIVEN"
    #: A result that a user brought along; it was never run here.
    PAST = "PAST"


class Decision(StrEnum):
    """What the worker of a trial should do."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that trials report."""

    name: str
    goal: Goal = Goal.MAXIMIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A bound on a metric: exactly one of the two is set, and belongs to what is allowed."""

    metric: str
    at_most: float | None = None
    at_least: float | None = None

    def __post_init__(self) -> None:
        bound = self.at_most if self.at_least is None else self.at_least
        if (self.at_most is None) == (self.at_least is None) or not math.isfinite(bound or 0.0):
            raise InvalidArgumentError(
                f"a constraint of {self.metric!r} has one finite bound, `at_most` or `at_least`, "
                f"but got at_most={self.at_most}, at_least={self.at_least}."
            )

    def violation(self, value: float | None) -> float:
        """How far `value` is beyond the bound; 0 or less within it, infinite if not measured."""
        if value is None or math.isnan(value):
            return math.inf
        if self.at_most is not None:
            return value - self.at_most
        return (self.at_least or 0.0) - value

    def describe(self) -> str:
        """`≤ 50` or `≥ 0.8`."""
        return f"≥ {self.at_least:g}" if self.at_most is None else f"≤ {self.at_most:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How trials are chosen and cut short."""

    algorithm: str = "auto"
    early_stopping: str = "asha"
    stopping: Stopping = field(default_factory=Stopping)
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a study ends; None means no such limit."""

    trials: int = 100
    parallel: int | None = None
    duration: timedelta | None = None
    no_improvement_trials: int | None = None
    failed_trials: int | None = None
    worker_time: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """What is trained on. A validation URI takes the place of the fraction."""

    train_uri: str
    label: str
    validation_fraction: float | None = 0.2
    validation_uri: str | None = None
    test_uri: str | None = None
    task: str | None = None
    column_types: Mapping[str, str] = field(default_factory=dict)
    missing_values: tuple[str, ...] = ()
    #: Columns that become no feature unless a feature names them; * and ? match.
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.validation_uri is not None:
            object.__setattr__(self, "validation_fraction", None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """Something the model sees, made of one or more columns.

    Tuned settings are parameters named `{feature}.{setting}`; `settings` holds the fixed ones.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    settings: Mapping[str, Value] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What each trial gets to run on.

    A strategy is one of Strategy, or empty: by the number of workers.
    """

    strategy: str = ""
    workers: int = 1
    parameter_servers: int = 0
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0

    @property
    def servers(self) -> int:
        """Parameter servers: one at least under the strategy of that name."""
        least = 1 if self.strategy == Strategy.PARAMETER_SERVER else 0
        return max(least, self.parameter_servers)

    @property
    def occupied(self) -> int:
        """How many workers' time a trial takes; what serves them counts as they do."""
        if self.strategy == Strategy.SINGLE:
            return 1
        coordinators = 1 if self.strategy == Strategy.PARAMETER_SERVER else 0
        return max(1, self.workers) + self.servers + coordinators

    def problems(self, *, program: bool) -> Mapping[str, str]:
        """What does not go together, by the field to change.

        Args:
            program: whether what trains is a program, whose processes find each other.
        """
        found: dict[str, str] = {}
        served = self.strategy == Strategy.PARAMETER_SERVER
        gpus = self.gpus_per_worker
        if served and program:
            found["strategy"] = (
                "a program needs no strategy; leave it out, and say how many parameter_servers"
            )
        if self.parameter_servers and not served and not program:
            found["parameter_servers"] = (
                "parameter servers need `strategy: parameter_server`; add it, or write 0"
            )
        if gpus > 1 and gpus != int(gpus):
            found["gpus_per_worker"] = (
                f"GPUs are a part of one or a whole number, but got {gpus:g}"
            )
        elif self.strategy == Strategy.MIRRORED and gpus != int(gpus):
            found["gpus_per_worker"] = f"mirrored workers have whole GPUs, but got {gpus:g}"
        elif served and gpus > 1:
            found["gpus_per_worker"] = (
                f"workers of parameter servers have 1 GPU at most, but got {gpus:g}; take more "
                "workers"
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What attempts took: the time from lease to end, times what each of them held."""

    worker_time: timedelta = timedelta(0)
    cpu_time: timedelta = timedelta(0)
    gpu_time: timedelta = timedelta(0)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            worker_time=self.worker_time + other.worker_time,
            cpu_time=self.cpu_time + other.cpu_time,
            gpu_time=self.gpu_time + other.gpu_time,
        )

    @staticmethod
    def sum(costs: Iterable[Cost]) -> Cost:
        """Many costs added up, without the sums in between."""
        listed, nothing = list(costs), timedelta(0)
        return Cost(
            worker_time=sum((cost.worker_time for cost in listed), nothing),
            cpu_time=sum((cost.cpu_time for cost in listed), nothing),
            gpu_time=sum((cost.gpu_time for cost in listed), nothing),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTrainer:
    """What a trainer of the user's own consists of, beside its name."""

    #: A program and its arguments; empty for a trainer that is a Python object.
    command: tuple[str, ...] = ()
    #: Variables that the program is started with.
    environment: Mapping[str, str] = field(default_factory=dict)
    #: Where its code lies: a folder on the submitter's machine, and once it was submitted the
    #: SHA-256 of the archive that it was packed into. Empty: installed where trials run.
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatisticsRef:
    """Which statistics a study uses, and where they lie."""

    fingerprint: str
    uri: str
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySpec:
    """What a user asks for; a runner completes features, space and settings of a managed study."""

    metrics: tuple[Metric, ...]
    space: Space = field(default_factory=Space)
    settings: Mapping[str, Value] = field(default_factory=dict)
    search: Search = Search()
    limits: Limits = Limits()
    #: One of the box, `program`, or `package.module:Name`; None: the user's own script works.
    trainer: str | None = None
    own: OwnTrainer = OwnTrainer()
    data: DataSource | None = None
    features: tuple[Feature, ...] = ()
    resources: Resources = Resources()
    export_model: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    constraints: tuple[Constraint, ...] = ()
    #: The ids of earlier studies whose results the search starts from.
    warm_start: tuple[str, ...] = ()
    #: None: BEST with one metric, LAST with several.
    measurement_selection: Selection | None = None

    @property
    def metric(self) -> Metric:
        """The first metric: the one `best` refers to."""
        return self.metrics[0]

    @property
    def selection(self) -> Selection:
        """Which of a trial's measurements is its result."""
        usual = Selection.BEST if len(self.metrics) == 1 else Selection.LAST
        return self.measurement_selection or usual

    @property
    def early_stopping_in_use(self) -> str:
        """The rule that stops trials: none with several metrics, which a trial is not cut by."""
        return self.search.early_stopping if len(self.metrics) == 1 else "none"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics that every result must have: those optimized, then those constrained."""
        names = [m.name for m in self.metrics] + [c.metric for c in self.constraints]
        return tuple(dict.fromkeys(names))

    def within_constraints(self, measurement: Measurement) -> bool:
        """Whether a measurement keeps to all constraints."""
        metrics = measurement.metrics
        return all(c.violation(metrics.get(c.metric)) <= 0 for c in self.constraints)

    def beyond(self, measurement: Measurement | None) -> frozenset[str]:
        """The metrics of a measurement that are beyond a bound."""
        metrics = {} if measurement is None else measurement.metrics
        return frozenset(
            c.metric
            for c in self.constraints
            if c.metric in metrics and c.violation(metrics[c.metric]) > 0
        )

    def rank(self, measurement: Measurement) -> tuple[bool, float]:
        """What the best measurement of a trial is the largest by.

        First come those within the constraints, then the better ones by the first metric.
        """
        value = replace(self, constraints=()).score(measurement)
        return (
            value is not None and self.within_constraints(measurement),
            -math.inf if value is None else value,
        )

    def score(self, measurement: Measurement | None) -> float | None:
        """The first metric with its sign turned so that larger is better; None never is best."""
        value = None if measurement is None else measurement.metrics.get(self.metric.name)
        if value is None or measurement is None or not math.isfinite(value):
            return None
        if not self.within_constraints(measurement):
            return None
        return value if self.metric.goal is Goal.MAXIMIZE else -value

    @property
    def is_managed(self) -> bool:
        """Whether a runner trains the trials."""
        return self.trainer is not None

    def cost(self, time: timedelta) -> Cost:
        """What an attempt costs that takes so long; which CPUs a script uses is not known."""
        held = self.resources
        worker_time = time * held.occupied
        if not self.is_managed:
            return Cost(worker_time=worker_time)
        # Under that strategy what serves the workers has no GPUs.
        on_gpus = (
            max(1, held.workers) if held.strategy == Strategy.PARAMETER_SERVER else held.occupied
        )
        return Cost(
            worker_time=worker_time,
            cpu_time=worker_time * held.cpus_per_worker,
            gpu_time=time * on_gpus * held.gpus_per_worker,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialCounts:
    """How many trials are in which state."""

    queued: int = 0
    running: int = 0
    succeeded: int = 0
    pruned: int = 0
    failed: int = 0
    infeasible: int = 0
    #: Those of the above that are past results, which were added and not run.
    past: int = 0

    @property
    def finished(self) -> int:
        """Trials that have ended."""
        return self.succeeded + self.pruned + self.failed + self.infeasible

    @property
    def ran(self) -> int:
        """Trials that have run here and ended: what counts towards the limit."""
        return self.finished - self.past

    @property
    def total(self) -> int:
        """All trials."""
        return self.queued + self.running + self.finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study as the server knows it."""

    study_id: str
    spec: StudySpec
    state: StudyState
    state_reason: str = ""
    #: Counts the changes of the space from 1; 0 before it is complete.
    space_version: int = 0
    algorithm_in_use: str = ""
    statistics: StatisticsRef | None = None
    trial_counts: TrialCounts = TrialCounts()
    best_trial: int | None = None
    exported_model_uri: str = ""
    #: Who created it, where callers have tokens.
    creator: str = ""
    #: Of all attempts that have ended.
    cost: Cost = Cost()
    create_time: datetime
    update_time: datetime
    end_time: datetime | None = None
    etag: str = ""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"studies/{self.study_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Metrics at a step; `elapsed` is the attempt's running time."""

    step: int
    metrics: Mapping[str, float]
    elapsed: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt ended without a result."""

    cause: Cause
    message: str = ""
    stack: str = ""
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at running a trial."""

    number: int
    worker_id: str
    host: str = ""
    start_time: datetime
    end_time: datetime | None = None
    failure: Failure | None = None
    cost: Cost = Cost()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to run a trial until it expires; its holder proves it by the token."""

    worker_id: str
    expire_time: datetime
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where an attempt can be taken up again, and the last step it holds."""

    uri: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One point of a study's space and what became of it."""

    study_id: str
    number: int
    state: TrialState
    parameters: Mapping[str, Value]
    space_version: int = 1
    attempt: int = 0
    lease: Lease | None = None
    final_measurement: Measurement | None = None
    measurements: tuple[Measurement, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    stop_requested: bool = False
    artifact_uri: str = ""
    state_reason: str = ""
    origin: Origin = Origin.PROPOSED
    #: What proposed it in place of the study's search, and why; empty where nothing did.
    search_note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    #: The last one that an attempt reported.
    checkpoint: Checkpoint | None = None
    #: Whether the result keeps to the study's constraints; None without a result.
    within_constraints: bool | None = None
    #: Of the attempts that have ended.
    cost: Cost = Cost()
    create_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None

    @property
    def name(self) -> str:
        """The resource name."""
        return f"studies/{self.study_id}/trials/{self.number}"


def parse_study_name(name: str) -> str:
    """Returns the id in `studies/{id}`; raises InvalidArgumentError."""
    head, _, study_id = name.partition("/")
    if head != "studies" or not STUDY_ID.fullmatch(study_id):
        raise InvalidArgumentError(f"a study's name is studies/ID, but got {name!r}.")
    return study_id


def parse_trial_name(name: str) -> tuple[str, int]:
    """Returns id and number in `studies/{id}/trials/{number}`; raises InvalidArgumentError."""
    match = re.fullmatch(r"studies/([^/]+)/trials/(0|[1-9][0-9]{0,8})", name)
    if match is None or not STUDY_ID.fullmatch(match[1]):
        raise InvalidArgumentError(
            f"a trial's name is studies/ID/trials/NUMBER, but got {name!r}."
        )
    return match[1], int(match[2])


def lease_token(study_key: int, number: int, attempt: int) -> str:
    """The token of a lease; `study_key` names a study for ever, even after another took its id."""
    return f"{study_key}.{number}.{attempt}"


def parse_lease_token(token: str) -> tuple[int, int, int]:
    """Returns what `lease_token` was made of; raises InvalidArgumentError."""
    match = re.fullmatch(r"([0-9]{1,18})\.([0-9]{1,9})\.([0-9]{1,9})", token, re.ASCII)
    if match is None:
        raise InvalidArgumentError(
            "`lease_token` is the one that came with the trial's lease, but got "
            f"{token[:64]!r}; send that."
        )
    return int(match[1]), int(match[2]), int(match[3])


def check_study_id(study_id: str) -> str:
    """Returns `study_id` if it is one; raises InvalidArgumentError with a name that would do."""
    if STUDY_ID.fullmatch(study_id):
        return study_id
    slug = re.sub(r"[^a-z0-9]+", "-", study_id.lower()).strip("-")[:63] or "study"
    slug = slug if slug[0].isalpha() else f"s-{slug}"[:63]
    raise InvalidArgumentError(
        f"a study's name is 1 to 63 of a-z, 0-9 and -, starting with a letter, but got "
        f"{study_id!r}; {slug!r} would do."
    )
