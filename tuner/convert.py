"""Conversions between messages, JSON and the plain values; protos never pass below this file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any, Protocol, TypeVar

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from tuner.early_stopping import Progress, Stopping
from tuner.errors import InvalidArgumentError
from tuner.space import (
    Categorical,
    Child,
    Discrete,
    Domain,
    Float,
    Group,
    Int,
    Parameter,
    Space,
    Value,
)
from tuner.study import (
    Attempt,
    Cause,
    Checkpoint,
    Constraint,
    Cost,
    DataSource,
    Failure,
    Feature,
    Goal,
    Lease,
    Limits,
    Measurement,
    Metric,
    Origin,
    OwnTrainer,
    Resources,
    Search,
    Selection,
    StatisticsRef,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialCounts,
    TrialState,
    parse_study_name,
    parse_trial_name,
)
from tuner.v1 import space_pb2, study_pb2, trial_pb2

E = TypeVar("E", bound=StrEnum)


class _ProtoEnum(Protocol):
    """What generated enums offer."""

    def Name(self, number: Any, /) -> str: ...

    def Value(self, name: str, /) -> Any: ...


_LONGEST_SECONDS = 1_000 * 365 * 86_400
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: Deeper trees than this are refused, so that a hostile message cannot exhaust the stack.
MAX_DEPTH = 16


# --- times ---------------------------------------------------------------------------------


def time_to_proto(time: datetime | None) -> Timestamp | None:
    """None stays None."""
    if time is None:
        return None
    # By hand: a third of the time that Timestamp's own methods take, on every call's path.
    since = time - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1_000)


def time_from_proto(message: Timestamp) -> datetime:
    """An aware UTC time."""
    return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)


def duration_to_proto(duration: timedelta | None) -> Duration | None:
    """None stays None."""
    if duration is None:
        return None
    message = Duration()
    message.FromTimedelta(duration)
    return message


def duration_from_proto(message: Duration) -> timedelta:
    """Raises InvalidArgumentError for more than a thousand years."""
    if abs(message.seconds) > _LONGEST_SECONDS:
        raise InvalidArgumentError(
            f"a time may last {_LONGEST_SECONDS} seconds at most, but got {message.seconds}."
        )
    return timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)


# --- values and space ----------------------------------------------------------------------


def value_to_proto(value: Value) -> space_pb2.ParameterValue:
    """A bool is a bool, never an int."""
    if isinstance(value, bool):
        return space_pb2.ParameterValue(bool_value=value)
    if isinstance(value, int):
        return space_pb2.ParameterValue(int_value=value)
    if isinstance(value, float):
        return space_pb2.ParameterValue(double_value=value)
    return space_pb2.ParameterValue(string_value=value)


def value_from_proto(message: space_pb2.ParameterValue) -> Value:
    """Raises InvalidArgumentError if nothing is set."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgumentError("a parameter value must have one of its kinds set.")
    value: Value = getattr(message, kind)
    return value


def values_to_proto(values: Mapping[str, Value]) -> dict[str, space_pb2.ParameterValue]:
    """Each value by its name."""
    return {name: value_to_proto(value) for name, value in values.items()}


def values_from_proto(
    messages: Mapping[str, space_pb2.ParameterValue],
) -> dict[str, Value]:
    """Each value by its name, names sorted: maps on the wire have no order."""
    return {name: value_from_proto(messages[name]) for name in sorted(messages)}


def space_to_proto(space: Space) -> space_pb2.Space:
    """The whole tree."""
    return space_pb2.Space(parameters=[parameter_to_proto(p) for p in space.parameters])


def space_from_proto(message: space_pb2.Space) -> Space:
    """The whole tree; raises InvalidArgumentError if it cannot be."""
    return Space(tuple(parameter_from_proto(p) for p in message.parameters))


def parameter_to_proto(parameter: Parameter) -> space_pb2.Parameter:
    """A parameter with its children."""
    message = space_pb2.Parameter(
        name=parameter.name,
        group=_enum_to_proto(space_pb2.Parameter.Group, parameter.group),
        children=[
            space_pb2.Parameter.Child(
                parent_values=[value_to_proto(v) for v in child.parent_values],
                parameter=parameter_to_proto(child.parameter),
            )
            for child in parameter.children
        ],
    )
    if parameter.default is not None:
        message.default_value.CopyFrom(value_to_proto(parameter.default))
    _set_domain(message, parameter.domain)
    return message


