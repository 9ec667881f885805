"""A study's trials in memory, and what follows from them, kept up to date one by one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from tuner.study import Goal, Origin, StudySpec, Trial, TrialCounts, TrialState

_NEVER = datetime.max.replace(tzinfo=UTC)


class Board:
    """The trials by number, by state, and the best of them. Not thread-safe: its owner locks.

    Args:
        spec: What trials are compared by.
        trials: Those that exist already.
    """

    def __init__(self, spec: StudySpec, trials: Iterable[Trial] = ()) -> None:
        self._spec = spec
        self._trials: dict[int, Trial] = {}
        self._by_state: dict[TrialState, set[int]] = {state: set() for state in TrialState}
        self._best: tuple[float, int] | None = None
        #: With several metrics: the results that no other one beats, larger is better in each.
        self._front: list[tuple[float, ...]] = []
        self._by_worker: dict[str, set[int]] = defaultdict(set)
        #: As of the last change; several are asked for between two changes.
        self._counts: TrialCounts | None = None
        #: Past results, which were added and not run.
        self.past = 0
        #: Trials that ended after the best one did; not past ones, which nobody waited for here.
        self._since_best: set[int] = set()
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
        self._move_lease(before, trial)
        if before is not None:
            self._by_state[before.state].discard(trial.number)
        elif trial.origin is Origin.PAST:
            self.past += 1
        self._trials[trial.number] = trial
        self._counts = None
        self._by_state[trial.state].add(trial.number)
        was_finished = before is not None and before.state.is_finished
        if trial.state.is_finished and not was_finished:
            self._finish(trial)
        elif was_finished and not trial.state.is_finished:
            self._since_best.discard(trial.number)

    def _finish(self, trial: Trial) -> None:
        if trial.origin is not Origin.PAST:
            self._since_best.add(trial.number)
        if trial.state not in (TrialState.SUCCEEDED, TrialState.PRUNED):
            return
        reached = self._spec.score(trial.final_measurement)
        if reached is None:
            return
        advances = self._advances(trial)
        if self._best is None or reached > self._best[0]:
            self._best, advances = (reached, trial.number), True
        elif reached == self._best[0]:
            self._best = reached, min(self._best[1], trial.number)
        if advances:
            self._since_best.clear()

    def _advances(self, trial: Trial) -> bool:
        """With several metrics: whether no earlier result is as good in all of them."""
        metrics, result = self._spec.metrics, trial.final_measurement
        if len(metrics) == 1 or result is None:
            return False
        point = tuple(
            result.metrics[m.name] * (1 if m.goal is Goal.MAXIMIZE else -1) for m in metrics
        )
        if not all(map(math.isfinite, point)) or any(_covers(p, point) for p in self._front):
            return False
        self._front = [p for p in self._front if not _covers(point, p)] + [point]
        return True

    def _move_lease(self, before: Trial | None, after: Trial) -> None:
        holder = before.lease.worker_id if before is not None and before.lease else None
        heir = after.lease.worker_id if after.lease else None
        if holder == heir:
            return
        if holder is not None:
            self._by_worker[holder].discard(after.number)
            if not self._by_worker[holder]:
                del self._by_worker[holder]
        if heir is not None:
            self._by_worker[heir].add(after.number)

    def held_by(self, worker_id: str) -> list[Trial]:
        """The trials that a worker holds, by number."""
        return [self._trials[number] for number in sorted(self._by_worker.get(worker_id, ()))]

    def of(self, state: TrialState) -> list[Trial]:
        """The trials in a state, by number."""
        return [self._trials[number] for number in sorted(self._by_state[state])]

    def count(self, state: TrialState) -> int:
        """How many trials are in a state."""
        return len(self._by_state[state])

    @property
    def best(self) -> int | None:
        """The number of the best trial, the lowest among equals; None before there is one."""
        return None if self._best is None else self._best[1]

    @property
    def since_best(self) -> int:
        """How many trials ended after the last one that brought something better."""
        return len(self._since_best)

    def if_due(self, failed: Collection[int]) -> tuple[TrialCounts, int]:
        """What `counts` and `since_best` would be if some failed trials were due again."""
        if not failed:
            return self.counts, len(self._since_best)
        counts, moved = self.counts, len(failed)
        counts = replace(counts, queued=counts.queued + moved, failed=counts.failed - moved)
        return counts, len(self._since_best.difference(failed))

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
        if self._counts is not None:
            return self._counts
        state = self._by_state
        self._counts = TrialCounts(
            queued=len(state[TrialState.QUEUED]),
            running=len(state[TrialState.RUNNING]),
            succeeded=len(state[TrialState.SUCCEEDED]),
            pruned=len(state[TrialState.PRUNED]),
            failed=len(state[TrialState.FAILED]),
            infeasible=len(state[TrialState.INFEASIBLE]),
            past=self.past,
        )
        return self._counts


def _covers(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True))
