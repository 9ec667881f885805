"""Trainers that are programs, run as Cloud ML Engine ran its trainers.

A trial's parameters are flags, `TF_CONFIG` names the tasks, and what is measured comes through
the file that `CLOUD_ML_HP_METRIC_FILE` names. A program runs under a keeper: it ends with its
worker, however that ends, and takes along what it started.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuner import code, processes
from tuner.errors import InvalidArgumentError, TunerError, UnavailableError
from tuner.space import Value
from tuner.study import OwnTrainer
from tuner_trainers.context import ENVIRONMENT, Result, TrialContext
from tuner_trainers.gathering import Gathering
from tuner_trainers.hypertune import MetricFile, Steps

#: How long a program that is told to stop may take before it is killed.
GRACE_SECONDS = 10.0
#: How long the program of an attempt before, whose worker died, may take to end.
_PREDECESSOR_SECONDS = 30.0
_TICK_SECONDS = 0.2
#: Variables of the worker that are not the program's business; some are secrets.
_HIDDEN = ("RAY_", "TUNER_")
_LINE_BYTES = 4_000
#: Whole numbers up to here are exact as floats.
_EXACT = 2.0**53


class ProgramError(TunerError):
    """A program failed, or measured nothing."""


class ProgramMemoryError(ProgramError, MemoryError):
    """A program was killed because its machine ran out of memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramTask:
    """One attempt at a trial by a program: the same on every rank of a gang."""

    study: str
    trial: int
    attempt: int
    own: OwnTrainer
    #: Fixed settings, then the trial's point of the space.
    flags: Mapping[str, Value]
    #: What a result must have.
    metrics: tuple[str, ...]
    #: Chief and workers; the ranks beyond are parameter servers.
    workers: int
    parameter_servers: int
    #: Where archives of code lie.
    artifacts: Path
    #: Where the ranks of this attempt meet.
    meeting: Path


def run(task: ProgramTask, context: TrialContext, host: str) -> Result:
    """Runs this rank's program of a trial until it, or the trial, ends.

    Args:
        task: what to run.
        context: rank 0's measurements are reported to it; its `artifact_dir` is the job's folder.
        host: how the other ranks reach this machine.

    Returns:
        Without metrics: the result is among the measurements that were reported.

    Raises:
        ProgramError: the program failed, or did not report the study's metrics.
        UnavailableError: the other ranks, or the code, cannot be reached.
    """
    ranks = task.workers + task.parameter_servers
    with Gathering(task.meeting, context.rank, ranks) as gathering:
        places = gathering.meet(host)
        folder = code.unpack(task.artifacts, task.own.code) if task.own.code else None
        with tempfile.TemporaryDirectory(prefix="tuner-program-") as scratch:
            metrics = Path(scratch, "metrics")
            environment = variables(task, context, places, metrics, folder)
            args = [*task.own.command, *flags(task.flags, context.artifact_dir)]
            with _started(args, environment, folder, context) as process:
                if context.rank == 0:
                    return _lead(task, process, context, gathering, MetricFile(metrics))
                return _follow(process, gathering)


def flags(values: Mapping[str, Value], job_dir: Path) -> list[str]:
    """The arguments of a trial: `--name=value` in one, so that a value may start with a dash."""
    rendered = [f"--{name}={_text(value)}" for name, value in values.items()]
    return [*rendered, f"--job-dir={job_dir}"]


def _text(value: Value) -> str:
    """Numbers as short as they read back the same: discrete values are floats, 64.0 is 64."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        return str(int(value))
    return str(value)


def variables(
    task: ProgramTask,
    context: TrialContext,
    places: list[str],
    metrics: Path,
    folder: Path | None,
) -> dict[str, str]:
    """The program's environment: the worker's, the study's, and what Cloud ML Engine set."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_HIDDEN) and name not in ENVIRONMENT
    }
    found = {"PYTHONUNBUFFERED": "1", **inherited, **task.own.environment}
    if folder is not None:
        modules = [str(folder), *filter(None, [found.get("PYTHONPATH")])]
        found["PYTHONPATH"] = os.pathsep.join(modules)
    return {
        **found,
        "PATH": _path(found.get("PATH")),
        "TF_CONFIG": json.dumps(_tf_config(task, context.rank, places)),
        "CLOUD_ML_HP_METRIC_FILE": str(metrics),
        "CLOUD_ML_TRIAL_ID": str(task.trial),
        "CLOUD_ML_JOB_ID": task.study,
        "TUNER_STUDY": task.study,
        "TUNER_TRIAL": str(task.trial),
        "TUNER_ATTEMPT": str(task.attempt),
    }


def _tf_config(task: ProgramTask, rank: int, places: list[str]) -> Mapping[str, object]:
    parts = {
        "chief": places[:1],
        "worker": places[1 : task.workers],
        "ps": places[task.workers :],
    }
    if rank == 0:
        kind, index = "chief", 0
    elif rank < task.workers:
        kind, index = "worker", rank - 1
    else:
        kind, index = "ps", rank - task.workers
    return {
        "cluster": {name: found for name, found in parts.items() if found},
        "task": {"type": kind, "index": index, "trial": str(task.trial)},
        "environment": "cloud",
    }


