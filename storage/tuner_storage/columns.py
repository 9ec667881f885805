"""A study's whole history as it is loaded: columns of the database, and the trials they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from operator import attrgetter

from tuner.space import Value
from tuner.study import (
    Checkpoint,
    Cost,
    Lease,
    Measurement,
    Origin,
    Trial,
    TrialState,
    lease_token,
)

_STATES = {state.value: state for state in TrialState}
_ORIGINS = {origin.value: origin for origin in Origin}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialColumns:
    """The row of `load_trials`: each field a list with an item for each trial."""

    number: list[int]
    state: list[str]
    parameters: list[Mapping[str, Value]]
    space_version: list[int]
    attempt: list[int]
    worker_id: list[str | None]
    expire_time: list[datetime | None]
    final_step: list[int | None]
    final_elapsed: list[timedelta | None]
    stop_requested: list[bool]
    artifact_uri: list[str]
    state_reason: list[str]
    create_time: list[datetime]
    start_time: list[datetime | None]
    end_time: list[datetime | None]
    origin: list[str]
    labels: list[Mapping[str, str] | None]
    checkpoint_uri: list[str | None]
    checkpoint_step: list[int | None]
    within_constraints: list[bool | None]
    #: None where there is none.
    search_note: list[str | None]
    worker_time: list[timedelta]
    cpu_time: list[timedelta]
    gpu_time: list[timedelta]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricColumns:
    """The row of `load_results`: each field a list with an item for each metric of each result."""

    number: list[int]
    name: list[str]
    value: list[float]

    def by_trial(self) -> Mapping[int, Mapping[str, float]]:
        """The metrics of each trial that has a result."""
        found: dict[int, dict[str, float]] = defaultdict(dict)
        for number, name, value in zip(self.number, self.name, self.value, strict=True):
            found[number][name] = value
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementColumns:
    """The row of `load_measurements`: the same of what was reported, in the order of the steps."""

    number: list[int]
    step: list[int]
    elapsed: list[timedelta]
    #: None where a measurement has no metric.
    name: list[str | None]
    value: list[float]

    def by_trial(self) -> Mapping[int, Sequence[Measurement]]:
        """The measurements of each trial that has any."""
        found: dict[int, list[Measurement]] = defaultdict(list)
        columns = (self.number, self.step, self.elapsed, self.name, self.value)
        trial, last = -1, -1
        metrics: dict[str, float] = {}
        for number, step, elapsed, name, value in zip(*columns, strict=True):
            if number != trial or step != last:
                trial, last, metrics = number, step, {}
                found[number].append(Measurement(step=step, metrics=metrics, elapsed=elapsed))
            if name is not None:
                metrics[name] = value
        return found


#: The columns in the order in which `trials` names them.
_all_of = attrgetter(*(field.name for field in fields(TrialColumns)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Some of a study's trials, with their results and what they reported."""

    columns: TrialColumns
    results: MetricColumns
    measured: MeasurementColumns

    def trials(self, study_id: str, key: int) -> Iterator[Trial]:
        """The trials, without attempts; `key` is their study's."""
        results, measured = self.results.by_trial(), self.measured.by_trial()
        for (
            number, state, parameters, space_version, attempt, worker_id, expire_time, final_step,
            final_elapsed, stop_requested, artifact_uri, state_reason, create_time, start_time,
            end_time, origin, labels, checkpoint_uri, checkpoint_step, within_constraints,
            search_note,
            worker_time, cpu_time, gpu_time,
        ) in zip(*_all_of(self.columns), strict=True):  # fmt: skip
            lease = checkpoint = final = None
            if worker_id is not None:
                token = lease_token(key, number, attempt)
                lease = Lease(worker_id=worker_id, expire_time=expire_time, token=token)
            if checkpoint_uri is not None:
                checkpoint = Checkpoint(uri=checkpoint_uri, step=checkpoint_step)
            if final_step is not None:
                final = Measurement(
                    step=final_step,
                    metrics=results.get(number, {}),
                    elapsed=final_elapsed or timedelta(0),
                )
            yield Trial(
                study_id=study_id,
                number=number,
                state=_STATES[state],
                parameters=parameters,
                space_version=space_version,
                attempt=attempt,
                lease=lease,
                final_measurement=final,
                measurements=tuple(measured.get(number, ())),
                stop_requested=stop_requested,
                artifact_uri=artifact_uri,
                state_reason=state_reason,
                origin=_ORIGINS[origin],
                labels=labels or {},
                checkpoint=checkpoint,
                within_constraints=within_constraints,
                search_note=search_note or "",
                cost=Cost(worker_time=worker_time, cpu_time=cpu_time, gpu_time=gpu_time),
                create_time=create_time,
                start_time=start_time,
                end_time=end_time,
            )
