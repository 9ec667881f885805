"""What a request may hold: names, sizes and ranges, checked before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from tuner.code import DIGEST
from tuner.errors import InvalidArgumentError
from tuner.model import PUBLICATION, Lineage, Published
from tuner.service.exchange import NewTrial
from tuner.space import Categorical, Discrete, Parameter, Space, Value
from tuner.study import (
    Checkpoint,
    DataSource,
    Failure,
    Limits,
    Measurement,
    Strategy,
    StudySpec,
    parse_trial_name,
)
from tuner.trainer_spaces import PROGRAM, is_own

_PARAMETERS = 1000
_CHOICES = 1000
_METRICS = 100
_EARLIER = 5
_ADDED = 1000
_MEASURED = 100_000
#: How many labels a study or a trial may have.
LABELS = 64
#: Words of a command, and how long each may be.
_ARGUMENTS = 1000
_ARGUMENT = 4096
_TRIALS = 1_000_000
_WORD = 128
_TEXT = 1024
#: In UTF-8. A study is read whole, and up to 100 trials go out in one message of at most 16 MiB.
_STUDY_BYTES = 4 * 2**20
_POINT_BYTES = 65_536
_LOG = 65_536
_CARD = 65_536
_VERSIONS = 10_000
_LONGEST_PUBLICATION = timedelta(days=1)
#: How long the log of an attempt may become.
_LOG_KEPT = 16 * 2**20
_PAGE = 1000
_SUGGESTIONS = 100

_MESSAGE_KEPT = 2_000
_STACK_KEPT = 20_000


def spec(asked: StudySpec) -> StudySpec:
    """Returns what a study asks for; raises InvalidArgumentError if it may not."""
    at_most(len(asked.metrics), _METRICS, "metrics")
    _different("metric", [metric.name for metric in asked.metrics])
    for metric in asked.metrics:
        word("a metric's name", metric.name)
    space(asked.space)
    values("settings", asked.settings)
    for feature in asked.features:
        word("a feature's name", feature.name)
        values(f"the settings of feature {feature.name!r}", feature.settings)
    at_most(len(asked.features), _PARAMETERS, "features")
    _different("feature", [feature.name for feature in asked.features])
    limits(asked.limits)
    labels(asked.labels)
    at_most(len(asked.constraints), _METRICS, "constraints")
    for constraint in asked.constraints:
        word("a constraint's metric", constraint.metric)
    at_most(len(asked.warm_start), _EARLIER, "studies to start from")
    _different("earlier study", asked.warm_start)
    _check_managed(asked)
    _check_resources(asked)
    return asked


def _check_managed(asked: StudySpec) -> None:
    if asked.trainer is None:
        return
    word("`trainer.kind`", asked.trainer)
    _check_own(asked)
    if asked.data is not None:
        _check_data(asked.data)
    elif not is_own(asked.trainer):
        raise InvalidArgumentError("a study with a trainer needs `data`: what is trained on.")


def _check_own(asked: StudySpec) -> None:
    own, is_program = asked.own, asked.trainer == PROGRAM
    if bool(own.command) != is_program or (own.environment and not is_program):
        raise InvalidArgumentError(
            "`trainer.command` goes with the trainer `program` and with no other, and so does "
            "`trainer.environment`."
        )
    if own.code and (not DIGEST.fullmatch(own.code) or not is_own(asked.trainer)):
        raise InvalidArgumentError(
            "`trainer.code` is the SHA-256 of an archive with a trainer of your own: 64 of 0-9 "
            f"and a-f, but got {own.code[:_WORD]!r}."
        )
    if is_program and asked.data is not None:
        raise InvalidArgumentError("a program reads its data by itself; leave `data` out.")
    if is_own(asked.trainer) and asked.data is None and asked.export_model:
        raise InvalidArgumentError(
            "`export` knows the models that are trained on `data`; leave it out: what the winner "
            "wrote is kept."
        )
    at_most(len(own.command), _ARGUMENTS, "words of a command")
    at_most(len(own.environment), _ARGUMENTS, "variables")
    for argument in (*own.command, *own.environment, *own.environment.values()):
        if len(argument) > _ARGUMENT or "\0" in argument:
            raise InvalidArgumentError(
                f"an argument or a variable has at most {_ARGUMENT} characters, none of them NUL."
            )
    for name in own.environment:
        if not name or "=" in name:
            raise InvalidArgumentError(f"{name!r} cannot be the name of a variable.")


def _check_data(data: DataSource) -> None:
    text("`data.train_uri`", data.train_uri)
    text("`data.label`", data.label)
    fraction = data.validation_fraction
    if data.validation_uri is None and not (fraction is not None and 0 < fraction < 1):
        raise InvalidArgumentError(
            f"`data.validation_fraction` must be above 0 and below 1, but got {fraction}."
        )
    if data.task not in (None, "", "classification", "regression"):
        raise InvalidArgumentError(
            f"`data.task` must be classification or regression, but got {data.task!r}."
        )
    for column, kind in data.column_types.items():
        if kind not in ("number", "string"):
            raise InvalidArgumentError(
                f"the type of column {column!r} must be number or string, but got {kind!r}."
            )


def _check_resources(asked: StudySpec) -> None:
    needs = asked.resources
    numbers: Mapping[str, float] = {
        "workers": needs.workers,
        "parameter_servers": needs.parameter_servers,
        "cpus_per_worker": needs.cpus_per_worker,
        "gpus_per_worker": needs.gpus_per_worker,
    }
    for name, number in numbers.items():
        if not 0 <= number <= 10_000:
            raise InvalidArgumentError(f"`resources.{name}` must be 0 to 10000, but got {number}.")
    if needs.strategy and needs.strategy not in list(Strategy):
        raise InvalidArgumentError(
            f"`resources.strategy` must be one of {', '.join(Strategy)}, but got "
            f"{needs.strategy!r}."
        )


def space(asked: Space) -> Space:
    """Returns a space; raises InvalidArgumentError if it is too large."""
    parameters = list(asked.walk())
    at_most(len(parameters), _PARAMETERS, "parameters")
    for parameter in parameters:
        domain = parameter.domain
        if isinstance(domain, Categorical):
            at_most(len(domain.choices), _CHOICES, f"choices of {parameter.name!r}")
            for choice in domain.choices:
                _value(f"a choice of {parameter.name!r}", choice)
        elif isinstance(domain, Discrete):
            at_most(len(domain.values), _CHOICES, f"values of {parameter.name!r}")
    at_most(sum(map(_longest, parameters)), _POINT_BYTES, "bytes of names and words in a trial")
    return asked


def _longest(parameter: Parameter) -> int:
    """How long a parameter's name and value may become in a trial, without numbers."""
    choices = parameter.domain.choices if isinstance(parameter.domain, Categorical) else ()
    words = (len(choice.encode()) for choice in choices if isinstance(choice, str))
    return len(parameter.name.encode()) + max(words, default=0)


