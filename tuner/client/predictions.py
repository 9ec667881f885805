"""Predictions from gateways, over REST: for scripts, the command line and pages."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, quote, urlsplit

from tuner.client.access import Access
from tuner.endpoint import STICKY_KEY
from tuner.errors import (
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    TunerError,
    UnauthenticatedError,
    UnavailableError,
)

#: How long an answer is awaited: a model may have to wake.
ANSWER_SECONDS = 60.0
#: Predictions change nothing: one that failed for the moment is asked for again.
_TRIES, _PAUSE_SECONDS = 5, 0.5
_BUSY = (429, 503)
#: By HTTP status.
_ERRORS: Mapping[int, type[TunerError]] = {
    400: InvalidArgumentError,
    401: UnauthenticatedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    413: InvalidArgumentError,
    429: ResourceExhaustedError,
    504: DeadlineError,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a gateway answered."""

    #: The HTTP status.
    status: int
    document: Any
    #: The version that answered; 0 if none did.
    version: int
    #: What results of it are told with.
    request_id: str
    seconds: float

    def checked(self) -> Any:
        """What was answered; raises TunerError if that is an error."""
        if self.status == 200:
            return self.document
        said = self.document.get("error") if isinstance(self.document, dict) else None
        error = _ERRORS.get(self.status, UnavailableError)
        raise error(f"the gateway said: {said or self.document}")


class Predictions:
    """Asks gateways; if nobody answers at one, the next is asked. Not thread-safe.

    Args:
        access: The token, and whom to trust; with trust, gateways are called by https.
        addresses: Where they answer REST: host:port, or that after http:// or https://.

    Raises:
        InvalidArgumentError: one is no address.
        FailedPreconditionError: there is none.
    """

    def __init__(self, access: Access, addresses: Sequence[str]) -> None:
        if not addresses:
            raise FailedPreconditionError(
                "no gateway reports to the study server: start one with tuner gateway, or name "
                "one."
            )
        self._access = access
        self._urls = [
            _url(address, is_safe=access.gateway_trust is not None) for address in addresses
        ]
        self._connection: HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def url(self) -> str:
        """The gateway that is asked first."""
        return self._urls[0].geturl()

    def predict(
        self,
        endpoint: str,
        rows: Sequence[Any],
        *,
        version: int | None = None,
        key: str = "",
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """Has rows predicted.

        Args:
            endpoint: The endpoint.
            rows: Each with all inputs of the model, by name; or values of its only input.
            version: Which version answers; left out: as the traffic is split.
            key: Calls with the same key go to the same version.
            timeout_seconds: How long an answer is awaited.

        Raises:
            UnavailableError: no gateway answers.
        """
        path = f"{_model(endpoint, version)}:predict"
        headers = {STICKY_KEY: key} if key else {}
        return self.ask(path, {"instances": [*rows]}, headers, timeout_seconds=timeout_seconds)

    def predict_columns(self, endpoint: str, version: int, columns: Mapping[str, Any]) -> Answer:
        """Has rows predicted that are given column by column, as `predict` does."""
        return self.ask(f"{_model(endpoint, version)}:predict", {"inputs": columns})

    def metadata(self, endpoint: str, *, timeout_seconds: float = ANSWER_SECONDS) -> Answer:
        """The signatures of an endpoint's model, as TensorFlow Serving tells them."""
        path = f"{_model(endpoint, None)}/metadata"
        return self.ask(path, timeout_seconds=timeout_seconds)

    def about(self, endpoint: str) -> Answer:
        """The version that answers, and what tuner's export says of it."""
        return self.ask(f"/v1/endpoints/{quote(endpoint, safe='')}")

    def ask(
        self,
        path: str,
        document: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """What a gateway answers; one that is busy is asked again.

        Args:
            path: What is asked.
            document: What is posted; None: nothing is.
            headers: Further ones.
            timeout_seconds: How long an answer is awaited each time.

        Raises:
            UnavailableError: no gateway answers.
        """
        body = None if document is None else json.dumps(document).encode()
        problem = ""
        for left in reversed(range(_TRIES * len(self._urls))):
            start = time.monotonic()
            try:
                connection = self._connected(timeout_seconds)
                sent = {**(headers or {}), **self._proof()}
                connection.request("GET" if body is None else "POST", path, body, sent)
                found = connection.getresponse()
                answer = _answer(found, found.read(), time.monotonic() - start)
            except (OSError, HTTPException) as error:
                # It may have ended, or only the connection that was kept.
                problem = f"{self.url}: {error or type(error).__name__}"
                self.close()
                self._urls.append(self._urls.pop(0))
            else:
                if answer.status not in _BUSY or not left:
                    return answer
            time.sleep(_PAUSE_SECONDS)
        raise UnavailableError(
            f"no gateway answers ({problem}); start one with tuner gateway, or name another."
        )

    def _connected(self, timeout_seconds: float) -> HTTPConnection:
        if self._connection is None:
            url = self._urls[0]
            host = url.hostname or ""
            if url.scheme == "https":
                trust = self._access.gateway_trust
                context = ssl.create_default_context() if trust is None else trust.context()
                self._connection = HTTPSConnection(
                    host, url.port or 443, timeout=timeout_seconds, context=context
                )
            else:
                self._connection = HTTPConnection(host, url.port or 80, timeout=timeout_seconds)
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_seconds)
        return self._connection

    def _proof(self) -> dict[str, str]:
        url, token = self._urls[0], self._access.current_token()
        if url.scheme == "https":
            return {"authorization": f"Bearer {token}"} if token else {}
        return dict(self._access.metadata(url.netloc, token))


def _url(address: str, *, is_safe: bool) -> SplitResult:
    url = address if "://" in address else f"{'https' if is_safe else 'http'}://{address}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidArgumentError(
            f"a gateway's address is host:port, or that after http:// or https://, but got "
            f"{address!r}."
        )
    return parts


def _model(endpoint: str, version: int | None) -> str:
    pinned = "" if version is None else f"/versions/{version}"
    return f"/v1/models/{quote(endpoint, safe='')}{pinned}"


def _answer(found: HTTPResponse, text: bytes, seconds: float) -> Answer:
    try:
        document = json.loads(text)
    except ValueError:
        document = {"error": text.decode("utf-8", "replace")[:500]}
    return Answer(
        status=found.status,
        document=document,
        version=int(found.headers.get("x-model-version") or 0),
        request_id=found.headers.get("x-request-id", ""),
        seconds=seconds,
    )
