"""The REST API of TensorFlow Serving, and those that resemble it, as an ASGI application."""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

from tuner.endpoint import STICKY_KEY
from tuner.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    TunerError,
)
from tuner.serving.bodies import Bodies
from tuner.serving.callers import Callers
from tuner.serving.predictions import (
    VERSION,
    Call,
    Predictions,
    Served,
    parse_version,
    request_id,
)
from tuner.serving.recording import Recorder
from tuner.serving.wire import Method

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_OF_ONE = r"/v1/models/([^/:]+)(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?"
_CALL = re.compile(_OF_ONE + r":(classify|regress|predict)", re.IGNORECASE | re.ASCII)
_LOOK = re.compile(
    r"/v1/models(?:/([^/:]+))?(?:(?:/versions/(\d+))|(?:/labels/([^/:]+)))?(/metadata)?",
    re.IGNORECASE | re.ASCII,
)
_METHODS = {
    "predict": Method.PREDICT_JSON,
    "classify": Method.CLASSIFY_JSON,
    "regress": Method.REGRESS_JSON,
}
_HTTP = {
    "OK": 200,
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "DATA_LOSS": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_INFER = re.compile(r"/v2/models/([^/:]+)(?:/versions/(\d+))?/infer", re.ASCII)
_DESCRIBE = re.compile(r"/v2/models/([^/:]+)(?:/versions/(\d+))?(/ready)?", re.ASCII)
#: Those of Vertex AI and of Cloud ML Engine; projects and places say nothing here.
_VERTEX = re.compile(r"/v1/projects/[^/:]+/locations/[^/:]+/endpoints/([^/:]+):predict", re.ASCII)
_CLOUD_ML = re.compile(
    r"/v1/projects/[^/:]+/models/([^/:]+)(?:/versions/([^/:]+))?:predict", re.ASCII
)
_RESULTS = re.compile(r"/v1/endpoints/([^/:]+)/results", re.ASCII)
_ABOUT = re.compile(r"/v1/endpoints/([^/:]+)", re.ASCII)
METRICS = "/monitoring/prometheus/metrics"
_LIVE, _READY = "/v2/health/live", "/v2/health/ready"
_MOST_VERSION_DIGITS = 18
_AUTHORIZATION, _REQUEST_ID = b"authorization", b"x-request-id"
_KEY, _VERSION = STICKY_KEY.encode(), VERSION.encode()
_MOST_RESULTS_BYTES = 8 * 2**20

Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; version=0.0.4")
_CORS = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST"),
    (
        b"access-control-allow-headers",
        b", ".join((b"content-type", _AUTHORIZATION, _REQUEST_ID, _KEY, _VERSION)),
    ),
]


class _TooLargeError(Exception):
    """A body is larger than it may be."""


class _GoneError(Exception):
    """The client went away before it had sent everything."""


class _Request:
    """What the answers to a request need of it."""

    __slots__ = ("extra", "headers", "id", "method", "path", "receive")

    def __init__(self, scope: Scope, receive: Receive, extra: Headers) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["raw_path"].decode("latin-1")
        self.headers: Mapping[bytes, bytes] = dict(scope["headers"])
        self.receive = receive
        self.id = request_id(self.headers.get(_REQUEST_ID, b"")[:64].decode("latin-1"))
        #: The headers of the answer besides its kind and length.
        self.extra = [(_REQUEST_ID, self.id.encode("latin-1")), *extra]


