"""A runner on a Ray cluster of several nodes, which lie on this machine; one of them is killed."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster as Nodes

from tests.integration.studies import EPOCHS, Gated
from tests.integration.test_runner import Crew, until
from tuner.client import Client
from tuner.config import Settings
from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.runner import placement
from tuner.runner.cluster import Cluster
from tuner.runner.gang import Gang
from tuner.runner.shape import Shape
from tuner.service import StudyServer
from tuner.study import Cause, StudyState

pytestmark = [
    pytest.mark.timeout(600),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
]

MEMORY = 80 * 2**20


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head, which trains nothing, and two nodes with one CPU each."""
    cluster = started()
    for _ in range(2):
        add_node(cluster)
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


def started() -> Nodes:
    """A cluster's head; Ray gives it half a minute, which a busy machine may not have."""
    options: dict[str, Any] = {"object_store_memory": MEMORY, "include_dashboard": False}
    for left in (2, 1, 0):
        cluster = Nodes()
        try:
            cluster.add_node(num_cpus=0, **options)
            return cluster
        except Exception as error:  # Ray raises no other
            cluster.shutdown()  # type: ignore[no-untyped-call]
            if not left or "timed out during startup" not in str(error):
                raise
    raise AssertionError


def add_node(cluster: Nodes) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=MEMORY)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, nodes: Nodes) -> Settings:
    return Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        server_port=0,
        lease_seconds=5,
        ray_address=nodes.address,
        placement="strict_spread",
    )


@pytest.fixture(scope="module")
def cluster(settings: Settings) -> Iterator[Cluster]:
    with Cluster(settings) as cluster:
        yield cluster


def test_what_others_hold_is_said(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(workers=2, cpus_per_worker=0.6)
    with closing(placement.Reservation(shape, "SPREAD")) as first:
        assert len(set(first.nodes)) == 2
        with monkeypatch.context() as patch, pytest.raises(UnavailableError) as error:
            patch.setattr(placement, "PLACE_SECONDS", 1)
            placement.Reservation(shape, "PACK")
    assert re.search(
        r"2 workers of 0.6 CPUs found no room \(PACK\) within 1 s: .*"
        r"has 0.4 of 1 CPUs and 0 of 0 GPUs free; .*has 0.4 of 1",
        error.value.message,
    )
    with closing(placement.Reservation(Shape(cpus_per_worker=0.6), "PACK")) as again:
        assert len(again.nodes) == 1


@pytest.fixture(scope="module")
def stranger(nodes: Nodes) -> Iterator[subprocess.Popen[str]]:
    """A driver with another token; Ray takes its time to turn it away."""
    assert os.environ["RAY_AUTH_MODE"] == "token"
    program = f"import ray; ray.init(address={nodes.address!r}, log_to_driver=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "RAY_AUTH_TOKEN": "0" * 64},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def client(settings: Settings) -> Iterator[Client]:
    with StudyServer(settings) as server, Client(server.address) as client:
        yield client


def test_what_no_node_has_is_said_for_each_node(cluster: Cluster) -> None:
    capacity = cluster.capacity()
    assert (capacity.cpus, len(capacity.nodes)) == (2, 3)
    with pytest.raises(InvalidArgumentError) as error:
        capacity.check(Shape(workers=1, cpus_per_worker=2))
    assert re.search(
        r"needs 1 workers of 2 CPUs, but the Ray cluster has room for 0 on nodes of their own: "
        r"(\S+ \([\d.]+\) has \d CPUs and 0 GPUs[;.] ){3}Lower what each worker needs",
        error.value.message,
    )


def test_a_trial_of_a_killed_node_goes_on_elsewhere(
    nodes: Nodes,
    cluster: Cluster,
    stranger: subprocess.Popen[str],
    settings: Settings,
    client: Client,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crew = Crew(replace(settings, server=client.address), cluster)
    try:
        asked = Gated(client, tmp_path, settings.artifacts_dir, "scattered")
        asked.wait()
        (gang,) = crew.runner._spares._gangs
        assert isinstance(gang, Gang)
        trained_on = set(gang.nodes)
        assert len(trained_on) == 2, "each worker is on a node of its own"
        with caplog.at_level(logging.WARNING):
            every: list[Any] = nodes.list_all_nodes()  # type: ignore[no-untyped-call]
            victim = next(node for node in every if node.node_id in trained_on)
            kill(victim, gang)
            until(lambda: "a trial waits for room" in caplog.text)
        assert re.search(
            r"each trial needs 2 workers of 1 CPUs, but the Ray cluster has room for 1 on nodes "
            r"of their own: (\S+ \([\d.]+\) has \d CPUs and 0 GPUs[;.] ){2}",
            caplog.text,
        )
        add_node(nodes)
        asked.open()
        study = asked.study
        assert study.wait(200) is StudyState.COMPLETED
        trial = study.trial(0)
        assert trial.record.attempt == 2
        assert trial.record.attempts[0].failure is not None
        assert trial.record.attempts[0].failure.cause is Cause.LOST
        assert [m.step for m in trial.measurements] == [*range(1, EPOCHS + 1)]
        log = "".join(text for _, text in study.log(0))
        assert "going on after epoch 1 and 0 steps" in log
        assert victim.node_id not in placement.nodes()
    finally:
        crew.stop()


def test_a_driver_without_the_token_is_turned_away(stranger: subprocess.Popen[str]) -> None:
    _, said = stranger.communicate(timeout=60)
    assert stranger.returncode != 0
    assert "token" in said


def kill(node: Any, gang: Gang) -> None:
    """Kills a node's raylet and its worker, as a machine's end would."""
    raylets = [process.process.pid for process in node.all_processes["raylet"]]
    homes = zip(gang.nodes, gang.pids, strict=True)
    for pid in [*raylets, *(pid for node_id, pid in homes if node_id == node.node_id)]:
        os.kill(pid, 9)
