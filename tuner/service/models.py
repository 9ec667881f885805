"""The methods of ModelService: models, their versions and aliases."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from tuner import convert, convert_model
from tuner.errors import InvalidArgumentError
from tuner.model import (
    LATEST,
    Model,
    ModelVersion,
    Published,
    check_alias,
    check_model_id,
    check_version,
    parse_model_name,
    parse_version_name,
)
from tuner.service import asking, pages, validate
from tuner.service import call as calls
from tuner.service.allowed import check_model_place
from tuner.v1 import model_pb2
from tuner.v1 import model_service_pb2 as pb
from tuner.v1.model_service_pb2_grpc import ModelServiceServicer
from tuner_storage.models import Beginning, Changes, ModelStore

Context = grpc.ServicerContext

#: Stands for all models in the parent of a list.
_ALL = "models/-"
_CHANGEABLE = ("description", "labels", "keep_versions")


class ModelServicer(ModelServiceServicer):
    """Answers calls on the registry. Thread-safe; any server may answer any of them.

    Args:
        store: Where models are kept.
        root: Below which versions must lie; None: anywhere.
    """

    def __init__(self, store: ModelStore, root: str | None) -> None:
        self._store = store
        self._root = root

    # --- models ---

    def CreateModel(self, request: pb.CreateModelRequest, context: Context) -> model_pb2.Model:
        now, model_id = asking.now(), check_model_id(request.model_id)
        model = Model(
            model_id=model_id,
            **_described(request.model),
            creator=calls.current().caller,
            create_time=now,
            update_time=now,
        )
        asked = asking.asked(_model, f"models/{model_id}", request.request_id, now)
        return model_pb2.Model.FromString(self._store.create_model(model, asked))

    def GetModel(self, request: pb.GetModelRequest, context: Context) -> model_pb2.Model:
        model = self._store.get_model(parse_model_name(request.name))
        return convert_model.model_to_proto(model)

    def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        limit = validate.page_size(request.page_size)
        after = check_model_id(request.page_token) if request.page_token else ""
        found = self._store.list_models(after=after, limit=limit)
        messages = map(convert_model.model_to_proto, found)
        shown, token = pages.shown(found, messages, limit, lambda last: last.model_id)
        return pb.ListModelsResponse(models=shown, next_page_token=token)

    def UpdateModel(self, request: pb.UpdateModelRequest, context: Context) -> model_pb2.Model:
        model_id, paths = parse_model_name(request.model.name), set(request.update_mask.paths)
        if not paths or not paths <= set(_CHANGEABLE):
            raise InvalidArgumentError(
                f"`update_mask` names what to change, of {', '.join(_CHANGEABLE)}; got "
                f"{', '.join(sorted(paths)) or 'nothing'}."
            )
        given = {name: v for name, v in _described(request.model).items() if name in paths}
        changes = Changes(etag=request.model.etag, **given)
        asked = asking.asked(_model, request.model.name, request.request_id)
        return model_pb2.Model.FromString(self._store.update_model(model_id, changes, asked))

    def DeleteModel(self, request: pb.DeleteModelRequest, context: Context) -> Empty:
        model_id = parse_model_name(request.name)
        asked = asking.asked(_nothing, request.name, request.request_id, kind="model")
        return Empty.FromString(self._store.delete_model(model_id, asked))

    # --- versions ---

    def BeginModelVersion(
        self, request: pb.BeginModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        now, model_id = asking.now(), parse_model_name(request.parent)
        if not 0 <= request.after_version < 2**31 - 1:
            raise InvalidArgumentError(
                f"`after_version` is the number of a version, or 0, but got "
                f"{request.after_version}."
            )
        publisher = request.publisher
        begun = Beginning(
            model_id=model_id,
            lineage=validate.lineage(convert_model.lineage_from_proto(request.lineage)),
            publisher=validate.word("`publisher`", publisher) if publisher else "",
            expire_time=now + validate.publication(convert.duration_from_proto(request.ttl)),
            after_version=request.after_version,
            retry_rejected=request.retry_rejected,
        )
        asked = asking.asked(_version, request.parent, request.request_id, now)
        body = self._store.begin_version(begun, asked)
        return model_pb2.ModelVersion.FromString(body)

    def FinishModelVersion(
        self, request: pb.FinishModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        model_id, number = _place(request.name)
        outcome, asked = (
            _outcome(request),
            asking.asked(_version, request.name, request.request_id),
        )
        if isinstance(outcome, Published):
            check_model_place(outcome.uri, self._root)
        token = request.publication_token
        body = self._store.finish_version(model_id, number, token, outcome, asked)
        return model_pb2.ModelVersion.FromString(body)

    def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        model_id, word = parse_version_name(request.name)
        named = word if word == LATEST else check_version(word) if word.isdecimal() else None
        version = self._store.get_version(model_id, named or check_alias(word))
        return convert_model.version_to_proto(version)

    def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        model_id = None if request.parent == _ALL else parse_model_name(request.parent)
        limit = validate.page_size(request.page_size)
        found = self._store.list_versions(
            model_id,
            states=[convert_model.state_from_proto(state) for state in request.states],
            after=_last_seen(request.page_token),
            limit=limit,
        )
        messages = map(convert_model.version_to_proto, found)
        shown, token = pages.shown(found, messages, limit, lambda last: last.name)
        return pb.ListModelVersionsResponse(versions=shown, next_page_token=token)

    def DeleteModelVersion(self, request: pb.DeleteModelVersionRequest, context: Context) -> Empty:
        model_id, number = _place(request.name)
        asked = asking.asked(_nothing, request.name, request.request_id, kind="model version")
        return Empty.FromString(
            self._store.delete_version(
                model_id, number, files_removed=request.files_removed, asked=asked
            )
        )

    # --- aliases ---

    def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Context) -> model_pb2.Model:
        model_id, alias = parse_model_name(request.name), check_alias(request.alias)
        version = check_version(request.version)
        asked = asking.asked(_model, request.name, request.request_id)
        return model_pb2.Model.FromString(self._store.set_alias(model_id, alias, version, asked))

    def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: Context
    ) -> model_pb2.Model:
        model_id, alias = parse_model_name(request.name), check_alias(request.alias)
        asked = asking.asked(_model, request.name, request.request_id)
        return model_pb2.Model.FromString(self._store.delete_alias(model_id, alias, asked))


def _model(model: Model) -> Message:
    return convert_model.model_to_proto(model)


def _version(version: ModelVersion) -> Message:
    return convert_model.version_to_proto(version)


def _nothing(result: None) -> Message:
    return Empty()


def _described(message: model_pb2.Model) -> dict[str, Any]:
    """What people may set of a model."""
    return {
        "description": validate.uri("`description`", message.description),
        "labels": validate.labels(dict(sorted(message.labels.items()))),
        "keep_versions": validate.keep_versions(message.keep_versions),
    }


def _place(name: str) -> tuple[str, int]:
    model_id, word = parse_version_name(name)
    return model_id, check_version(word)


def _last_seen(token: str) -> tuple[str, int] | None:
    return _place(token) if token else None


def _outcome(request: pb.FinishModelVersionRequest) -> Published | str:
    match request.WhichOneof("outcome"):
        case "rejected":
            return validate.reason(request.rejected) or "it was not published"
        case "published":
            return validate.published(convert_model.published_from_proto(request.published))
        case _:
            raise InvalidArgumentError("set `published` or `rejected`.")
