"""Predictions of an endpoint for a file of rows, asked of a gateway in portions."""

from __future__ import annotations

import base64
import json
import ssl
import time
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt

from tuner.client.access import Access
from tuner.config import SYSTEM, Settings
from tuner.errors import DataError, InvalidArgumentError, TunerError, UnavailableError
from tuner_trainers import data
from tuner_trainers.data import Columns
from tuner_trainers.target import Target

_SECONDS = 120.0
#: Predictions change nothing: one that failed for the moment is asked for again.
_TRIES, _PAUSE_SECONDS = 5, 0.5
_BUSY = (429, 503)
#: How many rows go out at once, and how many with images or other bytes.
_ROWS, _ROWS_OF_BYTES = 1000, 50


class Remote:
    """The model that an endpoint serves; one version answers all that this object asks.

    Args:
        gateway: The gateway's address for REST, host:port or a URL.
        endpoint: The endpoint's id.
        settings: The token, and whom to trust.

    Raises:
        TunerError: what the gateway said, or UnavailableError.
        DataError: what it serves was not exported by tuner.
    """

    def __init__(self, gateway: str, endpoint: str, settings: Settings) -> None:
        self._line = _Line(gateway, settings)
        self._path = f"/v1/models/{quote(endpoint, safe='')}"
        about = self._line.call("GET", f"/v1/endpoints/{quote(endpoint, safe='')}")
        self.version, metadata = int(about["version"]), about["metadata"]
        if "target" not in metadata:
            raise DataError(
                f"the model of {endpoint} was imported, and what its columns mean is not known: "
                f"send it rows as JSON, to {self._line.url}{self._path}:predict."
            )
        self.inputs: Mapping[str, str] = {
            column["name"]: column["kind"] for column in metadata["inputs"]
        }
        self._missing_values = tuple(metadata["missing_values"])
        self._target = Target.from_json(metadata["target"])

    def close(self) -> None:
        """Ends the connection."""
        self._line.close()

    def read(self, uri: str) -> Columns:
        """Reads the columns that the model needs from a file; raises DataError."""
        return data.read(
            uri,
            types=self.inputs,
            missing_values=self._missing_values,
            columns=tuple(self.inputs),
        )

    def predict(
        self, columns: Columns, told: Callable[[int], None]
    ) -> dict[str, npt.NDArray[Any]]:
        """Predicts rows.

        Args:
            columns: The raw columns.
            told: Is told how many rows were predicted each time.

        Returns:
            As `tuner_trainers.predict.Predictor.predict`.
        """
        count = len(next(iter(columns.values())))
        size = _ROWS_OF_BYTES if "bytes" in self.inputs.values() else _ROWS
        parts = list[npt.NDArray[np.float32]]()
        for start in range(0, count, size):
            rows = {name: columns[name][start : start + size] for name in self.inputs}
            parts.append(self._outputs(rows))
            told(len(parts[-1]))
        return self._target.predicted(np.concatenate(parts))

    def _outputs(self, rows: Columns) -> npt.NDArray[np.float32]:
        inputs = {name: _values(rows[name], kind) for name, kind in self.inputs.items()}
        body = json.dumps({"inputs": inputs}).encode()
        path = f"{self._path}/versions/{self.version}:predict"
        outputs = self._line.call("POST", path, body)["outputs"]
        # A model with a single output answers its values alone.
        if isinstance(outputs, dict):
            outputs = outputs["scores" if self._target.classes else "value"]
        return np.asarray(outputs, np.float32)


class _Line:
    """A connection to a gateway."""

    def __init__(self, gateway: str, settings: Settings) -> None:
        is_safe = bool(settings.tls_ca or settings.tls_certificate)
        url = gateway if "://" in gateway else f"{'https' if is_safe else 'http'}://{gateway}"
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidArgumentError(
                f"a gateway's address is host:port, or http:// or https:// before it, but got "
                f"{gateway!r}."
            )
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._connection = (
            HTTPSConnection(
                parts.hostname, parts.port or 443, timeout=_SECONDS, context=_context(settings)
            )
            if parts.scheme == "https"
            else HTTPConnection(parts.hostname, parts.port or 80, timeout=_SECONDS)
        )
        access = Access.of(settings)
        is_trusted = parts.scheme == "https"
        token = access.current_token()
        if is_trusted:
            self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        else:
            self._headers = dict(access.metadata(parts.netloc, token))

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer to a request; raises TunerError."""
        for left in reversed(range(_TRIES)):
            try:
                self._connection.request(method, path, body, self._headers)
                answer = self._connection.getresponse()
                status, text = answer.status, answer.read()
            except (OSError, HTTPException) as error:
                self._connection.close()
                if not left:
                    raise UnavailableError(
                        f"the gateway at {self.url} does not answer ({error}); start one with "
                        "tuner gateway, or name another with --gateway."
                    ) from None
            else:
                if status == 200:
                    return json.loads(text)
                if status not in _BUSY or not left:
                    raise TunerError(f"the gateway at {self.url} said: {_message(text)}")
            time.sleep(_PAUSE_SECONDS)
        raise AssertionError  # not reached: the last try returns or raises


def _context(settings: Settings) -> ssl.SSLContext:
    """Whom to trust, and what to show."""
    trusted = settings.tls_ca or settings.tls_certificate
    file = None if trusted in ("", SYSTEM) else str(Path(trusted).expanduser())
    context = ssl.create_default_context(cafile=file)
    if settings.tls_client_certificate:
        context.load_cert_chain(
            Path(settings.tls_client_certificate).expanduser(),
            Path(settings.tls_client_key).expanduser(),
        )
    return context


def _values(column: npt.NDArray[Any], kind: str) -> list[Any]:
    values: list[Any] = column.tolist()
    if kind == "bytes":
        return [{"b64": base64.b64encode(value or b"").decode()} for value in values]
    return ["" if value is None else value for value in values] if kind == "string" else values


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:200].decode("utf-8", "replace")
