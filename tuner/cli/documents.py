"""Studies, trials, models, endpoints and what admins see as the JSON that commands print."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from tuner import admin
from tuner import study as values
from tuner.client import Importance, Trial
from tuner.endpoint import Endpoint, Report
from tuner.model import Model, ModelVersion
from tuner.space import Categorical, Discrete, Parameter


def study(record: values.Study) -> dict[str, Any]:
    """A study."""
    spec, counts = record.spec, record.trial_counts
    return {
        "study": record.study_id,
        "state": record.state,
        "state_reason": record.state_reason,
        "metric": {"name": spec.metric.name, "goal": spec.metric.goal},
        "metrics": [{"name": metric.name, "goal": metric.goal} for metric in spec.metrics],
        "constraints": [
            {"metric": c.metric, "at_most": c.at_most, "at_least": c.at_least}
            for c in spec.constraints
        ],
        "measurement": spec.selection.lower(),
        "warm_start": spec.warm_start,
        "labels": dict(spec.labels),
        "creator": record.creator or None,
        "trainer": spec.trainer,
        "command": list(spec.own.command) or None,
        "code": spec.own.code or None,
        "algorithm": record.algorithm_in_use or spec.search.algorithm,
        "limits": {
            "trials": spec.limits.trials,
            "parallel": spec.limits.parallel,
            "hours": _hours(spec.limits.duration),
            "no_improvement_trials": spec.limits.no_improvement_trials,
            "failed_trials": spec.limits.failed_trials,
            "worker_hours": _hours(spec.limits.worker_time),
        },
        "trials": {
            "queued": counts.queued,
            "running": counts.running,
            "succeeded": counts.succeeded,
            "pruned": counts.pruned,
            "failed": counts.failed,
            "infeasible": counts.infeasible,
            "past": counts.past,
        },
        "rows": record.statistics.rows if record.statistics else None,
        "features": [
            {"name": f.name, "kind": f.kind, "columns": f.columns, "reason": f.reason}
            for f in spec.features
        ],
        "parameters": [parameter(p) for p in spec.space.walk()],
        "settings": dict(spec.settings),
        "cost": _cost(record.cost),
        "best_trial": record.best_trial,
        "exported_model_uri": record.exported_model_uri or None,
        "create_time": _time(record.create_time),
        "end_time": _time(record.end_time),
    }


def parameter(item: Parameter) -> dict[str, Any]:
    """A parameter, without its children."""
    document: dict[str, Any] = {"name": item.name, "group": item.group}
    domain = item.domain
    if isinstance(domain, Categorical):
        return {**document, "categorical": list(domain.choices)}
    if isinstance(domain, Discrete):
        return {**document, "discrete": list(domain.values)}
    kind = type(domain).__name__.lower()
    return {**document, kind: [domain.low, domain.high], "log": domain.log, "step": domain.step}


def trial(view: Trial) -> dict[str, Any]:
    """A trial."""
    record = view.record
    measurement = record.final_measurement
    document: dict[str, Any] = {
        "trial": view.number,
        "state": view.state,
        "state_reason": record.state_reason,
        "value": view.value,
        "step": measurement.step if measurement else None,
        "metrics": dict(view.metrics),
        "within_constraints": record.within_constraints,
        "parameters": dict(view.parameters),
        "origin": record.origin.lower(),
        "search_note": record.search_note,
        "labels": dict(view.labels),
        "attempt": record.attempt,
        "cost": _cost(record.cost),
        "worker": record.lease.worker_id if record.lease else None,
        "artifact_uri": record.artifact_uri or None,
        "checkpoint": None
        if record.checkpoint is None
        else {"uri": record.checkpoint.uri, "step": record.checkpoint.step},
        "create_time": _time(record.create_time),
        "start_time": _time(record.start_time),
        "end_time": _time(record.end_time),
    }
    if record.measurements:
        document["measurements"] = [
            {"step": m.step, "metrics": dict(m.metrics)} for m in record.measurements
        ]
    return document


def importance(shares: Importance) -> dict[str, Any]:
    """What mattered."""
    return {
        "parameters": dict(shares.parameters),
        "groups": dict(shares.groups),
        "trials": shares.trials,
    }


def model(item: Model) -> dict[str, Any]:
    """A model."""
    return {
        "model": item.model_id,
        "description": item.description,
        "latest_version": item.latest_version or None,
        "versions": item.version_count,
        "aliases": dict(item.aliases),
        "keep_versions": item.keep_versions or None,
        "labels": dict(item.labels),
        "creator": item.creator or None,
        "create_time": _time(item.create_time),
    }


def model_version(item: ModelVersion) -> dict[str, Any]:
    """A version of a model, without its card."""
    lineage = item.lineage
    return {
        "model": item.model_id,
        "version": item.version,
        "state": item.state,
        "report": item.report,
        "aliases": list(item.aliases),
        "trial": lineage.trial or None,
        "source": lineage.source or None,
        "trainer": lineage.trainer or None,
        "data_fingerprint": lineage.data_fingerprint or None,
        "code": lineage.code or None,
        "packages": dict(lineage.packages),
        "metrics": dict(item.metrics),
        "uri": item.uri or None,
        "size_bytes": item.size_bytes,
        "sha256": item.sha256 or None,
        "publisher": item.publisher or None,
        "creator": item.creator or None,
        "create_time": _time(item.create_time),
        "finish_time": _time(item.finish_time),
    }


def endpoint(record: Endpoint) -> dict[str, Any]:
    """An endpoint."""
    canary = record.canary
    return {
        "endpoint": record.endpoint_id,
        "model": record.model_id,
        "description": record.description,
        "deployments": [
            {
                "version": each.version,
                "percent": each.percent,
                "shadow_percent": each.shadow_percent,
                "uri": each.uri,
                "aliases": list(each.aliases),
            }
            for each in record.deployments
        ],
        "canary": None
        if canary is None
        else {
            "version": canary.version,
            "state": canary.state,
            "steps": list(canary.steps),
            "step": canary.step,
            "step_seconds": canary.step_time.total_seconds(),
            "step_start_time": _time(canary.step_start_time),
            "reason": canary.reason,
        },
        "scaling": {
            "min_replicas": record.scaling.min_replicas,
            "max_replicas": record.scaling.max_replicas,
            "target_concurrency": record.scaling.target_concurrency,
            "idle_seconds": record.scaling.idle_time.total_seconds(),
            "max_queue": record.scaling.max_queue,
        },
        "timeout_seconds": record.timeout.total_seconds(),
        "recording": {
            "percent": record.recording.percent,
            "keep_seconds": record.recording.keep_time.total_seconds(),
        },
        "creator": record.creator or None,
        "create_time": _time(record.create_time),
        "update_time": _time(record.update_time),
        "etag": record.etag,
    }


def endpoint_report(report: Report) -> dict[str, Any]:
    """What is known of an endpoint's traffic and results."""
    return {
        "traffic": [
            {
                "version": version,
                "shadow": shadow,
                "requests": did.requests,
                "errors": did.errors,
                "differences": did.differences if shadow else None,
                "p50_seconds": did.quantile(0.5),
                "p99_seconds": did.quantile(0.99),
            }
            for (version, shadow), did in sorted(report.totals.items())
        ],
        "results": [
            {
                "version": each.version,
                "result": each.result,
                "count": each.count,
                "mean": each.mean,
                "standard_deviation": each.standard_deviation,
                "difference": each.difference,
                "p_value": each.p_value,
            }
            for each in report.results
        ],
        "replicas": [
            {
                "gateway": each.gateway,
                "version": each.version,
                "ready": each.ready,
                "calls": each.calls,
                "failure": each.failure or None,
            }
            for each in report.replicas
        ],
    }


def token(item: admin.Token) -> dict[str, Any]:
    """A token."""
    return {
        "token": item.token_id,
        "role": item.role,
        "create_time": _time(item.create_time),
        "expire_time": _time(item.expire_time),
        "revoke_time": _time(item.revoke_time),
    }


def audit_entry(entry: admin.AuditEntry) -> dict[str, Any]:
    """A change."""
    return {
        "time": _time(entry.time),
        "caller": entry.caller or None,
        "method": entry.method,
        "resource": entry.resource,
        "request": entry.request,
    }


def server(item: admin.Server) -> dict[str, Any]:
    """A study server."""
    return {
        "address": item.address,
        "studies": item.studies,
        "start_time": _time(item.start_time),
        "expire_time": _time(item.expire_time),
    }


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def _cost(cost: values.Cost) -> dict[str, float]:
    return {
        "worker_seconds": cost.worker_time.total_seconds(),
        "cpu_seconds": cost.cpu_time.total_seconds(),
        "gpu_seconds": cost.gpu_time.total_seconds(),
    }


def _hours(time: timedelta | None) -> float | None:
    return None if time is None else time.total_seconds() / 3600
