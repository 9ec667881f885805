"""The pages of studies: their list, and one study with its figures and trials."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from tuner.space import Group
from tuner.study import Measurement, Study, Trial, TrialState
from tuner.web import charts, format
from tuner.web.history import History
from tuner.web.site import PageToken, Site, TheSite, unchanged

router = APIRouter(include_in_schema=False)

#: Trials on one page of the table.
PAGE_TRIALS = 50
#: How many of the best trials, and of the newest, have their curves drawn.
CURVES = 25


class Order(enum.StrEnum):
    """How the table of trials is sorted."""

    NEWEST = "newest"
    NUMBER = "number"
    BEST = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a reader wants to see of the table of trials."""

    order: Order = Order.NEWEST
    state: TrialState | None = None
    page: int = 1

    def query(self, **changes: object) -> str:
        """The query of an address that shows this table, with `changes`."""
        wanted = {"order": self.order, "state": self.state, "page": self.page} | changes
        usual = {"order": Order.NEWEST, "state": None, "page": 1}
        return "&".join(f"{k}={v}" for k, v in wanted.items() if v != usual[k])


def wanted_table(
    order: Order = Order.NEWEST,
    state: TrialState | None = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
) -> Table:
    """Reads the query of an address."""
    return Table(order=order, state=state, page=page)


WantedTable = Annotated[Table, Depends(wanted_table)]


# --- the list of studies -------------------------------------------------------------------


@router.get("/")
def studies(site: TheSite, page_token: PageToken = "") -> Response:
    """All studies."""
    return site.page("studies.html", **_studies(site, page_token))


@router.get("/parts/studies")
def studies_part(request: Request, site: TheSite, page_token: PageToken = "") -> Response:
    """The table of studies, asked for again and again."""
    context = _studies(site, page_token)
    mark = site.mark([(study.etag, study) for study in context["studies"]])
    if (known := unchanged(request, mark)) is not None:
        return known
    answer = site.page("_studies.html", **context)
    answer.headers["ETag"] = mark
    return answer


def _studies(site: Site, page_token: str) -> dict[str, Any]:
    found, next_token = site.source.list_studies(page_token)
    return {
        "studies": found,
        "best": {study.study_id: site.best_value(study) for study in found},
        "page_token": page_token,
        "next_token": next_token,
        "etag": site.mark([(study.etag, study) for study in found]),
    }


# --- one study -----------------------------------------------------------------------------


@router.get("/studies/{study_id}")
def study(site: TheSite, study_id: str, table: WantedTable) -> Response:
    """One study."""
    history = site.history(study_id)
    context = _summary(site, history) | _table(history, table) | _importance(history)
    return site.page("study.html", **context)


@router.get("/studies/{study_id}/parts/summary")
def summary_part(request: Request, site: TheSite, study_id: str) -> Response:
    """The head of a study's page. It alone is asked for again and again: when it has changed, the
    page asks for the rest."""
    history = site.history(study_id)
    mark = site.mark(history.mark())
    if (known := unchanged(request, mark)) is not None:
        return known
    answer = site.page("_summary.html", **_summary(site, history))
    answer.headers["ETag"] = mark
    answer.headers["HX-Trigger-After-Swap"] = "changed"
    return answer


@router.get("/studies/{study_id}/parts/trials")
def trials_part(request: Request, site: TheSite, study_id: str, table: WantedTable) -> Response:
    """The table of trials."""
    history = site.history(study_id)
    return site.part(request, "_trials.html", **_table(history, table))


@router.get("/studies/{study_id}/parts/importance")
def importance_part(request: Request, site: TheSite, study_id: str) -> Response:
    """What mattered."""
    return site.part(request, "_importance.html", **_importance(site.history(study_id)))


@router.get("/studies/{study_id}/parts/winner")
def winner_part(request: Request, site: TheSite, study_id: str) -> Response:
    """The best trial's parameters."""
    return site.part(request, "_winner.html", **_summary(site, site.history(study_id)))


@router.get("/studies/{study_id}/figures/progress")
def progress_figure(request: Request, site: TheSite, study_id: str, by: str = "trial") -> Response:
    """The best value so far."""
    history = site.history(study_id)
    metric = history.study().spec.metric
    figure = charts.progress(history.trials(), metric, by_time=by == "time")
    return site.figure(request, figure)


@router.get("/studies/{study_id}/figures/curves")
def curves_figure(
    request: Request, site: TheSite, study_id: str, metric: Annotated[str, Query()] = ""
) -> Response:
    """The learning curves of the best and the newest trials."""
    history = site.history(study_id)
    current = history.study()
    name = metric or current.spec.metric.name
    trials = history.trials()
    best = [t for t in charts.best_first(trials, current.spec.metric) if t.attempt][:CURVES]
    chosen = {t.number: t for t in (*best, *[t for t in trials if t.attempt][-CURVES:])}
    measured = history.curves(chosen)
    series = {n: points for n, m in measured.items() if (points := points_of(m, name))}
    states = {number: trial.state for number, trial in chosen.items()}
    figure = charts.curves(series, states, current.best_trial)
    figure["metrics"] = sorted({key for m in measured.values() for p in m for key in p.metrics})
    figure["note"] = (
        f"The {CURVES} best and the {CURVES} newest trials." if len(trials) > 2 * CURVES else ""
    )
    return site.figure(request, figure)


def points_of(measurements: Sequence[Measurement], metric: str) -> list[tuple[int, float]]:
    """A metric by step."""
    return [(m.step, m.metrics[metric]) for m in measurements if metric in m.metrics]


# --- what the templates show ---------------------------------------------------------------


def _summary(site: Site, history: History) -> dict[str, Any]:
    current = history.study()
    best = None
    if current.best_trial is not None:
        best = next((t for t in history.trials() if t.number == current.best_trial), None)
    return {
        "study": current,
        "best": best,
        "best_value": None if best is None else format.result(best, current.spec.metric),
        "groups": format.grouped(current),
        "etag": site.mark(history.mark()),
    }


def _table(history: History, table: Table) -> dict[str, Any]:
    current = history.study()
    history.value_running(history.trials())
    trials = history.trials()
    matching = [t for t in trials if table.state is None or t.state is table.state]
    pages = max(1, math.ceil(len(matching) / PAGE_TRIALS))
    page = min(table.page, pages)
    ordered = _ordered(matching, current, table.order)
    shown = ordered[(page - 1) * PAGE_TRIALS : page * PAGE_TRIALS]
    return {
        "study": current,
        "table": table,
        "page": page,
        "pages": pages,
        "matching": len(matching),
        "trials": shown,
        "others": current.spec.metric_names[1:],
        "labelled": any(trial.labels for trial in shown),
        "groups": format.grouped(current),
        "orders": Order,
    }


def _ordered(trials: list[Trial], current: Study, order: Order) -> list[Trial]:
    if order is Order.BEST:
        return charts.best_first(trials, current.spec.metric)
    return trials[::-1] if order is Order.NEWEST else trials


def _importance(history: History) -> dict[str, Any]:
    current, importance = history.study(), history.importance()
    group_of = {p.name: p.group for p in current.spec.space.walk()}
    ranked = sorted(importance.parameters.items(), key=lambda item: (-item[1], item[0]))
    return {
        "study": current,
        "trials_counted": importance.trials,
        "group_shares": [(g, importance.groups.get(g.value, 0.0)) for g in format.GROUPS],
        "shares": [(name, share, group_of.get(name, Group.MODEL)) for name, share in ranked],
    }
