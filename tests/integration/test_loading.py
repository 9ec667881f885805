"""Studies as they are loaded: what a server knew before, soon after another one died."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.integration.service_support import until
from tests.integration.storage_support import NOW, STUDY, Held, entered
from tuner.engine import StudyEngine
from tuner.errors import NotFoundError, UnavailableError
from tuner.fits import Fits
from tuner.service import loading
from tuner.service import studies as studies_module
from tuner.service.exchange import Asking, NewTrial, Report, Result
from tuner.service.fleet import Fleet
from tuner.service.live import LiveStudy
from tuner.service.reply import silent
from tuner.service.studies import Studies
from tuner.space import Categorical, Discrete, Float, Int, Parameter, Space
from tuner.study import (
    Cause,
    Checkpoint,
    Cost,
    Failure,
    Goal,
    Measurement,
    Metric,
    Search,
    StudySpec,
    Trial,
    TrialState,
)
from tuner_storage import Database, LoadedTrials, Store, StoredStudy, store

LEASE = timedelta(minutes=5)


@pytest.fixture
def database(database_url: str) -> Iterator[Store]:
    with Database(database_url) as opened:
        yield Store(opened)


def served(database: Store, folder: Path) -> Studies:
    """A server's studies; the server is alive."""
    folder.mkdir(exist_ok=True)
    fleet = Fleet(database, folder)
    database.enter_server(fleet.server, f"{folder.name}:1", timedelta(hours=1))
    return Studies(database, fleet, LEASE, Fits(), 10.0)


def die(database: Store, folder: Path) -> None:
    """That server falls silent for longer than it may."""
    server = Fleet(database, folder).server
    database.enter_server(server, f"{folder.name}:1", timedelta(seconds=-1))


# --- what is loaded ---

SPACE = Space(
    parameters=(
        Parameter(name="rate", domain=Float(1e-5, 1.0, log=True)),
        Parameter(name="half", domain=Float(0.0, 1.0, step=0.1)),
        Parameter(name="layers", domain=Int(-3, 9, step=3)),
        Parameter(name="units", domain=Discrete((0.5, 1.0, 64.0))),
        Parameter(name="mixed", domain=Categorical((1, True, "1"))),
    )
)


def spec(**changes: object) -> StudySpec:
    metric = Metric(name="loss", goal=Goal.MINIMIZE)
    asked = StudySpec(
        metrics=(metric,), space=SPACE, search=Search(algorithm="tpe", early_stopping="asha")
    )
    return replace(asked, **changes)  # type: ignore[arg-type]


def work(live: LiveStudy, trials: int) -> None:
    """Ends trials in every way, some after several attempts, in another order than theirs."""
    asked = Asking(worker_id="ann", count=trials, host="box")
    leased = list(_leased(live, asked))
    for place, trial in enumerate(reversed(leased)):
        assert trial.lease is not None
        token = trial.lease.token
        curve = [
            {"loss": ((trial.number * 7 + step) % 11) / 11, "time": step + 0.5}
            for step in (0, 2, 6)[: trial.number % 4]
        ]
        for step, metrics in enumerate(curve):
            measurement = Measurement(
                step=3 * step, metrics=metrics, elapsed=timedelta(seconds=step)
            )
            live.report(trial.number, token, Report(measurement=measurement), silent())
        if place % 7 == 0:
            checkpoint = Checkpoint(uri="/c", step=3)
            live.report(trial.number, token, Report(checkpoint=checkpoint), silent())
            live.label(trial.number, {"é": "\u2028"}, silent())
        match place % 5:
            case 0 if not curve:
                failure = Failure(cause=Cause.INFEASIBLE, message="never")
            case 1:
                failure = Failure(cause=Cause.USER_ERROR, message="boom")
            case 2:
                failure = Failure(cause=Cause.PREEMPTED)
            case 3:
                continue
            case _:
                final = Measurement(step=9, metrics={"loss": place / 100, "time": 1.0})
                live.complete(trial.number, token, Result(final=final), silent())
                continue
        live.complete(trial.number, token, Result(failure=failure), silent())


def _leased(live: LiveStudy, asking: Asking) -> Iterator[Trial]:
    live.suggest(asking, silent())
    yield from live.record.board.held_by(asking.worker_id)


@pytest.mark.parametrize("block", [1, 7, 10_000])
@pytest.mark.parametrize(
    "asked",
    [
        spec(),
        spec(metrics=(Metric(name="loss", goal=Goal.MINIMIZE), Metric(name="time"))),
    ],
)
def test_a_study_is_loaded_as_it_was(
    database: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: StudySpec,
    block: int,
) -> None:
    monkeypatch.setattr(store, "_BLOCK", block)
    before = served(database, tmp_path / "a")
    key = database.create_study(replace(STUDY, spec=asked, create_time=NOW))
    first = before.live("mine")
    result = Measurement(step=1, metrics={"loss": 0.5, "time": 0.25})
    parameters = {"rate": 0.5, "half": 0.3, "layers": 3.0, "units": 1, "mixed": True}
    first.add(
        [NewTrial(parameters=parameters, measurements=(result,), labels={"who": "me"})], silent()
    )
    for _ in range(3):
        work(first, 14)
    assert {trial.state for trial in first.record.board} >= {
        TrialState.SUCCEEDED,
        TrialState.FAILED,
        TrialState.RUNNING,
    }
    die(database, tmp_path / "a")
    second = served(database, tmp_path / "b").live("mine")
    assert second.record.ownership.key == key
    assert list(second.record.board) == list(first.record.board)
    assert second.record.summary() == first.record.summary()
    assert second.record.board.since_best == first.record.board.since_best
    assert second.record.cost == first.record.cost != Cost()
    for earlier in ("_causes", "_furthest"):
        assert _of_those_to_try(second, earlier) == _of_those_to_try(first, earlier)
    assert second._reported == first._reported
    assert second.optimal() == first.optimal()
    _go_on_alike(first.record.engine, second.record.engine, second.record.board.total)