def _set_domain(message: space_pb2.Parameter, domain: Domain) -> None:
    if isinstance(domain, (Float, Int)):
        message.scale = space_pb2.Parameter.LOG if domain.log else space_pb2.Parameter.LINEAR
    if isinstance(domain, Float):
        message.float_domain.low, message.float_domain.high = domain.low, domain.high
        message.float_domain.step = domain.step or 0.0
    elif isinstance(domain, Int):
        message.int_domain.low, message.int_domain.high = domain.low, domain.high
        message.int_domain.step = domain.step
    elif isinstance(domain, Discrete):
        message.discrete_domain.values.extend(domain.values)
    else:
        choices = [value_to_proto(choice) for choice in domain.choices]
        message.categorical_domain.choices.extend(choices)


def parameter_from_proto(message: space_pb2.Parameter, depth: int = 1) -> Parameter:
    """A parameter with its children; raises InvalidArgumentError if it cannot be."""
    if depth > MAX_DEPTH:
        raise InvalidArgumentError(f"a space may be {MAX_DEPTH} parameters deep at most.")
    try:
        domain = _domain_from_proto(message)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"parameter {message.name!r}: {error.message}") from error
    return Parameter(
        name=message.name,
        domain=domain,
        group=_enum_from_proto(space_pb2.Parameter.Group, Group, message.group) or Group.MODEL,
        children=tuple(
            Child(
                tuple(value_from_proto(v) for v in child.parent_values),
                parameter_from_proto(child.parameter, depth + 1),
            )
            for child in message.children
        ),
        default=value_from_proto(message.default_value)
        if message.HasField("default_value")
        else None,
    )


def _domain_from_proto(message: space_pb2.Parameter) -> Domain:
    log = message.scale == space_pb2.Parameter.LOG
    match message.WhichOneof("domain"):
        case "float_domain":
            real = message.float_domain
            return Float(real.low, real.high, log=log, step=real.step or None)
        case "int_domain":
            whole = message.int_domain
            return Int(whole.low, whole.high, log=log, step=whole.step or 1)
        case "discrete_domain":
            return Discrete(tuple(message.discrete_domain.values))
        case "categorical_domain":
            choices = message.categorical_domain.choices
            return Categorical(tuple(value_from_proto(c) for c in choices))
        case _:
            raise InvalidArgumentError(
                "set one of float_domain, int_domain, discrete_domain, categorical_domain."
            )


def _sorted(words: Mapping[str, str]) -> dict[str, str]:
    """A map, which has no order, in the order of its keys."""
    return {key: words[key] for key in sorted(words)}


# --- studies -------------------------------------------------------------------------------


def spec_to_proto(spec: StudySpec) -> study_pb2.Study:
    """A Study message with only what the user asked for."""
    message = study_pb2.Study(
        metrics=[
            study_pb2.Metric(name=m.name, goal=_enum_to_proto(study_pb2.Metric.Goal, m.goal))
            for m in spec.metrics
        ],
        space=space_to_proto(spec.space),
        settings=values_to_proto(spec.settings),
        search=study_pb2.Search(
            algorithm=spec.search.algorithm,
            early_stopping=spec.search.early_stopping,
            seed=spec.search.seed,
            stopping=_stopping_to_proto(spec.search.stopping),
        ),
        limits=limits_to_proto(spec.limits),
        features=[feature_to_proto(feature) for feature in spec.features],
        resources=study_pb2.Resources(
            strategy=spec.resources.strategy,
            workers=spec.resources.workers,
            parameter_servers=spec.resources.parameter_servers,
            cpus_per_worker=spec.resources.cpus_per_worker,
            gpus_per_worker=spec.resources.gpus_per_worker,
        ),
        labels=dict(spec.labels),
        constraints=[_constraint_to_proto(constraint) for constraint in spec.constraints],
        warm_start=[f"studies/{study_id}" for study_id in spec.warm_start],
    )
    if spec.measurement_selection is not None:
        message.measurement_selection = _enum_to_proto(
            study_pb2.Study.MeasurementSelection, spec.measurement_selection
        )
    if spec.trainer is not None:
        message.trainer.CopyFrom(
            study_pb2.Trainer(
                kind=spec.trainer,
                command=spec.own.command,
                environment=dict(spec.own.environment),
                code=spec.own.code,
            )
        )
    if spec.data is not None:
        message.data.CopyFrom(_data_to_proto(spec.data))
    if spec.export_model is not None:
        message.export.model = spec.export_model
    return message


