"""Rows of several requests predicted at once, without anybody waiting for company."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tuner.errors import InternalError, InvalidArgumentError, TunerError, first_line
from tuner.serving.signature import Signature

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Outputs = dict[str, Array]
Run = Callable[[Signature, Mapping[str, Array]], Outputs]

#: The most rows of several requests that are predicted at once.
MOST_ROWS = 1024
#: Models that take longer than this for a batch have a thread of their own.
_LONG_SECONDS = 0.002
#: The next batch is taken to last as long as the median of so many before it: one that another
#: process held up says nothing of the model.
_REMEMBERED = 9


@dataclass(frozen=True, slots=True)
class _Waiting:
    signature: Signature
    inputs: Mapping[str, Array]
    rows: int
    done: Callable[[Outputs | TunerError], None]

    @property
    def kind(self) -> tuple[object, ...]:
        """What requests must share to be predicted at once."""
        shapes = (array.shape[1:] for array in self.inputs.values())
        return self.signature.name, *shapes


class Batcher:
    """Predicts what has gathered while the last prediction was under way.

    There is no time for which a batch is held open, and no size that it should reach: alone, a
    request is predicted at once; the more there are, the larger batches become by themselves
    (adaptive batching; Crankshaw et al., Clipper, NSDI 2017, tunes a size for the same end).

    It belongs to an event loop. A model that is fast is called in the loop's own thread, which
    costs less than to hand the rows over; a slow one in a thread of its own.

    Args:
        run: Calls the model; raises TunerError.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._waiting: list[_Waiting] = []
        self._is_due = False
        self._is_busy = False
        # Slow until it proved fast: the first call of a model also prepares it.
        self._seconds = deque([1.0] * _REMEMBERED, maxlen=_REMEMBERED)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")

    def close(self) -> None:
        """Ends its thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def predict(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        done: Callable[[Outputs | TunerError], None],
    ) -> None:
        """Predicts rows; `done` is called in the loop, with the outputs or what went wrong."""
        sizes = {array.shape[0] if array.ndim else -1 for array in inputs.values()}
        rows = sizes.pop() if len(sizes) == 1 else -1
        self._waiting.append(_Waiting(signature, inputs, rows, done))
        self._plan()

    def _plan(self) -> None:
        if self._waiting and not self._is_due and not self._is_busy:
            self._is_due = True
            # After everything that has already arrived was read.
            asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        self._is_due = False
        batch = self._next()
        if sorted(self._seconds)[_REMEMBERED // 2] < _LONG_SECONDS:
            self._end(batch, *self._timed(batch))
            return
        self._is_busy = True
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._thread, self._timed, batch)
        future.add_done_callback(lambda ended: self._landed(batch, ended))

    def _landed(
        self,
        batch: Sequence[_Waiting],
        ended: asyncio.Future[tuple[list[Outputs | TunerError], float]],
    ) -> None:
        self._is_busy = False
        if not ended.cancelled():
            self._end(batch, *ended.result())

    def _end(
        self, batch: Sequence[_Waiting], answers: Sequence[Outputs | TunerError], seconds: float
    ) -> None:
        self._seconds.append(seconds)
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.done(answer)
        self._plan()

    def _next(self) -> list[_Waiting]:
        """Takes the oldest, and what can be predicted together with it."""
        first = self._waiting[0]
        if not first.signature.is_batched or first.rows < 0:
            return [self._waiting.pop(0)]
        batch: list[_Waiting] = []
        left: list[_Waiting] = []
        rows, kind = 0, first.kind
        for waiting in self._waiting:
            fits = waiting.rows >= 0 and (not batch or rows + waiting.rows <= MOST_ROWS)
            if fits and waiting.kind == kind:
                batch.append(waiting)
                rows += waiting.rows
            else:
                left.append(waiting)
        self._waiting = left
        return batch

    def _timed(self, batch: Sequence[_Waiting]) -> tuple[list[Outputs | TunerError], float]:
        start = time.perf_counter()
        answers = self._answers(batch)
        return answers, time.perf_counter() - start

    def _answers(self, batch: Sequence[_Waiting]) -> list[Outputs | TunerError]:
        signature = batch[0].signature
        if len(batch) == 1:
            return [self._one(batch[0])]
        joined = {
            name: np.concatenate([waiting.inputs[name] for waiting in batch])
            for name in signature.inputs
        }
        try:
            outputs = self._run(signature, joined)
        except Exception:
            # One of them is at fault: asked for alone, each has its own answer.
            return [self._one(waiting) for waiting in batch]
        *ends, rows = np.cumsum([waiting.rows for waiting in batch])
        if any(array.shape[:1] != (rows,) for array in outputs.values()):
            # It does not answer row by row: nobody knows whose is what.
            return [self._one(waiting) for waiting in batch]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [
            {name: pieces[place] for name, pieces in parts.items()} for place in range(len(batch))
        ]

    def _one(self, waiting: _Waiting) -> Outputs | TunerError:
        if waiting.rows == 0:
            return InvalidArgumentError("there are no rows to predict; send at least one.")
        try:
            return self._run(waiting.signature, waiting.inputs)
        except TunerError as error:
            return error
        except Exception as error:  # the model's, or there is no memory for its outputs
            logger.exception("unexpected error in a prediction")
            return InternalError(f"{type(error).__name__}: {first_line(error)}")
