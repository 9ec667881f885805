"""The rows of each epoch, in an order that the seed decides, as the steps of a loop take them.

The order is the same in every process and whether the rows lie in memory or not. Up to
WINDOW_ROWS it is a permutation of all. Beyond, blocks of neighbouring rows are permuted, and then
the rows within windows of many blocks: whatever lies on the disk is read in pieces, once in each
epoch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner_trainers.rows import CHUNK_BYTES, Rows

#: Rows that are permuted as a whole.
WINDOW_ROWS = 1 << 20
#: Neighbouring rows that reach the same window.
BLOCK_ROWS = 1 << 12
#: Steps that run in one call of the graph, at least, and the rows that they take together.
STEPS_PER_CALL = 64
CALL_ROWS = 1 << 16
#: Rows that are mapped, as they are decoded, until their pages are given back.
MAPPED_BYTES = 1 << 30
#: Calls that are made ready while another one runs.
_AHEAD = 2
_POLL_SECONDS = 1.0

Order = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What one process takes of some steps.

    `inputs` are tensors [steps, rows, ...] by the network's input, `labels` float32 [steps, rows],
    where the rows are those of its first replica, then those of its next. `counts` int32 [steps]
    says how many rows the whole batch of a step has; what is beyond them is padding.
    """

    inputs: Mapping[str, tf.Tensor]
    labels: tf.Tensor
    counts: tf.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The steps of one process: which places of a batch it takes.

    Attributes:
        batch_size: rows of a step over all replicas.
        replicas: how many share a step: the n-th takes the places n, n + replicas, ...
        local: which of them are in this process.
        steps: how many make a call of the graph; 0: as many as are worth one.
    """

    batch_size: int
    replicas: int = 1
    local: Sequence[int] = (0,)
    steps: int = 0

    @property
    def share(self) -> int:
        """Rows of a step that each replica takes."""
        return -(-self.batch_size // self.replicas)

    @property
    def local_rows(self) -> int:
        """Rows of a step that this process takes."""
        return self.share * len(self.local)


class Feed:
    """Feeds the rows of a trial, made ready in a thread of its own while the steps before run.

    Rows that are held are gathered, others are encoded, too. Used from one thread.
    """

    def __init__(self, rows: Rows, seed: int) -> None:
        """Takes the rows, in all processes the same, and the seed of their order."""
        self.rows = rows.count
        self._rows, self._seed = rows, seed

    def epoch(
        self, number: int, shape: Shape, start: int = 0
    ) -> AbstractContextManager[Iterator[Steps]]:
        """The steps of an epoch from the step `start` on, counted from 0.

        Together the processes see each row once in an epoch. Epochs may come in any order.
        """
        return _ahead(self._steps(number, shape, start))

    def _steps(self, epoch: int, shape: Shape, start: int) -> Iterator[Steps]:
        # An operation on few rows costs as much as one on many; images are large.
        steps = shape.steps or max(STEPS_PER_CALL, CALL_ROWS // shape.local_rows)
        row_bytes = max(self._rows.encoder.row_bytes, 1)
        steps = max(1, min(steps, CHUNK_BYTES // row_bytes // shape.local_rows))
        mapped = 0
        windows = _without(order(self.rows, self._seed, epoch), start * shape.batch_size)
        for rows in _calls(windows, steps * shape.batch_size):
            index, counts = _local(rows, shape)
            inputs = self._rows.encoded(index.ravel())
            labels = self._rows.target.learned(self._rows.labels(index.ravel()))
            yield Steps(
                inputs={
                    name: tf.reshape(tensor, (*index.shape, *tensor.shape[1:]))
                    for name, tensor in inputs.items()
                },
                labels=tf.constant(labels.reshape(index.shape)),
                counts=tf.constant(counts),
            )
            mapped += len(rows)
            # By then, other pages are needed.
            if mapped >= WINDOW_ROWS or mapped * row_bytes >= MAPPED_BYTES:
                self._rows.raw.release()
                mapped = 0


def order(rows: int, seed: int, epoch: int) -> Iterator[Order]:
    """The rows of an epoch, window by window."""
    random = np.random.default_rng([seed, epoch])
    if rows <= WINDOW_ROWS:
        yield random.permutation(rows)
        return
    blocks = random.permutation(-(-rows // BLOCK_ROWS))
    together = WINDOW_ROWS // BLOCK_ROWS
    for start in range(0, len(blocks), together):
        first = blocks[start : start + together, None] * BLOCK_ROWS
        window = (first + np.arange(BLOCK_ROWS)).ravel()
        window = window[window < rows]
        random.shuffle(window)
        yield window


def _without(windows: Iterable[Order], count: int) -> Iterator[Order]:
    """The windows without the first `count` of their rows."""
    for window in windows:
        yield window[count:]
        count = max(count - len(window), 0)


def _calls(windows: Iterable[Order], size: int) -> Iterator[Order]:
    """The rows of the windows, `size` at a time whatever the windows are."""
    rest = np.empty(0, np.int64)
    for window in windows:
        rest = np.concatenate([rest, window])
        whole = len(rest) // size * size
        yield from rest[:whole].reshape(-1, size)
        rest = rest[whole:]
    if len(rest):
        yield rest


def _local(order: Order, shape: Shape) -> tuple[Order, npt.NDArray[np.int32]]:
    """The rows of this process in each step, [steps, rows], and how many a whole step has."""
    size, steps = shape.batch_size, -(-len(order) // shape.batch_size)
    counts = np.full(steps, size, np.int32)
    counts[-1] = len(order) - (steps - 1) * size
    # Padding repeats a row, which then counts for nothing.
    batches = np.full((steps, shape.share * shape.replicas), order[0])
    batches[:, :size].flat[: len(order)] = order
    by_replica = batches.reshape(steps, shape.share, shape.replicas)
    local = by_replica[:, :, list(shape.local)].transpose(0, 2, 1)
    return local.reshape(steps, shape.local_rows), counts


@contextmanager
def _ahead(source: Iterable[T]) -> Iterator[Iterator[T]]:
    """Takes from `source` in a thread of its own, some items ahead; the thread ends with this."""
    ready: queue.Queue[T | BaseException | None] = queue.Queue(_AHEAD)
    stopping = threading.Event()

    def put(item: T | BaseException | None) -> None:
        while not stopping.is_set():
            try:
                return ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in source:
                put(item)
                if stopping.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again where the items are taken
            put(error)

    def items() -> Iterator[T]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=work, name="feed", daemon=True)
    thread.start()
    try:
        yield items()
    finally:
        stopping.set()
        thread.join()