@contextmanager
def _started(
    args: list[str], environment: Mapping[str, str], folder: Path | None, context: TrialContext
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs; nothing of it is left afterwards."""
    folder = folder or context.artifact_dir
    _check_exists(args[0], environment["PATH"], folder)
    print("$", shlex.join(args), flush=True)
    # Each attempt works in the same folder: it waits until nobody of an earlier one does.
    with _alone(
        context.artifact_dir.with_name(f".{context.artifact_dir.name}.{context.rank}")
    ) as (lock):
        process = processes.launch(
            args, environment, folder=folder, grace_seconds=GRACE_SECONDS, keep_open=[lock]
        )
    try:
        yield process
    finally:
        processes.end(process, GRACE_SECONDS)


def check_program(own: OwnTrainer, artifacts: Path) -> None:
    """Raises InvalidArgumentError if there is no such program, UnavailableError without its code.

    Args:
        own: the program.
        artifacts: where archives of code lie.
    """
    folder = code.unpack(artifacts, own.code) if own.code else Path("/")
    _check_exists(own.command[0], _path(own.environment.get("PATH")), folder)


def _path(given: str | None) -> str:
    """Where programs are looked for: `python` is the one that runs tuner."""
    path = os.environ.get("PATH", os.defpath) if given is None else given
    return os.pathsep.join([str(Path(sys.executable).parent), path])


def _check_exists(name: str, path: str, folder: Path) -> None:
    if shutil.which(name, path=path) is None and not os.access(folder / name, os.X_OK):
        raise InvalidArgumentError(
            f"there is no program {name!r} where trials run: install it, or ship it with `code`."
        )


@contextmanager
def _alone(path: Path) -> Iterator[int]:
    """A descriptor that only one process has, and those that it hands it to."""
    deadline = time.monotonic() + _PREDECESSOR_SECONDS
    with path.open("ab") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    message = "the program of an earlier attempt still runs; kill it."
                    raise UnavailableError(message) from error
                time.sleep(_TICK_SECONDS)
        yield file.fileno()


def _lead(
    task: ProgramTask,
    process: subprocess.Popen[bytes],
    context: TrialContext,
    gathering: Gathering,
    file: MetricFile,
) -> Result:
    """Reports what the chief measures while it runs."""
    kills, steps, go_on = processes.oom_kills(), Steps(task.metrics), True
    why: str | None = None
    while go_on and why is None and (exit_code := _wait(process)) is None:
        for step, metrics in steps.add(file.read()):
            go_on = context.report(step, metrics) and go_on
        why = gathering.ended()
    if exit_code is None:
        processes.end(process, GRACE_SECONDS)
    for step, metrics in [*steps.add(file.read(whole=True)), *steps.flush()]:
        context.report(step, metrics)
    if why is not None:
        raise ProgramError(f"it was ended because another task of the trial failed: {why}")
    if go_on and exit_code:
        raise _failure(exit_code, kills)
    if not steps.is_complete:
        fault = file.fault()
        raise ProgramError(
            f"the program reported {', '.join(sorted(steps.names)) or 'nothing'}, but a result "
            f"needs {', '.join(task.metrics)} at one step: use the package cloudml-hypertune, or "
            "write its lines to the file that CLOUD_ML_HP_METRIC_FILE names."
            + (f" There, {fault}." if fault else "")
        )
    return Result(metrics={}, step=0, stopped=not go_on)


def _follow(process: subprocess.Popen[bytes], gathering: Gathering) -> Result:
    """Keeps another task's program until the trial ends: the chief decides when it does."""
    kills = processes.oom_kills()
    while gathering.ended() is None:
        if exit_code := _wait(process):
            raise _failure(exit_code, kills)
        if exit_code == 0:
            # The gang's owner ends this worker if the chief's worker dies.
            time.sleep(_TICK_SECONDS)
    return Result(metrics={}, step=0, stopped=False)


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code once there is one, 128 + n for signal n; None after a moment."""
    try:
        exit_code = process.wait(_TICK_SECONDS)
    except subprocess.TimeoutExpired:
        return None
    return exit_code if exit_code >= 0 else 128 - exit_code


def _failure(exit_code: int, kills: int) -> ProgramError:
    """What to say of a program that ended badly, `kills` being those before it started."""
    number = exit_code - 128
    if number == signal.SIGKILL and processes.oom_kills() > kills:
        return ProgramMemoryError(
            "the program was killed because its machine ran out of memory: let it take less, or "
            "lower limits.parallel or resources.workers."
        )
    known = {each.value: each.name for each in signal.Signals}
    how = f"by {known[number]}" if number in known else f"with exit code {exit_code}"
    return ProgramError(f"the program ended {how}: {_last_line() or 'it printed nothing'}")


def _last_line() -> str:
    """The last line that was printed: standard output is a file while a trial runs."""
    found = os.fstat(1)
    if not stat.S_ISREG(found.st_mode):
        return ""
    start = max(0, found.st_size - _LINE_BYTES)
    lines = os.pread(1, _LINE_BYTES, start).decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
