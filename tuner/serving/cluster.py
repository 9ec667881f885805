"""Starts and ends replicas on the nodes of a Ray cluster."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tuner.errors import DataError, UnavailableError
from tuner.serving.starter import Running, Starter
from tuner.serving.wire import Caller, Method

logger = logging.getLogger(__name__)

#: How long a node may be awaited: a cluster that scales starts a machine meanwhile.
_PLACE_SECONDS = 300.0
#: After how long that is worth a word.
_PATIENCE_SECONDS = 5.0
#: How long a node's host may take, which imports TensorFlow.
_HOST_SECONDS = 120.0
_CONNECT_SECONDS = 10.0


class _Host:
    """In a Ray worker: has replicas forked on its node; the same code as on one machine.

    It holds no CPUs itself. Its replicas end with it, and it ends with the gateway.
    """

    def __init__(self, threads: int, secret: str) -> None:
        self._address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self._starter = Starter(threads=threads, host=self._address, secret=secret)
        #: The replicas' names by their ports.
        self._sockets: dict[int, str] = {}

    async def launch(self, directory: str) -> tuple[str, int] | str:
        """The address of a new replica; a message if its model cannot be loaded."""
        try:
            socket, port = await self._starter.launch(Path(directory))
        except DataError as error:
            return error.message
        self._sockets[port] = socket
        return self._address, port

    async def kill(self, port: int) -> None:
        """Ends a replica at once, if it runs."""
        if port in self._sockets:
            self._starter.kill(self._sockets.pop(port))


class _Placed(Running):
    """A replica on some node, with what it holds there."""

    def __init__(
        self, address: str, caller: Caller, group: PlacementGroup, kill: Callable[[], object]
    ) -> None:
        super().__init__(address, caller)
        self.group = group
        self.kill = kill


class ClusterStarter:
    """Starts replicas on a Ray cluster; use it in `async with`.

    Each replica holds CPUs of a node, by a placement group: so Ray finds it a place, and a cluster
    that scales a machine. The process itself is forked by a host on that node, which has
    TensorFlow imported, and the gateway connects to it: a prediction does not pass through Ray.
    All of it ends with the gateway.

    Args:
        address: The cluster's, as in TUNER_RAY_ADDRESS.
        threads: The CPUs of a replica, and how many threads an operation of its model may use.
    """

    def __init__(self, address: str, *, threads: int = 1) -> None:
        self._address = address
        self._threads = threads
        self._secret = secrets.token_hex(32)
        #: By node, its host.
        self._hosts: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(
                ray.init, address=self._address, log_to_driver=False, logging_level=logging.ERROR
            )
        except Exception as error:  # what Ray raises is not more special than that
            raise UnavailableError(
                f"the Ray cluster at {self._address} cannot be joined: {error}; start it, or set "
                "TUNER_RAY_ADDRESS to the address of its head."
            ) from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(ray.shutdown)

    async def prepare(self) -> None:
        """Nothing: which node gets a replica is known when it is wanted."""

    async def start(self, directory: Path) -> Running:
        """Starts a replica of a model version, and returns once it can predict.

        Raises:
            DataError: the model cannot be loaded.
            UnavailableError: no node has room, or the process did not start, or died.
        """
        group = placement_group([{"CPU": self._threads}])
        started = False
        try:
            running = await self._start(directory, group)
            started = True
        except (RayError, OSError, TimeoutError) as error:
            raise UnavailableError(f"a replica did not start on the cluster: {error}") from error
        finally:
            if not started:
                remove_placement_group(group)
        return running

    async def _start(self, directory: Path, group: PlacementGroup) -> Running:
        node = await self._node_of(group)
        host = self._host(node)
        try:
            launched = await asyncio.wait_for(host.launch.remote(str(directory)), _HOST_SECONDS)
        except RayError:
            self._hosts.pop(node, None)
            raise
        if isinstance(launched, str):
            raise DataError(launched)
        address, port = launched
        _, caller = await asyncio.wait_for(
            asyncio.get_running_loop().create_connection(Caller, address, port), _CONNECT_SECONDS
        )
        await asyncio.wait_for(caller.call(Method.HELLO, self._secret.encode()), _CONNECT_SECONDS)
        kill = partial(host.kill.remote, port)
        return _Placed(f"{address}:{port}", caller, group, kill)

    async def stop(self, running: Running) -> None:
        """Ends a replica, which has answered everything it was asked, or hangs."""
        await running.end()
        if isinstance(running, _Placed):
            running.kill()  # a call that hangs would keep it
            remove_placement_group(running.group)

    async def _node_of(self, group: PlacementGroup) -> str:
        placed = asyncio.ensure_future(asyncio.wrap_future(group.ready().future()))
        done, _ = await asyncio.wait([placed], timeout=_PATIENCE_SECONDS)
        if not done:
            logger.warning("a replica waits for %d free CPUs on a node", self._threads)
        try:
            await asyncio.wait_for(placed, _PLACE_SECONDS)
        except TimeoutError:
            raise UnavailableError(
                f"no node of the cluster had {self._threads} free CPUs within "
                f"{_PLACE_SECONDS:.0f} s; add nodes, or lower the replicas or the trials that run."
            ) from None
        table: Any = ray.util.placement_group_table(group)
        return str(table["bundles_to_node_id"][0])

    def _host(self, node: str) -> Any:
        if node not in self._hosts:
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            self._hosts[node] = (
                ray.remote(_Host)
                .options(num_cpus=0, max_restarts=0, scheduling_strategy=strategy)
                .remote(self._threads, self._secret)
            )
        return self._hosts[node]
