"""A study's trials in memory, and what follows from them, kept up to date one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from tuner.study import Metric, Trial, TrialCounts, TrialState
from tuner_storage.rows import score

_NEVER = datetime.max.replace(tzinfo=UTC)


class Board:
    """The trials by number, by state, and the best of them. Not thread-safe: its owner locks.

    Args:
        metric: What trials are compared by.
        trials: Those that exist already.
    """

    def __init__(self, metric: Metric, trials: Iterable[Trial] = ()) -> None:
        self._metric = metric
        self._trials: dict[int, Trial] = {}
        self._by_state: dict[TrialState, set[int]] = {state: set() for state in TrialState}
        self._best: tuple[float, int] | None = None
        #: Trials that ended after the best one did.
        self.since_best = 0
        for trial in sorted(trials, key=lambda trial: trial.end_time or _NEVER):
            self.put(trial)

    def __contains__(self, number: int) -> bool:
        return number in self._trials

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    def __iter__(self) -> Iterator[Trial]:
        """Every trial, by number."""
        return (self._trials[number] for number in sorted(self._trials))

    def put(self, trial: Trial) -> None:
        """Takes over a trial as it is now."""
        before = self._trials.get(trial.number)
        if before is not None:
            self._by_state[before.state].discard(trial.number)
        self._trials[trial.number] = trial
        self._by_state[trial.state].add(trial.number)
        was_finished = before is not None and before.state.is_finished
        if trial.state.is_finished and not was_finished:
            self._finish(trial)
        elif was_finished and not trial.state.is_finished:
            self.since_best = max(0, self.since_best - 1)

    def _finish(self, trial: Trial) -> None:
        self.since_best += 1
        if trial.state not in (TrialState.SUCCEEDED, TrialState.PRUNED):
            return
        reached = score(self._metric, trial.final_measurement)
        if reached is not None and (self._best is None or reached > self._best[0]):
            self._best = (reached, trial.number)
            self.since_best = 0

    def of(self, state: TrialState) -> list[Trial]:
        """The trials in a state, by number."""
        return [self._trials[number] for number in sorted(self._by_state[state])]

    def count(self, state: TrialState) -> int:
        """How many trials are in a state."""
        return len(self._by_state[state])

    @property
    def best(self) -> int | None:
        """The number of the best trial, the first one among equals; None before there is one."""
        return None if self._best is None else self._best[1]

    @property
    def total(self) -> int:
        """How many trials there are; the next one's number, as there are no gaps."""
        return len(self._trials)

    @property
    def open(self) -> int:
        """How many trials have not ended."""
        return self.count(TrialState.QUEUED) + self.count(TrialState.RUNNING)

    @property
    def counts(self) -> TrialCounts:
        """How many trials are in which state."""
        return TrialCounts(**{s.value.lower(): len(n) for s, n in self._by_state.items()})
