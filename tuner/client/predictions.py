"""Predictions from gateways, over REST: for scripts, the command line and pages."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

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

_VERSION = "x-model-version"
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

    def rows(self) -> list[Any]:
        """The prediction of each row; raises TunerError for an answer that is an error."""
        if self.status == 200:
            return list(self.document["predictions"])
        message = str(self.document.get("error") or self.document)
        raise _ERRORS.get(self.status, UnavailableError)(message)


class Predictions:
    """Asks gateways; if nobody answers at one, the next is asked. Not thread-safe.

    Args:
        access: The token, and whom to trust; with trust, gateways are called by https.
        addresses: Where they answer REST, host:port.

    Raises:
        FailedPreconditionError: there is no address.
    """

    def __init__(self, access: Access, addresses: Sequence[str]) -> None:
        if not addresses:
            raise FailedPreconditionError(
                "no gateway reports to the study server; start one: tuner gateway."
            )
        self._access = access
        self._addresses = [*addresses]
        self._connection: http.client.HTTPConnection | None = None

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

    def predict(
        self,
        endpoint: str,
        rows: Sequence[Any],
        *,
        version: int | None = None,
        key: str = "",
        timeout_seconds: float = 60.0,
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
        path = self._path(endpoint, version) + ":predict"
        headers = {STICKY_KEY: key} if key else {}
        return self._ask("POST", path, {"instances": [*rows]}, headers, timeout_seconds)

    def metadata(
        self, endpoint: str, *, version: int | None = None, timeout_seconds: float = 60.0
    ) -> Answer:
        """The signatures of an endpoint's model; raises UnavailableError."""
        path = self._path(endpoint, version) + "/metadata"
        return self._ask("GET", path, None, {}, timeout_seconds)

    @staticmethod
    def _path(endpoint: str, version: int | None) -> str:
        pinned = "" if version is None else f"/versions/{version}"
        return f"/v1/models/{quote(endpoint, safe='')}{pinned}"

    def _ask(
        self,
        method: str,
        path: str,
        document: Any,
        headers: Mapping[str, str],
        timeout_seconds: float,
    ) -> Answer:
        body = None if document is None else json.dumps(document).encode()
        problem = ""
        for address in list(self._addresses):
            # A connection that was kept may have ended meanwhile: then a new one is tried.
            for _ in range(2 if self._connection is not None else 1):
                start = time.monotonic()
                try:
                    connection = self._connected(address, timeout_seconds)
                    sent = {**headers, **self._proof(address)}
                    connection.request(method, path, body, sent)
                    found = connection.getresponse()
                    return _answer(found, found.read(), time.monotonic() - start)
                except (OSError, http.client.HTTPException) as error:
                    self.close()
                    problem = f"{address}: {error or type(error).__name__}"
            self._addresses.append(self._addresses.pop(0))
        raise UnavailableError(
            f"no gateway answers ({problem}); see whether one runs: tuner endpoints."
        )

    def _connected(self, address: str, timeout_seconds: float) -> http.client.HTTPConnection:
        if self._connection is None:
            trust = self._access.trust
            self._connection = (
                http.client.HTTPConnection(address, timeout=timeout_seconds)
                if trust is None
                else http.client.HTTPSConnection(
                    address, timeout=timeout_seconds, context=trust.context()
                )
            )
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(timeout_seconds)
        return self._connection

    def _proof(self, address: str) -> dict[str, str]:
        token = self._access.current_token()
        return dict(self._access.metadata(address, token))


def _answer(found: http.client.HTTPResponse, text: bytes, seconds: float) -> Answer:
    try:
        document = json.loads(text)
    except ValueError:
        document = {"error": text.decode("utf-8", "replace")[:500]}
    return Answer(
        status=found.status,
        document=document,
        version=int(found.headers.get(_VERSION) or 0),
        request_id=found.headers.get("x-request-id", ""),
        seconds=seconds,
    )
