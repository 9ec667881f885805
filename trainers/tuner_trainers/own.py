"""Trainers that are Python objects of the user's own: found, looked at and run.

For a study with data it is a function that builds a network, see tuner_trainers.built. Else it is
a class without arguments, with a method that trains, and one that declares its space if the study
file leaves that to it:

    class Trainer:
        def space(self, trial):              # optional; see tuner_trainers.declared
            trial.int("layers", 1, 4)

        def train(self, context, parameters):
            for step in range(1, 11):
                ...
                if not context.report(step, {"val_auc": auc}):
                    return
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner import code
from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.space import Space, Value
from tuner.study import StudySpec
from tuner.trainer_spaces import PROGRAM
from tuner_trainers import declared
from tuner_trainers.context import Result, TrialContext
from tuner_trainers.program import check_program

if TYPE_CHECKING:
    import tensorflow as tf

#: `package.module:Name`.
REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


class NoResultError(InvalidArgumentError):
    """A trainer reported nothing that can be its trial's result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTask:
    """One attempt at a trial by an object: the same on every rank of a gang."""

    #: `package.module:Name`.
    trainer: str
    trial: int
    #: The archive's name; empty: the module is installed.
    code: str
    #: Fixed settings, then the trial's point of the space.
    parameters: Mapping[str, Value]
    #: What a result must have.
    metrics: tuple[str, ...]
    #: Of the study.
    seed: int
    #: Where archives of code lie.
    artifacts: Path


