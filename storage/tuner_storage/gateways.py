"""What gateways say, and what they are told: traffic, replicas, and what they should serve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from tuner.admin import AuditEntry
from tuner.canary import judged
from tuner.endpoint import Endpoint, Gateway, Minute, Replicas, Traffic
from tuner.errors import LeaseLostError
from tuner_storage.database import Database
from tuner_storage.endpoints import find_endpoint, list_endpoints, move_canary
from tuner_storage.pipeline import Connection
from tuner_storage.queries import QUERIES, fetch_rows, fetch_value
from tuner_storage.tokens import HashedToken, find_active_tokens, write_audit

#: A gateway that said nothing for so long is taken for dead.
LIFETIME = timedelta(seconds=60)
#: One that said something within this time is shown.
_SHOWN = timedelta(seconds=10)
#: For so long minutes of traffic are kept.
KEPT = timedelta(days=30)

#: What a version of an endpoint did: endpoint, version, and whether it was only asked, too.
Place = tuple[str, int, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayReport:
    """What a gateway did since its last report."""

    gateway: UUID
    #: Counts its reports from 1.
    sequence: int
    host: str = ""
    rest_address: str = ""
    grpc_address: str = ""
    traffic: Mapping[Place, Traffic]
    #: By endpoint.
    replicas: Sequence[tuple[str, Replicas]]
    #: Of the last answer.
    revision: str = ""
    ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What gateways serve by."""

    revision: str
    #: None if the gateway has it.
    endpoints: Sequence[Endpoint] | None = None
    callers: Sequence[HashedToken] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _GatewayRow:
    """A row of tuner.gateways."""

    gateway: UUID
    host: str
    rest_address: str
    grpc_address: str
    replicas: Sequence[tuple[str, Mapping[str, Any]]]
    create_time: datetime
    report_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class _MinuteRow:
    """A row of tuner.endpoint_traffic."""

    minute: datetime
    version: int
    shadow: bool
    requests: int
    errors: int
    differences: int
    latencies: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _CountRow:
    """What a row of tuner.canaries counts."""

    requests: int
    errors: int
    latencies: list[int]
    other_requests: int
    other_errors: int
    other_latencies: list[int]
    step_start_time: datetime
    elapsed: timedelta


class GatewayStore:
    """The verbs of gateways. Thread-safe; owns nothing but the pool it was given."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, report: GatewayReport, audit: AuditEntry) -> Served:
        """Adds a report to what is known, once, and answers what the gateway should serve.

        Canaries go on, or back, in the same transaction.

        Raises:
            LeaseLostError: the gateway is taken for dead.
        """
        with self._database.transaction() as connection:
            sequence, since = _enter(connection, report)
            if report.sequence > sequence:
                self._count(connection, report, since if sequence else None, audit)
            else:
                connection.execute(QUERIES["touch_gateway"], {"gateway": report.gateway})
            revision = str(fetch_value(connection, "served_revision", {"now": audit.time}))
            if revision == report.revision:
                return Served(revision=revision)
            return Served(
                revision=revision,
                endpoints=list_endpoints(connection, after="", limit=None),
                callers=find_active_tokens(connection, audit.time),
            )

    def list_gateways(self) -> list[Gateway]:
        """The gateways that reported lately, oldest first."""
        return [
            Gateway(
                gateway=str(row.gateway),
                host=row.host,
                rest_address=row.rest_address,
                grpc_address=row.grpc_address,
                create_time=row.create_time,
                report_time=row.report_time,
            )
            for row in self._rows()
        ]

    def list_replicas(self, endpoint_id: str) -> list[Replicas]:
        """The replicas of an endpoint on the gateways that reported lately."""
        return [
            Replicas(gateway=str(row.gateway), **each)
            for row in self._rows()
            for endpoint, each in row.replicas
            if endpoint == endpoint_id
        ]

    def list_traffic(self, endpoint_id: str, window: timedelta) -> list[Minute]:
        """What an endpoint's versions did in the last time, oldest first."""
        parameters = {"endpoint_id": endpoint_id, "window": window}
        with self._database.reading() as connection:
            rows = fetch_rows(connection, _MinuteRow, "list_traffic", parameters)
        return [
            Minute(
                start_time=row.minute,
                version=row.version,
                shadow=row.shadow,
                traffic=Traffic(
                    requests=row.requests,
                    errors=row.errors,
                    differences=row.differences,
                    latencies=row.latencies,
                ),
            )
            for row in rows
        ]

    def forget(self) -> None:
        """Removes gateways that are gone, and minutes that are long past."""
        with self._database.connection() as connection:
            connection.execute(QUERIES["forget_gateways"], {"lifetime": LIFETIME})
            connection.execute(QUERIES["forget_traffic"], {"keep_time": KEPT})

    def _rows(self) -> list[_GatewayRow]:
        with self._database.connection() as connection:
            return fetch_rows(connection, _GatewayRow, "list_gateways", {"within": _SHOWN})

    def _count(
        self,
        connection: Connection,
        report: GatewayReport,
        since: datetime | None,
        audit: AuditEntry,
    ) -> None:
        """Adds what a report says.

        Args:
            connection: In a transaction that holds the gateway.
            report: What it says.
            since: When the gateway was last answered: how it was to split the traffic until now.
            audit: For what becomes of canaries.
        """
        touched = sorted({place[0] for place in report.traffic})
        held = connection.execute(QUERIES["lock_canaries"], {"endpoints": touched}).fetchall()
        if report.traffic:
            rows = [
                {"endpoint_id": endpoint, "version": version, "shadow": shadow, **asdict(traffic)}
                for (endpoint, version, shadow), traffic in report.traffic.items()
            ]
            connection.execute(QUERIES["add_traffic"], {"rows": json.dumps(rows)})
        for (endpoint_id,) in held:
            _watch(connection, endpoint_id, report, since, audit)
        replicas = [(endpoint, _said(each)) for endpoint, each in report.replicas]
        parameters = {
            "gateway": report.gateway,
            "sequence": report.sequence,
            "host": report.host,
            "rest_address": report.rest_address,
            "grpc_address": report.grpc_address,
            "replicas": json.dumps(replicas),
            "ended": report.ends,
        }
        connection.execute(QUERIES["keep_report"], parameters)


