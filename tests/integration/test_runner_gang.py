"""Gangs on a real Ray with a real MultiWorkerMirroredStrategy."""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import ray

from tests.integration import runner_trainers as trainers
from tests.integration import trials
from tuner.client.access import Access
from tuner.config import Settings
from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.runner.cluster import Cluster
from tuner.runner.gang import GROWTH_BYTES, Gang
from tuner.runner.shape import Shape
from tuner.runner.spares import Spares
from tuner.runner.strategies import Member
from tuner.runner.worker import Assignment, Outcome, Train
from tuner.study import Cause, Strategy
from tuner_trainers.context import CHECKPOINTS, Result, TrialTask

pytestmark = [
    pytest.mark.timeout(600),
    # Ray leaves its sockets and log files to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "default::FutureWarning"),
]

#: They fit on two CPUs.
SERVED = Shape(
    workers=2, cpus_per_worker=0.4, strategy=Strategy.PARAMETER_SERVER, parameter_servers=1
)
TWO = Shape(workers=2, strategy=Strategy.MULTI_WORKER)
#: For what does not depend on how many there are: each worker takes seconds to start.
ONE = Shape(workers=1, cpus_per_worker=0.25)
#: Nobody listens there; what a gang's log cannot reach does not stop it.
NO_SERVER = "127.0.0.1:1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), cpus=4)
    with Cluster(settings) as cluster:
        yield cluster


class Bench:
    """One gang of each shape, built anew when the last one is broken."""

    def __init__(self) -> None:
        self.spares = Spares(Access.to(NO_SERVER), after_seconds=0.0)
        self._gangs: dict[Shape, Gang] = {}

    def whole(self, shape: Shape = TWO) -> Gang:
        gang = self._gangs.get(shape)
        return self.replaced(shape) if gang is None or gang.broken else gang

    def replaced(self, shape: Shape = TWO, growth_bytes: int = GROWTH_BYTES) -> Gang:
        """Another gang, whatever the state of the last one."""
        if shape in self._gangs:
            self._gangs.pop(shape).close()
        self._gangs[shape] = Gang(shape, self.spares, growth_bytes=growth_bytes)
        return self._gangs[shape]

    def close(self) -> None:
        while self._gangs:
            self._gangs.popitem()[1].close()

    def tend(self, condition: Callable[[], object]) -> None:
        """Does for the spares what a runner does, until something holds."""

        def tended() -> object:
            self.spares.tend()
            return condition()

        until(tended)


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
    assert capacity.cpus == 4
    with pytest.raises(InvalidArgumentError, match="needs 5 CPUs, but this machine offers 4"):
        capacity.check(Shape(workers=5, strategy=Strategy.MULTI_WORKER))


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
    single = bench.whole(ONE)
    for units, losses in zip((4, 8), pairs, strict=False):
        alone = result_of(run(single, partial(trainers.fit, units, 3), tmp_path))
        assert losses == pytest.approx(trainers.losses_of(alone), abs=1e-5)
    assert not gang.broken and gang.pids == pids and gang.answers()


def test_the_devices_of_one_process_train_in_step(bench: Bench, tmp_path: Path) -> None:
    alone = losses_alone(trials.make_task(tmp_path, dropout=0.0, batch_size=50), tmp_path)
    shape = replace(TWO, strategy=Strategy.MIRRORED, cpus_per_worker=0.5)
    gang = Gang(shape, bench.spares)
    try:
        assert len(gang.pids) == 1
        task = trials.make_task(tmp_path, dropout=0.0, batch_size=50)
        train = partial(trainers.tabular, task, str(tmp_path), (), "")
        losses = trainers.losses_of(result_of(run(gang, train, tmp_path)))
    finally:
        gang.close()
    assert losses == pytest.approx(alone, abs=1e-5)


def test_gpus_that_tensorflow_does_not_see_are_missed() -> None:
    with pytest.raises(UnavailableError, match=r"worker 0 was given 99 GPUs, but TensorFlow sees"):
        Member(Shape(gpus_per_worker=99), 0, [NO_SERVER])