def spec_from_proto(message: study_pb2.Study) -> StudySpec:
    """What the user asked for, defaults filled in; raises InvalidArgumentError if it cannot be."""
    if not message.metrics:
        raise InvalidArgumentError("a study needs at least one metric.")
    return StudySpec(
        metrics=tuple(
            Metric(
                name=m.name,
                goal=_enum_from_proto(study_pb2.Metric.Goal, Goal, m.goal) or Goal.MAXIMIZE,
            )
            for m in message.metrics
        ),
        space=space_from_proto(message.space),
        settings=values_from_proto(message.settings),
        search=Search(
            algorithm=message.search.algorithm or "auto",
            early_stopping=message.search.early_stopping or "asha",
            seed=message.search.seed,
            stopping=_stopping_from_proto(message.search.stopping),
        ),
        limits=limits_from_proto(message.limits),
        trainer=message.trainer.kind if message.HasField("trainer") else None,
        own=OwnTrainer(
            command=tuple(message.trainer.command),
            environment=_sorted(message.trainer.environment),
            code=message.trainer.code,
        ),
        data=_data_from_proto(message.data) if message.HasField("data") else None,
        features=tuple(feature_from_proto(feature) for feature in message.features),
        resources=Resources(
            strategy=message.resources.strategy,
            workers=message.resources.workers or 1,
            parameter_servers=message.resources.parameter_servers,
            cpus_per_worker=message.resources.cpus_per_worker or 1.0,
            gpus_per_worker=message.resources.gpus_per_worker,
        ),
        export_model=message.export.model or None,
        labels=_sorted(message.labels),
        constraints=tuple(_constraint_from_proto(c) for c in message.constraints),
        warm_start=tuple(parse_study_name(name) for name in message.warm_start),
        measurement_selection=_enum_from_proto(
            study_pb2.Study.MeasurementSelection, Selection, message.measurement_selection
        ),
    )


def _stopping_to_proto(stopping: Stopping) -> study_pb2.Stopping | None:
    if stopping == Stopping():
        return None
    by = _enum_to_proto(study_pb2.Stopping.By, stopping.by)
    given: dict[str, Any] = dict(stopping.given())
    return study_pb2.Stopping(by=by, **given)


def _stopping_from_proto(message: study_pb2.Stopping) -> Stopping:
    given: dict[str, Any] = {
        field.name: value for field, value in message.ListFields() if field.name != "by"
    }
    by = _enum_from_proto(study_pb2.Stopping.By, Progress, message.by)
    return Stopping(by=by or Progress.STEPS, **given)


def _constraint_to_proto(constraint: Constraint) -> study_pb2.Constraint:
    if constraint.at_most is not None:
        return study_pb2.Constraint(metric=constraint.metric, at_most=constraint.at_most)
    return study_pb2.Constraint(metric=constraint.metric, at_least=constraint.at_least or 0.0)


def _constraint_from_proto(message: study_pb2.Constraint) -> Constraint:
    bound = message.WhichOneof("bound")
    return Constraint(
        metric=message.metric,
        at_most=message.at_most if bound == "at_most" else None,
        at_least=message.at_least if bound == "at_least" else None,
    )


def spec_to_json(spec: StudySpec) -> dict[str, Any]:
    """The specification as a JSON object; `spec_from_json` is its inverse."""
    return json_format.MessageToDict(spec_to_proto(spec), preserving_proto_field_name=True)


def spec_from_json(document: Mapping[str, Any]) -> StudySpec:
    """The inverse of `spec_to_json`."""
    return spec_from_proto(json_format.ParseDict(dict(document), study_pb2.Study()))


