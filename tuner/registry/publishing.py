"""Exports, verifies and renames into place: a model version is whole and right, or not there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuner.errors import FailedPreconditionError, InvalidArgumentError, ModelRejectedError
from tuner_trainers.context import ENVIRONMENT

#: How long an export, or a verification, may take on a busy machine.
TIMEOUT_SECONDS = 300
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def publish(artifact_dir: Path, model_root: Path, model: str) -> Path:
    """Publishes a trial as the next version of a model; returns `{model_root}/{model}/{version}`.

    Args:
        artifact_dir: what the trial left.
        model_root: where models lie.
        model: the name of the model.

    Raises:
        ModelRejectedError: it could not be exported or does not predict what was recorded; nothing
            is left of it.
        InvalidArgumentError: the name is none for a model.
    """
    if not _MODEL.fullmatch(model):
        raise InvalidArgumentError(
            "a model's name is 1 to 128 of letters, digits, `.`, `_` and `-`, starting with a "
            f"letter or a digit, but got {model!r}."
        )
    versions = Path(model_root) / model
    versions.mkdir(parents=True, exist_ok=True)
    with _verified(artifact_dir, versions, model) as directory:
        return _claim(directory, versions)


def export_to(artifact_dir: Path, to: Path) -> Path:
    """Exports a trial to a directory of the user's choice, which must be empty or not exist.

    Raises:
        ModelRejectedError: it could not be exported or does not predict what was recorded; nothing
            is left of it.
        FailedPreconditionError: the directory is taken.
    """
    to = Path(to).absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise FailedPreconditionError(f"{to} exists and is not empty; name another directory.")
    to.parent.mkdir(parents=True, exist_ok=True)
    with _verified(artifact_dir, to.parent, "") as directory:
        # Renaming onto an empty directory replaces it.
        directory.rename(to)
        _sync(to.parent)
    return to


@contextmanager
def _verified(artifact_dir: Path, beside: Path, model: str) -> Iterator[Path]:
    """A verified export under a temporary name in `beside`; removed unless it was renamed."""
    temporary = Path(tempfile.mkdtemp(prefix=".export-", dir=beside))
    directory = temporary / "model"
    try:
        named = ["--model", model] if model else []
        _run("exported", str(artifact_dir), str(directory), *named)
        _run("published", "--verify", str(directory))
        for path in [directory, *directory.rglob("*")]:
            _sync(path)
        yield directory
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _claim(directory: Path, versions: Path) -> Path:
    """Renames to the next free integer; another publisher may take one in between."""
    while True:
        target = versions / str(1 + max(_taken(versions), default=0))
        try:
            directory.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue
        _sync(versions)
        return target


def _taken(versions: Path) -> list[int]:
    names = [path.name for path in versions.iterdir()]
    return [int(name) for name in names if name.isascii() and name.isdigit()]


def _run(done: str, *arguments: str) -> None:
    """Runs the exporter in a process of its own."""
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
        # The last line is what went wrong; TensorFlow's own lines come before.
        lines = process.stderr.strip().splitlines() or [f"exit status {process.returncode}"]
        raise ModelRejectedError(f"the model was not {done}: {lines[-1]}")


def _sync(path: Path) -> None:
    """Makes a file, or the names in a directory, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