def _of_those_to_try(live: LiveStudy, earlier: str) -> dict[int, object]:
    """What is known of earlier attempts, of trials that may be tried again."""
    ended = (TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.INFEASIBLE)
    board = live.record.board
    known = getattr(live, earlier).items()
    return {number: what for number, what in known if board[number].state not in ended}


def _go_on_alike(first: StudyEngine, second: StudyEngine, number: int) -> None:
    """Both propose the same and judge the same, also after what comes next."""
    assert first.algorithm_in_use == second.algorithm_in_use
    for later in range(number, number + 3):
        proposed = first.suggest(later)
        assert proposed is not None and second.suggest(later) == proposed
        trial = Trial(
            study_id="mine",
            number=later,
            state=TrialState.RUNNING,
            parameters=proposed,
            attempt=1,
            create_time=NOW,
            start_time=NOW,
        )
        verdicts = list[str | None]()
        for engine in (first, second):
            engine.add(trial)
            for step in (0, 2, 3, 6):
                measured = Measurement(step=step, metrics={"loss": 0.9, "time": 0.0})
                verdicts.append(engine.report(later, measured))
        assert verdicts[: len(verdicts) // 2] == verdicts[len(verdicts) // 2 :]


def test_a_study_without_trials_is_loaded(database: Store, tmp_path: Path) -> None:
    database.create_study(STUDY)
    live = served(database, tmp_path / "a").live("mine")
    assert live.record.board.total == 0
    assert live.record.cost == Cost()


# --- many at once ---


class Slow(Store):
    """A store in which one study is so large that loading it takes as long as the test likes."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.loads = list[str]()

    def load_trials(self, stored: StoredStudy) -> LoadedTrials:
        self.loads.append(stored.study.study_id)
        if stored.study.study_id == "large":
            self.begun.set()
            assert self.go_on.wait(30)
        return super().load_trials(stored)


@pytest.fixture
def slow(database_url: str) -> Iterator[Slow]:
    with Database(database_url) as opened:
        store = Slow(opened)
        try:
            yield store
        finally:
            store.go_on.set()


def test_a_large_study_keeps_none_of_the_others_waiting(slow: Slow, tmp_path: Path) -> None:
    """The server of all of them died; what is small is taken over first, and meanwhile."""
    dead = entered(slow, lease=timedelta(seconds=-1))
    Held(slow, dead, replace(STUDY, study_id="large")).lease(*range(5))
    Held(slow, dead, replace(STUDY, study_id="larger")).lease(*range(9))
    names = [f"small-{number}" for number in range(18)]
    for number, name in enumerate(names):
        Held(slow, dead, replace(STUDY, study_id=name)).lease(*range(number % 3))
    studies = served(slow, tmp_path / "b")
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(studies.take_over)
        assert slow.begun.wait(30)
        until(lambda: len(studies.owned) == len(names) + 1)
        assert not taking.done()
        slow.go_on.set()
        taking.result(30)
    assert len(studies.owned) == 20
    assert sorted(slow.loads) == sorted(["large", "larger", *names])
    assert slow.loads.index("large") >= len(names) - studies_module._TAKEN_AT_ONCE


def test_who_calls_a_study_that_is_being_loaded_waits_for_it(slow: Slow, tmp_path: Path) -> None:
    for name in ("large", "other"):
        slow.create_study(replace(STUDY, study_id=name))
    studies = served(slow, tmp_path / "a")
    with ThreadPoolExecutor(3) as pool:
        called = [pool.submit(studies.live, "large") for _ in range(3)]
        assert slow.begun.wait(30)
        assert studies.live("other").record.board.total == 0
        with pytest.raises(NotFoundError):
            studies.live("nobody")
        assert not any(call.done() for call in called)
        slow.go_on.set()
        assert len({id(call.result(30)) for call in called}) == 1
    assert slow.loads == ["large", "other"]


def test_who_waits_long_for_a_study_is_told_to_ask_again(
    slow: Slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_TURN_SECONDS", 0.05)
    slow.create_study(replace(STUDY, study_id="large"))
    studies = served(slow, tmp_path / "a")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(studies.live, "large")
        assert slow.begun.wait(30)
        with pytest.raises(UnavailableError, match=r"being loaded; try again\.$"):
            studies.live("large")
        slow.go_on.set()
        loaded = first.result(30)
    assert studies.live("large") is loaded


def test_garbage_is_collected_again_after_the_last_load() -> None:
    loads = loading.Loading()
    with loads.uncollected():
        with loads.uncollected():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), loads.uncollected():
        raise ZeroDivisionError
    assert gc.isenabled()


def test_a_study_that_cannot_be_loaded_is_tried_again(
    database: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.create_study(STUDY)
    studies = served(database, tmp_path / "a")
    with monkeypatch.context() as broken:
        broken.setattr(database, "load_trials", lambda stored: 1 / 0)
        studies.take_over()
        with pytest.raises(ZeroDivisionError):
            studies.live("mine")
        assert studies.owned == []
    assert studies.live("mine").record.board.total == 0