def test_parameter_servers_train_and_outlive_a_worker(bench: Bench, tmp_path: Path) -> None:
    # So small a rate leaves the network as it is: the loss is that of the rows that were visited.
    still = trials.make_task(tmp_path, optimizer="sgd", learning_rate=1e-7, dropout=0.0)
    task = trials.make_task(tmp_path, dropout=0.0, epochs=6, batch_size=50)
    story = Story(tmp_path)
    with closing(Gang(SERVED, bench.spares)) as gang:
        losses = trainers.losses_of(result_of(run(gang, story.train(still), tmp_path)))
        assert losses == pytest.approx(losses_alone(still, tmp_path), abs=1e-5)
        outcome = story.run(gang, task, {1: gang.pids[1], 4: gang.pids[3]})
        assert outcome.failure is not None and outcome.failure.cause is Cause.CRASHED
        assert outcome.failure.message.startswith("parameter server 0 of the gang died")
        interrupted = story.folder
        assert (interrupted / "epoch4").exists(), "one worker went on without the other"
        assert gang.broken
    (checkpoint,) = (tmp_path / "1" / CHECKPOINTS).glob("*.npz")
    with closing(Gang(replace(SERVED, workers=1), bench.spares)) as gang:
        # The attempt that goes on has a folder of its own.
        resumed = run(gang, story.train(task, checkpoint), tmp_path / "second")
        losses = trainers.losses_of(result_of(resumed))
        assert len(losses) == 6 and losses[-1] < losses[0] / 2
        assert losses[0] == float((interrupted / "epoch1").read_text()), "it went on"
        # With one worker, nothing is left to chance.
        alone = losses_alone(task, tmp_path)
        losses = trainers.losses_of(result_of(run(gang, story.train(task), tmp_path / "third")))
        assert losses == pytest.approx(alone, abs=1e-5)
        outcome = story.run(gang, task, {2: gang.pids[0]})
        assert outcome.failure is not None and outcome.failure.cause is Cause.CRASHED
        assert outcome.failure.message.startswith("the coordinator of the gang died")


class Story:
    """Trials that are told when to go on."""

    def __init__(self, folder: Path) -> None:
        self._tmp_path, self._count = folder, 0
        self.folder = folder

    def train(
        self, task: TrialTask, checkpoint: Path | str = "", pauses: Sequence[int] = ()
    ) -> Train:
        self._count += 1
        self.folder = self._tmp_path / f"story{self._count}"
        self.folder.mkdir()
        return partial(trainers.tabular, task, str(self.folder), pauses, str(checkpoint))

    def run(self, gang: Gang, task: TrialTask, deaths: Mapping[int, int]) -> Outcome:
        """Trains; kills a process after each of some epochs."""
        train, folder = self.train(task, pauses=tuple(deaths)), self.folder

        def kill() -> None:
            for epoch, pid in deaths.items():
                until((folder / f"epoch{epoch}").exists)
                os.kill(pid, 9)
                until(partial(_is_gone, pid))
                (folder / f"go{epoch}").touch()

        killer = threading.Thread(target=kill)
        killer.start()
        outcome = run(gang, train, self._tmp_path)
        killer.join(60)
        return outcome


def _is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def losses_alone(task: TrialTask, folder: Path) -> Sequence[float]:
    """What one process without Ray comes to."""
    from tuner_trainers import training

    with tempfile.TemporaryDirectory(dir=folder) as alone:
        context = trials.Context(Path(alone))
        training.train(task, context, None, trials.storage(folder))
    return [metrics["loss"] for metrics in context.reports]


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
    gang = bench.whole(ONE)
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
    gang = bench.whole(ONE)
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
    gang = bench.replaced(ONE, growth_bytes=100 * 2**20)
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
    until(partial(_is_gone, pid))
    assert spares.take(second.nodes[0]) is None
    # Without a gang that they could replace there are none.
    bench.tend(lambda: spares._starting is not None)
    bench.close()
    spares.tend()
    assert spares._starting is None and not spares._ready


def test_spares_leave_memory_free(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    short = Spares(Access.to(NO_SERVER), after_seconds=0.0, free_share=0.999)
    short.serve("a gang", bench.whole(ONE).nodes)
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
    train = partial(trainers.die_on_one_rank, str(tmp_path), signal.SIGSEGV)
    failure = run(gang, train, tmp_path).failure
    assert int((tmp_path / "died").read_text()) == gang.pids[1]
    assert failure is not None
    assert failure.cause is Cause.CRASHED
    assert re.fullmatch(
        rf"worker 1 of the gang died by itself of SIGSEGV \(process {gang.pids[1]}\), while its "
        r"machine went on: .* log.* stack\.",
        failure.message,
    )
    assert "about to die" in failure.log_tail
    assert "in die\n" in failure.stack and failure.stack.endswith(failure.message)
    assert gang.broken
    assert not [*Path(tempfile.gettempdir()).glob(f"tuner-trial-{gang.pids[1]}-*")]


def test_a_cancelled_trial_ends_with_its_gang(bench: Bench, tmp_path: Path) -> None:
    gang = bench.whole()
    train = partial(trainers.linger, str(tmp_path))
    assert gang.train(assignment(train, tmp_path), (tmp_path / "rank1").exists) is None
    assert gang.broken
    gang.close()
    for pid in gang.pids:
        until(partial(_is_gone, pid))


def test_a_gang_whose_worker_died_between_trials_is_found_broken(
    bench: Bench, tmp_path: Path
) -> None:
    gang = bench.whole(ONE)
    assert gang.answers()
    os.kill(gang.pids[0], 9)
    until(lambda: not gang.answers())
    assert gang.broken
