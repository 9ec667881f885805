"""How the processes of a gang become one strategy of TensorFlow's."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tuner.errors import UnavailableError
from tuner.runner.shape import Shape
from tuner.study import Strategy

if TYPE_CHECKING:
    import tensorflow as tf


class Member:
    """One process's part in the strategy of its gang: made once, before TensorFlow is used.

    All processes of a gang make theirs at the same time. A second one in a process would hang.

    Args:
        shape: of the gang.
        rank: the process's place in it.
        endpoints: host:port of each process, by rank; this one's is free.

    Raises:
        UnavailableError: TensorFlow does not see the GPUs that the process was given.
    """

    def __init__(self, shape: Shape, rank: int, endpoints: Sequence[str]) -> None:
        #: What a trainer is handed; None where there is nothing to distribute, and in servers.
        self.strategy: tf.distribute.Strategy | None = None
        self._server: Any = None
        self._shape, self._rank = shape, rank
        self._configure()
        match shape.strategy:
            case Strategy.MIRRORED:
                self.strategy = _mirrored(shape)
            case Strategy.MULTI_WORKER if shape.workers > 1:
                self.strategy = _multi_worker(rank, endpoints)
            case Strategy.PARAMETER_SERVER:
                self._join(_cluster(shape, endpoints))

    def count(self) -> int:
        """How many replicas there are, counted by all of them together; 1 without a strategy."""
        if self.strategy is None:
            return 1
        import tensorflow as tf  # heavy, and only workers have it

        if self._shape.strategy is not Strategy.PARAMETER_SERVER:
            ones = self.strategy.run(lambda: tf.constant(1.0))
            return int(self.strategy.reduce(tf.distribute.ReduceOp.SUM, ones, axis=None))
        coordinator = tf.distribute.coordinator.ClusterCoordinator(self.strategy)
        one = tf.function(lambda: tf.constant(1.0))
        ones = [coordinator.schedule(one) for _ in range(self._shape.workers)]
        return int(sum(float(value.fetch()) for value in ones))

    def _configure(self) -> None:
        import tensorflow as tf  # heavy, and only workers have it

        seat = self._shape.seats[self._rank]
        devices = tf.config.list_physical_devices("GPU")
        if len(devices) < int(seat.gpus) or (seat.gpus and not devices):
            raise UnavailableError(
                f"{seat.name} was given {seat.gpus:g} GPUs, but TensorFlow sees {len(devices)}: "
                "install tensorflow[and-cuda] and the driver on its machine, or set "
                "resources.gpus_per_worker to 0."
            )
        threads = max(1, int(seat.cpus))
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # Collectives wait inside an op: with one thread between ops, two of them wait for ever.
        tf.config.threading.set_inter_op_parallelism_threads(max(2, threads))
        for device in devices:
            tf.config.experimental.set_memory_growth(device, True)

    def _join(self, cluster: dict[str, list[str]]) -> None:
        """Becomes the coordinator of parameter servers, or one of those that it commands."""
        import tensorflow as tf  # heavy, and only workers have it

        spec, place = tf.train.ClusterSpec(cluster), self._rank - 1
        if place < 0:
            resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
                spec, task_type="chief", task_id=0, rpc_layer="grpc"
            )
            self.strategy = tf.distribute.ParameterServerStrategy(resolver)
            # Here its threads are nobody's but the process's: a trial's must end with it.
            tf.distribute.coordinator.ClusterCoordinator(self.strategy)
            return
        workers = self._shape.workers
        job, index = ("worker", place) if place < workers else ("ps", place - workers)
        config = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=tf.config.threading.get_intra_op_parallelism_threads(),
            inter_op_parallelism_threads=tf.config.threading.get_inter_op_parallelism_threads(),
        )
        config.gpu_options.allow_growth = True
        self._server = tf.distribute.Server(spec, job, index, protocol="grpc", config=config)


def _mirrored(shape: Shape) -> tf.distribute.Strategy:
    """Over the GPUs of this process, or over CPUs that TensorFlow is told apart."""
    import tensorflow as tf  # heavy, and only workers have it

    if shape.gpus_per_worker:
        return tf.distribute.MirroredStrategy()
    cpu, *_ = tf.config.list_physical_devices("CPU")
    devices = [tf.config.LogicalDeviceConfiguration()] * shape.workers
    tf.config.set_logical_device_configuration(cpu, devices)
    return tf.distribute.MirroredStrategy([f"CPU:{n}" for n in range(shape.workers)])


def _multi_worker(rank: int, endpoints: Sequence[str]) -> tf.distribute.Strategy:
    import tensorflow as tf  # heavy, and only workers have it

    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": list(endpoints)}, "task": task})
    return tf.distribute.MultiWorkerMirroredStrategy()


def _cluster(shape: Shape, endpoints: Sequence[str]) -> dict[str, list[str]]:
    coordinator, *others = endpoints
    return {
        "chief": [coordinator],
        "worker": others[: shape.workers],
        "ps": others[shape.workers :],
    }