def _enter(connection: Connection, report: GatewayReport) -> tuple[int, datetime]:
    """The last report of a gateway that was counted, and when it was last answered."""
    parameters = {"gateway": report.gateway, "lifetime": LIFETIME}
    if report.sequence == 1:
        connection.execute(QUERIES["enter_gateway"], parameters)
    row = connection.execute(QUERIES["lock_gateway"], parameters).fetchone()
    if row is None:
        raise LeaseLostError(
            f"the gateway {report.gateway} is taken for dead: it said nothing for "
            f"{LIFETIME.total_seconds():g} s; begin anew with another id."
        )
    return int(row[0]), row[1]


def _watch(
    connection: Connection,
    endpoint_id: str,
    report: GatewayReport,
    since: datetime | None,
    audit: AuditEntry,
) -> None:
    """Adds a report to what a canary's step counts, and moves the canary by it.

    Calls that a gateway answered before it knew of the step belong to the step before.
    """
    endpoint = find_endpoint(connection, endpoint_id)
    counted = fetch_rows(connection, _CountRow, "find_canary", {"endpoint_id": endpoint_id})
    if not counted or endpoint.canary is None:
        return  # It ended while this report waited for it.
    (row,) = counted
    own, others = _sides(row)
    if since is not None and row.step_start_time <= since:
        for (where, version, shadow), traffic in report.traffic.items():
            if where == endpoint_id and not shadow:
                # What only one side refuses is the version's fault: it gets the same calls.
                failed = replace(traffic, errors=traffic.errors + traffic.refusals)
                (own if version == endpoint.canary.version else others).add(failed)
        connection.execute(QUERIES["count_canary"], _counts(endpoint_id, own, others))
    moved = judged(endpoint.canary, own, others, row.elapsed)
    if moved != endpoint.canary:
        move_canary(connection, endpoint, moved, audit.time)
        write_audit(connection, replace(audit, resource=endpoint.name))


def _sides(row: _CountRow) -> tuple[Traffic, Traffic]:
    none = Traffic().latencies
    own = Traffic(requests=row.requests, errors=row.errors, latencies=row.latencies or [*none])
    others = Traffic(
        requests=row.other_requests,
        errors=row.other_errors,
        latencies=row.other_latencies or [*none],
    )
    return own, others


def _counts(endpoint_id: str, own: Traffic, others: Traffic) -> Mapping[str, Any]:
    return {
        "endpoint_id": endpoint_id,
        "requests": own.requests,
        "errors": own.errors,
        "latencies": own.latencies,
        "other_requests": others.requests,
        "other_errors": others.errors,
        "other_latencies": others.latencies,
    }


def _said(replicas: Replicas) -> Mapping[str, Any]:
    said = asdict(replicas)
    del said["gateway"]
    return said