def size(what: str, asked: int) -> None:
    """Raises InvalidArgumentError for a message of more bytes than 4 MiB."""
    if asked > _STUDY_BYTES:
        raise InvalidArgumentError(
            f"{what} may have {_STUDY_BYTES} bytes, but this one has {asked}; make it smaller."
        )


def values(what: str, asked: Mapping[str, Value]) -> Mapping[str, Value]:
    """Returns named values; raises InvalidArgumentError for NaN, infinities and long words."""
    at_most(len(asked), _PARAMETERS, what)
    for name, value in asked.items():
        word(f"a name in {what}", name)
        _value(f"{name!r} in {what}", value)
    return asked


def _value(what: str, value: Value) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidArgumentError(f"{what} must be finite, but got {value}.")
    if isinstance(value, str) and (len(value) > _TEXT or "\0" in value):
        raise InvalidArgumentError(f"{what} must have at most {_TEXT} characters and no NUL.")


def limits(asked: Limits) -> Limits:
    """Returns limits; raises InvalidArgumentError for those that are out of range."""
    numbers = {
        "trials": asked.trials,
        "parallel": asked.parallel,
        "no_improvement_trials": asked.no_improvement_trials,
        "failed_trials": asked.failed_trials,
    }
    for name, number in numbers.items():
        if number is not None and not 1 <= number <= _TRIALS:
            raise InvalidArgumentError(
                f"`limits.{name}` must be 1 to {_TRIALS}, but got {number}."
            )
    for name, time in (("duration", asked.duration), ("worker_time", asked.worker_time)):
        if time is not None and time <= timedelta(0):
            raise InvalidArgumentError(f"`limits.{name}` must be above zero, but got {time}.")
    return asked


