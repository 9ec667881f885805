"""Tells the study server once a second what a gateway did, and serves what it answers."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from google.protobuf import json_format

from tuner import convert_endpoint
from tuner.endpoint import Traffic
from tuner.errors import TunerError
from tuner.serving.callers import Callers
from tuner.serving.endpoints import Deployed, Endpoints
from tuner.serving.server import Server
from tuner.v1 import endpoint_service_pb2 as pb

logger = logging.getLogger(__name__)

_SECONDS = 1.0
#: How soon it may report again where somebody asks, and how long such an answer is awaited.
_LEAST_SECONDS, _ASK_SECONDS = 0.1, 3.0
_CALL_SECONDS = 5.0
#: A gateway that is taken for dead begins anew, with another id.
_DEAD = "ABORTED"


class Kept:
    """The last answer of a study server, in a file: what is served while none answers.

    Args:
        path: The file. It is replaced as a whole, and only its user may read it.
        server: Which study server that is; what another one said is not used.
    """

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._server = server

    def read(self) -> pb.ReportGatewayResponse | None:
        """The answer; None if there is none that can be used."""
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
            if said["server"] != self._server:
                return None
            return json_format.ParseDict(said["answer"], pb.ReportGatewayResponse())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, json_format.ParseError) as error:
            logger.warning("%s cannot be used: %s", self._path, error)
            return None

    def write(self, answer: pb.ReportGatewayResponse) -> None:
        """Keeps an answer; what cannot be written is said in the log."""
        document = {"server": self._server, "answer": json_format.MessageToDict(answer)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Readable by this user only: it holds hashes of tokens.
            descriptor, name = tempfile.mkstemp(prefix=".", dir=self._path.parent)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                    json.dump(document, file)
                os.replace(name, self._path)
            except OSError:
                os.unlink(name)
                raise
        except OSError as error:
            logger.warning(
                "%s cannot be written: without a study server, a gateway that starts serves "
                "nothing, or what it last kept: %s",
                self._path,
                error,
            )


class Sync:
    """Reports to a study server, and applies its answers. It belongs to an event loop.

    What was not acknowledged is sent again as it was, under the same number: the study server
    counts it once.

    Args:
        server: The study server.
        endpoints: What is served.
        callers: Who may call.
        kept: Where answers are kept.
    """

    def __init__(self, server: Server, endpoints: Endpoints, callers: Callers, kept: Kept) -> None:
        self._server = server
        self._endpoints = endpoints
        self._callers = callers
        self._kept = kept
        self._addresses: Mapping[str, str] = {}
        self._gateway, self._sequence = str(uuid.uuid4()), 1
        self._revision = ""
        self._pending: pb.ReportGatewayRequest | None = None
        self._said = ""
        self._ticker: asyncio.Task[None] | None = None
        #: Set to report before its time.
        self._hurry = asyncio.Event()
        #: How many reports have begun and ended; the event is another one after each.
        self._begun = self._ended = 0
        self._reported = asyncio.Event()
        endpoints.ask = self.ask

    async def load(self) -> None:
        """Finds out what is to be served: from the study server, or else from what was kept.

        Raises:
            TunerError: neither says it.
        """
        try:
            await self._report(ends=False)
        except TunerError as error:
            answer = self._kept.read()
            if answer is None:
                raise
            logger.warning("serving what was last known: %s", error.message)
            self._apply(answer)

    def start(self, addresses: Mapping[str, str]) -> None:
        """Reports once a second from now on.

        Args:
            addresses: Where it answers, by `rest` and `grpc`.
        """
        self._addresses = addresses
        self._ticker = asyncio.create_task(self._tick())

    async def ask(self) -> None:
        """Reports before its time, and waits for the answer; all who ask meanwhile share it."""
        wanted = self._begun + 1  # one that is under way may know less
        self._hurry.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ASK_SECONDS):
                while self._ended < wanted:
                    await self._reported.wait()

    async def close(self) -> None:
        """Reports a last time."""
        if self._ticker is not None:
            self._ticker.cancel()
            with suppress(asyncio.CancelledError):
                await self._ticker
            await self._try(ends=True)

    async def _tick(self) -> None:
        while True:
            self._begun += 1
            try:
                await self._try(ends=False)
            except Exception:  # whatever it is, predictions go on, and so do later reports
                logger.exception("unexpected error in a report")
            self._ended = self._begun
            reported, self._reported = self._reported, asyncio.Event()
            reported.set()
            # Whoever asks for names that there are not must not have it report all the time.
            await asyncio.sleep(_LEAST_SECONDS)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurry.wait(), _SECONDS - _LEAST_SECONDS)
            self._hurry.clear()

    async def _try(self, *, ends: bool) -> None:
        try:
            # One that was not acknowledged comes before the last one.
            if ends and self._pending is not None:
                await self._report(ends=False)
            await self._report(ends=ends)
        except TunerError as error:
            if self._said != error.message:
                logger.warning("the study server is not told: %s", error.message)
            self._said = error.message
        else:
            if self._said:
                logger.warning("the study server answers again")
            self._said = ""

    async def _report(self, *, ends: bool) -> None:
        request = self._pending or self._next(ends=ends)
        self._pending = request
        try:
            answer = await self._server.call(
                lambda stub: stub.ReportGateway, request, seconds=_CALL_SECONDS
            )
        except TunerError as error:
            if error.code == _DEAD:
                # It did not count this one, and knows nothing of those before.
                self._gateway, self._sequence, self._revision = str(uuid.uuid4()), 1, ""
                request.gateway, request.sequence, request.revision = self._gateway, 1, ""
            raise
        self._pending = None
        self._sequence += 1
        if not answer.unchanged and not ends:
            self._apply(answer)
            self._revision = answer.revision
            self._kept.write(answer)

    def _next(self, *, ends: bool) -> pb.ReportGatewayRequest:
        return pb.ReportGatewayRequest(
            gateway=self._gateway,
            sequence=self._sequence,
            host=f"{socket.gethostname()[:80]}:{os.getpid()}",
            rest_address=_reachable(self._addresses.get("rest", "")),
            grpc_address=_reachable(self._addresses.get("grpc", "")),
            versions=[_version(*taken) for taken in self._endpoints.take() if _is_alive(*taken)],
            revision=self._revision,
            ends=ends,
        )

    def _apply(self, answer: pb.ReportGatewayResponse) -> None:
        endpoints = [convert_endpoint.endpoint_from_proto(each) for each in answer.endpoints]
        self._callers.update(answer.has_tokens, answer.callers)
        self._endpoints.apply(endpoints)


def _reachable(address: str) -> str:
    """An address for other machines: one that listens everywhere is called by its name."""
    host, _, port = address.rpartition(":")
    return f"{socket.getfqdn()}:{port}" if host in ("0.0.0.0", "[::]") else address


def _is_alive(deployed: Deployed, answered: Traffic, shadowed: Traffic) -> bool:
    """Whether there is something to say of a version."""
    pool = deployed.pool
    return bool(answered.requests or shadowed.requests or pool.size or pool.calls or pool.failure)


def _version(
    deployed: Deployed, answered: Traffic, shadowed: Traffic
) -> pb.ReportGatewayRequest.Version:
    pool = deployed.pool
    return pb.ReportGatewayRequest.Version(
        endpoint=f"endpoints/{deployed.endpoint_id}",
        version=deployed.number,
        answered=convert_endpoint.traffic_to_proto(answered),
        shadowed=convert_endpoint.traffic_to_proto(shadowed),
        replicas=pb.ReplicaCount(ready=pool.size, calls=pool.calls, failure=pool.failure[:1024]),
    )
