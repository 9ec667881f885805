"""The pages of the registry: the models, and one model with its versions and a card."""

from __future__ import annotations

from functools import cache
from typing import Any

from fastapi import APIRouter, Request, Response
from markdown_it import MarkdownIt
from markupsafe import Markup

from tuner.errors import InvalidArgumentError, NotFoundError
from tuner.model import ModelVersion, check_model_id, check_version
from tuner.web.site import PageToken, Site, TheSite

router = APIRouter(prefix="/models", include_in_schema=False)


@router.get("")
def models(site: TheSite, page_token: PageToken = "") -> Response:
    """All models."""
    return site.page("models.html", **_models(site, page_token))


@router.get("/parts/list")
def models_part(request: Request, site: TheSite, page_token: PageToken = "") -> Response:
    """The table of models, asked for again and again."""
    return site.part(request, "_models.html", **_models(site, page_token))


@router.get("/{model_id}")
def model(site: TheSite, model_id: str, page_token: PageToken = "") -> Response:
    """One model, with the card of its newest version."""
    return site.page("model.html", **_model(site, model_id, "", page_token))


@router.get("/{model_id}/parts/versions")
def versions_part(
    request: Request, site: TheSite, model_id: str, page_token: PageToken = ""
) -> Response:
    """The table of a model's versions, asked for again and again."""
    return site.part(request, "_versions.html", **_model(site, model_id, "", page_token))


@router.get("/{model_id}/versions/{version}")
def version(site: TheSite, model_id: str, version: str) -> Response:
    """One model, with the card of a version: a number, an alias or `latest`."""
    return site.page("model.html", **_model(site, model_id, version, ""))


def _models(site: Site, page_token: str) -> dict[str, Any]:
    found, next_token = site.source.list_models(page_token)
    return {"models": found, "page_token": page_token, "next_token": next_token}


def _model(site: Site, model_id: str, version: str, page_token: str) -> dict[str, Any]:
    model_id, version = _checked(model_id, version)
    model = site.source.get_model(model_id)
    versions, next_token = site.source.list_versions(model_id, page_token)
    shown: ModelVersion | None = None
    if version or model.latest_version:
        shown = site.source.get_version(model_id, version or str(model.latest_version))
    return {
        "model": model,
        "versions": versions,
        "shown": shown,
        "card": None if shown is None else rendered(shown.card),
        "page_token": page_token,
        "next_token": next_token,
    }


def _checked(model_id: str, version: str) -> tuple[str, str]:
    """Raises NotFoundError for what cannot be a model's name, or a version's."""
    try:
        if version.isdecimal():
            check_version(version)
        return check_model_id(model_id), version
    except InvalidArgumentError as error:
        raise NotFoundError(f"there is no model {model_id!r}.") from error


def rendered(card: str) -> Markup:
    """A card as HTML: tables and code, but nothing that leads elsewhere, and no HTML in it."""
    return Markup(_markdown().render(card))


@cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    return markdown.disable(["link", "image", "autolink", "html_inline", "html_block"])
