"""Our training loop: one process or many, the same losses.

Keras's own `fit` fails under MultiWorkerMirroredStrategy, so the loop is ours. Every process draws
the same order of all rows; each replica takes every n-th row of each global batch, and gradients
are summed over the replicas, so that a step is that of one process. Under parameter servers the
same steps are given to whichever worker is free: see tuner_trainers.coordinated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from tuner_trainers.feed import Feed, Shape

#: Calls of the graph after which the processes tell each other where an epoch stands.
CALLS_PER_PART = 4

Loss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Tensors = Mapping[str, tf.Tensor]
#: Called in every process with the steps of the epoch so far and their loss, summed over all rows.
Between = Callable[[int, float], None]


class Loop:
    """Trains one network. Every process of the strategy makes the same calls in the same order.

    Args:
        strategy: in whose scope the network and the optimizer were built.
        network: from the feed's inputs to outputs.
        optimizer: of the network's variables.
        loss: labels and outputs of a batch to the loss of each row.
        feed: the rows, the same in every process.
        batch_size: rows of a step over all replicas.
        class_weights: how much a row counts in the gradients, by its class; empty: as any other.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        network: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss: Loss,
        feed: Feed,
        *,
        batch_size: int,
        class_weights: Sequence[float] = (),
    ) -> None:
        self._strategy, self._network, self._optimizer = strategy, network, optimizer
        self._loss, self._feed, self._class_weights = loss, feed, class_weights
        self._shape = self._shape_of(batch_size)
        self._run_steps = tf.function(
            self._steps,
            input_signature=[
                {
                    name: tf.TensorSpec((None, self._shape.local_rows, *t.shape[1:]), t.dtype)
                    for name, t in network.input.items()
                },
                tf.TensorSpec((None, self._shape.local_rows), tf.float32),
                tf.TensorSpec((None,), tf.int32),
            ],
        )
        self._run_sum = tf.function(
            self._sum, input_signature=[tf.TensorSpec((), tf.float32)], autograph=False
        )

    def _shape_of(self, batch_size: int) -> Shape:
        return Shape(
            batch_size=batch_size,
            replicas=int(self._strategy.num_replicas_in_sync),
            local=_local_replicas(self._strategy),
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
        total, calls, whole = loss_sum, 0, -(-self._feed.rows // self._shape.batch_size)
        with self._feed.epoch(number, self._shape, steps) as feed:
            for part in feed:
                total += float(self._run_steps(dict(part.inputs), part.labels, part.counts))
                steps, calls = steps + len(part.counts), calls + 1
                if calls % CALLS_PER_PART == 0 and steps < whole:
                    between(steps, self.sum(total))
        return self.sum(total) / self._feed.rows

    def sum(self, value: float) -> float:
        """The sum of what each process gives, in every process."""
        return float(self._run_sum(tf.constant(value, tf.float32)))

    def _steps(self, inputs: Tensors, labels: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
        """Runs the steps; returns the summed loss of the rows that this process saw."""
        total = tf.zeros((), tf.float32)
        for index in tf.range(tf.shape(counts)[0]):
            part = {name: tensor[index] for name, tensor in inputs.items()}
            losses = self._strategy.run(self._step, args=(part, labels[index], counts[index]))
            total += tf.add_n(self._strategy.experimental_local_results(losses))
        return total

    def _step(self, inputs: Tensors, labels: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """One replica's part of a step: every n-th row of the batch, padding with weight 0."""
        share, replica = self._shape.share, _replica()
        places = tf.range(share) * self._shape.replicas + replica
        weights = tf.cast(places < count, tf.float32)
        if len(self._shape.local) > 1:
            start = (replica - self._shape.local[0]) * share
            inputs = {name: tensor[start : start + share] for name, tensor in inputs.items()}
            inputs = {
                name: tf.ensure_shape(t, (share, *t.shape[1:])) for name, t in inputs.items()
            }
            labels = labels[start : start + share]
        variables = [variable.value for variable in self._network.trainable_variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            outputs = tf.cast(self._network(inputs, training=True), tf.float32)
            losses = weights * self._loss(labels, outputs)
            loss = tf.reduce_sum(self._weighted(losses, labels)) / tf.cast(count, tf.float32)
            loss = self._optimizer.scale_loss(loss)
        gradients = [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]
        self._optimizer.apply(_summed(gradients), self._network.trainable_variables)
        return tf.reduce_sum(losses)

    def _weighted(self, losses: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        if not len(self._class_weights):
            return losses
        weights = tf.constant(self._class_weights, tf.float32)
        return losses * tf.gather(weights, tf.cast(labels, tf.int32))

    def _sum(self, value: tf.Tensor) -> tf.Tensor:
        values = self._strategy.run(tf.identity, args=(value,))
        copies = len(self._strategy.experimental_local_results(values))
        return self._strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None) / copies


def _summed(gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Sums gradients over the replicas without a trace in TensorFlow's registry of gradients.

    Keras sums by `ReplicaContext.all_reduce`, which registers a gradient of its own for each
    graph: no graph would ever be freed, some megabytes for each trial.
    """
    context = tf.distribute.get_replica_context()
    if context.num_replicas_in_sync == 1:
        return gradients
    flat = tf.concat([tf.reshape(gradient, (-1,)) for gradient in gradients], axis=0)
    summed = tf.split(
        context.merge_call(_sum, args=(flat,)), [tf.size(gradient) for gradient in gradients]
    )
    return list(map(tf.reshape, summed, [gradient.shape for gradient in gradients]))


def _sum(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    return strategy.extended.reduce_to(tf.distribute.ReduceOp.SUM, value, value)


def _replica() -> tf.Tensor:
    """The number of the replica that calls it, among all."""
    context = tf.distribute.get_replica_context()
    return tf.convert_to_tensor(context.replica_id_in_sync_group, tf.int32)


def _local_replicas(strategy: tf.distribute.Strategy) -> tuple[int, ...]:
    """Which replicas are in this process; they follow one another."""
    numbers = strategy.run(_replica)
    return tuple(int(number) for number in strategy.experimental_local_results(numbers))
