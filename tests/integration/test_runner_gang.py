"""Gangs on a real Ray with a real MultiWorkerMirroredStrategy."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from tests.integration import runner_trainers as trainers
from tuner.client.access import Access
from tuner.config import Settings
from tuner.errors import InvalidArgumentError
from tuner.runner.cluster import Cluster
from tuner.runner.gang import GROWTH_BYTES, Gang
from tuner.runner.shape import Shape
from tuner.runner.spares import Spares
from tuner.runner.worker import Assignment, Outcome, Train
from tuner.study import Cause, Strategy
from tuner_trainers.context import Result

pytestmark = [
    pytest.mark.timeout(300),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
]

TWO = Shape(workers=2, strategy=Strategy.MULTI_WORKER)
#: Nobody listens there; what a gang's log cannot reach does not stop it.
NO_SERVER = "127.0.0.1:1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), cpus=3)
    with Cluster(settings) as cluster:
        yield cluster


class Bench:
    """One gang at a time, built anew when the last one is broken."""

    def __init__(self) -> None:
        self.spares = Spares(Access.to(NO_SERVER), after_seconds=0.0)
        self.gang: Gang | None = None

    def whole(self) -> Gang:
        if self.gang is None or self.gang.broken:
            self.close()
            self.gang = Gang(TWO, self.spares)
        return self.gang

    def close(self) -> None:
        if self.gang is not None:
            self.gang.close()

    def tend(self, condition: Callable[[], object]) -> None:
        """Does for the spares what a runner does, until something holds."""

        def tended() -> object:
            self.spares.tend()
            return condition()

        until(tended)

    def replaced(self, growth_bytes: int = GROWTH_BYTES) -> Gang:
        """Another gang, whatever the state of the last one."""
        self.close()
        self.gang = Gang(TWO, self.spares, growth_bytes=growth_bytes)
        return self.gang


@pytest.fixture(scope="module")
def bench(cluster: Cluster) -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()
    bench.spares.close()


def run(gang: Gang, train: Train, folder: Path) -> Outcome:
    outcome = gang.train(assignment(train, folder), lambda: False)
    assert outcome is not None
    return outcome


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def assignment(train: Train, folder: Path) -> Assignment:
    return Assignment(
        trial="studies/s/trials/0",
        lease_token="1.0.1",
        artifact_dir=str(folder / "1"),
        train=train,
    )


def result_of(outcome: Outcome) -> Result:
    assert outcome.failure is None, outcome.failure
    assert outcome.result is not None
    return outcome.result


def test_the_capacity_is_what_was_asked_for(cluster: Cluster) -> None:
    capacity = cluster.capacity()
    assert capacity.cpus == 3
    with pytest.raises(InvalidArgumentError, match="needs 4 CPUs, but this machine offers 3"):
        capacity.check(Shape(workers=4, strategy=Strategy.MULTI_WORKER))


def test_two_workers_give_the_losses_of_one_trial_after_trial(
    bench: Bench, tmp_path: Path
) -> None:
    gang = bench.whole()
    pids = gang.pids
    pairs = [
        trainers.losses_of(result_of(run(gang, partial(trainers.fit, units, 3), tmp_path)))
        for units in (4, 8, 4)
    ]
    assert pairs[0] == pytest.approx(pairs[2], abs=1e-6), "nothing is left of the trial between"
    single = Gang(Shape(workers=1), bench.spares)
    try:
        for units, losses in zip((4, 8), pairs, strict=False):
            alone = result_of(run(single, partial(trainers.fit, units, 3), tmp_path))
            assert losses == pytest.approx(trainers.losses_of(alone), abs=1e-5)
    finally:
        single.close()
    assert not gang.broken and gang.pids == pids and gang.answers()


@pytest.mark.parametrize(
    ("kind", "cause", "message"),
    [
        ("value", Cause.USER_ERROR, "ValueError: units must be even"),
        ("exit", Cause.USER_ERROR, "SystemExit: 3"),
        ("infeasible", Cause.INFEASIBLE, "the loss is not a number."),
    ],
)
def test_what_a_trainer_raises_is_told_and_the_gang_goes_on(
    bench: Bench, tmp_path: Path, kind: str, cause: Cause, message: str
) -> None:
    gang = bench.whole()
    failure = run(gang, partial(trainers.fail, kind), tmp_path).failure
    assert failure is not None
    assert (failure.cause, failure.message) == (cause, message)
    assert "in fail\n" in failure.stack
    assert failure.log_tail == "about to fail\n"
    assert not gang.broken
    assert result_of(run(gang, partial(trainers.fit, 4, 1), tmp_path)).step == 1


def test_a_trial_that_needs_too_much_memory_costs_the_gang(bench: Bench, tmp_path: Path) -> None:
    gang = bench.whole()
    failure = run(gang, partial(trainers.fail, "memory"), tmp_path).failure
    assert failure is not None
    assert failure.cause is Cause.OUT_OF_MEMORY
    sizes = (
        r"MemoryError: Unable to allocate .* \(the worker held 0\.\d\d GiB; its machine has "
        r"\d+\.\d\d GiB of memory, \d+\.\d\d GiB of it free\)"
    )
    assert re.fullmatch(sizes, failure.message)
    assert gang.broken


def test_a_trial_finds_nothing_of_the_one_before(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gang = bench.whole()
    before = result_of(run(gang, trainers.look_around, tmp_path)).metrics
    run(gang, trainers.spoil, tmp_path)
    assert not gang.broken
    assert result_of(run(gang, trainers.look_around, tmp_path)).metrics == before
    with caplog.at_level(logging.WARNING):
        result_of(run(gang, trainers.leave_a_thread, tmp_path))
    assert gang.broken, "a thread cannot be ended"
    assert "threads that its last trial left behind: 'forgotten'" in caplog.text


def test_a_worker_that_grows_is_replaced(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gang = bench.replaced(growth_bytes=100 * 2**20)
    with caplog.at_level(logging.WARNING):
        for mib in (200, 1):
            result_of(run(gang, partial(trainers.leak, mib), tmp_path))
            assert not gang.broken, "what the first trial leaves is what a trial takes"
        result_of(run(gang, partial(trainers.leak, 120), tmp_path))
    assert gang.broken
    assert re.search(r"it holds \S+ GiB, 0\.1\d GiB more than after its first trial", caplog.text)


def test_spares_take_the_place_of_a_lost_gang(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = bench.whole()
    spares = bench.spares
    bench.tend(lambda: len(spares._ready) == 2)
    warm = {home.pid for home in ray.get([s.actor.home.remote() for s in spares._ready])}
    with caplog.at_level(logging.INFO):
        second = bench.replaced()
    assert set(second.pids) == warm and not warm & set(first.pids)
    assert "2 of them warm before" in caplog.text
    assert result_of(run(second, partial(trainers.fit, 4, 1), tmp_path)).step == 1
    # One that died while it waited is not taken.
    bench.tend(lambda: len(spares._ready) == 1)
    pid = ray.get(spares._ready[0].actor.home.remote()).pid
    os.kill(pid, 9)
    until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert spares.take(second.nodes[0]) is None
    # Without a gang that they could replace there are none.
    bench.tend(lambda: spares._starting is not None)
    bench.close()
    spares.tend()
    assert spares._starting is None and not spares._ready


def test_spares_leave_memory_free(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    short = Spares(Access.to(NO_SERVER), after_seconds=0.0, free_share=0.999)
    short.serve("a gang", bench.whole().nodes)
    with caplog.at_level(logging.INFO):
        short.tend()
    assert short._starting is None
    assert re.search(r"no spare worker: it would leave less than \d+\.\d\d GiB", caplog.text)


def test_a_failure_that_leaves_a_worker_waiting_costs_the_gang(
    bench: Bench, tmp_path: Path
) -> None:
    gang = bench.whole()
    failure = run(gang, trainers.fail_on_one_rank, tmp_path).failure
    assert failure is not None
    assert (failure.cause, failure.message) == (Cause.USER_ERROR, "ValueError: only here")
    assert gang.broken


def test_a_killed_worker_loses_the_attempt_and_costs_the_gang(
    bench: Bench, tmp_path: Path
) -> None:
    gang = bench.whole()
    failure = run(gang, partial(trainers.die_on_one_rank, str(tmp_path)), tmp_path).failure
    assert int((tmp_path / "died").read_text()) == gang.pids[1]
    assert failure is not None
    assert failure.cause is Cause.LOST
    assert gang.broken


def test_a_cancelled_trial_ends_with_its_gang(bench: Bench, tmp_path: Path) -> None:
    gang = bench.whole()
    cancelled = threading.Event()
    threading.Timer(2.0, cancelled.set).start()
    train = partial(trainers.linger, str(tmp_path))
    assert gang.train(assignment(train, tmp_path), cancelled.is_set) is None
    assert gang.broken
    gang.close()
    for pid in gang.pids:
        for _ in range(500):
            if not os.path.exists(f"/proc/{pid}"):
                break
            time.sleep(0.02)
        assert not os.path.exists(f"/proc/{pid}")


def test_a_gang_whose_worker_died_between_trials_is_found_broken(
    bench: Bench, tmp_path: Path
) -> None:
    gang = bench.whole()
    assert gang.answers()
    os.kill(gang.pids[0], 9)
    for _ in range(100):
        if not gang.answers():
            break
        time.sleep(0.05)
    assert gang.broken