def limits_to_proto(limits: Limits) -> study_pb2.Limits:
    """None is sent as zero."""
    return study_pb2.Limits(
        trials=limits.trials,
        parallel=limits.parallel or 0,
        duration=duration_to_proto(limits.duration),
        no_improvement_trials=limits.no_improvement_trials or 0,
        failed_trials=limits.failed_trials or 0,
        worker_time=duration_to_proto(limits.worker_time),
    )


def limits_from_proto(message: study_pb2.Limits) -> Limits:
    """Zero is read as None, and as 100 trials."""
    return Limits(
        trials=message.trials or 100,
        parallel=message.parallel or None,
        duration=duration_from_proto(message.duration) if message.HasField("duration") else None,
        no_improvement_trials=message.no_improvement_trials or None,
        failed_trials=message.failed_trials or None,
        worker_time=duration_from_proto(message.worker_time)
        if message.HasField("worker_time")
        else None,
    )


def feature_to_proto(feature: Feature) -> study_pb2.Feature:
    """A feature with its fixed settings."""
    return study_pb2.Feature(
        name=feature.name,
        kind=feature.kind,
        columns=feature.columns,
        settings=values_to_proto(feature.settings),
        reason=feature.reason,
    )


def feature_from_proto(message: study_pb2.Feature) -> Feature:
    """A feature with its fixed settings."""
    return Feature(
        name=message.name,
        kind=message.kind,
        columns=tuple(message.columns),
        settings=values_from_proto(message.settings),
        reason=message.reason,
    )


def _data_to_proto(data: DataSource) -> study_pb2.DataSource:
    message = study_pb2.DataSource(
        train_uri=data.train_uri,
        test_uri=data.test_uri or "",
        label=data.label,
        task=data.task or "",
        column_types=dict(data.column_types),
        missing_values=data.missing_values,
        exclude=data.exclude,
    )
    if data.validation_uri is not None:
        message.validation_uri = data.validation_uri
    elif data.validation_fraction is not None:
        message.validation_fraction = data.validation_fraction
    return message


def _data_from_proto(message: study_pb2.DataSource) -> DataSource:
    kind = message.WhichOneof("validation")
    fraction = 0.2 if kind is None else message.validation_fraction
    return DataSource(
        train_uri=message.train_uri,
        label=message.label,
        validation_fraction=None if kind == "validation_uri" else fraction,
        validation_uri=message.validation_uri if kind == "validation_uri" else None,
        test_uri=message.test_uri or None,
        task=message.task or None,
        column_types=_sorted(message.column_types),
        missing_values=tuple(message.missing_values),
        exclude=tuple(message.exclude),
    )


def statistics_to_proto(statistics: StatisticsRef) -> study_pb2.StatisticsRef:
    """Which statistics, and where."""
    return study_pb2.StatisticsRef(
        fingerprint=statistics.fingerprint, uri=statistics.uri, rows=statistics.rows
    )


def statistics_from_proto(message: study_pb2.StatisticsRef) -> StatisticsRef:
    """Which statistics, and where."""
    return StatisticsRef(fingerprint=message.fingerprint, uri=message.uri, rows=message.rows)


def study_to_proto(study: Study) -> study_pb2.Study:
    """The whole study."""
    message = spec_to_proto(study.spec)
    message.name = study.name
    message.state = _enum_to_proto(study_pb2.Study.State, study.state)
    message.state_reason = study.state_reason
    message.space_version = study.space_version
    message.search.algorithm_in_use = study.algorithm_in_use
    counts = study.trial_counts
    message.trial_counts.queued, message.trial_counts.running = (
        counts.queued,
        counts.running,
    )
    message.trial_counts.succeeded, message.trial_counts.pruned = (
        counts.succeeded,
        counts.pruned,
    )
    message.trial_counts.failed = counts.failed
    message.trial_counts.infeasible = counts.infeasible
    message.trial_counts.past = counts.past
    if study.statistics is not None:
        message.statistics.CopyFrom(statistics_to_proto(study.statistics))
    if study.best_trial is not None:
        message.best_trial = f"{study.name}/trials/{study.best_trial}"
    message.exported_model_uri = study.exported_model_uri
    message.creator = study.creator
    if (cost := cost_to_proto(study.cost)) is not None:
        message.cost.CopyFrom(cost)
    message.create_time.FromDatetime(study.create_time)
    message.update_time.FromDatetime(study.update_time)
    if study.end_time is not None:
        message.end_time.FromDatetime(study.end_time)
    message.etag = study.etag
    return message


