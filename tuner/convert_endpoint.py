"""Conversions between the messages of EndpointService and plain values, in pairs."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tuner import convert
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
    Report,
    Result,
    Scaling,
    Traffic,
    parse_endpoint_name,
)
from tuner.errors import InvalidArgumentError
from tuner.model import check_version, parse_model_name
from tuner.v1 import endpoint_pb2 as pb
from tuner.v1 import endpoint_service_pb2 as service_pb


def endpoint_to_proto(endpoint: Endpoint) -> pb.Endpoint:
    """An endpoint."""
    canary = endpoint.canary
    return pb.Endpoint(
        name=endpoint.name,
        description=endpoint.description,
        model=f"models/{endpoint.model_id}",
        deployments=map(deployment_to_proto, endpoint.deployments),
        scaling=scaling_to_proto(endpoint.scaling),
        timeout=convert.duration_to_proto(endpoint.timeout),
        recording=recording_to_proto(endpoint.recording),
        canary=canary_to_proto(canary) if canary else None,
        slots=endpoint.slots,
        creator=endpoint.creator,
        create_time=convert.time_to_proto(endpoint.create_time),
        update_time=convert.time_to_proto(endpoint.update_time),
        etag=endpoint.etag,
    )


def endpoint_from_proto(message: pb.Endpoint) -> Endpoint:
    """An endpoint."""
    return Endpoint(
        endpoint_id=parse_endpoint_name(message.name),
        model_id=parse_model_name(message.model),
        description=message.description,
        deployments=tuple(map(deployment_from_proto, message.deployments)),
        scaling=scaling_from_proto(message.scaling),
        timeout=_duration(message, "timeout", timedelta(seconds=30)),
        recording=recording_from_proto(message.recording),
        canary=canary_from_proto(message.canary) if message.HasField("canary") else None,
        slots=tuple(message.slots),
        creator=message.creator,
        create_time=convert.time_from_proto(message.create_time),
        update_time=convert.time_from_proto(message.update_time),
        etag=message.etag,
    )


def deployment_to_proto(deployment: Deployment) -> pb.Deployment:
    """A version that an endpoint serves."""
    return pb.Deployment(
        version=deployment.version,
        percent=deployment.percent,
        shadow_percent=deployment.shadow_percent,
        uri=deployment.uri,
        sha256=deployment.sha256,
        aliases=deployment.aliases,
    )


def deployment_from_proto(message: pb.Deployment) -> Deployment:
    """A version that an endpoint serves."""
    return Deployment(
        version=check_version(message.version),
        percent=message.percent,
        shadow_percent=message.shadow_percent,
        uri=message.uri,
        sha256=message.sha256,
        aliases=tuple(message.aliases),
    )


def scaling_to_proto(scaling: Scaling) -> pb.Scaling:
    """How many replicas there are."""
    return pb.Scaling(
        min_replicas=scaling.min_replicas,
        max_replicas=scaling.max_replicas,
        target_concurrency=scaling.target_concurrency,
        idle_time=convert.duration_to_proto(scaling.idle_time),
        max_queue=scaling.max_queue,
    )


def scaling_from_proto(message: pb.Scaling) -> Scaling:
    """How many replicas there are; what is left out has its default."""
    least = message.min_replicas
    return Scaling(
        min_replicas=least,
        max_replicas=message.max_replicas or max(least, 1),
        target_concurrency=message.target_concurrency or 16.0,
        idle_time=_duration(message, "idle_time", timedelta(minutes=5)),
        max_queue=message.max_queue or 1024,
    )


def recording_to_proto(recording: Recording) -> pb.Recording:
    """Which predictions are recorded."""
    keep_time = convert.duration_to_proto(recording.keep_time)
    return pb.Recording(percent=recording.percent, keep_time=keep_time)


def recording_from_proto(message: pb.Recording) -> Recording:
    """Which predictions are recorded; what is left out has its default."""
    keep_time = _duration(message, "keep_time", timedelta(days=7))
    return Recording(percent=message.percent, keep_time=keep_time)


def canary_to_proto(canary: Canary) -> pb.Canary:
    """A canary."""
    return pb.Canary(
        version=canary.version,
        steps=canary.steps,
        step_time=convert.duration_to_proto(canary.step_time),
        min_requests=canary.min_requests,
        max_error_increase=canary.max_error_increase,
        max_latency_ratio=canary.max_latency_ratio,
        state=canary_state_to_proto(canary.state),
        step=canary.step,
        step_start_time=convert.time_to_proto(canary.step_start_time),
        reason=canary.reason,
    )


def canary_from_proto(message: pb.Canary) -> Canary:
    """A canary; what is left out has its default, its state RUNNING."""
    states = {canary_state_to_proto(state): state for state in CanaryState}
    if message.state and message.state not in states:
        raise InvalidArgumentError(f"a canary has no state {message.state}.")
    started = message.HasField("step_start_time")
    return Canary(
        version=message.version,
        steps=tuple(message.steps),
        step_time=_duration(message, "step_time", timedelta(minutes=5)),
        min_requests=message.min_requests or 100,
        max_error_increase=message.max_error_increase or 0.01,
        max_latency_ratio=message.max_latency_ratio or 2.0,
        state=states.get(message.state, CanaryState.RUNNING),
        step=message.step,
        step_start_time=convert.time_from_proto(message.step_start_time) if started else None,
        reason=message.reason,
    )


def canary_state_to_proto(state: CanaryState) -> Any:
    """A state's number."""
    return pb.Canary.State.Value(state.value)


