"""Our training loop: one process or many, the same losses.

Keras's own `fit` fails under MultiWorkerMirroredStrategy, so the loop is ours. Every process holds
all rows and draws the same permutation; each replica takes every n-th row of each global batch,
and gradients are summed over the replicas, so that a step is that of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

#: Steps that run in one call of the graph.
STEPS_PER_CALL = 64
#: Calls after which the processes tell each other where an epoch stands.
CALLS_PER_PART = 4

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
#: Called in every process with the steps of the epoch so far and their loss, summed over all rows.
Between = Callable[[int, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Encoded rows: tensors [rows, ...] by the network's input, and labels float32 [rows]."""

    inputs: Mapping[str, tf.Tensor]
    labels: tf.Tensor

    @property
    def rows(self) -> int:
        """How many."""
        return int(self.labels.shape[0])


class Loop:
    """Trains one network. Every process of the strategy makes the same calls in the same order.

    Args:
        strategy: in whose scope the network and the optimizer were built.
        network: from `train.inputs` to outputs.
        optimizer: of the network's variables.
        loss: labels and outputs of a batch to the loss of each row.
        train: the rows, the same in every process.
        batch_size: rows of a step over all replicas.
        seed: of the order of the rows.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Loss,
        train: Examples,
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        self._strategy, self._network, self._optimizer = strategy, network, optimizer
        self._loss, self._train = loss, train
        self._batch_size, self._seed = batch_size, seed
        self._replicas = int(strategy.num_replicas_in_sync)
        self._share = -(-batch_size // self._replicas)
        self._run_steps = tf.function(
            self._steps,
            input_signature=[
                tf.TensorSpec((None, self._share * self._replicas), tf.int32),
                tf.TensorSpec((None,), tf.int32),
            ],
        )
        self._run_sum = tf.function(
            self._sum, input_signature=[tf.TensorSpec((), tf.float32)], autograph=False
        )

    def epoch(
        self, number: int, between: Between, *, steps: int = 0, loss_sum: float = 0.0
    ) -> float:
        """Trains on every row once, in an order of its own; returns the mean loss.

        Args:
            number: from 1; it decides the order.
            between: called now and then between two steps.
            steps: those of the epoch that were made before, by another attempt.
            loss_sum: what they gave; in one of the processes only.
        """
        batches, counts = self._batches(number)
        total, calls = loss_sum, 0
        for start in range(steps, len(batches), STEPS_PER_CALL):
            part = slice(start, start + STEPS_PER_CALL)
            total += float(self._run_steps(batches[part], counts[part]))
            calls += 1
            if calls % CALLS_PER_PART == 0 and part.stop < len(batches):
                between(part.stop, self.sum(total))
        return self.sum(total) / self._train.rows

    def sum(self, value: float) -> float:
        """The sum of what each process gives, in every process."""
        return float(self._run_sum(tf.constant(value, tf.float32)))

    def _batches(self, epoch: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """The rows of each step, int32 [steps, share * replicas], and how many are real."""
        rows, size = self._train.rows, self._batch_size
        order = np.random.default_rng([self._seed, epoch]).permutation(rows).astype(np.int32)
        steps = -(-rows // size)
        batches = np.zeros((steps, size), np.int32)
        batches.ravel()[:rows] = order
        counts = np.full(steps, size, np.int32)
        counts[-1] = rows - (steps - 1) * size
        padding = self._share * self._replicas - size
        return np.pad(batches, ((0, 0), (0, padding))), counts

    def _steps(self, batches: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """Runs the steps; returns the summed loss of the rows that this process saw."""
        total = tf.zeros((), tf.float32)
        for index in tf.range(tf.shape(batches)[0]):
            losses = self._strategy.run(self._step, args=(batches[index], counts[index]))
            total += tf.add_n(self._strategy.experimental_local_results(losses))
        return total

    def _step(self, batch: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """One replica's part of a step: every n-th row of the batch, padding with weight 0."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        places = tf.range(self._share) * self._replicas + replica
        rows = tf.gather(batch, places)
        weights = tf.cast(places < count, tf.float32)
        inputs = {name: tf.gather(rows_of, rows) for name, rows_of in self._train.inputs.items()}
        labels = tf.gather(self._train.labels, rows)
        variables = [variable.value for variable in self._network.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses = weights * self._loss(labels, self._network(inputs, training=True))
            summed = tf.reduce_sum(losses)
            loss = summed / tf.cast(count, tf.float32)
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
        # The optimizer sums the gradients over the replicas.
        self._optimizer.apply(gradients, self._network.trainable_variables)
        return summed

    def _sum(self, value: tf.Tensor) -> tf.Tensor:
        values = self._strategy.run(tf.identity, args=(value,))
        copies = len(self._strategy.experimental_local_results(values))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None) / copies
