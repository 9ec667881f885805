"""Predictions on their way to the study server, so that results which come later find them."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from tuner import convert
from tuner.errors import InvalidArgumentError, TunerError, UnavailableError
from tuner.serving.pool import Pool
from tuner.serving.predictions import Call, Served
from tuner.serving.server import Server
from tuner.serving.tasks import spawn
from tuner.serving.wire import Method
from tuner.v1 import endpoint_service_pb2 as pb

logger = logging.getLogger(__name__)

Prediction = pb.RecordPredictionsRequest.Prediction

_SECONDS = 1.0
_CALL_SECONDS = 10.0
#: How many predictions are kept until they are sent, and how many are sent at once.
_MOST, _BATCH = 10_000, 2_000
_MOST_ANSWER_BYTES = 4096
#: An answer of gRPC that is longer than this is too long as JSON, too.
_MOST_PROTO_BYTES = 2 * _MOST_ANSWER_BYTES
_MOST_RESULTS = 10_000


class Recorder:
    """Sends recorded predictions in batches, and results after them. It belongs to an event loop.

    Args:
        server: The study server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._waiting: deque[Prediction] = deque()
        self._showing: set[asyncio.Task[None]] = set()
        self._sending = asyncio.Lock()
        self._ticker = asyncio.create_task(self._tick())
        #: How many predictions were not recorded for want of room.
        self.dropped = 0

    def add(self, endpoint: str, served: Served, call: Call, answer: bytes) -> None:
        """Records a prediction, soon; drops it where too many wait."""
        if len(self._waiting) + len(self._showing) >= _MOST:
            self.dropped += 1
            return
        prediction = Prediction(
            endpoint=endpoint,
            request=call.request,
            version=served.number,
            time=convert.time_to_proto(datetime.now(UTC)),
        )
        if call.method is Method.PREDICT_PROTO and len(answer) <= _MOST_PROTO_BYTES:
            spawn(self._show(prediction, answer, served.pool), self._showing)
            return
        prediction.answer = _shown(call.method, answer)
        self._waiting.append(prediction)

    async def record(self, endpoint: str, body: bytes) -> bytes:
        """Tells what became of predictions; those of this gateway are found at once.

        Args:
            endpoint: The endpoint's name, `endpoints/{endpoint}`.
            body: `{"results": [...]}`, each as in RecordResultsRequest.Result.

        Raises:
            InvalidArgumentError: the body is not that.
            TunerError: what the study server said, or UnavailableError.
        """
        request = results_of(endpoint, body)
        await self._show_all()
        await self._send()
        answer = await self._server.call(
            lambda stub: stub.RecordResults, request, seconds=_CALL_SECONDS
        )
        said = {"recorded": answer.recorded, "unknown": list(answer.unknown)}
        return json.dumps(said).encode()

    async def close(self) -> None:
        """Sends what is left."""
        self._ticker.cancel()
        with suppress(asyncio.CancelledError):
            await self._ticker
        await self._show_all()
        await self._send()

    async def _show(self, prediction: Prediction, answer: bytes, pool: Pool) -> None:
        """Has a replica write an answer of gRPC as JSON: tensors are not read here."""
        with suppress(TunerError):  # recorded without what was answered
            found = await pool.call(Method.SHOW_PROTO, answer, _CALL_SECONDS)
            prediction.answer = _shown(Method.PREDICT_JSON, found)
        self._waiting.append(prediction)

    async def _show_all(self) -> None:
        if self._showing:
            await asyncio.wait(self._showing, timeout=_CALL_SECONDS)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS)
            try:
                await self._send()
            except Exception:  # whatever it is, predictions go on, and later ones are recorded
                logger.exception("unexpected error while predictions were recorded")

    async def _send(self) -> None:
        """Sends what waits; what the study server cannot be told now is kept."""
        async with self._sending:
            while self._waiting:
                batch = [self._waiting[at] for at in range(min(_BATCH, len(self._waiting)))]
                request = pb.RecordPredictionsRequest(predictions=batch)
                try:
                    await self._server.call(
                        lambda stub: stub.RecordPredictions, request, seconds=_CALL_SECONDS
                    )
                except UnavailableError as error:
                    logger.info("%d predictions wait to be recorded: %s", len(batch), error)
                    return
                except TunerError as error:
                    logger.warning("%d predictions are not recorded: %s", len(batch), error)
                    self.dropped += len(batch)
                for _ in batch:
                    self._waiting.popleft()


def _shown(method: Method, answer: bytes) -> str:
    """An answer as JSON, if it is that and not too long."""
    if method is Method.INFER_JSON:
        answer = b"{" + answer + b"}"
    elif method not in (Method.PREDICT_JSON, Method.CLASSIFY_JSON, Method.REGRESS_JSON):
        return ""
    return answer.decode("utf-8", "replace") if len(answer) <= _MOST_ANSWER_BYTES else ""


def results_of(endpoint: str, body: bytes) -> pb.RecordResultsRequest:
    """Reads the body of a request for results; raises InvalidArgumentError."""
    try:
        document = json.loads(body)
        json.dumps(document, ensure_ascii=False).encode()  # halves of characters are no text
    except (ValueError, RecursionError):
        raise InvalidArgumentError("the body is no JSON that can be read.") from None
    results = document.get("results") if isinstance(document, dict) else None
    if not isinstance(results, list) or not 0 < len(results) <= _MOST_RESULTS:
        raise InvalidArgumentError(
            f'the body is {{"results": [...]}}, with 1 to {_MOST_RESULTS:,} of them.'
        )
    return pb.RecordResultsRequest(
        name=endpoint,
        results=[_result(at, each) for at, each in enumerate(results)],
    )


def _result(at: int, fields: Any) -> pb.RecordResultsRequest.Result:
    if not isinstance(fields, dict):
        raise InvalidArgumentError(f"result {at} is no object.")
    request, row = fields.get("request"), fields.get("row", 0)
    if not isinstance(request, str) or not 0 < len(request) <= 64:
        raise InvalidArgumentError(
            f"the `request` of result {at} is the X-Request-Id that came with the prediction."
        )
    if type(row) is not int or not 0 <= row < 2**31:
        raise InvalidArgumentError(f"the `row` of result {at} counts from 0.")
    name = fields.get("name", "")
    if not isinstance(name, str):
        raise InvalidArgumentError(f"the `name` of result {at} is text.")
    return pb.RecordResultsRequest.Result(
        request=request, row=row, name=name, **_outcome(at, fields)
    )


def _outcome(at: int, fields: Mapping[str, Any]) -> dict[str, Any]:
    label, reward = fields.get("label"), fields.get("reward")
    if (label is None) == (reward is None):
        raise InvalidArgumentError(f"result {at} has a `label` or a `reward`, one of them.")
    if label is not None:
        if not isinstance(label, (str, int, float)):
            raise InvalidArgumentError(f"the `label` of result {at} is text or a number.")
        return {"label": label if isinstance(label, str) else json.dumps(label)}
    try:
        value = float(reward) if isinstance(reward, (int, float)) else math.nan
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise InvalidArgumentError(f"the `reward` of result {at} is a number.")
    return {"reward": value}
