"""What every page shares: the connection, the feeds, the templates, and how answers are made."""

from __future__ import annotations

import hashlib
import json
import secrets
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import Depends, Query, Request, Response
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse

from tuner import study as values
from tuner.errors import NotFoundError
from tuner.study import STUDY_ID, Study, Trial
from tuner.web import format
from tuner.web.feeds import Feeds
from tuner.web.history import History
from tuner.web.logs import LogTail
from tuner.web.source import StudySource

STATIC = Path(__file__).parent / "static"
TEMPLATES = Path(__file__).parent / "templates"

#: How often a page looks for changes, while its study goes on and afterwards.
POLL_SECONDS, IDLE_POLL_SECONDS = 2, 10


class Site:
    """Owns the connection and the feeds of one application. Threads share it."""

    def __init__(self, source: StudySource) -> None:
        self.source = source
        self._feeds = Feeds()
        self._best: dict[tuple[object, ...], float | None] = {}
        # Tells the answers of this process from those of the one before it.
        self._nonce = secrets.token_hex(4)
        self._templates = _environment()

    def close(self) -> None:
        """Ends the feeds and the connection."""
        self._feeds.close()
        self.source.close()

    # --- what is known ---------------------------------------------------------------------

    def history(self, study_id: str) -> History:
        """What is known of a study. Raises NotFoundError."""
        check_id(study_id)
        history = self._feeds.get(study_id, lambda: self._new_history(study_id))
        created, study = history.created, history.study()
        if study.create_time != created:
            # The study was deleted, and another one has its name.
            self._feeds.drop(study_id)
            history = self._feeds.get(study_id, lambda: History(self.source, study))
        history.ready()
        return history

    def _new_history(self, study_id: str) -> History:
        return History(self.source, self.source.get_study(study_id))

    def log(self, trial: Trial) -> LogTail:
        """The end of a trial's log."""
        key = (trial.name, trial.create_time, trial.attempt, trial.state.is_finished)
        return self._feeds.get(key, lambda: LogTail(self.source, trial.study_id, trial.number))

    def best_value(self, study: Study) -> float | None:
        """The value of a study's best trial, asked for once for each best trial."""
        if study.best_trial is None:
            return None
        key = (study.study_id, study.create_time, study.best_trial)
        if key not in self._best:
            trial = self.source.get_trial(study.study_id, study.best_trial)
            value = format.result(trial, study.spec.metric)
            if not trial.state.is_finished:
                return value
            if len(self._best) > 10_000:
                self._best.clear()
            self._best[key] = value
        return self._best[key]

    # --- answers ---------------------------------------------------------------------------

    def page(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """A whole page."""
        return HTMLResponse(self.render(template, **context), status_code=status)

    def render(self, template: str, **context: Any) -> str:
        """A template's text."""
        return self._templates.get_template(template).render(context)

    def part(self, request: Request, template: str, **context: Any) -> Response:
        """A part of a page; 304 if the reader has it already."""
        text = self.render(template, **context)
        tag = etag(text)
        return unchanged(request, tag) or HTMLResponse(text, headers={"ETag": tag})

    def figure(self, request: Request, figure: dict[str, Any]) -> Response:
        """A figure as JSON; 304 if the reader has it already."""
        text = json.dumps(figure, allow_nan=False, separators=(",", ":"))
        tag = etag(text)
        headers = {"ETag": tag}
        return unchanged(request, tag) or Response(
            text, media_type="application/json", headers=headers
        )

    def mark(self, *what: object) -> str:
        """An ETag of what a page shows, without rendering it."""
        return etag(self._nonce + repr(what))

    def refusal(self, request: Request, status: int, code: str, message: str) -> Response:
        """An error, in the form that the reader takes."""
        if request.url.path.startswith("/api/"):
            body = {"error": {"code": code, "message": message}}
            return JSONResponse(body, status_code=status)
        if request.headers.get("HX-Request") or "/figures/" in request.url.path:
            return PlainTextResponse(message, status_code=status)
        return self.page("error.html", status=status, code=code, message=message)


def check_id(study_id: str) -> None:
    """Raises NotFoundError for what cannot be a study's name."""
    if not STUDY_ID.fullmatch(study_id):
        raise NotFoundError(f"there is no study {study_id!r}.")


def etag(text: str) -> str:
    """A weak ETag: compression may change the bytes."""
    return f'W/"{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"'


def unchanged(request: Request, tag: str) -> Response | None:
    """304 if the reader has what `tag` stands for."""
    known = request.headers.get("If-None-Match", "")
    return Response(status_code=304, headers={"ETag": tag}) if tag in known else None


def every(study: Study) -> int:
    """How often a page looks for changes of the study, in seconds."""
    return IDLE_POLL_SECONDS if study.state.is_finished else POLL_SECONDS


@cache
def _version(name: str) -> str:
    return hashlib.blake2b((STATIC / name).read_bytes(), digest_size=6).hexdigest()


def _static(name: str) -> str:
    return f"/static/{name}?v={_version(name)}"


def _plotly_url() -> str:
    return f"/static/vendor/plotly.min.js?v={metadata.version('plotly')}"


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "static": _static,
        "plotly_url": _plotly_url,
        "fmt": format,
        "Origin": values.Origin,
        "TrialState": values.TrialState,
        "StudyState": values.StudyState,
        "poll_seconds": POLL_SECONDS,
        "every": every,
    }
    return environment


def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


#: What an endpoint declares to get the site.
TheSite = Annotated[Site, Depends(_site)]

#: The token of a page of a list; empty: the first.
PageToken = Annotated[str, Query(max_length=500)]
