"""The REST API of TensorFlow Serving, as an ASGI application."""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from importlib.metadata import version
from typing import Any
from urllib.parse import unquote

from tuner.errors import InternalError, InvalidArgumentError, NotFoundError, TunerError
from tuner.serving.catalog import Folder
from tuner.serving.monitoring import Monitor
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
METRICS = "/monitoring/prometheus/metrics"
_MOST_VERSION_DIGITS = 18
_REQUEST_ID = b"x-request-id"


class _TooLargeError(Exception):
    """A body is larger than it may be."""


class _GoneError(Exception):
    """The client went away before it had sent everything."""


class Rest:
    """Answers HTTP requests.

    Args:
        models: What is served.
        monitor: Is told of every call.
        seconds: How long a prediction may take.
        most_bytes: How long a body may be, also when it is unpacked.
        cors: Whether pages of other sites may call.
    """

    def __init__(
        self,
        models: Folder,
        monitor: Monitor,
        *,
        seconds: float = 30.0,
        most_bytes: int = 64 * 2**20,
        cors: bool = False,
    ) -> None:
        self._models = models
        self._monitor = monitor
        self._seconds = seconds
        self._most_bytes = most_bytes
        self._cors = [(b"access-control-allow-origin", b"*")] if cors else []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Called by the ASGI server."""
        if scope["type"] != "http":
            return
        path = scope["raw_path"].decode("latin-1")
        headers: Mapping[bytes, bytes] = dict(scope["headers"])
        request = headers.get(_REQUEST_ID, b"")[:64] or secrets.token_hex(8).encode()
        extra = [(_REQUEST_ID, request), *self._cors]
        try:
            found = _CALL.fullmatch(path)
            if found is not None and scope["method"] == "POST":
                body = await self._body(headers, receive)
                answer, version = await self._call(found, body)
                status = 200
                extra.append((b"x-model-version", b"%d" % version))
            elif (inferred := _INFER.fullmatch(path)) and scope["method"] == "POST":
                body = await self._body(headers, receive)
                status, answer = 200, await self._infer(inferred, body)
            else:
                status, answer = await self._look(scope["method"], path)
        except _GoneError:
            return
        except _TooLargeError:
            status = 413
            answer = _error(f"the body has more than {self._most_bytes} bytes; send less at once.")
        except Exception as error:
            status, answer = _failed(error, request.decode("latin-1"))
        kind = b"text/plain; version=0.0.4" if path == METRICS else b"application/json"
        await _send(send, status, answer, [(b"content-type", kind), *extra])

    async def _call(self, found: re.Match[str], body: bytes) -> tuple[bytes, int]:
        model, version, label, verb = found.groups()
        number, answer = await self._predicted(
            unquote(model),
            _version(version),
            unquote(label or ""),
            verb,
            _METHODS[verb.lower()],
            body,
        )
        return answer, number

    async def _predicted(
        self,
        model: str,
        version: int | None,
        label: str,
        verb: str,
        method: Method,
        body: bytes,
    ) -> tuple[int, bytes]:
        """The version that answered, and its answer."""
        start, code = time.perf_counter(), InternalError.code
        try:
            number, pool = self._models.find(model, version, label)
            answer = await pool.call(method, body, self._seconds)
            code = "OK"
        except TunerError as error:
            code = error.code
            raise
        finally:
            self._monitor.called(model, verb, "REST", code, time.perf_counter() - start)
        return number, answer

    async def _look(self, method: str, path: str) -> tuple[int, bytes]:
        if method == "GET" and path == METRICS:
            return 200, self._monitor.exposition()
        if method == "OPTIONS" and self._cors:
            return 200, b""
        if path.startswith("/v2") and method == "GET":
            return await self._look_at_v2(path)
        found = _LOOK.fullmatch(path)
        if not path.lower().startswith("/v1/"):
            return 404, _error("Not found: there are /v1/models and the metrics.")
        if found is None or method != "GET":
            raise InvalidArgumentError(f"Malformed request: {method} {path}")
        model, version, label, wants_metadata = found.groups()
        if model is None:
            raise InvalidArgumentError("Missing model name in request.")
        if wants_metadata:
            return await self._metadata(unquote(model), _version(version), unquote(label or ""))
        versions = self._models.versions(unquote(model), _version(version))
        states = [
            {
                "version": str(number),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
            if not pool.failure
            else {
                "version": str(number),
                "state": "END",
                "status": {"error_code": "UNKNOWN", "error_message": pool.failure},
            }
            for number, pool in sorted(versions.items(), reverse=True)
        ]
        return 200, json.dumps({"model_version_status": states}, indent=1).encode()

    async def _metadata(self, model: str, version: int | None, label: str) -> tuple[int, bytes]:
        number, pool = self._models.find(model, version, label)
        answer = await pool.call(Method.METADATA_JSON, b"", self._seconds)
        spec = {"name": model, "signature_name": "", "version": str(number)}
        whole = {"model_spec": spec, "metadata": json.loads(answer)}
        return 200, json.dumps(whole, indent=1).encode()

    async def _infer(self, found: re.Match[str], body: bytes) -> bytes:
        number, answer = await self._predicted(
            unquote(found[1]), _version(found[2]), "", "infer", Method.INFER_JSON, body
        )
        head = {"model_name": unquote(found[1]), "model_version": str(number)}
        return json.dumps(head)[:-1].encode() + b", " + answer + b"}"

    async def _look_at_v2(self, path: str) -> tuple[int, bytes]:
        if path in ("/v2/health/live", "/v2/health/ready"):
            return 200, b'{"live": true}' if path.endswith("live") else b'{"ready": true}'
        if path == "/v2":
            about = {"name": "tuner", "version": version("tuner"), "extensions": []}
            return 200, json.dumps(about).encode()
        found = _DESCRIBE.fullmatch(path)
        if found is None:
            raise NotFoundError(f"Not found: {path}")
        model = unquote(found[1])
        _, pool = self._models.find(model, _version(found[2]), "")
        if found[3]:
            # One that sleeps is ready: it wakes with the first call.
            return (503, _error(pool.failure)) if pool.failure else (200, b'{"ready": true}')
        described = json.loads(await pool.call(Method.DESCRIBE_JSON, b"", self._seconds))
        versions = sorted(map(str, self._models.versions(model, None)))
        return 200, json.dumps({"name": model, "versions": versions, **described}).encode()

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        if int(headers.get(b"content-length", b"0") or b"0") > self._most_bytes:
            raise _TooLargeError
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            size += len(part)
            if size > self._most_bytes:
                raise _TooLargeError
            parts.append(part)
            more = message.get("more_body", False)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if headers.get(b"content-encoding", b"").lower() == b"gzip":
            return self._unpacked(body)
        return body

    def _unpacked(self, body: bytes) -> bytes:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            whole = unpacker.decompress(body, self._most_bytes)
        except zlib.error as error:
            raise InvalidArgumentError(f"the body is no gzip: {error}") from None
        if unpacker.unconsumed_tail:
            raise _TooLargeError
        return whole


def _version(text: str | None) -> int | None:
    if text is None:
        return None
    if len(text) > _MOST_VERSION_DIGITS:
        raise InvalidArgumentError(f"Failed to convert version: {text[:40]} to numeric.")
    return int(text)


def _failed(error: Exception, request: str) -> tuple[int, bytes]:
    if isinstance(error, TunerError):
        return _HTTP[error.code], _error(error.message)
    logger.error("unexpected error in request %s", request, exc_info=error)
    return 500, _error(f"an unexpected error; the gateway's log has it as request {request}.")


def _error(message: str) -> bytes:
    return json.dumps({"error": message}, ensure_ascii=False).encode("utf-8", "replace")


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
