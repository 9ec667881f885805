"""The JSON API: the messages of `protos/` in protobuf's JSON, field names as written there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from google.protobuf import json_format
from google.protobuf.message import Message

from tuner import convert, convert_model
from tuner.model import check_model_id
from tuner.web.site import PageToken, TheSite, check_id

router = APIRouter(prefix="/api")

PageSize = Annotated[int, Query(ge=1, le=1000)]


@router.get("/studies")
def list_studies(site: TheSite, page_token: PageToken = "", page_size: PageSize = 100) -> Any:
    """A page of the studies, newest first."""
    studies, token = site.source.list_studies(page_token, page_size)
    return {
        "studies": [_plain(convert.study_to_proto(study)) for study in studies],
        "next_page_token": token,
    }


@router.get("/studies/{study_id}")
def get_study(site: TheSite, study_id: str) -> Any:
    """One study."""
    check_id(study_id)
    return _plain(convert.study_to_proto(site.source.get_study(study_id)))


@router.get("/studies/{study_id}/trials")
def list_trials(
    site: TheSite,
    study_id: str,
    page_token: PageToken = "",
    page_size: PageSize = 100,
    order_by: Annotated[str, Query(max_length=50)] = "",
) -> Any:
    """A page of a study's trials, without their measurements."""
    check_id(study_id)
    trials, token = site.source.list_trials(
        study_id, page_token=page_token, page_size=page_size, order_by=order_by
    )
    return {
        "trials": [_plain(convert.trial_to_proto(trial)) for trial in trials],
        "next_page_token": token,
    }


@router.get("/studies/{study_id}/trials/{number}")
def get_trial(site: TheSite, study_id: str, number: int) -> Any:
    """One trial with everything about it."""
    check_id(study_id)
    return _plain(convert.trial_to_proto(site.source.get_trial(study_id, number)))


@router.get("/models")
def list_models(site: TheSite, page_token: PageToken = "") -> Any:
    """A page of the models, by name."""
    models, token = site.source.list_models(page_token)
    return {
        "models": [_plain(convert_model.model_to_proto(model)) for model in models],
        "next_page_token": token,
    }


@router.get("/models/{model_id}/versions")
def list_versions(site: TheSite, model_id: str, page_token: PageToken = "") -> Any:
    """A page of a model's versions, newest first and without their cards."""
    versions, token = site.source.list_versions(check_model_id(model_id), page_token)
    return {
        "versions": [_plain(convert_model.version_to_proto(version)) for version in versions],
        "next_page_token": token,
    }


def _plain(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message, preserving_proto_field_name=True)
