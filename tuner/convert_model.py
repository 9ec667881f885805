"""Conversions between the messages of ModelService and plain values, in pairs."""

from __future__ import annotations

from typing import Any

from tuner import convert
from tuner.errors import InvalidArgumentError
from tuner.model import (
    Lineage,
    Model,
    ModelVersion,
    Published,
    VersionState,
    check_version,
    parse_model_name,
    parse_version_name,
)
from tuner.v1 import model_pb2
from tuner.v1 import model_service_pb2 as pb


def state_to_proto(state: VersionState) -> Any:
    """A state's number."""
    return model_pb2.ModelVersion.State.Value(state.value)


def state_from_proto(number: int) -> VersionState:
    """A state; raises InvalidArgumentError for none and for those that there are not."""
    states = {state_to_proto(state): state for state in VersionState}
    if number not in states:
        raise InvalidArgumentError(
            f"a version's state is one of {', '.join(VersionState)}, but got {number}."
        )
    return states[number]


def lineage_to_proto(lineage: Lineage) -> model_pb2.Lineage:
    """Where a version comes from."""
    return model_pb2.Lineage(
        trial=lineage.trial,
        source=lineage.source,
        trainer=lineage.trainer,
        data_fingerprint=lineage.data_fingerprint,
        code=lineage.code,
        packages=lineage.packages,
    )


def lineage_from_proto(message: model_pb2.Lineage) -> Lineage:
    """Where a version comes from."""
    return Lineage(
        trial=message.trial,
        source=message.source,
        trainer=message.trainer,
        data_fingerprint=message.data_fingerprint,
        code=message.code,
        packages=dict(sorted(message.packages.items())),
    )


def model_to_proto(model: Model) -> model_pb2.Model:
    """A model."""
    return model_pb2.Model(
        name=model.name,
        description=model.description,
        aliases=model.aliases,
        keep_versions=model.keep_versions,
        labels=model.labels,
        latest_version=model.latest_version,
        version_count=model.version_count,
        creator=model.creator,
        create_time=convert.time_to_proto(model.create_time),
        update_time=convert.time_to_proto(model.update_time),
        etag=model.etag,
    )


def model_from_proto(message: model_pb2.Model) -> Model:
    """A model."""
    return Model(
        model_id=parse_model_name(message.name),
        description=message.description,
        aliases=dict(sorted(message.aliases.items())),
        keep_versions=message.keep_versions,
        labels=dict(sorted(message.labels.items())),
        latest_version=message.latest_version,
        version_count=message.version_count,
        creator=message.creator,
        create_time=convert.time_from_proto(message.create_time),
        update_time=convert.time_from_proto(message.update_time),
        etag=message.etag,
    )


def version_to_proto(version: ModelVersion) -> model_pb2.ModelVersion:
    """A version."""
    return model_pb2.ModelVersion(
        name=version.name,
        state=state_to_proto(version.state),
        report=version.report,
        lineage=lineage_to_proto(version.lineage),
        metrics=version.metrics,
        uri=version.uri,
        size_bytes=version.size_bytes,
        sha256=version.sha256,
        card=version.card,
        aliases=version.aliases,
        publisher=version.publisher,
        expire_time=convert.time_to_proto(version.expire_time),
        publication_token=version.publication_token,
        creator=version.creator,
        create_time=convert.time_to_proto(version.create_time),
        finish_time=convert.time_to_proto(version.finish_time),
    )


def version_from_proto(message: model_pb2.ModelVersion) -> ModelVersion:
    """A version."""
    model_id, number = parse_version_name(message.name)
    expires, finished = message.HasField("expire_time"), message.HasField("finish_time")
    return ModelVersion(
        model_id=model_id,
        version=check_version(number),
        state=state_from_proto(message.state),
        report=message.report,
        lineage=lineage_from_proto(message.lineage),
        metrics=dict(sorted(message.metrics.items())),
        uri=message.uri,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        card=message.card,
        aliases=tuple(message.aliases),
        publisher=message.publisher,
        expire_time=convert.time_from_proto(message.expire_time) if expires else None,
        publication_token=message.publication_token,
        creator=message.creator,
        create_time=convert.time_from_proto(message.create_time),
        finish_time=convert.time_from_proto(message.finish_time) if finished else None,
    )


def published_to_proto(published: Published) -> pb.FinishModelVersionRequest.Published:
    """What was published."""
    return pb.FinishModelVersionRequest.Published(
        uri=published.uri,
        size_bytes=published.size_bytes,
        sha256=published.sha256,
        metrics=published.metrics,
        card=published.card,
        report=published.report,
        lineage=lineage_to_proto(published.lineage),
    )


def published_from_proto(message: pb.FinishModelVersionRequest.Published) -> Published:
    """What was published."""
    return Published(
        uri=message.uri,
        size_bytes=message.size_bytes,
        sha256=message.sha256,
        metrics=dict(sorted(message.metrics.items())),
        card=message.card,
        report=message.report,
        lineage=lineage_from_proto(message.lineage),
    )
