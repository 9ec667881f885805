"""A study as the search algorithm of Ray Tune, and its early stopping as Tune's scheduler.

study = tuner.connect().create_study("mine", space, maximize="auc", trials=40)
search = StudySearch(study)
tune.Tuner(
    trainable,
    tune_config=tune.TuneConfig(
        search_alg=search, scheduler=StudyScheduler(search), num_samples=-1
    ),
).fit()
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import AUTO_RESULT_KEYS
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from tuner import convert
from tuner.client import Client, RunningTrial, Study, connect
from tuner.errors import InvalidArgumentError
from tuner.study import Cause, Failure, Goal
from tuner.v1 import trial_pb2

logger = logging.getLogger(__name__)

#: What Ray Tune counts the results of a trial by.
_STEP = "training_iteration"
_LINE_CHARACTERS, _STACK_CHARACTERS = 2_000, 20_000
_MODES: Mapping[Goal, str] = {Goal.MAXIMIZE: "max", Goal.MINIMIZE: "min"}


class StudySearch(Searcher):
    """Takes each trial of a Tune run from a study, and tells the study what became of it.

    The study has the space and the limits: with `num_samples=-1`, Tune runs trials until the
    study ends. A trial's step is Tune's `training_iteration`. A run that Tune restores goes on
    with the trials whose leases it still holds; it finds the server at the address that it had,
    and proves itself by TUNER_TOKEN: secrets are not saved. Used by one thread, Tune's own.

    Args:
        study: what to work on.
    """

    def __init__(self, study: Study) -> None:
        metric = study.metric
        super().__init__(metric=metric.name, mode=_MODES[metric.goal])
        self._study = study
        self._open: dict[str, RunningTrial] = {}
        self._steps: dict[str, int] = {}
        self._errors: dict[str, str] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any
    ) -> bool:
        """Takes no space from Tune: the study has one.

        Raises:
            InvalidArgumentError: the metric or its direction is not the study's.
        """
        for said, own in ((metric, self.metric), (mode, self.mode)):
            if said is not None and said != own:
                raise InvalidArgumentError(
                    f"study {self._study.study_id!r} has {self.metric!r} ({self.mode}), but Ray "
                    f"Tune was told {said!r}; leave `metric` and `mode` out."
                )
        return False

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Leases a trial for a trial of Tune's; None if there is none now."""
        trial = self._study.ask(worker=trial_id)
        if trial is not None:
            self._open[trial_id] = trial
            return dict(trial.parameters)
        ended: Any = Searcher.FINISHED  # a word, which Tune's own annotation does not know
        return ended if self._study.record.state.is_finished else None

    def report(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Tells the study a result of a running trial; returns whether to go on."""
        trial = self._open.get(trial_id)
        if trial is None:
            return True
        step = int(result[_STEP])
        if step > self._steps.get(trial_id, -1):
            self._steps[trial_id] = step
            try:
                trial.report(_measured(result), step=step)
            except InvalidArgumentError as error:  # it never measures what the study asks for
                logger.warning("trial %d failed: %s", trial.number, error.message)
                trial.lose()
        return not trial.stop

    def note_error(self, trial_id: str, text: str) -> None:
        """Takes notice of what a trial raised, before it is completed."""
        self._errors[trial_id] = text

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Reports a result, unless the scheduler did."""
        self.report(trial_id, result)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Ends a trial: with its last result, or failed with what it raised."""
        text = self._errors.pop(trial_id, "")
        if error:
            trial = self._open.pop(trial_id, None)
            if trial is not None:
                trial.fail(_failure(text))
            return
        if result and _STEP in result:
            self.report(trial_id, result)
        trial = self._open.pop(trial_id, None)
        self._steps.pop(trial_id, None)
        if trial is not None:
            trial.finish()

    def save(self, checkpoint_path: str) -> None:
        """Writes what a restored run needs; Tune calls it now and then."""
        Path(checkpoint_path).write_text(json.dumps(self.__getstate__()), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Reads it."""
        self.__setstate__(json.loads(Path(checkpoint_path).read_text(encoding="utf-8")))

    def __getstate__(self) -> dict[str, Any]:
        return {
            "metric": (self.metric, self.mode),
            "address": self._study.address,
            "study": self._study.study_id,
            "open": {
                trial_id: json_format.MessageToDict(convert.trial_to_proto(trial.record))
                for trial_id, trial in self._open.items()
            },
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._metric, self._mode = state["metric"]
        if getattr(self, "_study", None) is None:
            client: Client = connect(state["address"])
            self._study = client.get_study(state["study"])
        self._open = {
            trial_id: self._study.take_up(
                convert.trial_from_proto(json_format.ParseDict(said, trial_pb2.Trial()))
            )
            for trial_id, said in state["open"].items()
        }
        # What was reported last is reported again; that changes nothing.
        self._steps, self._errors = {}, {}


class StudyScheduler(FIFOScheduler):
    """Stops the trials of a `StudySearch` when their study says so."""

    def __init__(self, search: StudySearch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._search = search

    def on_trial_result(
        self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]
    ) -> str:
        """Reports a result; the study's answer is the decision."""
        go_on = self._search.report(trial.trial_id, result)
        return str(TrialScheduler.CONTINUE if go_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Keeps what a trial raised for the study."""
        with suppress(OSError, TypeError):  # there is a file, unless Tune could not write one
            text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
            self._search.note_error(trial.trial_id, text)


def _measured(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among a result that are the trainable's own."""
    return {
        name: float(value)
        for name, value in result.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and name not in AUTO_RESULT_KEYS
        and not name.startswith("config/")
    }


def _failure(text: str) -> Failure:
    lines = [line for line in text.splitlines() if line.strip()]
    message = lines[-1].strip() if lines else "Ray Tune says that the trial failed"
    return Failure(
        cause=Cause.USER_ERROR,
        message=message[:_LINE_CHARACTERS],
        stack=text[-_STACK_CHARACTERS:],
    )
