"""A prediction on its way: what is asked, who answers it, and what is counted of that."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from tuner.endpoint import Traffic
from tuner.errors import InternalError, InvalidArgumentError, NotFoundError, TunerError
from tuner.serving.monitoring import Monitor
from tuner.serving.pool import Pool
from tuner.serving.wire import Method

#: A header (and a key of gRPC's metadata): the version that is wanted, or its label.
VERSION = "x-tuner-version"
#: Errors that are not the caller's.
ERRORS = frozenset(
    ("INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNKNOWN", "DATA_LOSS")
)
_CANCELLED = "CANCELLED"
_MOST_VERSION_DIGITS = 18
_MOST_ID = 64


@dataclass(slots=True, kw_only=True)
class Call:
    """A prediction that somebody asks for."""

    #: The name of a model or an endpoint; the version that is wanted, or its label, or neither.
    model: str
    version: int | None = None
    label: str = ""
    #: Calls with the same key go to the same version; empty: to any.
    key: bytes = b""
    #: The id of the request, at most 64 characters.
    request: str
    #: `predict`, `classify`, `regress` or `infer`.
    verb: str
    method: Method
    body: bytes
    #: `REST` or `gRPC`.
    entrypoint: str


class Served:
    """A version that a gateway serves, and what it did. It belongs to an event loop.

    Args:
        model_id: The model it is a version of.
        number: The version.
        pool: Its replicas.
        seconds: How long a prediction may take.
    """

    def __init__(self, model_id: str, number: int, pool: Pool, seconds: float) -> None:
        self.model_id = model_id
        self.number = number
        self.pool = pool
        self.seconds = seconds
        #: What it answered, and what it was only asked, too, since it is served.
        self.answered, self.shadowed = Traffic(), Traffic()

    def count(self, seconds: float, code: str) -> None:
        """Takes note of a call that it answered, or failed to."""
        if code != _CANCELLED:
            is_error = code in ERRORS
            is_refusal = code != "OK" and not is_error
            self.answered.count(seconds, is_error=is_error, is_refusal=is_refusal)

    def done(self, call: Call, answer: bytes) -> None:
        """Is told of a good answer, just before it is sent."""


class Source(Protocol):
    """Knows who answers. It belongs to an event loop."""

    def find(self, model: str, version: int | None, label: str, key: bytes) -> Served:
        """The version that answers a call.

        Raises:
            NotFoundError, InvalidArgumentError: there is none, in TensorFlow Serving's words.
            UnavailableError: it is not known yet what there is.
        """

    def versions(self, model: str, version: int | None) -> Mapping[int, Served]:
        """The versions of a model, or one of them; raises NotFoundError or UnavailableError."""

    def all(self) -> Iterable[tuple[str, Served]]:
        """All versions, each with the name that clients call."""

    async def look_again(self) -> None:
        """Finds out what is served now: what was asked for may be newer than what is known."""

    @property
    def is_ready(self) -> bool:
        """Whether it is known what there is to serve."""


class Predictions:
    """Has calls answered, and counts them.

    Args:
        source: Knows who answers.
        monitor: Is told of every call.
    """

    def __init__(self, source: Source, monitor: Monitor) -> None:
        self.source = source
        self.monitor = monitor

    async def find(
        self, model: str, version: int | None, label: str = "", key: bytes = b""
    ) -> Served:
        """The version that answers a call, also one that was deployed a moment ago.

        Raises:
            NotFoundError, InvalidArgumentError: as `Source.find`.
        """
        try:
            return self.source.find(model, version, label, key)
        except (NotFoundError, InvalidArgumentError):
            await self.source.look_again()
            return self.source.find(model, version, label, key)

    async def predict(self, call: Call, seconds: float | None = None) -> tuple[Served, bytes]:
        """Who answered, and the answer.

        Args:
            call: What is asked.
            seconds: How long it may take, where that is less than the version's own time.

        Raises:
            TunerError: as `Source.find` and `Pool.call`.
        """
        start, code, served = time.perf_counter(), InternalError.code, None
        try:
            served = await self.find(call.model, call.version, call.label, call.key)
            most = served.seconds if seconds is None else min(seconds, served.seconds)
            answer = await served.pool.call(call.method, call.body, most)
            code = "OK"
        except TunerError as error:
            code = error.code
            raise
        except asyncio.CancelledError:
            code = _CANCELLED
            raise
        finally:
            took = time.perf_counter() - start
            # Callers cannot make up names without end.
            is_known = served is not None or code == InvalidArgumentError.code
            model = call.model if is_known else ""
            self.monitor.called(model, call.verb, call.entrypoint, code, took)
            if served is not None:
                served.count(took, code)
        served.done(call, answer)
        return served, answer


def chosen(
    model: str, versions: Mapping[int, Served], version: int | None
) -> Mapping[int, Served]:
    """The versions of a model, or one of them; NotFoundError has TensorFlow Serving's words."""
    if not versions:
        raise NotFoundError(f"Could not find any versions of model {model[:160]}")
    if version is None:
        return versions
    if version not in versions:
        raise NotFoundError(f"Could not find version {version} of model {model[:160]}")
    return {version: versions[version]}


def not_served(model: str, version: int | None) -> NotFoundError:
    """That nothing of this name is served, in TensorFlow Serving's words."""
    name = model[:160]
    which = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return NotFoundError(f"Servable not found for request: {which}")


def no_label(label: str) -> InvalidArgumentError:
    """That no version has this label, in TensorFlow Serving's words."""
    return InvalidArgumentError(f"Unrecognized servable version label: {label[:160]}")


def request_id(sent: str) -> str:
    """The id that a caller gave a request, if results can be told by it, or else a new one."""
    return sent if 0 < len(sent) <= _MOST_ID and sent.isprintable() else secrets.token_hex(8)


def parse_version(text: str) -> tuple[int | None, str]:
    """The version that a caller names by its number, or else by its label."""
    if text.isascii() and text.isdecimal() and len(text) <= _MOST_VERSION_DIGITS:
        return int(text), ""
    return None, text
