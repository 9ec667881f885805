"""Runs the exporter in processes of its own: nothing leaves before a fresh one has checked it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tuner.errors import ModelRejectedError
from tuner_trainers import layout
from tuner_trainers.context import ENVIRONMENT

#: How long an export may take with its verification, on a busy machine.
TIMEOUT_SECONDS = 600
_TEMPORARY, REMOVED = ".export-", ".removed-"
#: Hidden folders that are so old were left by a publisher that was killed.
_LEFT_SECONDS = 86_400


@contextmanager
def exported(
    source: Path, beside: Path, options: Sequence[str] = ()
) -> Iterator[tuple[Path, str]]:
    """A verified version under a temporary name in `beside`; removed unless it was renamed.

    Args:
        source: what a trial left, or a SavedModel with the option `--import`.
        beside: an existing folder.
        options: further ones of `tuner_trainers.export`.

    Yields:
        Its directory, and what its check found.

    Raises:
        ModelRejectedError: it could not be exported, or does not predict what was recorded.
    """
    _sweep(beside)
    temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=beside))
    directory = temporary / "model"
    try:
        report = _report(_run("exported", [str(source), str(directory), "--check", *options]))
        for path in [directory, *directory.rglob("*")]:
            sync(path)
        yield directory, report
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify(directory: Path) -> str:
    """Replays the golden rows of a version in a fresh process; returns what is to be said of it.

    Raises:
        ModelRejectedError: it is not whole, or does not predict what was recorded.
    """
    return _report(_run("published", ["--verify", str(directory)]))


def _report(difference: str) -> str:
    return f"a fresh process predicted the golden rows with a difference of {difference}"


def sync(path: Path) -> None:
    """Makes a file, or the names in a directory, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Removes what publishers that were killed have left."""
    for path in (*folder.glob(f"{_TEMPORARY}*"), *folder.glob(f"{REMOVED}*")):
        if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _run(done: str, arguments: Sequence[str]) -> str:
    """Runs the exporter; returns the last line that it printed."""
    environment = {
        **os.environ,
        **ENVIRONMENT,
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CONFIG": "",
    }
    try:
        process = subprocess.run(
            [sys.executable, "-m", "tuner_trainers.export", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelRejectedError(
            f"the model was not {done}: it took more than {TIMEOUT_SECONDS} s."
        ) from error
    if process.returncode:
        if process.returncode == layout.UNVERIFIED:
            done = "published"
        # The last line is what went wrong; TensorFlow's own lines come before.
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise ModelRejectedError(f"the model was not {done}: {lines[-1]}")
    return (process.stdout.strip().splitlines() or [""])[-1]
