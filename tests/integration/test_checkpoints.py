"""A trial that goes on from a checkpoint: as if nothing had happened, or anew, but never wrong."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.integration import trials
from tuner.space import Value
from tuner_trainers import artifacts, checkpoints, feed, loop, training
from tuner_trainers.context import CHECKPOINTS, Result, TrialTask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and their statistics."""
    return tmp_path_factory.mktemp("data")


class Lost(Exception):
    """The end of an attempt."""


def attempt(
    task: TrialTask, to: Path, checkpoint: Path | None = None, *, lost_after: int = 0
) -> tuple[Result | None, trials.Context]:
    """Trains; dies while it reports an epoch, if asked to."""
    context = trials.Context(to)
    context.checkpoint = checkpoint
    to.mkdir()

    def decide(step: int, metrics: Mapping[str, float]) -> bool:
        if step == lost_after:
            raise Lost
        return True

    context.decide = decide
    try:
        return training.train(task, context), context
    except Lost:
        return None, context


def lost(task: TrialTask, to: Path, epoch: int) -> Path:
    """The checkpoint of an attempt that ended in an epoch."""
    result, context = attempt(task, to, lost_after=epoch)
    assert result is None
    return context.kept[-1][1]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every epoch is kept, however quick it was, and is written before the next one."""

    def put(writer: checkpoints.Writer, snapshot: checkpoints.Snapshot) -> None:
        plain(writer, snapshot)
        while not np.isfinite(writer._due_time):
            threading.Event().wait(0.005)

    plain = checkpoints.Writer.put
    monkeypatch.setattr(checkpoints.Writer, "put", put)
    monkeypatch.setattr(checkpoints, "_SHARE", 1.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    "parameters",
    [
        {"optimizer": "adam"},
        {"optimizer": "sgd"},
        {"precision": "mixed_float16", "schedule": "cosine", "warmup": 0.5},
    ],
)
def test_a_resumed_trial_is_the_undisturbed_one(
    folder: Path, tmp_path: Path, parameters: Mapping[str, Value]
) -> None:
    task = trials.make_task(folder, epochs=6, dropout=0.3, test=True)
    task = replace(task, parameters={**task.parameters, **parameters})
    whole, undisturbed = attempt(task, tmp_path / "whole")
    left = lost(task, tmp_path / "first", 4)
    result, context = attempt(task, tmp_path / "second", left)
    assert context.reports == undisturbed.reports
    assert result == whole
    assert [step for step, _ in context.kept] == [4, 5, 6], "what was done is not done again"
    for name in (artifacts.HISTORY, artifacts.GOLDEN):
        assert (tmp_path / "second" / name).read_text() == (tmp_path / "whole" / name).read_text()
    weights = zip(
        artifacts.read_weights(tmp_path / "second"),
        artifacts.read_weights(tmp_path / "whole"),
        strict=True,
    )
    assert all(np.array_equal(mine, its) for mine, its in weights)


@pytest.mark.usefixtures("eager")
def test_the_best_epoch_may_be_one_of_the_lost_attempt(folder: Path, tmp_path: Path) -> None:
    task = trials.make_task(folder, epochs=15, units=256, learning_rate=0.05)
    whole, undisturbed = attempt(task, tmp_path / "whole")
    assert whole is not None and whole.step < 14
    left = lost(task, tmp_path / "first", 15)
    assert attempt(task, tmp_path / "second", left)[0] == whole
    assert len(undisturbed.reports) == 15


@pytest.mark.usefixtures("eager")
def test_a_trial_goes_on_in_the_middle_of_a_long_epoch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "STEPS_PER_CALL", 2)
    monkeypatch.setattr(feed, "CALL_ROWS", 1)
    monkeypatch.setattr(loop, "CALLS_PER_PART", 1)
    monkeypatch.setattr(checkpoints, "EPOCH_SECONDS", 0.0)
    task = trials.make_task(folder, epochs=3, dropout=0.3)
    _, undisturbed = attempt(task, tmp_path / "whole")

    def between(leader: training._Leader, steps: int, loss_sum: float) -> None:
        plain(leader, steps, loss_sum)
        if steps == 4 and len(leader._history) == 1:
            raise Lost

    plain = training._Leader.between
    monkeypatch.setattr(training._Leader, "between", between)
    left = lost(task, tmp_path / "first", 3)
    monkeypatch.setattr(training._Leader, "between", plain)
    snapshot = checkpoints.read(left, _key(left))
    assert (snapshot.epoch, snapshot.steps) == (1, 4)
    _, context = attempt(task, tmp_path / "second", left)
    for mine, its in zip(context.reports, undisturbed.reports, strict=True):
        assert mine == pytest.approx(its, abs=1e-6)


@pytest.mark.usefixtures("eager")
def test_only_the_last_checkpoint_is_kept(folder: Path, tmp_path: Path) -> None:
    task = trials.make_task(folder, epochs=5)
    left = lost(task, tmp_path / "first", 4)
    assert left.parent == tmp_path / "first" / CHECKPOINTS
    assert [*left.parent.iterdir()] == [left]
    _, context = attempt(task, tmp_path / "second", left)
    assert not left.exists()
    assert [*(tmp_path / "second" / CHECKPOINTS).iterdir()] == [context.kept[-1][1]]


@pytest.mark.usefixtures("eager")
def test_a_checkpoint_that_may_not_be_known_takes_no_others_place(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trials.make_task(folder, epochs=4)
    left = lost(task, tmp_path / "first", 3)
    monkeypatch.setattr(trials.Context, "keep", lambda *_: False)
    attempt(task, tmp_path / "second", left)
    assert left.exists()


@pytest.mark.usefixtures("eager")
def test_what_is_trained_to_the_end_is_not_trained_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = trials.make_task(folder, epochs=3)
    whole, context = attempt(task, tmp_path / "first")
    monkeypatch.delattr(loop.Loop, "epoch")
    again, _ = attempt(task, tmp_path / "second", context.kept[-1][1])
    assert again == whole
    assert artifacts.read_record(tmp_path / "second").result == whole


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _other(path: Path) -> None:
    snapshot = checkpoints.read(path, _key(path))
    checkpoints.write(path, snapshot, "of another space")


def _smaller(path: Path) -> None:
    snapshot = checkpoints.read(path, _key(path))
    fields = {name: getattr(snapshot, name) for name in ("epoch", "history", "best")}
    smaller = checkpoints.Snapshot(**fields, variables=snapshot.variables[1:])
    checkpoints.write(path, smaller, _key(path))


def _key(path: Path) -> str:
    with np.load(path) as file:
        header = file["header"].tobytes().decode()
    return str(header.partition('"key": "')[2].partition('"')[0])


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_truncate, "it cannot be read"),
        (_flip, "it cannot be read"),
        (_other, "of a trial with other parameters, settings or data"),
        (_smaller, "are not those of this trial's network"),
    ],
)
def test_a_checkpoint_that_is_no_use_is_left_aside_and_said(
    folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
    why: str,
) -> None:
    task = trials.make_task(folder, epochs=3)
    whole, _ = attempt(task, tmp_path / "whole")
    left = lost(task, tmp_path / "first", 3)
    spoil(left)
    with caplog.at_level(logging.WARNING):
        result, context = attempt(task, tmp_path / "second", left)
    assert result == whole
    assert [step for step, _ in context.kept] == [1, 2, 3]
    (record,) = caplog.records
    assert "left aside, and the trial starts anew" in record.getMessage()
    assert why in record.getMessage()


def test_another_trial_is_another_key(folder: Path) -> None:
    task = trials.make_task(folder)
    key = checkpoints.task_key(task, "f")
    assert key == checkpoints.task_key(trials.make_task(folder), "f")
    assert key != checkpoints.task_key(task, "g")
    for other in ({"units": 17}, {"epochs": 9}, {"trial": 1}):
        assert key != checkpoints.task_key(trials.make_task(folder, **other), "f")  # type: ignore[arg-type]


def test_training_does_not_wait_for_a_slow_disk(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, begun = threading.Event(), []

    def write(path: Path, snapshot: checkpoints.Snapshot, key: str) -> None:
        begun.append(snapshot.epoch)
        assert trained.wait(60), "the training waits for the disk"

    def finish(leader: training._Leader, stopped: bool) -> Result:
        trained.set()
        return plain(leader, stopped)

    plain = training._Leader.finish
    monkeypatch.setattr(checkpoints, "write", write)
    monkeypatch.setattr(training._Leader, "finish", finish)
    attempt(trials.make_task(folder, epochs=5), tmp_path / "trial")
    assert begun == [1, 5], "the first, and the last one for all that came meanwhile"


def test_a_full_disk_costs_the_checkpoint_and_not_the_trial(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write(path: Path, snapshot: checkpoints.Snapshot, key: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", write)
    result, context = attempt(trials.make_task(folder, epochs=2), tmp_path / "trial")
    assert result is not None and not context.kept
    assert "no checkpoint could be written, training goes on" in caplog.text
