"""The model as a sampler of Optuna's."""

from __future__ import annotations

import json
import secrets
import threading
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from tuner.engine.tpe.axes import Axes
from tuner.engine.tpe.model import Model
from tuner.engine.tpe.outcomes import Outcomes
from tuner.engine.tpe.tree import Tree
from tuner.space import Space

# Where Optuna's own TPE leaves what it drew for a trial whose objective has not asked for it yet,
# in pieces that fit into every storage.
_DRAWN = "tpe:relative_params"
_PIECE = 2045


class TreeTPESampler(BaseSampler):
    """TPE for Optuna's studies, multivariate and with a constant liar; see the package.

    What it draws depends on the seed, the trial's number and the other trials alone. It may be
    shared by threads; between processes it is copied without what it learned, which it reads
    again.

    Args:
        space: What the objective asks for, by the names and distributions of `encoding`. Without
            one, the parameters that all trials share are drawn jointly, and others one by one.
        startup: How many finished trials to draw at random before the model starts.
        seed: Of everything drawn; left out, a random one.
    """

    def __init__(
        self, space: Space | None = None, *, startup: int = 10, seed: int | None = None
    ) -> None:
        self._space = space
        self._startup = startup
        self._seed = secrets.randbits(64) if seed is None else seed & 0xFFFF_FFFF_FFFF_FFFF
        self._prepare()

    def __getstate__(self) -> tuple[Space | None, int, int]:
        return self._space, self._startup, self._seed

    def __setstate__(self, state: tuple[Space | None, int, int]) -> None:
        self._space, self._startup, self._seed = state
        self._prepare()

    def _prepare(self) -> None:
        self._tree = None if self._space is None else Tree(self._space)
        self._shared = IntersectionSearchSpace(include_pruned=True)
        self._reading: _Reading | None = None
        self._lock = threading.Lock()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Every parameter of the tree that has a choice; without a tree, of all trials."""
        if self._tree is not None:
            return dict(self._tree.choices)
        with self._lock:
            shared = self._shared.calculate(study)
        return {name: each for name, each in shared.items() if not each.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draws the active parameters, each generation of them jointly."""
        generator = np.random.default_rng([self._seed, trial.number])
        with self._lock:
            seen = self._read(study)
            if not search_space or seen.ended < self._startup:
                return {}
            if self._tree is None:
                drawn = seen.model.draw(search_space, generator)
            else:
                drawn = self._tree.draw(
                    lambda block: seen.model.draw(block, generator), search_space
                )
        _leave(study._storage, trial, drawn)
        return drawn

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draws a parameter by itself; at random before the model starts."""
        purpose = zlib.crc32(param_name.encode())
        generator = np.random.default_rng([self._seed, trial.number, purpose])
        block = {param_name: param_distribution}
        with self._lock:
            seen = self._read(study)
            if seen.ended < self._startup:
                return Axes.of(block).spread(generator)[param_name]
            return seen.model.draw(block, generator)[param_name]

    def _read(self, study: Study) -> _Reading:
        reading = self._reading
        if reading is None or not reading.is_of(study):
            reading = self._reading = _Reading(study)
        reading.read(study.get_trials(deepcopy=False))
        return reading


class _Reading:
    """What was read of a study."""

    def __init__(self, study: Study) -> None:
        self._storage = study._storage
        self._study_id = study._study_id
        self._outcomes = Outcomes(study.directions)
        self.model = Model(self._outcomes)
        self._rows = 0
        # The rows of trials that may still change.
        self._open: list[int] = []

    def is_of(self, study: Study) -> bool:
        return study._storage is self._storage and study._study_id == self._study_id

    @property
    def ended(self) -> int:
        """How many trials ended with a result or were stopped."""
        return self._outcomes.ended

    def read(self, trials: list[FrozenTrial]) -> None:
        """Takes in what is new."""
        # Those at the end that have no parameters yet may get them: they can wait.
        end = len(trials)
        while end > self._rows and not _is_told(trials[end - 1]):
            end -= 1
        unread = [*self._open, *range(self._rows, end)]
        for row in unread:
            self._outcomes.put(row, trials[row], _parameters(trials[row]))
        self._open = [row for row in unread if not trials[row].state.is_finished()]
        self._rows = max(self._rows, end)


def _is_told(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() or bool(trial.params) or f"{_DRAWN}:0" in trial.system_attrs


def _leave(storage: BaseStorage, trial: FrozenTrial, drawn: Mapping[str, Any]) -> None:
    """Tells other processes what a running trial will ask for."""
    text = json.dumps(drawn)
    for start in range(0, len(text), _PIECE):
        storage.set_trial_system_attr(
            trial._trial_id, f"{_DRAWN}:{start // _PIECE}", text[start : start + _PIECE]
        )


def _parameters(trial: FrozenTrial) -> Mapping[str, Any]:
    """The parameters of a trial, of a running one also those that it will ask for."""
    if trial.state.is_finished():
        return trial.params
    pieces: list[str] = []
    while (piece := trial.system_attrs.get(f"{_DRAWN}:{len(pieces)}")) is not None:
        pieces.append(piece)
    try:
        drawn = json.loads("".join(pieces)) if pieces else {}
    except json.JSONDecodeError:
        # Its process is still writing the pieces.
        drawn = {}
    return {**drawn, **trial.params}
