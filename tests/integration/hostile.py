"""Messages that nobody sends in good faith: with wrong parts, random ones, and noise."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tests.integration.service_support import new_trial, study_of
from tuner.v1 import model_pb2, space_pb2, study_pb2, trial_pb2
from tuner.v1 import model_service_pb2 as models
from tuner.v1 import statistics_service_pb2 as statistics
from tuner.v1 import study_service_pb2 as pb

STUDIES = ("s0", "s1", "s2", "s3")

_TEXTS: Sequence[str] = (
    "",
    "a",
    "x",
    "auc",
    "\0",
    "a\0b",
    "\n",
    " ",
    "é🎈\u2028\u202e",
    "\ufeff\uffff",
    "'; DROP TABLE tuner.studies; --",
    '"%(study)s%s{}${x}\\u0000\\',
    "../../etc/passwd",
    "studies/",
    "studies/S0/trials/-1",
    "studies/s0/trials/99999999999",
    "studies/s0/trials/0\n",
    "nan",
    "true",
    "A" * 63,
    "b" * 64,
    "c" * 129,
    "d" * 1025,
    "e" * 70_000,
)
_FLOATS: Sequence[float] = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    math.nan,
    math.inf,
    -math.inf,
    1e308,
    -1e308,
    5e-324,
    2.0**53 + 2,
)
_INTS: Sequence[int] = (0, 1, 2, -1, 7, 100, 101, 1000, 1001, 10**6, 2**31 - 1, -(2**31))
_LONGS: Sequence[int] = (*_INTS, 2**31, 2**53 + 1, 2**63 - 1, -(2**63))
_FILTERS: Sequence[str] = (
    "metrics.auc > 0.5",
    "number = 1e999",
    "NOT (labels.a = 'b' OR state = RUNNING)",
    "(" * 60 + "number = 1" + ")" * 60,
    "number = 1 AND " * 150 + "number = 1",
    "metrics.auc >",
    'labels."\\"\0" = 1',
)
_ORDERS: Sequence[str] = (
    "best",
    "number desc",
    "metrics.auc desc",
    "parameters.x",
    "end_time",
    "metrics.\0",
    "metrics.",
    "parameters." + "x" * 128,
    "luck",
)
_PATHS: Sequence[str] = ("labels", "limits", "export", "exported_model_uri", "state", "", "name")


class Hostile:
    """Makes requests from a seed. What a server told before is woven in."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        #: Tokens of leases and of pages that a server gave.
        self.tokens: list[str] = ["1.0.1", "999999999999999999.999999999.999999999", "1.0", "."]
        #: Names of trials with the tokens of their leases.
        self.leases: list[tuple[str, str]] = []
        self.pages: list[str] = ["1", "1::number", "1:0.5:best", "1:nan:best", "-1", "9" * 19]

    def request(self, method: str, kind: Descriptor) -> Message:
        """A request of a method: one that means something with wrong parts, or any at all."""
        seed = _SEEDS.get(method)
        if seed is not None and self.random.random() < 0.85:
            made = seed(self)
        else:
            of_kind: Any = message_factory.GetMessageClass(kind)
            made = of_kind()
            self.fill(made, 3)
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2, 3))):
            self.spoil(made)
        return made

    def noise(self, message: Message) -> bytes:
        """The bytes of a request with some changed, cut off or added; or any bytes."""
        body = bytearray(message.SerializeToString())
        for _ in range(self.random.randrange(1, 8)):
            if body and self.random.random() < 0.7:
                body[self.random.randrange(len(body))] = self.random.randrange(256)
            else:
                body += self.random.randbytes(self.random.randrange(40))
        return bytes(body[: self.random.choice((len(body), len(body) // 2))])

    def fill(self, message: Message, depth: int) -> None:
        """Sets about half of a message's fields to anything."""
        for field in message.DESCRIPTOR.fields:
            if self.random.random() < 0.5:
                self.set(message, field, depth)

    def spoil(self, message: Message) -> None:
        """Sets one field, anywhere in a message, to anything."""
        while message.DESCRIPTOR.fields:
            field: Any = self.random.choice(list(message.DESCRIPTOR.fields))
            inside = [value for known, value in message.ListFields() if known is field]
            if inside and field.message_type and not _is_map(field):
                values = list(inside[0]) if _is_repeated(field) else inside
                if values and self.random.random() < 0.8:
                    message = self.random.choice(values)
                    continue
            self.set(message, field, 3)
            return

    def set(self, message: Message, field: Any, depth: int) -> None:
        """Sets a field to anything that its type can hold."""
        if _is_map(field):
            self._set_map(getattr(message, field.name), field, depth)
        elif _is_repeated(field):
            many = self.random.choice((0, 1, 2, 3, 70, 1100) if depth > 2 else (0, 1, 2))
            for _ in range(many):
                if field.message_type is None:
                    getattr(message, field.name).append(self.value(field))
                else:
                    self._fill_in(getattr(message, field.name).add(), depth)
        elif field.message_type is not None:
            part = getattr(message, field.name)
            part.SetInParent()
            self._fill_in(part, depth)
        else:
            setattr(message, field.name, self.value(field))

    def _fill_in(self, message: Message, depth: int) -> None:
        if message.DESCRIPTOR.full_name in _TIMES:
            time: Any = message
            time.seconds = self.random.choice((*_LONGS, 315576000000))
            time.nanos = self.random.choice((*_INTS, 999999999))
        elif depth > 0:
            self.fill(message, depth - 1)

    def _set_map(self, values: Any, field: Any, depth: int) -> None:
        key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        for _ in range(self.random.choice((0, 1, 2, 70) if depth > 2 else (0, 1))):
            if value.message_type is None:
                values[self.value(key)] = self.value(value)
            else:
                self._fill_in(values[self.value(key)], depth)

    def value(self, field: Any) -> Any:
        """Anything that a scalar field can hold."""
        choice = self.random.choice
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
                return self.random.randbytes(choice((0, 1, 9, 70_000)))
            case FieldDescriptor.CPPTYPE_STRING:
                return self._text(field.name)
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return choice(_FLOATS)
            case FieldDescriptor.CPPTYPE_INT64:
                return choice(_LONGS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return choice((True, False))
            case FieldDescriptor.CPPTYPE_ENUM:
                known = [value.number for value in field.enum_type.values]
                return choice((*known, *known, 99, -1, 2**31 - 1))
            case _:
                return choice(_INTS)

    def _text(self, name: str) -> str:
        choice = self.random.choice
        if self.random.random() < 0.4:
            return choice(_TEXTS)
        match name:
            case "parent":
                return choice((self.study(), self.study(), "models/m0", "models/-"))
            case "name" | "names" | "best_trial" | "trial":
                known = (self.study(), self.trial(), self.statistics(), "tokens/ann", "models/m0")
                return choice((*known, self.version(), choice(_TEXTS)))
            case "model_id":
                return choice(("m0", "m1"))
            case "alias":
                return choice(("champion", "latest"))
            case "publication_token":
                return choice(("1.1", "2.1", choice(_TEXTS)))
            case "lease_token":
                return choice(self.tokens)
            case "page_token" | "resume_token":
                return choice(self.pages)
            case "filter":
                return choice(_FILTERS)
            case "order_by":
                return choice(_ORDERS)
            case "paths":
                return choice(_PATHS)
            case "study_id":
                return choice(STUDIES)
            case "request_id":
                return f"r{self.random.randrange(40)}"
            case "algorithm":
                return choice(("", "auto", "random", "grid", "tpe", "gp", "cmaes"))
            case "early_stopping":
                return choice(("", "none", "asha", "median", "threshold", "no-progress"))
            case "token_id" | "worker_id":
                return choice(("ann", "bob"))
            case _:
                return choice(_TEXTS)

    def study(self) -> str:
        return f"studies/{self.random.choice(STUDIES)}"

    def statistics(self) -> str:
        return f"statistics/{self.random.choice('abc') * 64}"

    def trial(self) -> str:
        return f"{self.study()}/trials/{self.random.randrange(12)}"

    def version(self) -> str:
        number = self.random.choice((1, 2, 3, "champion", "latest", 2**31))
        return f"models/m{self.random.randrange(2)}/versions/{number}"


_TIMES = ("google.protobuf.Duration", "google.protobuf.Timestamp")


def _is_repeated(field: Any) -> bool:
    return bool(field.is_repeated)


def _is_map(field: Any) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def deep_space(depth: int) -> space_pb2.Space:
    """A space as deep as is asked for."""
    space = space_pb2.Space()
    parameter = space.parameters.add(name="p0")
    for number in range(1, depth):
        parameter.int_domain.high = 1
        child = parameter.children.add()
        child.parent_values.add().int_value = 1
        parameter = child.parameter
        parameter.name = f"p{number}"
    parameter.int_domain.high = 1
    return space


# --- requests that mean something ---


def _create(hostile: Hostile) -> Message:
    choice = hostile.random.choice
    study = study_of(
        trials=choice((2, 5, 1000)),
        metrics=[study_pb2.Metric(name=name) for name in choice((["auc"], ["auc", "loss"]))],
        constraints=choice(([], [study_pb2.Constraint(metric="size", at_most=1.0)])),
        search=study_pb2.Search(algorithm=choice(("random", "tpe", "grid", "auto", "gp"))),
        warm_start=choice(([], [], [f"studies/{STUDIES[0]}"])),
        space=choice((study_of().space, deep_space(3), deep_space(30))),
    )
    if hostile.random.random() < 0.2:
        study.trainer.kind, study.data.train_uri, study.data.label = "tabular", "rows.csv", "y"
        study.ClearField("space")
    return pb.CreateStudyRequest(study=study, study_id=choice(STUDIES))


def _add(hostile: Hostile) -> Message:
    results = [hostile.random.choice((None, 0.5, math.nan)) for _ in range(3)]
    made = [new_trial(hostile.random.random(), result) for result in results]
    return pb.AddTrialsRequest(parent=hostile.study(), trials=made)


def _measurement(hostile: Hostile) -> trial_pb2.Measurement:
    metrics = {"auc": hostile.random.choice(_FLOATS), "loss": 1.0}
    return trial_pb2.Measurement(step=hostile.random.randrange(5), metrics=metrics)


def _of_token(hostile: Hostile) -> tuple[str, str]:
    """The name of a trial, and often the token of its lease."""
    if hostile.leases and hostile.random.random() < 0.7:
        return hostile.random.choice(hostile.leases[-8:])
    token = hostile.random.choice(hostile.tokens)
    parts = token.split(".")
    number = parts[1] if len(parts) > 1 else "0"
    return f"{hostile.study()}/trials/{number or 0}", token


def _report(hostile: Hostile) -> Message:
    name, token = _of_token(hostile)
    request = pb.ReportTrialRequest(name=name, lease_token=token)
    request.measurement.CopyFrom(_measurement(hostile))
    return request


def _complete(hostile: Hostile) -> Message:
    name, token = _of_token(hostile)
    request = pb.CompleteTrialRequest(name=name, lease_token=token)
    if hostile.random.random() < 0.5:
        request.final_measurement.CopyFrom(_measurement(hostile))
    else:
        request.failure.cause = hostile.random.choice(trial_pb2.Failure.Cause.values())
    return request


def _exchange(hostile: Hostile) -> Message:
    ended = _complete(hostile).SerializeToString()
    request = pb.ExchangeTrialRequest.FromString(ended)
    request.worker_id = hostile.random.choice(("ann", "bob", ""))
    return request


def _release(hostile: Hostile) -> Message:
    name, token = _of_token(hostile)
    return pb.ReleaseTrialRequest(name=name, lease_token=token)


def _log(hostile: Hostile) -> Message:
    name, token = _of_token(hostile)
    return pb.WriteTrialLogRequest(
        name=name, lease_token=token, text="x\0" * 9, offset=hostile.random.choice((0, 5, 18))
    )


def _suggest(hostile: Hostile) -> Message:
    return pb.SuggestTrialsRequest(
        parent=hostile.study(), worker_id=hostile.random.choice(("ann", "bob")), count=2
    )


def _prepare(hostile: Hostile) -> Message:
    space = hostile.random.choice((study_of().space, deep_space(15), deep_space(40)))
    prepared = pb.PrepareStudyRequest.Prepared(space=space)
    if hostile.random.random() < 0.3:
        told = pb.PrepareStudyRequest.Progress(rows=9, fraction=hostile.random.choice(_FLOATS))
        return pb.PrepareStudyRequest(name=hostile.study(), progress=told)
    return pb.PrepareStudyRequest(name=hostile.study(), prepared=prepared)


def _keep(hostile: Hostile) -> Message:
    kept = statistics.Statistics(
        name=hostile.statistics(),
        rows=hostile.random.choice(_LONGS),
        content=hostile.random.randbytes(hostile.random.choice((0, 9, 70_000))),
    )
    return statistics.UpdateStatisticsRequest(statistics=kept)


def _update(hostile: Hostile) -> Message:
    study = study_of(labels={"a": "b"}, trials=hostile.random.choice((1, 9, 10**6)))
    study.name = hostile.study()
    request = pb.UpdateStudyRequest(study=study)
    request.update_mask.paths.append(hostile.random.choice(_PATHS))
    return request


def _update_trial(hostile: Hostile) -> Message:
    trial = trial_pb2.Trial(name=hostile.trial(), labels={"a": "b"})
    request = pb.UpdateTrialRequest(trial=trial)
    request.update_mask.paths.append("labels")
    return request


def _list(hostile: Hostile) -> Message:
    return pb.ListTrialsRequest(
        parent=hostile.study(),
        page_size=hostile.random.choice((0, 1, 1000)),
        order_by=hostile.random.choice(_ORDERS),
        filter=hostile.random.choice(_FILTERS),
    )


def _begin(hostile: Hostile) -> Message:
    request = models.BeginModelVersionRequest(parent="models/m0", publisher="box:1")
    request.ttl.nanos = hostile.random.choice((0, 1_000_000, 999_999_999))
    if hostile.random.random() < 0.5:
        request.lineage.trial = hostile.trial()
    else:
        request.lineage.source = hostile.random.choice(_TEXTS)
    return request


def _finish(hostile: Hostile) -> Message:
    number = hostile.random.randrange(1, 6)
    request = models.FinishModelVersionRequest(
        name=f"models/m0/versions/{number}", publication_token=f"{number}.1"
    )
    published = request.published
    published.uri, published.sha256, published.card = "/m", "ab" * 32, "#\0"
    published.metrics["auc"] = hostile.random.choice(_FLOATS)
    published.lineage.source = hostile.random.choice(_TEXTS)
    return request


def _set_alias(hostile: Hostile) -> Message:
    number = hostile.random.choice(_INTS)
    return models.SetModelAliasRequest(name="models/m0", alias="champion", version=number)


def _update_model(hostile: Hostile) -> Message:
    model = model_pb2.Model(name="models/m0", keep_versions=hostile.random.choice(_INTS))
    request = models.UpdateModelRequest(model=model)
    request.update_mask.paths.append(hostile.random.choice(("keep_versions", "labels", "name")))
    return request


def _named(kind: type[Message], field: str, of: Callable[[Hostile], str]) -> Any:
    return lambda hostile: kind(**{field: of(hostile)})


_SEEDS: Mapping[str, Callable[[Hostile], Message]] = {
    "CreateStudy": _create,
    "UpdateStudy": _update,
    "PrepareStudy": _prepare,
    "SuggestTrials": _suggest,
    "ReportTrial": _report,
    "CompleteTrial": _complete,
    "ExchangeTrial": _exchange,
    "ReleaseTrial": _release,
    "WriteTrialLog": _log,
    "AddTrials": _add,
    "UpdateTrial": _update_trial,
    "ListTrials": _list,
    "StreamTrials": _list,
    "BeginModelVersion": _begin,
    "FinishModelVersion": _finish,
    "SetModelAlias": _set_alias,
    "UpdateModel": _update_model,
    "GetModelVersion": _named(models.GetModelVersionRequest, "name", Hostile.version),
    "DeleteModelVersion": _named(models.DeleteModelVersionRequest, "name", Hostile.version),
    "GetStatistics": _named(statistics.GetStatisticsRequest, "name", Hostile.statistics),
    "UpdateStatistics": _keep,
    "GetStudy": _named(pb.GetStudyRequest, "name", Hostile.study),
    "DeleteStudy": _named(pb.DeleteStudyRequest, "name", Hostile.study),
    "StopStudy": _named(pb.StopStudyRequest, "name", Hostile.study),
    "PauseStudy": _named(pb.PauseStudyRequest, "name", Hostile.study),
    "ResumeStudy": _named(pb.ResumeStudyRequest, "name", Hostile.study),
    "WatchStudy": _named(pb.WatchStudyRequest, "name", Hostile.study),
    "GetImportance": _named(pb.GetImportanceRequest, "name", Hostile.study),
    "RetryTrials": _named(pb.RetryTrialsRequest, "parent", Hostile.study),
    "StopTrial": _named(pb.StopTrialRequest, "name", Hostile.trial),
    "GetTrial": _named(pb.GetTrialRequest, "name", Hostile.trial),
    "ReadTrialLog": _named(pb.ReadTrialLogRequest, "name", Hostile.trial),
}
