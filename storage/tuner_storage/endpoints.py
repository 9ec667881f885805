"""What is asked of the database about endpoints: what they serve, and their canaries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from tuner.endpoint import (
    Canary,
    CanaryState,
    Deployment,
    Endpoint,
    Recording,
    Scaling,
    shared,
)
from tuner.errors import FailedPreconditionError, NotFoundError
from tuner.model import VersionState
from tuner_storage.asked import Asked, change
from tuner_storage.database import Database
from tuner_storage.errors import StaleError
from tuner_storage.models import find_version, lock_model, retire
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES, fetch_rows, fetch_value


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointChanges:
    """What to change of an endpoint; None: nothing."""

    etag: str = ""
    description: str | None = None
    deployments: Sequence[Deployment] | None = None
    scaling: Scaling | None = None
    timeout: timedelta | None = None
    recording: Recording | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A version that an endpoint is to serve."""

    model_id: str
    #: A number, an alias or `latest`.
    version: int | str
    percent: int = 0
    shadow_percent: int = 0
    #: Its version is the one that is deployed.
    canary: Canary | None = None
    #: None: as it was.
    scaling: Scaling | None = None
    recording: Recording | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _EndpointRow:
    """A row of tuner.endpoint_summaries."""

    endpoint_id: str
    model_id: str
    description: str
    min_replicas: int
    max_replicas: int
    target_concurrency: float
    idle_time: timedelta
    max_queue: int
    timeout: timedelta
    record_percent: float
    record_keep_time: timedelta
    slots: Sequence[int]
    revision: int
    creator: str
    create_time: datetime
    update_time: datetime
    deployments: Sequence[Mapping[str, Any]]
    canary: Mapping[str, Any] | None

    def to_endpoint(self) -> Endpoint:
        """The endpoint."""
        return Endpoint(
            endpoint_id=self.endpoint_id,
            model_id=self.model_id,
            description=self.description,
            deployments=tuple(
                Deployment(**{**each, "aliases": tuple(each["aliases"])})
                for each in self.deployments
            ),
            scaling=Scaling(
                min_replicas=self.min_replicas,
                max_replicas=self.max_replicas,
                target_concurrency=self.target_concurrency,
                idle_time=self.idle_time,
                max_queue=self.max_queue,
            ),
            timeout=self.timeout,
            recording=Recording(percent=self.record_percent, keep_time=self.record_keep_time),
            canary=None if self.canary is None else _canary(self.canary),
            slots=tuple(self.slots),
            creator=self.creator,
            create_time=self.create_time,
            update_time=self.update_time,
            etag=str(self.revision),
        )


