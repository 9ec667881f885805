"""The page of one trial: its parameters, curves, attempts and log."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from tuner.study import Measurement, Trial
from tuner.web import charts, format
from tuner.web.pages import points_of
from tuner.web.site import Site, TheSite, check_id, unchanged

router = APIRouter(prefix="/studies/{study_id}/trials/{number}", include_in_schema=False)

Number = Annotated[int, Path(ge=0, le=999_999_999)]

#: How long a page waits for the log of a trial that has ended.
_LOG_SECONDS = 1.0
#: More figures than this are not drawn.
_MOST_FIGURES = 12


@router.get("")
def trial(site: TheSite, study_id: str, number: Number) -> Response:
    """One trial."""
    return site.page("trial.html", **_context(site, study_id, number))


@router.get("/parts/summary")
def summary_part(request: Request, site: TheSite, study_id: str, number: Number) -> Response:
    """The head of a trial's page; when it has changed, the page asks for the rest."""
    context = _context(site, study_id, number)
    if (known := unchanged(request, context["etag"])) is not None:
        return known
    answer = site.page("_trial_summary.html", **context)
    answer.headers["ETag"] = context["etag"]
    answer.headers["HX-Trigger-After-Swap"] = "changed"
    return answer


@router.get("/parts/attempts")
def attempts_part(request: Request, site: TheSite, study_id: str, number: Number) -> Response:
    """The attempts with their failures."""
    return site.part(request, "_attempts.html", **_context(site, study_id, number))


@router.get("/parts/figures")
def figures_part(request: Request, site: TheSite, study_id: str, number: Number) -> Response:
    """The places of the figures: one for each scale."""
    return site.part(request, "_figures.html", **_context(site, study_id, number))


@router.get("/parts/log")
def log_part(request: Request, site: TheSite, study_id: str, number: Number) -> Response:
    """The end of the log."""
    return site.part(request, "_log.html", **_context(site, study_id, number))


@router.get("/figures/metrics")
def metrics_figure(
    request: Request, site: TheSite, study_id: str, number: Number, scale: Annotated[str, Query()]
) -> Response:
    """The metrics of one scale by step."""
    check_id(study_id)
    measurements = site.source.get_trial(study_id, number).measurements
    names = scales(measurements).get(scale, [])
    series = {name: points_of(measurements, name) for name in names}
    return site.figure(request, charts.metrics(series))


def scales(measurements: Iterable[Measurement]) -> dict[str, list[str]]:
    """The metrics that share a figure: `loss` with `val_loss` and `test_loss`."""
    found: dict[str, list[str]] = {}
    for name in sorted({name for m in measurements for name in m.metrics}):
        found.setdefault(re.sub(r"^(val|test|train)_(?=.)", "", name), []).append(name)
    return found


def _context(site: Site, study_id: str, number: int) -> dict[str, Any]:
    check_id(study_id)
    study = site.source.get_study(study_id)
    shown = site.source.get_trial(study_id, number)
    text, cut = site.log(shown).tail(_LOG_SECONDS if shown.state.is_finished else 0.0)
    mark = (study.state, shown.state, shown, len(text), text[-200:])
    return {
        "study": study,
        "trial": shown,
        "value": format.result(_latest(shown), study.spec.metric),
        "beyond": sorted(study.spec.beyond(shown.final_measurement)),
        "groups": format.grouped(study),
        "domains": format.domains(study),
        "scales": list(scales(shown.measurements))[:_MOST_FIGURES],
        "log": text,
        "log_cut": cut,
        "is_best": study.best_trial == number,
        "etag": site.mark(mark),
    }


def _latest(trial: Trial) -> Trial:
    """The trial, valued by its last measurement while it has no result."""
    if trial.final_measurement is not None or not trial.measurements:
        return trial
    return format.valued(trial, trial.measurements[-1])
