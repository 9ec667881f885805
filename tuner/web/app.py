"""Puts the pages together: routes, errors, headers, static files."""

from __future__ import annotations

import gzip
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import cache
from importlib import resources

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

from tuner.errors import NotFoundError, TunerError
from tuner.web import api, endpoint_pages, model_pages, pages, trial_pages
from tuner.web.security import LOOPBACK, HostCheck, SecurityHeaders
from tuner.web.site import STATIC, Site
from tuner.web.source import StudySource

logger = logging.getLogger(__name__)

_STATUS = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "FAILED_PRECONDITION": 409,
    "ABORTED": 409,
    "ALREADY_EXISTS": 409,
    "UNAVAILABLE": 503,
}
_FOREVER = "public, max-age=31536000, immutable"


def create_app(
    source: StudySource, *, allowed_hosts: Collection[str] | None = LOOPBACK
) -> FastAPI:
    """Returns the ASGI application.

    Args:
        source: the study server; closed with the application.
        allowed_hosts: the names under which it answers, without ports; None for any.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(app.state.site.close)

    # The generated documentation would load its scripts from elsewhere.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.site = Site(source)
    routers = (pages, trial_pages, model_pages, endpoint_pages, api)
    for router in (module.router for module in routers):
        app.include_router(router)
    app.add_api_route("/healthz", _health, include_in_schema=False)
    app.add_api_route("/static/vendor/plotly.min.js", _plotly, include_in_schema=False)
    app.mount("/static", _Static(directory=STATIC), name="static")
    app.add_exception_handler(TunerError, _on_tuner_error)
    app.add_exception_handler(RequestValidationError, _on_bad_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_failure)
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)
    if allowed_hosts is not None:
        app.add_middleware(HostCheck, allowed=allowed_hosts)
    app.add_middleware(SecurityHeaders)
    return app


def _health() -> dict[str, str]:
    """Says that this process answers; it may well while the study server does not."""
    return {"status": "ok"}


class _Static(StaticFiles):
    """Files whose addresses carry their version, so that a browser asks once."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = _FOREVER
        return response


def _plotly(request: Request) -> Response:
    """Plotly's script as its Python package ships it, compressed once."""
    headers = {"Cache-Control": _FOREVER, "Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(_plotly_compressed(), media_type="text/javascript", headers=headers)
    return Response(_plotly_script(), media_type="text/javascript", headers=headers)


def _plotly_script() -> bytes:
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()


@cache
def _plotly_compressed() -> bytes:
    return gzip.compress(_plotly_script(), compresslevel=6)


def _on_tuner_error(request: Request, error: Exception) -> Response:
    code = error.code if isinstance(error, TunerError) else "UNKNOWN"
    return _refusal(request, _STATUS.get(code, 502), code, str(error))


def _on_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        return _refusal(request, 404, NotFoundError.code, "There is no such page.")
    return _refusal(request, status, "INVALID_ARGUMENT", str(getattr(error, "detail", error)))


def _on_bad_request(request: Request, error: Exception) -> Response:
    problems = error.errors() if isinstance(error, RequestValidationError) else []
    words = "; ".join(f"{'.'.join(map(str, p['loc'][1:]))}: {p['msg']}" for p in problems)
    if any(problem["loc"][0] == "path" for problem in problems):
        return _refusal(request, 404, NotFoundError.code, "There is no such page.")
    return _refusal(request, 400, "INVALID_ARGUMENT", words)


def _on_failure(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    message = "This page failed; the log of the web process says why."
    return _refusal(request, 500, "INTERNAL", message)


def _refusal(request: Request, status: int, code: str, message: str) -> Response:
    site: Site = request.app.state.site
    return site.refusal(request, status, code, message)