class Rest:
    """Answers HTTP requests.

    Args:
        predictions: Has predictions answered.
        callers: Who may call.
        recorder: Is told of results; None where nothing is recorded.
        most_bytes: How long a body may be, also when it is unpacked.
        bodies: Counts the bytes of the bodies under way.
        cors: Whether pages of other sites may call.
    """

    def __init__(
        self,
        predictions: Predictions,
        callers: Callers,
        *,
        recorder: Recorder | None = None,
        most_bytes: int = 64 * 2**20,
        bodies: Bodies | None = None,
        cors: bool = False,
    ) -> None:
        self._predictions = predictions
        self._source = predictions.source
        self._callers = callers
        self._recorder = recorder
        self._most_bytes = most_bytes
        self._bodies = bodies or Bodies()
        self._cors = _CORS if cors else []
        #: Who answers what is posted, by path; the most frequent first.
        self._posts: Sequence[
            tuple[re.Pattern[str], Callable[[_Request, re.Match[str], bytes], Awaitable[bytes]]]
        ] = (
            (_CALL, self._predict),
            (_INFER, self._infer),
            (_VERTEX, self._predict_as_vertex),
            (_CLOUD_ML, self._predict_as_cloud_ml),
            (_RESULTS, self._results),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the ASGI server."""
        if scope["type"] != "http":
            return
        request = _Request(scope, receive, self._cors)
        try:
            status, answer = await self._answer(request)
        except _GoneError:
            return
        except _TooLargeError as error:
            status = 413
            answer = _error(f"the body has more than {error} bytes; send less at once.")
        except Exception as error:
            status, answer = _failed(error, request)
        kind = _TEXT if request.path == METRICS else _JSON
        await _send(send, status, answer, [kind, *request.extra])

    async def _answer(self, request: _Request) -> tuple[int, bytes]:
        path = request.path
        if path in (_LIVE, _READY) or request.method == "OPTIONS":
            return self._open(request)
        self._callers.check(request.headers.get(_AUTHORIZATION, b""))
        if request.method == "POST":
            for pattern, answer in self._posts:
                if found := pattern.fullmatch(path):
                    return await self._posted(request, found, answer)
        return await self._look(request, path)

    def _open(self, request: _Request) -> tuple[int, bytes]:
        """Answers what everybody may ask."""
        if request.method == "OPTIONS":
            if not self._cors:
                raise InvalidArgumentError(f"Malformed request: OPTIONS {request.path[:160]}")
            return 200, b""
        if request.path == _LIVE:
            return 200, b'{"live": true}'
        if not self._source.is_ready:
            return 503, b'{"ready": false}'
        return 200, b'{"ready": true}'

    async def _posted(
        self,
        request: _Request,
        found: re.Match[str],
        answer: Callable[[_Request, re.Match[str], bytes], Awaitable[bytes]],
    ) -> tuple[int, bytes]:
        most = _MOST_RESULTS_BYTES if found.re is _RESULTS else self._most_bytes
        body = await self._body(request, most)
        with self._bodies.held(len(body)):
            return 200, await answer(request, found, body)

    async def _predict(self, request: _Request, found: re.Match[str], body: bytes) -> bytes:
        model, version, label, verb = found.groups()
        _, answer = await self._predicted(
            request,
            unquote(model),
            _version(version),
            unquote(label or ""),
            verb,
            _METHODS[verb.lower()],
            body,
        )
        return answer

    async def _predicted(
        self,
        request: _Request,
        model: str,
        version: int | None,
        label: str,
        verb: str,
        method: Method,
        body: bytes,
    ) -> tuple[Served, bytes]:
        """The version that answered, and its answer."""
        headers = request.headers
        if version is None and not label and _VERSION in headers:
            version, label = parse_version(headers[_VERSION].decode("latin-1"))
        call = Call(
            model=model,
            version=version,
            label=label,
            key=headers.get(_KEY, b""),
            request=request.id,
            verb=verb,
            method=method,
            body=body,
            entrypoint="REST",
        )
        served, answer = await self._predictions.predict(call)
        request.extra.append((b"x-model-version", b"%d" % served.number))
        return served, answer

    async def _predict_as_vertex(
        self, request: _Request, found: re.Match[str], body: bytes
    ) -> bytes:
        served, answer = await self._predicted(
            request, unquote(found[1]), None, "", "predict", Method.PREDICT_JSON, body
        )
        said = {
            "deployedModelId": str(served.number),
            "model": f"models/{served.model_id}",
            "modelDisplayName": served.model_id,
            "modelVersionId": str(served.number),
        }
        return answer.rstrip()[:-1] + b", " + json.dumps(said).encode()[1:]

    async def _predict_as_cloud_ml(
        self, request: _Request, found: re.Match[str], body: bytes
    ) -> bytes:
        version, label = parse_version(unquote(found[2])) if found[2] else (None, "")
        _, answer = await self._predicted(
            request, unquote(found[1]), version, label, "predict", Method.PREDICT_JSON, body
        )
        return answer

    async def _results(self, request: _Request, found: re.Match[str], body: bytes) -> bytes:
        if self._recorder is None:
            raise FailedPreconditionError(
                "a folder's models have no results: serve the endpoints of a study server."
            )
        name = unquote(found[1])
        self._source.versions(name, None)
        return await self._recorder.record(f"endpoints/{name}", body)

    async def _look(self, request: _Request, path: str) -> tuple[int, bytes]:
        method = request.method
        if method == "GET" and path == METRICS:
            return 200, self._predictions.monitor.exposition()
        if path.startswith("/v2") and method == "GET":
            return await self._look_at_v2(path)
        if method == "GET" and (about := _ABOUT.fullmatch(path)):
            return 200, await self._about(request, unquote(about[1]))
        found = _LOOK.fullmatch(path)
        if not path.lower().startswith("/v1/"):
            return 404, _error("Not found: there are /v1/models and the metrics.")
        if found is None or method != "GET":
            raise InvalidArgumentError(f"Malformed request: {method} {path[:160]}")
        model, version, label, wants_metadata = found.groups()
        if model is None:
            raise InvalidArgumentError("Missing model name in request.")
        if wants_metadata:
            return await self._metadata(unquote(model), _version(version), unquote(label or ""))
        versions = self._source.versions(unquote(model), _version(version))
        states = [
            {
                "version": str(number),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
            if not served.pool.failure
            else {
                "version": str(number),
                "state": "END",
                "status": {"error_code": "UNKNOWN", "error_message": served.pool.failure},
            }
            for number, served in sorted(versions.items(), reverse=True)
        ]
        return 200, json.dumps({"model_version_status": states}, indent=1).encode()

    async def _metadata(self, model: str, version: int | None, label: str) -> tuple[int, bytes]:
        served = await self._predictions.find(model, version, label)
        answer = await served.pool.call(Method.METADATA_JSON, b"", served.seconds)
        spec = {"name": model, "signature_name": "", "version": str(served.number)}
        whole = {"model_spec": spec, "metadata": json.loads(answer)}
        return 200, json.dumps(whole, indent=1).encode()

    async def _about(self, request: _Request, name: str) -> bytes:
        """What the version that would answer says of itself, as tuner exported it."""
        key = request.headers.get(_KEY, b"")
        served = await self._predictions.find(name, None, key=key)
        metadata = json.loads(await served.pool.call(Method.ABOUT_JSON, b"", served.seconds))
        about = {"endpoint": name, "model": served.model_id, "version": served.number}
        return json.dumps({**about, "metadata": metadata}).encode()

    async def _infer(self, request: _Request, found: re.Match[str], body: bytes) -> bytes:
        served, answer = await self._predicted(
            request, unquote(found[1]), _version(found[2]), "", "infer", Method.INFER_JSON, body
        )
        head = {"model_name": unquote(found[1]), "model_version": str(served.number)}
        return json.dumps(head)[:-1].encode() + b", " + answer + b"}"

    async def _look_at_v2(self, path: str) -> tuple[int, bytes]:
        if path == "/v2":
            about = {"name": "tuner", "version": version("tuner"), "extensions": []}
            return 200, json.dumps(about).encode()
        found = _DESCRIBE.fullmatch(path)
        if found is None:
            raise NotFoundError(f"Not found: {path[:160]}")
        model = unquote(found[1])
        served = await self._predictions.find(model, _version(found[2]))
        pool = served.pool
        if found[3]:
            # One that sleeps is ready: it wakes with the first call.
            return (503, _error(pool.failure)) if pool.failure else (200, b'{"ready": true}')
        described = json.loads(await pool.call(Method.DESCRIBE_JSON, b"", served.seconds))
        versions = sorted(map(str, self._source.versions(model, None)))
        return 200, json.dumps({"name": model, "versions": versions, **described}).encode()

    async def _body(self, request: _Request, most: int) -> bytes:
        headers, receive = request.headers, request.receive
        if int(headers.get(b"content-length", b"0") or b"0") > most:
            raise _TooLargeError(most)
        parts: list[bytes] = []
        size, more = 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                part = message.get("body", b"")
                size += len(part)
                self._bodies.take(len(part))
                if size > most:
                    raise _TooLargeError(most)
                parts.append(part)
                more = message.get("more_body", False)
        finally:
            self._bodies.give(size)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if headers.get(b"content-encoding", b"").lower() == b"gzip":
            return _unpacked(body, most)
        return body


def _unpacked(body: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        whole = unpacker.decompress(body, most)
    except zlib.error as error:
        raise InvalidArgumentError(f"the body is no gzip: {error}") from None
    if unpacker.unconsumed_tail:
        raise _TooLargeError(most)
    return whole


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > _MOST_VERSION_DIGITS:
        raise InvalidArgumentError(f"Failed to convert version: {text[:40]} to numeric.")
    return int(text)


def _failed(error: Exception, request: _Request) -> tuple[int, bytes]:
    if isinstance(error, TunerError):
        status, code, message = _HTTP[error.code], error.code, error.message
    else:
        logger.error("unexpected error in request %s", request.id, exc_info=error)
        status, code = 500, "INTERNAL"
        message = f"an unexpected error; the gateway's log has it as request {request.id}."
    if status == 401:
        request.extra.append((b"www-authenticate", b"Bearer"))
    if _VERTEX.fullmatch(request.path):
        # As Google's APIs say it.
        said = {"error": {"code": status, "message": message, "status": code}}
        return status, json.dumps(said).encode()
    return status, _error(message)


def _error(message: str) -> bytes:
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")


async def _send(send: Send, status: int, body: bytes, headers: Headers) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
