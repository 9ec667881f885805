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
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tuner_trainers.rows import CHUNK_ROWS, Rows

#: Rows that are permuted as a whole.
WINDOW_ROWS = 1 << 20
#: Neighbouring rows that reach the same window.
BLOCK_ROWS = 1 << 12
#: Steps that run in one call of the graph, at least.
STEPS_PER_CALL = 64
#: Calls that are made ready while another one runs.
_AHEAD = 2
_POLL_SECONDS = 1.0

Order = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Some steps: `batches` int32 [steps, batch] says which rows of the tensors each step takes.

    `inputs` are tensors [rows, ...] by the network's input, `labels` float32 [rows]; `counts`
    int32 [steps] says how many of a batch's first rows are real.
    """

    inputs: Mapping[str, tf.Tensor]
    labels: tf.Tensor
    batches: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The steps of one process: which places of a batch it takes.

    Attributes:
        batch_size: rows of a step over all replicas.
        replicas: how many share a step: the n-th takes the places n, n + replicas, ...
        local: which of them are in this process.
    """

    batch_size: int
    replicas: int = 1
    local: Sequence[int] = (0,)

    @property
    def share(self) -> int:
        """Rows of a step that each replica takes."""
        return -(-self.batch_size // self.replicas)


class Feed(Protocol):
    """Gives the rows of any epoch, in any order of epochs; from one thread at a time."""

    @property
    def rows(self) -> int:
        """How many there are, in all processes the same."""
        ...

    def epoch(self, number: int, shape: Shape) -> AbstractContextManager[Iterator[Steps]]:
        """The steps of an epoch; together the processes see each row once."""
        ...


class HeldFeed:
    """Feeds rows that are in memory."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows = rows.count
        self._seed = seed
        self._inputs = rows.all()
        self._labels = tf.constant(rows.target.learned(rows.labels()))

    @contextmanager
    def epoch(self, number: int, shape: Shape) -> Iterator[Iterator[Steps]]:
        """See Feed."""
        yield self._steps(number, shape)

    def _steps(self, epoch: int, shape: Shape) -> Iterator[Steps]:
        for places in _calls(self.rows, self._seed, epoch, STEPS_PER_CALL * shape.batch_size):
            batches, counts = _batches(places, shape)
            yield Steps(inputs=self._inputs, labels=self._labels, batches=batches, counts=counts)


class StreamedFeed:
    """Feeds rows that are gathered and encoded while the steps before them run."""

    def __init__(self, rows: Rows, seed: int) -> None:
        self.rows = rows.count
        self._rows, self._seed = rows, seed

    def epoch(self, number: int, shape: Shape) -> AbstractContextManager[Iterator[Steps]]:
        """See Feed."""
        return _ahead(self._steps(number, shape))

    def _steps(self, epoch: int, shape: Shape) -> Iterator[Steps]:
        # An operation on few rows costs as much as one on many.
        steps = max(STEPS_PER_CALL, CHUNK_ROWS // shape.share)
        for places in _calls(self.rows, self._seed, epoch, steps * shape.batch_size):
            batches, counts = _batches(places, shape)
            column = np.arange(batches.shape[1])
            mine = np.isin(column % shape.replicas, shape.local) & (column < counts[:, None])
            own = batches[mine]
            batches[mine] = np.arange(len(own))
            batches[~mine] = 0
            labels = self._rows.target.learned(self._rows.labels(own))
            yield Steps(
                inputs=self._rows.encoded(own),
                labels=tf.constant(labels),
                batches=batches,
                counts=counts,
            )
            self._rows.raw.table.release()


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


def _calls(rows: int, seed: int, epoch: int, size: int) -> Iterator[Order]:
    """The rows of an epoch, `size` at a time whatever the windows are."""
    rest = np.empty(0, np.int64)
    for window in order(rows, seed, epoch):
        rest = np.concatenate([rest, window])
        whole = len(rest) // size * size
        yield from rest[:whole].reshape(-1, size)
        rest = rest[whole:]
    if len(rest):
        yield rest


def _batches(order: Order, shape: Shape) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The rows of each step, int32 [steps, share * replicas], and how many are real."""
    size = shape.batch_size
    steps = -(-len(order) // size)
    batches = np.zeros((steps, size), np.int32)
    batches.ravel()[: len(order)] = order
    counts = np.full(steps, size, np.int32)
    counts[-1] = len(order) - (steps - 1) * size
    padding = shape.share * shape.replicas - size
    return np.pad(batches, ((0, 0), (0, padding))), counts


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