def traffic_to_proto(traffic: Traffic) -> service_pb.Traffic:
    """What a version did."""
    return service_pb.Traffic(
        requests=traffic.requests,
        errors=traffic.errors,
        differences=traffic.differences,
        latencies=traffic.latencies,
        refusals=traffic.refusals,
    )


def traffic_from_proto(message: service_pb.Traffic) -> Traffic:
    """What a version did; raises InvalidArgumentError for what cannot be counted."""
    latencies = list(message.latencies) or Traffic().latencies
    if len(latencies) != len(LATENCY_BOUNDS) + 1:
        raise InvalidArgumentError(
            f"latencies are {len(LATENCY_BOUNDS) + 1} counts, but got {len(latencies)}."
        )
    shares = (message.errors, message.differences, message.errors + message.refusals)
    counts = (message.requests, message.refusals, *shares, *latencies)
    if min(counts) < 0:
        raise InvalidArgumentError(f"counts of calls are not negative, but got {min(counts)}.")
    if max(shares) > message.requests:
        raise InvalidArgumentError(
            f"of {message.requests} calls no more can have failed or differed, but got "
            f"{message.errors} and {message.differences}."
        )
    return Traffic(
        requests=message.requests,
        errors=message.errors,
        differences=message.differences,
        latencies=latencies,
        refusals=message.refusals,
    )


def report_from_proto(message: service_pb.EndpointReport) -> Report:
    """What is known of an endpoint."""
    return Report(
        minutes=tuple(map(minute_from_proto, message.minutes)),
        results=tuple(map(result_from_proto, message.results)),
        replicas=tuple(map(replicas_from_proto, message.replicas)),
    )


def minute_to_proto(minute: Minute) -> service_pb.EndpointReport.Minute:
    """What a version did in a minute."""
    return service_pb.EndpointReport.Minute(
        start_time=convert.time_to_proto(minute.start_time),
        version=minute.version,
        shadow=minute.shadow,
        traffic=traffic_to_proto(minute.traffic),
    )


def minute_from_proto(message: service_pb.EndpointReport.Minute) -> Minute:
    """What a version did in a minute."""
    return Minute(
        start_time=convert.time_from_proto(message.start_time),
        version=message.version,
        shadow=message.shadow,
        traffic=traffic_from_proto(message.traffic),
    )


def result_to_proto(result: Result) -> service_pb.EndpointReport.Result:
    """What became of a version's predictions."""
    return service_pb.EndpointReport.Result(
        version=result.version,
        result=result.result,
        count=result.count,
        mean=result.mean,
        standard_deviation=result.standard_deviation,
        difference=result.difference,
        p_value=result.p_value,
    )


def result_from_proto(message: service_pb.EndpointReport.Result) -> Result:
    """What became of a version's predictions."""
    return Result(
        version=message.version,
        result=message.result,
        count=message.count,
        mean=message.mean,
        standard_deviation=message.standard_deviation,
        difference=message.difference,
        p_value=message.p_value if message.HasField("p_value") else None,
    )


def replicas_to_proto(replicas: Replicas) -> service_pb.ReplicaCount:
    """The replicas of a version on a gateway."""
    return service_pb.ReplicaCount(
        gateway=replicas.gateway,
        version=replicas.version,
        ready=replicas.ready,
        calls=replicas.calls,
        failure=replicas.failure,
    )


def replicas_from_proto(message: service_pb.ReplicaCount) -> Replicas:
    """The replicas of a version on a gateway."""
    return Replicas(
        gateway=message.gateway,
        version=message.version,
        ready=message.ready,
        calls=message.calls,
        failure=message.failure,
    )


def gateway_to_proto(gateway: Gateway) -> service_pb.ListGatewaysResponse.Gateway:
    """A gateway."""
    return service_pb.ListGatewaysResponse.Gateway(
        gateway=gateway.gateway,
        host=gateway.host,
        rest_address=gateway.rest_address,
        grpc_address=gateway.grpc_address,
        create_time=convert.time_to_proto(gateway.create_time),
        report_time=convert.time_to_proto(gateway.report_time),
    )


def gateway_from_proto(message: service_pb.ListGatewaysResponse.Gateway) -> Gateway:
    """A gateway."""
    return Gateway(
        gateway=message.gateway,
        host=message.host,
        rest_address=message.rest_address,
        grpc_address=message.grpc_address,
        create_time=convert.time_from_proto(message.create_time),
        report_time=convert.time_from_proto(message.report_time),
    )


def _duration(message: Any, name: str, default: timedelta) -> timedelta:
    return (
        convert.duration_from_proto(getattr(message, name)) if message.HasField(name) else default
    )
