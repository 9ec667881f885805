"""Replicas on a Ray cluster of two nodes, which lie on this machine; one of them is killed."""

from __future__ import annotations

import shutil
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cluster_utils import Cluster as Nodes

from tests.integration.gateways import Gateway, gateway, until
from tests.integration.test_runner_nodes import add_node, started
from tests.integration.test_serving import answered_more
from tuner.serving import wire

pytestmark = [
    pytest.mark.timeout(300),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
]

BODY = b'{"instances": [1.0, 5.0]}'


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Nodes, list[Any]]]:
    """A head without CPUs, and two nodes with one each."""
    cluster = started()
    workers = [add_node(cluster), add_node(cluster)]
    yield cluster, workers
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def served(
    nodes: tuple[Nodes, list[Any]], models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """One version, of which each node has a replica."""
    folder = tmp_path_factory.mktemp("cluster")
    shutil.copytree(models / "half" / "2", folder / "half" / "2")
    flags = ("--least-replicas", "2", "--most-replicas", "2")
    environment = {"TUNER_RAY_ADDRESS": nodes[0].address}
    with gateway(str(folder), *flags, environment=environment) as running:
        yield running


def listening() -> dict[int, int]:
    """The ports of the replicas, and their pids: they are the children of forked zygotes."""
    me = psutil.Process()
    return {
        connection.laddr.port: process.pid
        for process in me.children(recursive=True)
        if "tuner.serving.zygote" in " ".join(process.cmdline())
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def test_nodes_serve_and_one_may_die(served: Gateway, nodes: tuple[Nodes, list[Any]]) -> None:
    assert served.http.post("/v1/models/half:predict", content=BODY).json() == {
        "predictions": [3.5, 5.5]
    }
    assert not served.replicas()  # none is the gateway's own child
    until(lambda: len(listening()) == 2, 60)

    # A stranger's connection is closed without an answer.
    port = next(iter(listening()))
    host = nodes[0].address.partition(":")[0]
    with socket.create_connection((host, port), 5) as stranger:
        body = b"0" * 64
        stranger.sendall(wire._HEADER.pack(len(body), 1, wire.Method.HELLO) + body)
        assert stranger.recv(1) == b""

    # A node dies under load: the other one answers all of it.
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answer = served.http.post("/v1/models/half:predict", content=BODY)
            right = answer.status_code != 200 or answer.json() == {"predictions": [3.5, 5.5]}
            statuses[answer.status_code if right else -1] += 1

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        answered_more(statuses)
        nodes[0].remove_node(nodes[1][0], allow_graceful=False)
        until(lambda: len(listening()) == 1)
        answered_more(statuses)
        nodes[1].append(add_node(nodes[0]))
        until(lambda: len(listening()) == 2, 90)
        answered_more(statuses)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