def labels(asked: Mapping[str, str]) -> Mapping[str, str]:
    """Returns labels; raises InvalidArgumentError for too many or too long ones."""
    at_most(len(asked), LABELS, "labels")
    for key, value in asked.items():
        word("a label's name", key)
        _value(f"label {key!r}", value)
    return asked


def worker_id(asked: str) -> str:
    """Returns who asks; raises InvalidArgumentError unless it is 1 to 128 printable characters."""
    return word("`worker_id`", asked)


def request_id(asked: str) -> str:
    """Returns a request's id, which may be empty."""
    return word("`request_id`", asked) if asked else ""


def count(asked: int) -> int:
    """Returns how many trials a worker wants; 0 is read as 1."""
    if not 0 <= asked <= _SUGGESTIONS:
        raise InvalidArgumentError(f"`count` must be 0 to {_SUGGESTIONS}, but got {asked}.")
    return asked or 1


def page_size(asked: int) -> int:
    """Returns the length of a page; 0 is read as 100, above 1,000 as 1,000."""
    if asked < 0:
        raise InvalidArgumentError(f"`page_size` must not be negative, but got {asked}.")
    return min(asked or 100, _PAGE)


def measurement(asked: Measurement) -> Measurement:
    """Returns a measurement; NaN and infinities may be measured."""
    if asked.step < 0:
        raise InvalidArgumentError(f"`step` counts from 0, but got {asked.step}.")
    if not asked.metrics:
        raise InvalidArgumentError("a measurement needs at least one metric.")
    at_most(len(asked.metrics), _METRICS, "metrics")
    for name in asked.metrics:
        word("a metric's name", name)
    if asked.elapsed < timedelta(0):
        raise InvalidArgumentError(f"`elapsed` must not be negative, but got {asked.elapsed}.")
    return asked


def checkpoint(asked: Checkpoint) -> Checkpoint:
    """Returns a checkpoint; raises InvalidArgumentError for one without a place."""
    text("`checkpoint.uri`", asked.uri)
    if asked.step < 0:
        raise InvalidArgumentError(f"`checkpoint.step` counts from 0, but got {asked.step}.")
    return asked


def new_trials(asked: Sequence[NewTrial]) -> Sequence[NewTrial]:
    """Returns trials to add; raises InvalidArgumentError for too many, or what may not be."""
    if not asked:
        raise InvalidArgumentError("`trials` is empty; add at least one.")
    at_most(len(asked), _ADDED, "trials in one request")
    at_most(sum(len(trial.measurements) for trial in asked), _MEASURED, "measurements")
    for trial in asked:
        values("parameters", trial.parameters)
        labels(trial.labels)
        for measured in trial.measurements:
            measurement(measured)
        if trial.final is not None:
            measurement(trial.final)
        _different("step", [str(measured.step) for measured in trial.measurements])
    return asked


def failure(asked: Failure) -> Failure:
    """Returns a failure with as much of its text as is kept."""
    return replace(
        asked,
        message=clean(asked.message)[:_MESSAGE_KEPT],
        stack=clean(asked.stack)[-_STACK_KEPT:],
        log_tail=clean(asked.log_tail)[-_STACK_KEPT:],
    )


