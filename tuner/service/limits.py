"""When a study ends by itself."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from tuner.study import Limits, TrialCounts

#: Where a study sets no limit of its own, it ends when so many trials have failed and no other
#: has ended: the fault is not in their parameters.
HOPELESS_TRIALS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a study is."""

    counts: TrialCounts
    #: Trials that ended after the best one did.
    since_best: int
    #: The time of all workers over all attempts, running ones included.
    worker_time: timedelta
    #: The time since the study's creation.
    age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A limit that was reached."""

    reason: str
    #: Whether trials that are due again are given up, too.
    gives_up: bool = True


def reached(limits: Limits, progress: Progress) -> Reached | None:
    """The first limit that allows no more trials, or None."""
    counts = progress.counts
    if limits.duration is not None and progress.age >= limits.duration:
        return Reached(reason=f"its time of {limits.duration} is over")
    if limits.worker_time is not None and progress.worker_time >= limits.worker_time:
        return Reached(reason=f"its workers' time of {limits.worker_time} is used up")
    if limits.failed_trials is not None and counts.failed >= limits.failed_trials:
        return Reached(reason=f"{counts.failed} trials failed")
    if limits.failed_trials is None and counts.ran == counts.failed >= HOPELESS_TRIALS:
        return Reached(reason=f"the first {counts.failed} trials all failed")
    if (
        limits.no_improvement_trials is not None
        and progress.since_best >= limits.no_improvement_trials
    ):
        return Reached(reason=f"{progress.since_best} trials in a row brought nothing better")
    if counts.total - counts.past >= limits.trials:
        run = counts.total - counts.past
        return Reached(reason=f"all {run} trials have ended", gives_up=False)
    return None
