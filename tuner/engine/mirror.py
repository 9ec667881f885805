"""An Optuna storage in memory that keeps our trial numbers, and cheap to read again and again."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import uuid4

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    check_distribution_compatibility,
)
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

# Ids of a study's trials start at its id times this, so in the first study id and number agree.
_TRIALS_PER_STUDY = 1 << 32
_DEFAULT_NAME_PREFIX = "no-name-"


@dataclass(slots=True)
class _Record:
    name: str
    directions: list[StudyDirection]
    user_attrs: dict[str, Any] = field(default_factory=dict)
    system_attrs: dict[str, Any] = field(default_factory=dict)
    trials: list[FrozenTrial] = field(default_factory=list)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    # Trial lists by the states asked for, until a trial changes.
    listings: dict[tuple[TrialState, ...] | None, list[FrozenTrial]] = field(default_factory=dict)


class Mirror(BaseStorage):
    """Optuna's storage contract over plain lists. A trial's id is its number, in the first study.

    Trials are replaced, never changed, so what was read stays as it was read; only the values on
    the way of a running trial are added to where they are. A parameter's range may widen from
    trial to trial, and choices be added at the end. Not thread-safe: its owner guards it.
    """

    def __init__(self) -> None:
        self._studies: dict[int, _Record] = {}
        self._next_study_id = 0

    # What the engine writes.

    def put(self, study_id: int, trial: FrozenTrial) -> None:
        """Appends the trial, or replaces the one of its number; gives it its id."""
        study = self._study(study_id)
        trial._trial_id = study_id * _TRIALS_PER_STUDY + trial.number
        if trial.number == len(study.trials):
            study.trials.append(trial)
        else:
            study.trials[trial.number] = trial
        study.listings.clear()

    # Studies.

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """Creates a study; see BaseStorage, here and below."""
        name = f"{_DEFAULT_NAME_PREFIX}{uuid4()}" if study_name is None else study_name
        if any(study.name == name for study in self._studies.values()):
            raise DuplicatedStudyError(f"a study named {name!r} exists; choose another name.")
        study_id = self._next_study_id
        self._next_study_id += 1
        self._studies[study_id] = _Record(name, list(directions))
        return study_id

    def delete_study(self, study_id: int) -> None:
        """Deletes a study with its trials."""
        self._study(study_id)
        del self._studies[study_id]

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        """Sets an attribute of users."""
        study = self._study(study_id)
        study.user_attrs = {**study.user_attrs, key: value}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Sets an attribute of Optuna's own."""
        study = self._study(study_id)
        study.system_attrs = {**study.system_attrs, key: value}

    def get_study_id_from_name(self, study_name: str) -> int:
        """The id of the study of that name."""
        for study_id, study in self._studies.items():
            if study.name == study_name:
                return study_id
        raise KeyError(f"no study is named {study_name!r}.")

    def get_study_name_from_id(self, study_id: int) -> str:
        """The study's name."""
        return self._study(study_id).name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """The directions of the study's objectives."""
        return self._study(study_id).directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """The attributes of users."""
        return self._study(study_id).user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """The attributes of Optuna's own."""
        return self._study(study_id).system_attrs

    def get_all_studies(self) -> list[FrozenStudy]:
        """All studies."""
        return [
            FrozenStudy(
                study_name=study.name,
                direction=None,
                directions=study.directions,
                user_attrs=copy.deepcopy(study.user_attrs),
                system_attrs=copy.deepcopy(study.system_attrs),
                study_id=study_id,
            )
            for study_id, study in self._studies.items()
        ]

    # Trials.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Appends a running trial, or a copy of the template."""
        trial = _running() if template_trial is None else copy.deepcopy(template_trial)
        trial.number = len(self._study(study_id).trials)
        self.put(study_id, trial)
        return trial._trial_id

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Sets a parameter, unless its distribution contradicts earlier ones of that name."""
        trial = self._updatable(trial_id)
        known = self._study(trial_id // _TRIALS_PER_STUDY).distributions
        if param_name in known:
            _check_extends(known[param_name], distribution)
        known[param_name] = distribution
        value = distribution.to_external_repr(param_value_internal)
        trial.params = {**trial.params, param_name: value}
        trial.distributions = {**trial.distributions, param_name: distribution}
        self._replace(trial)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Moves a trial to a state; False if it was to be started but had been already."""
        trial = self._updatable(trial_id)
        if state == TrialState.RUNNING and trial.state != TrialState.WAITING:
            return False
        trial.state = state
        if values is not None:
            trial.values = list(values)
        if state == TrialState.RUNNING:
            trial.datetime_start = datetime.now()
        if state.is_finished():
            trial.datetime_complete = datetime.now()
        self._replace(trial)
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Records a value at a step."""
        trial = self._updatable(trial_id)
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}
        self._replace(trial)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets an attribute of users."""
        trial = self._updatable(trial_id)
        trial.user_attrs = {**trial.user_attrs, key: value}
        self._replace(trial)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Sets an attribute of Optuna's own."""
        trial = self._updatable(trial_id)
        trial.system_attrs = {**trial.system_attrs, key: value}
        self._replace(trial)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial."""
        study_id, number = divmod(trial_id, _TRIALS_PER_STUDY)
        study = self._studies.get(study_id)
        if study is None or number >= len(study.trials):
            raise KeyError(f"no trial has the id {trial_id}.")
        return study.trials[number]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        """The id of a study's trial."""
        if not 0 <= trial_number < len(self._study(study_id).trials):
            raise KeyError(f"study {study_id} has no trial {trial_number}.")
        return study_id * _TRIALS_PER_STUDY + trial_number

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The trials by number; without `deepcopy` the list is shared, not to be changed."""
        study = self._study(study_id)
        wanted = None if states is None else tuple(s for s in TrialState if s in states)
        listing = study.listings.get(wanted)
        if listing is None:
            if wanted is None:
                listing = study.trials.copy()
            else:
                listing = [trial for trial in study.trials if trial.state in wanted]
            study.listings[wanted] = listing
        return [_copied(trial) for trial in listing] if deepcopy else listing

    def get_n_trials(
        self, study_id: int, state: tuple[TrialState, ...] | TrialState | None = None
    ) -> int:
        """How many trials there are, in one of the states."""
        if state is None:
            return len(self._study(study_id).trials)
        return super().get_n_trials(study_id, state)

    def _study(self, study_id: int) -> _Record:
        if study_id not in self._studies:
            raise KeyError(f"no study has the id {study_id}.")
        return self._studies[study_id]

    def _updatable(self, trial_id: int) -> FrozenTrial:
        trial = self.get_trial(trial_id)
        self.check_trial_is_updatable(trial_id, trial.state)
        return copy.copy(trial)

    def _replace(self, trial: FrozenTrial) -> None:
        self.put(trial._trial_id // _TRIALS_PER_STUDY, trial)


class WarmMirror(Mirror):
    """A mirror as samplers see it: trials of earlier studies lie before a study's own.

    They are only listed: numbers, ids and counts are those of the study's own trials, so earlier
    ones have negative numbers.
    """

    def __init__(self, mirror: Mirror, earlier: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._studies = mirror._studies
        self._earlier = list(earlier)

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """The earlier trials, then the study's own."""
        own = super().get_all_trials(study_id, deepcopy, states)
        earlier = [t for t in self._earlier if states is None or t.state in states]
        if not earlier:
            return own
        return [*(map(_copied, earlier) if deepcopy else earlier), *own]


def _running() -> FrozenTrial:
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _copied(trial: FrozenTrial) -> FrozenTrial:
    # Trials share what they have in common; a copy shares nothing but distributions, which never
    # change. That also makes it several times cheaper than `copy.deepcopy`.
    copied = copy.copy(trial)
    copied.params = trial.params.copy()
    copied.distributions = trial.distributions.copy()
    copied.intermediate_values = trial.intermediate_values.copy()
    copied.user_attrs = copy.deepcopy(trial.user_attrs)
    copied.system_attrs = copy.deepcopy(trial.system_attrs)
    copied.values = trial.values
    return copied


def _check_extends(old: BaseDistribution, new: BaseDistribution) -> None:
    """Raises ValueError unless one is the other with a changed range or with choices appended."""
    if isinstance(old, CategoricalDistribution) and isinstance(new, CategoricalDistribution):
        shared = min(len(old.choices), len(new.choices))
        if old.choices[:shared] == new.choices[:shared]:
            return
    check_distribution_compatibility(old, new)