class EndpointStore:
    """The verbs on endpoints. Thread-safe; owns nothing but the pool it was given.

    Every method is one transaction, with the audit entry of its change and the answer to its
    request in it. What changes an endpoint holds its model first, then itself.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, endpoint: Endpoint, asked: Asked[Endpoint]) -> bytes:
        """Creates an endpoint.

        Raises:
            AlreadyExistsError: there is one of its name.
            NotFoundError: there is no such model, or version of it.
            FailedPreconditionError: a version is not READY.
        """

        def work(connection: Connection) -> Endpoint:
            lock_model(connection, endpoint.model_id)
            connection.execute(QUERIES["create_endpoint"], _columns(endpoint))
            return _serve(connection, endpoint, endpoint.deployments, asked.now)

        return change(self._database, asked, work)

    def get(self, endpoint_id: str) -> Endpoint:
        """Returns an endpoint; raises NotFoundError."""
        with self._database.connection() as connection:
            return find_endpoint(connection, endpoint_id)

    def list_endpoints(self, *, after: str = "", limit: int = 100) -> list[Endpoint]:
        """Endpoints by name; `after` is the name of the last one seen."""
        with self._database.reading() as connection:
            return list_endpoints(connection, after=after, limit=limit)

    def update(self, endpoint_id: str, changes: EndpointChanges, asked: Asked[Endpoint]) -> bytes:
        """Changes an endpoint; other deployments end a canary that runs.

        Raises:
            NotFoundError: there is no such endpoint, or version of its model.
            FailedPreconditionError: the etag is stale, or a version is not READY.
        """

        def work(connection: Connection) -> Endpoint:
            endpoint = _hold(connection, endpoint_id)
            if changes.etag and changes.etag != endpoint.etag:
                raise FailedPreconditionError(
                    f"endpoint {endpoint_id!r} has changed since it was read (etag "
                    f"{changes.etag}, now {endpoint.etag}); read it again."
                )
            given = {
                name: value
                for name in ("description", "scaling", "timeout", "recording")
                if (value := getattr(changes, name)) is not None
            }
            endpoint, deployments = replace(endpoint, **given), changes.deployments
            if deployments is None:
                return _save(connection, endpoint, asked.now)
            _cancel(connection, endpoint_id, "the traffic was split otherwise.")
            return _serve(connection, endpoint, deployments, asked.now)

        return change(self._database, asked, work)

    def delete(self, endpoint_id: str, asked: Asked[None]) -> bytes:
        """Deletes an endpoint, with what was recorded of it; raises NotFoundError."""

        def work(connection: Connection) -> None:
            endpoint = _hold(connection, endpoint_id)
            asked.check_delete(endpoint.creator)
            connection.execute(QUERIES["delete_endpoint"], {"endpoint_id": endpoint_id})
            retire(connection, endpoint.model_id)

        return change(self._database, asked, work)

    def deploy(self, endpoint_id: str, rollout: Rollout, asked: Asked[Endpoint]) -> bytes:
        """Gives a version a part of the traffic, of an endpoint that is created if there is none.

        Raises:
            NotFoundError: there is no such version.
            FailedPreconditionError: it is not READY, or the endpoint serves another model.
        """

        def work(connection: Connection) -> Endpoint:
            lock_model(connection, rollout.model_id)
            version = _ready(connection, rollout.model_id, rollout.version)
            fresh = Endpoint(
                endpoint_id=endpoint_id,
                model_id=rollout.model_id,
                creator=asked.audit.caller,
                create_time=asked.now,
                update_time=asked.now,
            )
            connection.execute(QUERIES["ensure_endpoint"], _columns(fresh))
            endpoint = _lock(connection, endpoint_id)
            if endpoint.model_id != rollout.model_id:
                raise FailedPreconditionError(
                    f"endpoint {endpoint_id!r} serves versions of {endpoint.model_id!r}, and not "
                    f"of {rollout.model_id!r}; deploy to another endpoint: --endpoint NAME."
                )
            endpoint = replace(
                endpoint,
                scaling=rollout.scaling or endpoint.scaling,
                recording=rollout.recording or endpoint.recording,
            )
            _cancel(connection, endpoint_id, f"version {version} was deployed.")
            percent, before = rollout.percent, endpoint.percents
            if rollout.canary is not None and _others_have_traffic(before, version):
                canary = replace(rollout.canary, version=version)
                percent = canary.steps[0]
                _begin(connection, endpoint_id, canary, before)
            percents = shared(before, version, percent)
            shadows = {each.version: each.shadow_percent for each in endpoint.deployments}
            shadows[version] = rollout.shadow_percent
            return _split(connection, endpoint, percents, shadows, asked.now)

        return change(self._database, asked, work)

    def undeploy(self, endpoint_id: str, version: int, asked: Asked[Endpoint]) -> bytes:
        """Takes a version from an endpoint; the others get its traffic.

        Raises:
            NotFoundError: there is no such endpoint, or it does not serve the version.
            FailedPreconditionError: the version has all traffic, and others none of it.
        """

        def work(connection: Connection) -> Endpoint:
            endpoint = _hold(connection, endpoint_id)
            percents = endpoint.percents
            if version not in percents:
                raise NotFoundError(
                    f"endpoint {endpoint_id!r} does not serve version {version}; it serves "
                    f"{', '.join(map(str, percents)) or 'none'}."
                )
            canary = endpoint.canary
            if canary is not None and canary.state is CanaryState.RUNNING:
                if canary.version == version:
                    percents = _percents_before(connection, endpoint_id)
                _cancel(connection, endpoint_id, f"version {version} was taken away.")
            others = {each for each in percents if each != version}
            if others and not _others_have_traffic(percents, version):
                raise FailedPreconditionError(
                    f"version {version} has all traffic of {endpoint_id!r}; give it to another "
                    f"first: tuner endpoints traffic {endpoint_id} {min(others)}=100."
                )
            percents = {v: p for v, p in shared(percents, version, 0).items() if v != version}
            shadows = {each.version: each.shadow_percent for each in endpoint.deployments}
            saved = _split(connection, endpoint, percents, shadows, asked.now)
            retire(connection, endpoint.model_id)
            return saved

        return change(self._database, asked, work)

    def roll_back(self, endpoint_id: str, reason: str, asked: Asked[Endpoint]) -> bytes:
        """Ends a canary: the others get the traffic again.

        Raises:
            NotFoundError: there is no such endpoint.
            FailedPreconditionError: none runs.
        """

        def work(connection: Connection) -> Endpoint:
            endpoint = _hold(connection, endpoint_id)
            canary = endpoint.canary
            if canary is None or canary.state is not CanaryState.RUNNING:
                raise FailedPreconditionError(
                    f"no canary runs at {endpoint_id!r}; split the traffic: tuner endpoints "
                    f"traffic {endpoint_id} VERSION=PERCENT."
                )
            ended = replace(canary, state=CanaryState.ROLLED_BACK, reason=reason)
            return move_canary(connection, endpoint, ended, asked.now)

        return change(self._database, asked, work)


def find_endpoint(connection: Connection, endpoint_id: str) -> Endpoint:
    """An endpoint; raises NotFoundError."""
    found = fetch_rows(connection, _EndpointRow, "find_endpoint", {"endpoint_id": endpoint_id})
    if not found:
        raise no_endpoint(endpoint_id)
    return found[0].to_endpoint()


def list_endpoints(connection: Connection, *, after: str, limit: int | None) -> list[Endpoint]:
    """Endpoints by name; without a limit all."""
    parameters = {"after": after, "limit": limit}
    rows = fetch_rows(connection, _EndpointRow, "list_endpoints", parameters)
    return [row.to_endpoint() for row in rows]


def no_endpoint(endpoint_id: str) -> NotFoundError:
    """What is said of an endpoint that there is not."""
    return NotFoundError(f"no endpoint is called {endpoint_id!r}; `tuner endpoints` lists them.")


def move_canary(
    connection: Connection, endpoint: Endpoint, moved: Canary, now: datetime
) -> Endpoint:
    """A canary goes on or ends, and the traffic with it; the endpoint is held."""
    endpoint_id, before = endpoint.endpoint_id, _percents_before(connection, endpoint.endpoint_id)
    if moved.state is CanaryState.RUNNING:
        percent = moved.steps[moved.step]
        parameters = {"endpoint_id": endpoint_id, "step": moved.step}
        connection.execute(QUERIES["step_canary"], parameters)
    else:
        is_back = moved.state is CanaryState.ROLLED_BACK
        percent = 0 if is_back else moved.steps[-1]
        _end(connection, endpoint_id, moved.state, moved.reason)
    percents = shared(before, moved.version, percent)
    shadows = {each.version: each.shadow_percent for each in endpoint.deployments}
    return _split(connection, endpoint, percents, shadows, now)


def _hold(connection: Connection, endpoint_id: str) -> Endpoint:
    """Makes others wait who change the endpoint or its model; raises NotFoundError."""
    model_id = find_endpoint(connection, endpoint_id).model_id
    lock_model(connection, model_id)
    endpoint = _lock(connection, endpoint_id)
    if endpoint.model_id != model_id:
        raise StaleError(f"endpoint {endpoint_id!r} was made anew meanwhile; try again.")
    return endpoint


def _lock(connection: Connection, endpoint_id: str) -> Endpoint:
    if fetch_value(connection, "lock_endpoint", {"endpoint_id": endpoint_id}) is None:
        raise no_endpoint(endpoint_id)
    return find_endpoint(connection, endpoint_id)


def _ready(connection: Connection, model_id: str, version: int | str) -> int:
    """The number of a version that may be served."""
    row = find_version(connection, model_id, version)
    if row.state != VersionState.READY:
        raise FailedPreconditionError(
            f"version {row.version} of {model_id!r} is {row.state.lower()}; an endpoint serves "
            "one that is ready."
        )
    return row.version


def _serve(
    connection: Connection, endpoint: Endpoint, deployments: Sequence[Deployment], now: datetime
) -> Endpoint:
    """Lets an endpoint serve these; the model is held."""
    served = endpoint.with_deployments(deployments)
    for each in served.deployments:
        _ready(connection, endpoint.model_id, each.version)
    saved = _save(connection, served, now)
    retire(connection, endpoint.model_id)
    return saved


def _split(
    connection: Connection,
    endpoint: Endpoint,
    percents: Mapping[int, int],
    shadows: Mapping[int, int],
    now: datetime,
) -> Endpoint:
    deployments = [
        Deployment(version=version, percent=percent, shadow_percent=shadows.get(version, 0))
        for version, percent in percents.items()
    ]
    return _save(connection, endpoint.with_deployments(deployments), now)


def _save(connection: Connection, endpoint: Endpoint, now: datetime) -> Endpoint:
    """Writes an endpoint that is held, and reads it as it is then."""
    deployments = [
        {name: getattr(each, name) for name in ("version", "percent", "shadow_percent")}
        for each in endpoint.deployments
    ]
    columns = {**_columns(endpoint), "slots": list(endpoint.slots), "now": now}
    connection.execute(QUERIES["update_endpoint"], columns)
    connection.execute(QUERIES["remove_deployments"], columns)
    parameters = {**columns, "deployments": json.dumps(deployments)}
    connection.execute(QUERIES["set_deployments"], parameters)
    return find_endpoint(connection, endpoint.endpoint_id)


def _others_have_traffic(percents: Mapping[int, int], version: int) -> bool:
    return any(percent for each, percent in percents.items() if each != version)


def _begin(
    connection: Connection, endpoint_id: str, canary: Canary, before: Mapping[int, int]
) -> None:
    parameters = {
        "endpoint_id": endpoint_id,
        "version": canary.version,
        "steps": list(canary.steps),
        "step_seconds": canary.step_time.total_seconds(),
        "min_requests": canary.min_requests,
        "max_error_increase": canary.max_error_increase,
        "max_latency_ratio": canary.max_latency_ratio,
        "percents_before": json.dumps(dict(before)),
    }
    connection.execute(QUERIES["begin_canary"], parameters)


def _cancel(connection: Connection, endpoint_id: str, reason: str) -> None:
    _end(connection, endpoint_id, CanaryState.CANCELLED, reason)


def _end(connection: Connection, endpoint_id: str, state: CanaryState, reason: str) -> None:
    """Ends a canary, if one runs."""
    parameters = {"endpoint_id": endpoint_id, "state": state.value, "reason": reason}
    connection.execute(QUERIES["end_canary"], parameters)


def _percents_before(connection: Connection, endpoint_id: str) -> dict[int, int]:
    """The percents that the last canary began from."""
    parameters = {"endpoint_id": endpoint_id}
    before = fetch_value(connection, "find_percents_before", parameters)
    return {int(version): percent for version, percent in before.items()}


def _canary(row: Mapping[str, Any]) -> Canary:
    """A row of tuner.canaries, as JSON."""
    return Canary(
        version=row["version"],
        steps=tuple(row["steps"]),
        step_time=timedelta(seconds=row["step_seconds"]),
        min_requests=row["min_requests"],
        max_error_increase=row["max_error_increase"],
        max_latency_ratio=row["max_latency_ratio"],
        state=CanaryState(row["state"]),
        step=row["step"],
        step_start_time=datetime.fromisoformat(row["step_start_time"]),
        reason=row["reason"],
    )


def _columns(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "endpoint_id": endpoint.endpoint_id,
        "model_id": endpoint.model_id,
        "description": endpoint.description,
        **asdict(endpoint.scaling),
        "timeout": endpoint.timeout,
        "record_percent": endpoint.recording.percent,
        "record_keep_time": endpoint.recording.keep_time,
        "creator": endpoint.creator,
        "now": endpoint.create_time,
    }