def study_from_proto(message: study_pb2.Study) -> Study:
    """The whole study, as a server sends it."""
    counts = message.trial_counts
    return Study(
        study_id=parse_study_name(message.name),
        spec=spec_from_proto(message),
        state=StudyState(study_pb2.Study.State.Name(message.state)),
        state_reason=message.state_reason,
        space_version=message.space_version,
        algorithm_in_use=message.search.algorithm_in_use,
        statistics=statistics_from_proto(message.statistics)
        if message.HasField("statistics")
        else None,
        trial_counts=TrialCounts(
            queued=counts.queued,
            running=counts.running,
            succeeded=counts.succeeded,
            pruned=counts.pruned,
            failed=counts.failed,
            infeasible=counts.infeasible,
            past=counts.past,
        ),
        best_trial=parse_trial_name(message.best_trial)[1] if message.best_trial else None,
        exported_model_uri=message.exported_model_uri,
        creator=message.creator,
        cost=cost_from_proto(message.cost),
        create_time=time_from_proto(message.create_time),
        update_time=time_from_proto(message.update_time),
        end_time=time_from_proto(message.end_time) if message.HasField("end_time") else None,
        etag=message.etag,
    )


# --- trials --------------------------------------------------------------------------------


def measurement_to_proto(measurement: Measurement) -> trial_pb2.Measurement:
    """Metrics at a step."""
    return trial_pb2.Measurement(
        step=measurement.step,
        metrics=dict(measurement.metrics),
        elapsed=duration_to_proto(measurement.elapsed),
    )


def measurement_from_proto(message: trial_pb2.Measurement) -> Measurement:
    """Metrics at a step, names sorted: maps on the wire have no order."""
    return Measurement(
        step=message.step,
        metrics={name: message.metrics[name] for name in sorted(message.metrics)},
        elapsed=duration_from_proto(message.elapsed),
    )


def failure_to_proto(failure: Failure) -> trial_pb2.Failure:
    """Why an attempt ended without a result."""
    return trial_pb2.Failure(
        cause=_enum_to_proto(trial_pb2.Failure.Cause, failure.cause),
        message=failure.message,
        stack=failure.stack,
        log_tail=failure.log_tail,
    )


def failure_from_proto(message: trial_pb2.Failure) -> Failure:
    """Why an attempt ended without a result; an unset cause is the user's error."""
    cause = _enum_from_proto(trial_pb2.Failure.Cause, Cause, message.cause)
    return Failure(
        cause=cause or Cause.USER_ERROR,
        message=message.message,
        stack=message.stack,
        log_tail=message.log_tail,
    )


def cost_to_proto(cost: Cost) -> trial_pb2.Cost | None:
    """What attempts took; None is nothing, which most trials are sent with."""
    if not cost.worker_time:
        return None
    return trial_pb2.Cost(
        worker_time=duration_to_proto(cost.worker_time),
        cpu_time=duration_to_proto(cost.cpu_time or None),
        gpu_time=duration_to_proto(cost.gpu_time or None),
    )


def cost_from_proto(message: trial_pb2.Cost) -> Cost:
    """What attempts took."""
    return Cost(
        worker_time=duration_from_proto(message.worker_time),
        cpu_time=duration_from_proto(message.cpu_time),
        gpu_time=duration_from_proto(message.gpu_time),
    )


def attempt_to_proto(attempt: Attempt) -> trial_pb2.Attempt:
    """One try."""
    message = trial_pb2.Attempt(
        number=attempt.number,
        worker_id=attempt.worker_id,
        host=attempt.host,
        start_time=time_to_proto(attempt.start_time),
        end_time=time_to_proto(attempt.end_time),
        cost=cost_to_proto(attempt.cost),
    )
    if attempt.failure is not None:
        message.failure.CopyFrom(failure_to_proto(attempt.failure))
    return message


def attempt_from_proto(message: trial_pb2.Attempt) -> Attempt:
    """One try."""
    return Attempt(
        number=message.number,
        worker_id=message.worker_id,
        host=message.host,
        start_time=time_from_proto(message.start_time),
        end_time=time_from_proto(message.end_time) if message.HasField("end_time") else None,
        failure=failure_from_proto(message.failure) if message.HasField("failure") else None,
        cost=cost_from_proto(message.cost),
    )


