"""The training loop under parameter servers: each step is taken by whichever worker is free.

The steps of an epoch, its rows and their order are those of one process. What differs is that a
worker's gradients may be of variables that other workers have changed meanwhile (Dean et al.,
Large Scale Distributed Deep Networks, 2012). With one worker, nothing differs.

Every row is visited once in an epoch. Steps that a dead worker did not finish are taken by another
one, a part of them for the second time: at most those of a call.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import tensorflow as tf

from tuner_trainers import checkpoints
from tuner_trainers.feed import Shape, Steps
from tuner_trainers.loop import Between, Loop

#: Steps that a worker takes at a time, at most: what a dead one may leave to be repeated.
STEPS_PER_CALL = 32
#: Calls of an epoch for each worker, at least, if there are as many steps.
_CALLS = 4
#: Calls for each worker that are made ready ahead.
_AHEAD = 2


def is_coordinated(strategy: tf.distribute.Strategy) -> bool:
    """Whether steps are sent to workers, and variables lie on parameter servers."""
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def loop_of(strategy: tf.distribute.Strategy) -> type[Loop]:
    """The loop that trains under a strategy."""
    return CoordinatedLoop if is_coordinated(strategy) else Loop


class CoordinatedLoop(Loop):
    """Trains one network from the one process that knows all: the coordinator."""

    def epoch(
        self, number: int, between: Between, *, steps: int = 0, loss_sum: float = 0.0
    ) -> float:
        """Trains on every row once, in an order of its own; returns the mean loss.

        See Loop.epoch. What `between` is told is a state that no step is changing.
        """
        most = (1 + _AHEAD) * self._workers
        calls = _Calls(self._strategy, self._run_steps, most, loss_sum)
        kept_time = time.monotonic()
        try:
            with self._feed.epoch(number, self._shape, steps) as feed:
                for part in feed:
                    calls.put(part)
                    steps += len(part.counts)
                    if time.monotonic() - kept_time >= checkpoints.EPOCH_SECONDS:
                        between(steps, calls.end())
                        kept_time = time.monotonic()
            return calls.end() / self._feed.rows
        except BaseException:
            calls.forget()
            raise

    def sum(self, value: float) -> float:
        """The value: there is one process."""
        return value

    @property
    def _workers(self) -> int:
        """How many take steps."""
        # TensorFlow has no public function for it.
        return int(self._strategy.extended._num_workers)

    def _shape_of(self, batch_size: int) -> Shape:
        steps = self._feed.rows // (batch_size * self._workers * _CALLS)
        return Shape(batch_size=batch_size, steps=min(max(1, steps), STEPS_PER_CALL))


class _Calls:
    """The calls of an epoch that are under way, and the loss of those that are done.

    Args:
        strategy: whose workers are called.
        run: what is called with steps; it returns their summed loss.
        most: how many calls may be under way.
        loss_sum: of the steps before.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        run: Callable[..., tf.Tensor],
        most: int,
        loss_sum: float,
    ) -> None:
        self._run, self._most, self._loss_sum = run, most, loss_sum
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        self._pending: deque[tf.distribute.coordinator.RemoteValue] = deque()

    def put(self, part: Steps) -> None:
        """Has some steps made; waits while there are many under way."""
        args = (dict(part.inputs), part.labels, part.counts)
        self._pending.append(self._coordinator.schedule(self._run, args=args))
        while len(self._pending) > self._most:
            self._take()

    def end(self) -> float:
        """Waits for all; returns the summed loss of all rows so far."""
        while self._pending:
            self._take()
        return self._loss_sum

    def forget(self) -> None:
        """Takes back what is under way: its failure would be told to the next trial."""
        self._pending.clear()
        with suppress(Exception):  # it was raised before
            self._coordinator.join()

    def _take(self) -> None:
        self._loss_sum += float(self._pending.popleft().fetch())