def log_text(asked: str, offset: int) -> str:
    """Returns a piece of a log; raises InvalidArgumentError if it is empty or too long."""
    if not 1 <= len(asked) <= _LOG:
        raise InvalidArgumentError(
            f"`text` must have 1 to {_LOG} characters, but has {len(asked)}."
        )
    if not 0 <= offset <= _LOG_KEPT - len(asked):
        raise InvalidArgumentError(
            f"the log of an attempt holds {_LOG_KEPT} characters, counted from 0, but got "
            f"{len(asked)} at {offset}; write less."
        )
    return clean(asked)


def lineage(asked: Lineage) -> Lineage:
    """Returns where a version comes from; raises InvalidArgumentError unless from one place."""
    if bool(asked.trial) == bool(asked.source):
        raise InvalidArgumentError("`lineage` names a trial, or the source of an import.")
    if asked.trial:
        parse_trial_name(asked.trial)
    for name in ("source", "trainer", "data_fingerprint", "code"):
        uri(f"`lineage.{name}`", getattr(asked, name))
    values("`lineage.packages`", asked.packages)
    return asked


def published(asked: Published) -> Published:
    """Returns what was published; raises InvalidArgumentError for what cannot be."""
    text("`published.uri`", asked.uri)
    if not DIGEST.fullmatch(asked.sha256):
        raise InvalidArgumentError(
            f"`published.sha256` is 64 of 0-9 and a-f, but got {asked.sha256[:_WORD]!r}."
        )
    if asked.size_bytes < 0:
        raise InvalidArgumentError(
            f"`published.size_bytes` must not be negative, but got {asked.size_bytes}."
        )
    at_most(len(asked.metrics), _METRICS, "metrics")
    for name in asked.metrics:
        word("a metric's name", name)
    if len(asked.card) > _CARD:
        raise InvalidArgumentError(
            f"`published.card` may have {_CARD} characters, but has {len(asked.card)}."
        )
    return replace(
        asked,
        lineage=lineage(asked.lineage),
        card=clean(asked.card),
        report=reason(asked.report),
    )


def keep_versions(asked: int) -> int:
    """Returns how many versions are kept; raises InvalidArgumentError beyond 0 to 10,000."""
    if not 0 <= asked <= _VERSIONS:
        raise InvalidArgumentError(
            f"`keep_versions` must be 0 (all) to {_VERSIONS}, but got {asked}."
        )
    return asked


def publication(ttl: timedelta) -> timedelta:
    """Returns how long a publisher may be silent; zero is read as the usual time."""
    if not timedelta(0) <= ttl <= _LONGEST_PUBLICATION:
        raise InvalidArgumentError(f"`ttl` must be above zero and at most a day, but got {ttl}.")
    return ttl or PUBLICATION


def reason(asked: str) -> str:
    """Returns words for people, as much of them as is kept."""
    return clean(asked)[:_MESSAGE_KEPT]


def uri(what: str, asked: str) -> str:
    """Returns a place, which may be empty."""
    return text(what, asked) if asked else ""


def text(what: str, asked: str) -> str:
    """Returns a text; raises InvalidArgumentError unless it has 1 to 1,024 characters."""
    if not 1 <= len(asked) <= _TEXT or "\0" in asked:
        raise InvalidArgumentError(f"{what} must have 1 to {_TEXT} characters, none of them NUL.")
    return asked


def word(what: str, asked: str) -> str:
    """Returns a name; raises InvalidArgumentError unless it is 1 to 128 printable characters."""
    if not 1 <= len(asked) <= _WORD or not asked.isprintable():
        raise InvalidArgumentError(
            f"{what} must have 1 to {_WORD} printable characters, but got {asked[:_WORD]!r}."
        )
    return asked


def clean(asked: str) -> str:
    """Returns a text that the database can hold: it knows every character but NUL."""
    return asked.replace("\0", "\N{REPLACEMENT CHARACTER}")


def at_most(length: int, most: int, what: str) -> None:
    """Raises InvalidArgumentError for too many of something."""
    if length > most:
        raise InvalidArgumentError(f"at most {most} {what} are allowed, but got {length}.")


def _different(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidArgumentError(f"the {what} {name!r} appears twice; name each once.")
        seen.add(name)
