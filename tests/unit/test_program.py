"""What a program is started with, and how the tasks of a trial meet."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tuner import processes
from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.runner.own import typed
from tuner.runner.worker import failure_of
from tuner.space import Discrete, Float, Space, Value
from tuner.study import Cause, OwnTrainer
from tuner_trainers import gathering
from tuner_trainers.gathering import Gathering
from tuner_trainers.program import ProgramError, ProgramTask, check_program, flags, run, variables

JOB = Path("/artifacts/job-1")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (-3, "-3"),
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (-1e-5, "-1e-05"),
        (64.0, "64"),
        (1e22, "1e+22"),
        (0.1 + 0.2, "0.30000000000000004"),
        (True, "true"),
        (False, "false"),
        ("adam", "adam"),
        ("two words", "two words"),
        ("-x", "-x"),
        ("", ""),
    ],
)
def test_every_value_is_a_flag_that_reads_back(value: Value, text: str) -> None:
    assert flags({"name": value}, JOB) == [f"--name={text}", f"--job-dir={JOB}"]


def test_flags_keep_their_order_and_names() -> None:
    given = flags({"b.size": 1, "a-b": 2}, JOB)
    assert given == ["--b.size=1", "--a-b=2", f"--job-dir={JOB}"]


def test_whole_discrete_values_are_whole_again() -> None:
    space = Space.of({"a": Discrete((8, 16)), "b": Discrete((0.5, 1)), "c": Float(0, 1)})
    found = typed(space, {"a": 8.0, "b": 1.0, "c": 1.0})
    assert [type(value) for value in found.values()] == [int, float, float]


TASK = ProgramTask(
    study="s",
    trial=7,
    attempt=2,
    own=OwnTrainer(command=("python",), environment={"MINE": "1", "TF_CPP_MIN_LOG_LEVEL": "0"}),
    flags={},
    metrics=("m",),
    workers=1,
    parameter_servers=0,
    artifacts=Path("/artifacts"),
    meeting=Path("/meeting"),
)


def environment(task: ProgramTask = TASK, rank: int = 0, ranks: int = 1) -> dict[str, str]:
    context = SimpleNamespace(rank=rank, workers=ranks, artifact_dir=JOB)
    places = [f"h:{rank}" for rank in range(ranks)]
    return variables(task, context, places, Path("/m"), Path("/code"))


def test_a_program_sees_what_cloud_ml_engine_set() -> None:
    found = environment()
    assert json.loads(found["TF_CONFIG"]) == {
        "cluster": {"chief": ["h:0"]},
        "task": {"type": "chief", "index": 0, "trial": "7"},
        "environment": "cloud",
    }
    assert found["CLOUD_ML_HP_METRIC_FILE"] == "/m" and found["CLOUD_ML_TRIAL_ID"] == "7"
    assert (found["TUNER_STUDY"], found["TUNER_TRIAL"], found["TUNER_ATTEMPT"]) == ("s", "7", "2")
    assert found["MINE"] == "1" and found["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_a_program_sees_neither_secrets_nor_what_is_the_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.setenv("TUNER_TOKEN", "secret")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    found = environment()
    assert "secret" not in found.values() and "TF_ENABLE_ONEDNN_OPTS" not in found
    assert found["CUDA_VISIBLE_DEVICES"] == "1"


def test_python_is_the_one_that_runs_tuner_and_modules_are_the_studys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/other")
    found = environment()
    assert found["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert found["PYTHONPATH"] == "/code" + os.pathsep + "/other"


@pytest.mark.parametrize(
    ("rank", "kind", "index"), [(0, "chief", 0), (1, "worker", 0), (2, "worker", 1), (3, "ps", 0)]
)
def test_each_rank_is_a_task(rank: int, kind: str, index: int) -> None:
    task = replace(TASK, workers=3, parameter_servers=1)
    found = json.loads(environment(task, rank, 4)["TF_CONFIG"])
    assert found["task"] == {"type": kind, "index": index, "trial": "7"}
    assert found["cluster"] == {"chief": ["h:0"], "worker": ["h:1", "h:2"], "ps": ["h:3"]}


def test_a_program_that_does_not_exist_is_found_out_before_it_runs(tmp_path: Path) -> None:
    check_program(OwnTrainer(command=("python", "-m", "x")), tmp_path)
    with pytest.raises(InvalidArgumentError, match="no program 'no-such-program'"):
        check_program(OwnTrainer(command=("no-such-program",)), tmp_path)


class Told:
    """A context that remembers what was reported."""

    def __init__(self, folder: Path) -> None:
        self.rank, self.workers, self.artifact_dir = 0, 1, folder / "job"
        self.checkpoint: Path | None = None
        self.artifact_dir.mkdir()
        self.reports: list[tuple[int, Mapping[str, float]]] = []

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        self.reports.append((step, metrics))
        return True

    def keep(self, step: int, checkpoint: Path) -> bool:
        raise AssertionError("a program keeps its checkpoints by itself")


def ran(folder: Path, text: str) -> Told:
    """What a program of Python reports."""
    context, own = Told(folder), OwnTrainer(command=("python", "-c", textwrap.dedent(text)))
    result = run(replace(TASK, own=own, artifacts=folder), context, "node")
    assert result.metrics == {} and not result.stopped
    return context


KILLED = "import os; os.kill(os.getpid(), 9)"


def test_a_program_that_the_kernel_kills_for_memory_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProgramError, match="ended by SIGKILL") as caught:
        ran(tmp_path, KILLED)
    assert failure_of(caught.value).cause is Cause.USER_ERROR
    kills = iter(range(3, 9))
    monkeypatch.setattr(processes, "oom_kills", lambda: next(kills))
    (tmp_path / "again").mkdir()
    with pytest.raises(ProgramError, match="ran out of memory") as caught:
        ran(tmp_path / "again", KILLED)
    assert failure_of(caught.value).cause is Cause.OUT_OF_MEMORY


def test_what_was_written_last_is_reported_though_the_line_has_no_end(tmp_path: Path) -> None:
    context = ran(
        tmp_path,
        """
        import os
        with open(os.environ["CLOUD_ML_HP_METRIC_FILE"], "w") as file:
            file.write('{"m": "1", "global_step": "1"}\\n{"m": "2", "global_step": "2"}')
        """,
    )
    assert context.reports == [(1, {"m": 1}), (2, {"m": 2})]


def test_a_metric_file_that_cannot_be_read_is_blamed(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"reported nothing, .* line 1 of /\S+/metrics could"):
        ran(
            tmp_path,
            """
            import os
            with open(os.environ["CLOUD_ML_HP_METRIC_FILE"], "w") as file:
                file.write("m=1")
            """,
        )


# --- how they meet ---------------------------------------------------------------------------


def test_ranks_learn_where_all_are_and_that_the_chief_ended(tmp_path: Path) -> None:
    folder, found, seen = tmp_path / "meeting", dict[int, list[str]](), list[str | None]()

    def follow() -> None:
        with Gathering(folder, 1, 2) as here:
            found[1] = here.meet("node")
            seen.append(here.ended())
            met.set()
            ended.wait(60)
            seen.append(here.ended())

    met, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=follow)
    thread.start()
    with Gathering(folder, 0, 2) as here:
        found[0] = here.meet("node")
        assert met.wait(60)
    ended.set()
    thread.join(60)
    assert found[0] == found[1] and len(set(found[0])) == 2
    assert all(place.startswith("127.0.0.1:") for place in found[0])
    assert seen == [None, ""]
    assert not folder.exists(), "the last one leaves nothing"


def test_a_rank_that_fails_ends_the_others(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="bad"),
        Gathering(tmp_path / "meeting", 1, 2),
    ):
        raise ValueError("bad")
    assert Gathering(tmp_path / "meeting", 0, 2).ended() is None, "nobody else had come"
    other = tmp_path / "other"
    other.mkdir()
    (other / "0").write_text("node:1")
    with pytest.raises(ValueError, match="bad"), Gathering(other, 1, 2):
        raise ValueError("bad")
    assert Gathering(other, 0, 2).ended() == "rank 1: bad"


def test_ranks_wait_for_each_other_only_so_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MEET_SECONDS", 0.1)
    with pytest.raises(UnavailableError, match="must all see the artifacts"):
        Gathering(tmp_path, 0, 2).meet("node")