def trial_to_proto(trial: Trial) -> trial_pb2.Trial:
    """Everything the value holds; a BASIC view is a value without measurements and attempts."""
    message = trial_pb2.Trial(
        name=trial.name,
        state=_enum_to_proto(trial_pb2.Trial.State, trial.state),
        parameters=values_to_proto(trial.parameters),
        space_version=trial.space_version,
        attempt=trial.attempt,
        measurements=[measurement_to_proto(m) for m in trial.measurements],
        attempts=[attempt_to_proto(a) for a in trial.attempts],
        stop_requested=trial.stop_requested,
        artifact_uri=trial.artifact_uri,
        state_reason=trial.state_reason,
        create_time=time_to_proto(trial.create_time),
        start_time=time_to_proto(trial.start_time),
        end_time=time_to_proto(trial.end_time),
        labels=dict(trial.labels),
        origin=_enum_to_proto(trial_pb2.Trial.Origin, trial.origin),
        search_note=trial.search_note,
        within_constraints=trial.within_constraints,
        lease=lease_to_proto(trial.lease),
        cost=cost_to_proto(trial.cost),
    )
    if trial.checkpoint is not None:
        message.checkpoint.uri = trial.checkpoint.uri
        message.checkpoint.step = trial.checkpoint.step
    if trial.final_measurement is not None:
        message.final_measurement.CopyFrom(measurement_to_proto(trial.final_measurement))
    return message


def trial_from_proto(message: trial_pb2.Trial) -> Trial:
    """A trial, as a server sends it."""
    study_id, number = parse_trial_name(message.name)
    lease = Lease(
        worker_id=message.lease.worker_id,
        expire_time=time_from_proto(message.lease.expire_time),
        token=message.lease.token,
    )
    return Trial(
        study_id=study_id,
        number=number,
        state=TrialState(trial_pb2.Trial.State.Name(message.state)),
        parameters=values_from_proto(message.parameters),
        space_version=message.space_version,
        attempt=message.attempt,
        lease=lease if message.HasField("lease") else None,
        final_measurement=measurement_from_proto(message.final_measurement)
        if message.HasField("final_measurement")
        else None,
        measurements=tuple(measurement_from_proto(m) for m in message.measurements),
        attempts=tuple(attempt_from_proto(a) for a in message.attempts),
        stop_requested=message.stop_requested,
        artifact_uri=message.artifact_uri,
        state_reason=message.state_reason,
        labels=_sorted(message.labels),
        origin=_enum_from_proto(trial_pb2.Trial.Origin, Origin, message.origin) or Origin.PROPOSED,
        search_note=message.search_note,
        checkpoint=checkpoint_from_proto(message.checkpoint)
        if message.HasField("checkpoint")
        else None,
        within_constraints=message.within_constraints
        if message.HasField("within_constraints")
        else None,
        cost=cost_from_proto(message.cost),
        create_time=time_from_proto(message.create_time),
        start_time=time_from_proto(message.start_time) if message.HasField("start_time") else None,
        end_time=time_from_proto(message.end_time) if message.HasField("end_time") else None,
    )


def lease_to_proto(lease: Lease | None) -> trial_pb2.Lease | None:
    """None stays None."""
    if lease is None:
        return None
    return trial_pb2.Lease(
        worker_id=lease.worker_id,
        expire_time=time_to_proto(lease.expire_time),
        token=lease.token,
    )


def checkpoint_from_proto(message: trial_pb2.Checkpoint) -> Checkpoint:
    """Where an attempt can be taken up again."""
    return Checkpoint(uri=message.uri, step=message.step)


# --- enums: the names are the same on both sides; zero means unspecified --------------------


@cache
def _enum_to_proto(wrapper: _ProtoEnum, value: StrEnum) -> Any:
    return wrapper.Value(value.name)


def _enum_from_proto(wrapper: _ProtoEnum, kind: type[E], number: int) -> E | None:
    if number == 0:
        return None
    try:
        return kind[wrapper.Name(number)]
    except ValueError as error:
        raise InvalidArgumentError(f"{number} is no {kind.__name__.lower()}.") from error
