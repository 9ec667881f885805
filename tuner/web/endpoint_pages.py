"""The pages of endpoints: their list, and one with its traffic, results and a form to try it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Request, Response

from tuner.endpoint import Deployment, Endpoint, Report, Traffic, check_endpoint_id
from tuner.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from tuner.web import endpoint_charts
from tuner.web.site import PageToken, Site, TheSite

router = APIRouter(prefix="/endpoints", include_in_schema=False)

#: Over how much time calls, errors and latencies are shown.
WINDOWS: Mapping[str, timedelta] = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}
Window = Annotated[str, Query(pattern="^(15m|1h|1d)$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """An input of a model, as the form shows it."""

    name: str
    #: `text` or `number`.
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A version of an endpoint, as its table shows it."""

    deployment: Deployment
    #: What it answered in the window, and what it was only asked, too.
    answered: Traffic
    shadowed: Traffic
    ready: int
    calls: int
    failure: str


@router.get("")
def endpoints(site: TheSite, page_token: PageToken = "") -> Response:
    """All endpoints."""
    return site.page("endpoints.html", **_endpoints(site, page_token))


@router.get("/parts/list")
def endpoints_part(request: Request, site: TheSite, page_token: PageToken = "") -> Response:
    """The table of endpoints, asked for again and again."""
    return site.part(request, "_endpoints.html", **_endpoints(site, page_token))


@router.get("/{endpoint_id}")
def endpoint(site: TheSite, endpoint_id: str, window: Window = "1h") -> Response:
    """One endpoint."""
    return site.page("endpoint.html", **_endpoint(site, endpoint_id, window))


@router.get("/{endpoint_id}/parts/versions")
def versions_part(
    request: Request, site: TheSite, endpoint_id: str, window: Window = "1h"
) -> Response:
    """What changes of an endpoint, asked for again and again."""
    return site.part(request, "_endpoint.html", **_endpoint(site, endpoint_id, window))


@router.get("/{endpoint_id}/parts/form")
def form_part(request: Request, site: TheSite, endpoint_id: str) -> Response:
    """A field for each input of the model: it may wake for that."""
    found = _found(site, endpoint_id)
    with site.source.predictions() as predictions:
        answer = predictions.metadata(endpoint_id)
    return site.part(request, "_try.html", endpoint=found, inputs=_inputs(answer.checked()))


@router.get("/{endpoint_id}/figures/requests")
def requests_figure(
    request: Request, site: TheSite, endpoint_id: str, window: Window = "1h"
) -> Response:
    """Calls per minute, by version."""
    span = WINDOWS[window]
    report = site.source.endpoint_report(_checked(endpoint_id), span)
    drawn = endpoint_charts.requests(report.minutes, span, datetime.now(UTC))
    return site.figure(request, drawn)


@router.get("/{endpoint_id}/figures/latencies")
def latencies_figure(
    request: Request, site: TheSite, endpoint_id: str, window: Window = "1h"
) -> Response:
    """Latencies that half of the calls, and 99 of 100, did not exceed, by version."""
    span = WINDOWS[window]
    report = site.source.endpoint_report(_checked(endpoint_id), span)
    drawn = endpoint_charts.latencies(report.minutes, span, datetime.now(UTC))
    return site.figure(request, drawn)


@router.post("/{endpoint_id}/traffic")
def set_traffic(
    request: Request,
    site: TheSite,
    endpoint_id: str,
    percents: Annotated[dict[int, int], Body()],
    etag: Annotated[str, Body()],
) -> Response:
    """Changes the split; refused if the endpoint has changed since it was shown."""
    check_same_origin(request)
    site.source.split(_checked(endpoint_id), percents, etag)
    return site.part(request, "_endpoint.html", **_endpoint(site, endpoint_id, "1h"))


@router.post("/{endpoint_id}/try")
def try_it(
    request: Request,
    site: TheSite,
    endpoint_id: str,
    values: Annotated[dict[str, Any], Body()],
    version: Annotated[int, Body()] = 0,
) -> Response:
    """Has a row predicted, by the gateway that clients ask."""
    check_same_origin(request)
    with site.source.predictions() as predictions:
        answer = predictions.predict(_checked(endpoint_id), [values], version=version or None)
    shown = json.dumps(answer.document, indent=2, ensure_ascii=False)
    return site.part(request, "_prediction.html", answer=answer, shown=shown)


def check_same_origin(request: Request) -> None:
    """Raises PermissionDeniedError for what a page elsewhere may have sent.

    Pages of other origins cannot set this header without being asked first, which nobody answers.
    """
    if request.headers.get("X-Tuner") != "1":
        raise PermissionDeniedError("changes are made from these pages only.")


def _endpoints(site: Site, page_token: str) -> dict[str, Any]:
    found, next_token = site.source.list_endpoints(page_token)
    return {
        "endpoints": found,
        "gateways": site.source.list_gateways(),
        "page_token": page_token,
        "next_token": next_token,
    }


def _endpoint(site: Site, endpoint_id: str, window: str) -> dict[str, Any]:
    found = _found(site, endpoint_id)
    report = site.source.endpoint_report(endpoint_id, WINDOWS[window])
    return {
        "endpoint": found,
        "rows": _rows(found, report),
        "results": report.results,
        "gateways": site.source.list_gateways(),
        "window": window,
        "windows": list(WINDOWS),
        "minutes": WINDOWS[window].total_seconds() / 60,
    }


def _rows(endpoint: Endpoint, report: Report) -> list[Row]:
    rows, totals = [], report.totals
    for deployment in endpoint.deployments:
        version = deployment.version
        replicas = [each for each in report.replicas if each.version == version]
        rows.append(
            Row(
                deployment=deployment,
                answered=totals.get((version, False), Traffic()),
                shadowed=totals.get((version, True), Traffic()),
                ready=sum(each.ready for each in replicas),
                calls=sum(each.calls for each in replicas),
                failure=next((each.failure for each in replicas if each.failure), ""),
            )
        )
    return rows


def _inputs(metadata: Any) -> list[Input]:
    """What the default signature takes, from TensorFlow Serving's metadata."""
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    found = signatures["serving_default"]["inputs"]
    return [
        Input(name=name, kind="text" if found[name]["dtype"] == "DT_STRING" else "number")
        for name in sorted(found)
    ]


def _found(site: Site, endpoint_id: str) -> Endpoint:
    return site.source.get_endpoint(_checked(endpoint_id))


def _checked(endpoint_id: str) -> str:
    """Raises NotFoundError for what cannot be an endpoint's name."""
    try:
        return check_endpoint_id(endpoint_id)
    except InvalidArgumentError as error:
        raise NotFoundError(f"there is no endpoint {endpoint_id!r}.") from error