class OwnContext:
    """What `train` is handed in each process of a trial. Used from one thread."""

    def __init__(
        self, task: OwnTask, context: TrialContext, strategy: tf.distribute.Strategy | None
    ) -> None:
        import tensorflow as tf  # heavy, and only workers have it

        #: The place of this process among `workers`, from 0.
        self.rank = context.rank
        #: How many processes train the trial together.
        self.workers = context.workers
        #: What rank 0 writes here is kept with the trial.
        self.artifact_dir = context.artifact_dir
        #: The trial's number.
        self.trial = task.trial
        #: Of the study, and the same in every trial.
        self.seed = task.seed
        #: In step with the other workers; TensorFlow's default with one.
        self.strategy = strategy or tf.distribute.get_strategy()
        #: The names that were reported, and whether a result is among the reports.
        self.names: set[str] = set()
        self.is_complete = False
        #: The last step that was reported, and whether to stop.
        self.step = 0
        self.is_stopped = False
        self._context, self._metrics = context, task.metrics

    def report(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Reports what was measured at a step; False means: return.

        Every worker calls it after the same steps, and is answered the same; what counts is what
        rank 0 measured.
        """
        go_on, failure = True, None
        if self.rank == 0:
            told = {name: float(value) for name, value in metrics.items()}
            try:
                go_on = self._context.report(step, told)
            except BaseException as error:  # the others wait for the answer
                go_on, failure = False, error
            self.names |= told.keys()
            self.is_complete = self.is_complete or set(self._metrics) <= told.keys()
            self.step = step
        go_on = self._agreed(go_on)
        if failure is not None:
            raise failure
        self.is_stopped = self.is_stopped or not go_on
        return go_on

    def _agreed(self, go_on: bool) -> bool:
        """Rank 0's word in every process."""
        if self.workers == 1:
            return go_on
        import tensorflow as tf  # heavy, and only workers have it

        votes = self.strategy.run(lambda: tf.constant(0.0 if go_on else 1.0))
        return float(self.strategy.reduce(tf.distribute.ReduceOp.SUM, votes, axis=None)) == 0.0


def run(
    task: OwnTask, context: TrialContext, strategy: tf.distribute.Strategy | None = None
) -> Result:
    """Trains a trial with the user's class.

    Returns:
        The metrics that `train` returned; without any, the result is among those reported.

    Raises:
        NoResultError: it neither returned nor reported the study's metrics.
        Exception: what it raised.
    """
    import keras  # heavy, and only workers have it

    keras.utils.set_random_seed(task.seed)
    handed = OwnContext(task, context, strategy)
    try:
        with found(task.trainer, task.code, task.artifacts) as trainer:
            returned = trainer().train(handed, dict(task.parameters))
    finally:
        keras.backend.clear_session()
    if context.rank:
        return Result(metrics={}, step=0, stopped=handed.is_stopped)
    metrics = _returned(returned)
    if not metrics and not handed.is_complete:
        raise NoResultError(
            f"{task.trainer} reported {', '.join(sorted(handed.names)) or 'nothing'}, but a "
            f"result needs {', '.join(task.metrics)} at one step: report or return them."
        )
    return Result(metrics=metrics, step=handed.step, stopped=handed.is_stopped)


def _returned(returned: object) -> Mapping[str, float]:
    if returned is None:
        return {}
    if isinstance(returned, Mapping):
        return {str(name): float(value) for name, value in returned.items()}
    raise NoResultError(
        f"`train` returns None or a mapping from metrics to numbers, but got {returned!r:.200}."
    )


@contextmanager
def found(reference: str, digest: str, artifacts: Path) -> Iterator[Any]:
    """The object that `package.module:Name` names; its modules are forgotten afterwards.

    Raises:
        InvalidArgumentError: it has no such object.
        Exception: what importing raised.
    """
    module, _, name = reference.partition(":")
    with importing(digest, artifacts):
        imported = importlib.import_module(module)
        if not hasattr(imported, name):
            names = sorted(
                each
                for each, what in vars(imported).items()
                if not each.startswith("_") and getattr(what, "__module__", None) == module
            )
            raise InvalidArgumentError(
                f"the module {module} has no {name!r}; it has {', '.join(names) or 'nothing'}."
            )
        yield getattr(imported, name)


@contextmanager
def importing(digest: str, artifacts: Path) -> Iterator[None]:
    """Looks for modules in an archive first. Those it has are its own before and after.

    So trials of several studies in one process do not see each other's modules, whatever their
    names, and each trial starts with its modules as they were written. May be nested.

    Args:
        digest: the archive's; empty: none.
        artifacts: where archives lie.
    """
    folder = code.unpack(artifacts, digest) if digest else None
    if folder is None or sys.path[0] == str(folder):
        yield
        return
    names = {path.stem if path.is_file() else path.name for path in folder.iterdir()}
    hidden = _forget(names)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        _forget(names)
        sys.modules.update(hidden)


def _forget(names: set[str]) -> Mapping[str, Any]:
    """Takes modules, by their first name, out of those that were imported; returns them."""
    return {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.partition(".")[0] in names
    }


# --- what is answered before a trial runs ----------------------------------------------------


def examine(spec: StudySpec, artifacts: Path) -> Space:
    """Returns the space of a study without data, as its file and its trainer say.

    Imports the trainer: call it in a process that may end afterwards.

    Raises:
        InvalidArgumentError: the trainer cannot be used, or nothing is tuned; in a line.
        UnavailableError: the code was not shipped to where this process looks.
    """
    trainer, space = spec.trainer or "", spec.space
    if trainer == PROGRAM:
        check_program(spec.own, artifacts)
    elif REFERENCE.fullmatch(trainer):
        space = _space_of(spec, trainer, artifacts)
    else:
        raise InvalidArgumentError(
            f"there is no trainer {trainer!r}; write `tabular`, `package.module:Name` or a "
            "program."
        )
    if not space.parameters:
        raise InvalidArgumentError(
            "the space is empty: name a parameter with a range under `parameters`"
            + ("." if trainer == PROGRAM else ", or declare some in the trainer's `space(trial)`.")
        )
    return space


def _space_of(spec: StudySpec, reference: str, artifacts: Path) -> Space:
    module = reference.partition(":")[0]
    folder = code.unpack(artifacts, spec.own.code) if spec.own.code else None
    try:
        with found(reference, spec.own.code, artifacts) as trainer:
            check_class(reference, trainer)
            if not hasattr(trainer, "space"):
                return spec.space
            return declared.complete(spec.space, spec.settings, trainer().space)
    except UnavailableError:
        raise
    except BaseException as error:  # code of the user's may raise anything, SystemExit included
        raise refusal(error, module, folder) from error


def refusal(error: BaseException, module: str, folder: Path | None) -> InvalidArgumentError:
    """The error in a line that tells why a trainer cannot be used."""
    return InvalidArgumentError(f"{describe(error, module, folder).rstrip('.')}.")


def describe(error: BaseException, module: str, folder: Path | None) -> str:
    """Says in a line why a trainer cannot be used."""
    if isinstance(error, InvalidArgumentError):
        return error.message
    if isinstance(error, SyntaxError):
        place = _shown(error.filename or module, folder)
        return f"{place}:{error.lineno}: {error.msg}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        if module == error.name or module.startswith(f"{error.name}."):
            where = "the code of the study, nor is it" if folder is not None else "what is"
            return f"there is no module {module!r} in {where} installed where trials run"
        return f"{module} imports {error.name!r}, which is not installed where trials run"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if folder is not None and str(folder) in frame.filename]
    last = (own or frames)[-1] if frames else None
    at = f" in {_shown(last.filename, folder)}:{last.lineno}" if last else ""
    text = next(iter(str(error).splitlines()), "")
    return f"{module} raised {type(error).__name__}{f': {text}' if text else ''}{at}"


def _shown(filename: str, folder: Path | None) -> str:
    """A file's name, without the folder that the code was unpacked to."""
    if folder is not None and filename.startswith(f"{folder}/"):
        return filename.removeprefix(f"{folder}/")
    return filename


def check_class(reference: str, trainer: object) -> None:
    """Raises InvalidArgumentError unless an object can be run as a trainer."""
    train, space = getattr(trainer, "train", None), getattr(trainer, "space", None)
    if not inspect.isclass(trainer) or not callable(train):
        raise InvalidArgumentError(
            f"{reference} is no trainer: it must be a class with `train(self, context, "
            "parameters)`."
        )
    check_call(f"{reference}()", trainer, 0, "nothing")
    check_call(f"{reference}.train", train, 3, "(self, context, parameters)")
    if callable(space):
        check_call(f"{reference}.space", space, 2, "(self, trial)")


def check_call(what: str, function: Callable[..., object], arguments: int, told: str) -> None:
    """Raises InvalidArgumentError unless a function can be called with so many arguments."""
    try:
        signature = inspect.signature(function)
        signature.bind(*range(arguments))
    except TypeError as error:
        raise InvalidArgumentError(
            f"{what} takes {told}, but is written with {signature}: {error}"
        ) from error
    except ValueError:  # it is written in C and does not say what it takes
        return
