"""Where on the cluster the workers of a gang run: reserved for all of them, or for none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from tuner.errors import UnavailableError
from tuner.runner import capture, memory
from tuner.runner.memory import Memory
from tuner.runner.pool import Node
from tuner.runner.shape import Shape

T = TypeVar("T")

#: How long a gang waits for room on the nodes before others are asked to make some.
PLACE_SECONDS = 10.0
_ANSWER_SECONDS = 10.0


def nodes() -> dict[str, Node]:
    """The nodes of the cluster that are there, by their ids."""
    return {
        node["NodeID"]: Node(
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            cpus=float(node["Resources"].get("CPU", 0)),
            gpus=float(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()  # type: ignore[no-untyped-call]
        if node["Alive"]
    }


def own_node() -> str:
    """The id of the node that this process is on."""
    return str(ray.get_runtime_context().get_node_id())


def on_node(node_id: str) -> dict[str, Any]:
    """The options of an actor or task that runs on a node without a share of its CPUs."""
    return {
        "num_cpus": 0,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False),
    }


def memory_of(node_id: str) -> Memory:
    """What a node of the cluster has. Raises RayError if it cannot be asked."""
    return _ask(node_id, memory.measure, 0)


def last_words_of(node_id: str, pid: int) -> str:
    """What a process of a node printed before it died. Raises RayError if it cannot be asked."""
    return _ask(node_id, capture.last_words, pid)


def _ask(node_id: str, question: Callable[[int], T], pid: int) -> T:
    if node_id == own_node():
        return question(pid)
    task: Any = ray.remote(question).options(max_retries=0, **on_node(node_id))
    answer: T = ray.get(task.remote(pid), timeout=_ANSWER_SECONDS)
    return answer


class Reservation:
    """The CPUs and GPUs of a gang. Its owner closes it.

    Args:
        shape: of the gang.
        placement: a strategy of Ray's placement groups, such as PACK or SPREAD.

    Raises:
        UnavailableError: there is no room; says what each node has.
    """

    def __init__(self, shape: Shape, placement: str) -> None:
        self._shape = shape
        bundles = [
            {"CPU": seat.cpus, "GPU": seat.gpus} if seat.gpus else {"CPU": seat.cpus}
            for seat in shape.seats
        ]
        self._group = placement_group(bundles, strategy=placement)
        if not self._group.wait(PLACE_SECONDS):
            self.close()
            raise UnavailableError(
                f"{shape} found no room ({placement}) within {PLACE_SECONDS:g} s: {_offers()}."
            )
        table = placement_group_table(self._group)["bundles_to_node_id"]
        #: The node of each worker, by its rank.
        self.nodes: tuple[str, ...] = tuple(table[rank] for rank in range(len(bundles)))

    def options(self, rank: int) -> dict[str, Any]:
        """The options of the actor that takes a worker's place."""
        seat = self._shape.seats[rank]
        return {
            "num_cpus": seat.cpus,
            "num_gpus": seat.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=rank
            ),
        }

    def close(self) -> None:
        """Gives back what was reserved; actors in it end."""
        remove_placement_group(self._group)


def _offers() -> str:
    """What each node has free, of how much."""
    # Ray has no public function for it.
    from ray._private.state import available_resources_per_node

    free = available_resources_per_node()  # type: ignore[no-untyped-call]
    return "; ".join(
        f"{node.name} has {free.get(node_id, {}).get('CPU', 0):g} of {node.cpus:g} CPUs and "
        f"{free.get(node_id, {}).get('GPU', 0):g} of {node.gpus:g} GPUs free"
        for node_id, node in nodes().items()
    )
