"""A study server's answers from memory, and a study as a user would have it."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from tuner.client.study import Importance
from tuner.errors import NotFoundError, UnavailableError
from tuner.space import Categorical, Child, Float, Group, Int, Parameter, Space, Value
from tuner.study import (
    Attempt,
    Cause,
    DataSource,
    Failure,
    Goal,
    Lease,
    Limits,
    Measurement,
    Metric,
    StatisticsRef,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialCounts,
    TrialState,
    lease_token,
)
from tuner.web.source import Event, Reported, StudySource

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
#: A name that a careless page would run.
HOSTILE = "<script>alert('x')</script>"


class MemorySource(StudySource):
    """Answers as a study server does, from what a test put in. Threads may share it."""

    def __init__(self, studies: Sequence[Study] = (), trials: Sequence[Trial] = ()) -> None:
        self.reachable = True
        self.calls: list[str] = []
        self.log_text = ""
        self.shares = Importance(parameters={}, groups={}, trials=0)
        self._changed = threading.Condition()
        self._closed = False
        self._studies = {study.study_id: study for study in studies}
        self._trials = {(t.study_id, t.number): t for t in trials}
        self._events: list[Event] = []

    # --- what a test does ------------------------------------------------------------------

    def put(self, what: Study | Trial) -> None:
        """Changes a study or a trial, and tells who watches."""
        with self._changed:
            if isinstance(what, Study):
                self._studies[what.study_id] = what
            else:
                self._trials[what.study_id, what.number] = what
            self._tell(_basic(what) if isinstance(what, Trial) else what)

    def report(self, trial: Trial, measurement: Measurement) -> None:
        """Adds a measurement to a trial, and tells who watches."""
        with self._changed:
            measurements = (*trial.measurements, measurement)
            key = trial.study_id, trial.number
            self._trials[key] = replace(trial, measurements=measurements)
            self._tell(Reported(number=trial.number, measurement=measurement))

    def _tell(self, what: Study | Trial | Reported) -> None:
        self._events.append(Event(resume_token=str(len(self._events) + 1), what=what))
        self._changed.notify_all()

    # --- what pages ask --------------------------------------------------------------------

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def another(self) -> StudySource:
        return self

    def list_studies(
        self, page_token: str = "", page_size: int = 100
    ) -> tuple[tuple[Study, ...], str]:
        self._called("list_studies")
        first = int(page_token or 0)
        found = sorted(self._studies.values(), key=lambda s: s.create_time, reverse=True)
        rest = found[first : first + page_size]
        more = str(first + page_size) if first + page_size < len(found) else ""
        return tuple(rest), more

    def get_study(self, study_id: str) -> Study:
        self._called("get_study")
        if study_id not in self._studies:
            raise NotFoundError(f"there is no study {study_id!r}.")
        return self._studies[study_id]

    def list_trials(
        self, study_id: str, *, page_token: str = "", page_size: int = 100, order_by: str = ""
    ) -> tuple[tuple[Trial, ...], str]:
        self._called("list_trials")
        first = int(page_token or 0)
        found = [_basic(t) for t in self._of(study_id)]
        more = str(first + page_size) if first + page_size < len(found) else ""
        return tuple(found[first : first + page_size]), more

    def get_trial(self, study_id: str, number: int) -> Trial:
        self._called("get_trial")
        if (study_id, number) not in self._trials:
            raise NotFoundError(f"{study_id!r} has no trial {number}.")
        return self._trials[study_id, number]

    def importance(self, study_id: str) -> Importance:
        self._called("importance")
        return self.shares

    def watch(self, study_id: str, resume_token: str = "") -> Iterator[Event]:
        self._called("watch")
        with self._changed:
            seen = int(resume_token) if resume_token else len(self._events)
            token = str(seen)
            snapshot = [_basic(trial) for trial in self._of(study_id)] if not resume_token else []
        for trial in snapshot:
            yield Event(resume_token=token, what=trial)
        while not self._closed and not self._studies[study_id].state.is_finished:
            with self._changed:
                if len(self._events) == seen:
                    self._changed.wait(0.2)
                news, seen = self._events[seen:], len(self._events)
            yield from news

    def log(self, study_id: str, number: int) -> Iterator[tuple[int, str]]:
        self._called("log")
        if self.log_text:
            yield 1, self.log_text

    def _of(self, study_id: str) -> list[Trial]:
        return [t for (owner, _), t in sorted(self._trials.items()) if owner == study_id]

    def _called(self, verb: str) -> None:
        self.calls.append(verb)
        if not self.reachable:
            raise UnavailableError("no study server at memory: start one with `tuner up`.")


def _basic(trial: Trial) -> Trial:
    return replace(trial, measurements=(), attempts=())


# --- a study with everything that a page may meet --------------------------------------------

SPACE = Space(
    (
        Parameter(name="layers", domain=Int(1, 4)),
        Parameter(name="units", domain=Int(16, 256, log=True)),
        Parameter(
            name="activation", domain=Categorical(("relu", "gelu", f"{HOSTILE} & <b>bold</b>"))
        ),
        Parameter(name="dropout", domain=Float(0.0, 0.5)),
        Parameter(name="age.buckets", domain=Int(2, 64, log=True), group=Group.PREPROCESSING),
        Parameter(
            name="native_country.encoding",
            domain=Categorical(("vocabulary", "hash")),
            group=Group.PREPROCESSING,
            children=(
                Child(
                    ("vocabulary",),
                    Parameter(
                        name="native_country.vocabulary",
                        domain=Int(8, 64),
                        group=Group.PREPROCESSING,
                    ),
                ),
                Child(
                    ("hash",),
                    Parameter(
                        name="native_country.hash_buckets",
                        domain=Int(16, 256),
                        group=Group.PREPROCESSING,
                    ),
                ),
            ),
        ),
        Parameter(
            name="age x hours_per_week.buckets",
            domain=Int(64, 1024, log=True),
            group=Group.PREPROCESSING,
        ),
        Parameter(name="learning_rate", domain=Float(1e-4, 1e-1, log=True), group=Group.TRAINING),
        Parameter(name="optimizer", domain=Categorical(("adam", "adagrad")), group=Group.TRAINING),
        Parameter(name="batch_size", domain=Int(64, 512, log=True), group=Group.TRAINING),
    )
)

SHARES = Importance(
    parameters={
        "learning_rate": 0.34,
        "age.buckets": 0.17,
        "units": 0.13,
        "native_country.encoding": 0.11,
        "age x hours_per_week.buckets": 0.08,
        "layers": 0.07,
        "batch_size": 0.05,
        "dropout": 0.03,
        "activation": 0.015,
        "optimizer": 0.005,
    },
    groups={"model": 0.245, "preprocessing": 0.36, "training": 0.395},
    trials=31,
)


def a_study(
    study_id: str = "adult-income",
    state: StudyState = StudyState.ACTIVE,
    trials: Sequence[Trial] = (),
    **changes: object,
) -> Study:
    """A managed study, with the counts and the best of `trials`."""
    counts = {s.value.lower(): sum(t.state is s for t in trials) for s in TrialState}
    results = [
        (t.final_measurement.metrics["val_auc"], -t.number)
        for t in trials
        if t.state is TrialState.SUCCEEDED and t.final_measurement
    ]
    study = Study(
        study_id=study_id,
        spec=StudySpec(
            metrics=(Metric(name="val_auc", goal=Goal.MAXIMIZE),),
            space=SPACE,
            settings={"epochs": 10, "education.embedding": 4},
            limits=Limits(trials=60, parallel=2, no_improvement_trials=20),
            trainer="tabular",
            data=DataSource(train_uri="data/adult/train.csv", label="income"),
            export_model="adult-income",
        ),
        state=state,
        space_version=1,
        algorithm_in_use="tpe: the space is conditional",
        statistics=StatisticsRef(fingerprint="f", uri="statistics/f.json", rows=32561),
        trial_counts=TrialCounts(**counts),
        best_trial=-max(results)[1] if results else None,
        create_time=START,
        update_time=START,
        etag="1",
    )
    return replace(study, **changes)  # type: ignore[arg-type]


def some_trials(count: int, study_id: str = "adult-income", seed: int = 1) -> list[Trial]:
    """Trials in every state; the last two run."""
    return [
        _trial(study_id, number, count, random.Random(seed * 1000 + number))
        for number in range(count)
    ]


def _trial(study_id: str, number: int, count: int, random_: random.Random) -> Trial:
    parameters = _parameters(random_)
    state = _state(number, count)
    start = START + timedelta(seconds=40 * number)
    curve = _curve(parameters, 10 if state is TrialState.SUCCEEDED else 4, random_)
    failed = state in (TrialState.FAILED, TrialState.INFEASIBLE)
    best = max(curve, key=lambda m: m.metrics["val_auc"])
    end = None if not state.is_finished else start + timedelta(seconds=random_.uniform(20, 75))
    return Trial(
        study_id=study_id,
        number=number,
        state=state,
        parameters=parameters,
        attempt=2 if number % 17 == 5 else 1,
        lease=None
        if state.is_finished
        else Lease(
            worker_id="runner-1/slot-0",
            expire_time=start + timedelta(seconds=30),
            token=lease_token(1, number, 1),
        ),
        final_measurement=best if state.is_finished and not failed else None,
        measurements=() if failed else tuple(curve),
        attempts=_attempts(number, start, end, failed),
        state_reason="every activation must be known, but got <b>none</b>." if failed else "",
        artifact_uri=f"artifacts/{study_id}/trials/{number}",
        create_time=start,
        start_time=start,
        end_time=end,
    )


def _state(number: int, count: int) -> TrialState:
    if number >= count - 2:
        return TrialState.RUNNING
    if number % 13 == 6:
        return TrialState.FAILED
    if number % 29 == 11:
        return TrialState.INFEASIBLE
    return TrialState.PRUNED if number > 4 and number % 3 == 0 else TrialState.SUCCEEDED


def _parameters(random_: random.Random) -> dict[str, Value]:
    values: dict[str, Value] = {}
    pending = list(SPACE.parameters)
    while pending:
        parameter = pending.pop(0)
        domain = parameter.domain
        if isinstance(domain, Int):
            values[parameter.name] = random_.randint(domain.low, domain.high)
        elif isinstance(domain, Float):
            low, high = domain.low, domain.high
            values[parameter.name] = (
                low * (high / low) ** random_.random()
                if domain.log
                else random_.uniform(low, high)
            )
        elif isinstance(domain, Categorical):
            values[parameter.name] = random_.choice(domain.choices)
        pending = [*parameter.active_children(values[parameter.name]), *pending]
    return values


def _curve(values: dict[str, Value], steps: int, random_: random.Random) -> list[Measurement]:
    """Rises to what the parameters are worth, with a little noise."""
    off = math.log10(float(values["learning_rate"]) / 4e-3)
    top = 0.915 - 0.03 * off * off - 0.0002 * abs(int(values["age.buckets"]) - 24)
    top += random_.gauss(0, 0.003)
    return [
        Measurement(
            step=step,
            metrics={
                "val_auc": top - 0.09 * math.exp(-0.55 * (step + 1)) + random_.gauss(0, 0.0008),
                "auc": top + 0.01 - 0.1 * math.exp(-0.6 * (step + 1)),
                "loss": 0.3 + (0.915 - top) + 0.3 * math.exp(-0.5 * (step + 1)),
                "val_loss": 0.32 + (0.915 - top) + 0.28 * math.exp(-0.5 * (step + 1)),
            },
            elapsed=timedelta(seconds=4 * step + 4),
        )
        for step in range(steps)
    ]


def _attempts(
    number: int, start: datetime, end: datetime | None, failed: bool
) -> tuple[Attempt, ...]:
    attempts = []
    if number % 17 == 5:
        attempts.append(
            Attempt(
                number=1,
                worker_id="runner-1/slot-1",
                host="node-a",
                start_time=start - timedelta(seconds=20),
                end_time=start,
                failure=Failure(cause=Cause.LOST, message="the worker fell silent for 30 s."),
            )
        )
    failure = Failure(
        cause=Cause.USER_ERROR,
        message="every activation must be known, but got <b>none</b>.",
        stack=f'Traceback (most recent call last):\n  File "train.py", line 7\n    {HOSTILE}\n'
        "ValueError: every activation must be known, but got <b>none</b>.\n",
        log_tail="epoch 1: loss 0.52\nepoch 2: loss 0.47\n",
    )
    attempts.append(
        Attempt(
            number=len(attempts) + 1,
            worker_id="runner-1/slot-0",
            host="node-a",
            start_time=start,
            end_time=end,
            failure=failure if failed else None,
        )
    )
    return tuple(attempts)
