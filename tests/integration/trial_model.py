"""What a study's trials should become, in a few plain rules: the study server is held to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

#: How often each cause is tried again.
RETRIES = {
    "LOST": 10,
    "PREEMPTED": 50,
    "USER_ERROR": 1,
    "OUT_OF_MEMORY": 1,
    "INFEASIBLE": 0,
    "TIMED_OUT": 0,
    "CRASHED": 2,
}
ENDED = ("SUCCEEDED", "PRUNED", "FAILED", "INFEASIBLE")

#: A step and its value; None where the metric is missing.
Measured = tuple[int, float | None]


@dataclass(kw_only=True)
class Rules:
    """What the study asks for. A value below `at_least` is beyond the constraints."""

    sign: int = 1
    at_least: float = -math.inf
    last: bool = False
    trials: int = 10
    parallel: int | None = None
    failed_trials: int | None = None
    no_improvement_trials: int | None = None

    def within(self, value: float) -> bool:
        return value >= self.at_least

    def score(self, value: float | None) -> float | None:
        """Larger is better; None never wins."""
        if value is None or not math.isfinite(value) or not self.within(value):
            return None
        return self.sign * value


@dataclass(kw_only=True)
class TrialModel:
    """A trial."""

    number: int
    origin: str = "PROPOSED"
    state: str = "RUNNING"
    attempt: int = 0
    worker: str | None = None
    expires: datetime | None = None
    #: By step, in the order in which steps were first reported.
    reported: dict[int, float | None] = field(default_factory=dict)
    result: Measured | None = None
    stop: bool = False
    causes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    checkpoint: int | None = None
    #: Whether its present attempt kept a checkpoint, and what those before it measured at most.
    kept: bool = False
    furthest: int = -1
    #: The tokens of all its leases.
    tokens: list[str] = field(default_factory=list)

    @property
    def step(self) -> int:
        return max(self.reported, default=-1)

    def holds(self, token: str) -> bool:
        return self.state == "RUNNING" and token == self.tokens[-1]


class StudyModel:
    """A study of one metric. A verb that is refused returns the name of the error."""

    def __init__(self, rules: Rules, lease: timedelta, now: datetime) -> None:
        self.rules = rules
        self.state = "ACTIVE"
        self.trials: list[TrialModel] = []
        self.best: int | None = None
        self.since_best: set[int] = set()
        self._lease = lease
        self._ticked = now

    # --- what is asked ---

    def of(self, *states: str) -> list[TrialModel]:
        return [trial for trial in self.trials if trial.state in states]

    @property
    def past(self) -> int:
        return sum(trial.origin == "PAST" for trial in self.trials)

    @property
    def room(self) -> int:
        return self.rules.trials - (len(self.trials) - self.past)

    def reached(self) -> str:
        """Why nothing more is proposed: "", "all", or "over" where what is due is given up."""
        rules, failed = self.rules, len(self.of("FAILED"))
        if rules.failed_trials is not None and failed >= rules.failed_trials:
            return "over"
        ran = sum(trial.origin != "PAST" for trial in self.of(*ENDED))
        if rules.failed_trials is None and 5 <= failed == ran:
            return "over"
        wanted = rules.no_improvement_trials
        if wanted is not None and len(self.since_best) >= wanted:
            return "over"
        return "" if self.room > 0 else "all"

    # --- what workers do ---

    def suggest(self, worker: str, count: int, now: datetime) -> list[TrialModel]:
        self.settle()
        if self.state in ("COMPLETED", "STOPPED"):
            return []
        held = [t for t in self.of("RUNNING") if t.worker == worker][:count]
        missing = count - len(held)
        if self.state != "ACTIVE":
            missing = 0
        elif self.rules.parallel is not None:
            missing = min(missing, max(0, self.rules.parallel - len(self.of("RUNNING"))))
        leased = self.of("QUEUED")[: max(0, missing)]
        if not self.reached():
            for _ in range(min(missing - len(leased), self.room)):
                leased.append(TrialModel(number=len(self.trials)))
                self.trials.append(leased[-1])
        for trial in leased:
            trial.state, trial.worker, trial.result = "RUNNING", worker, None
            trial.attempt += 1
            trial.reported, trial.kept = {}, False
        for trial in (*held, *leased):
            trial.expires = now + self._lease
        if not held and not leased:
            self.settle()
        return [*held, *leased]

    def report(
        self,
        trial: TrialModel,
        token: str,
        measured: Measured | None,
        checkpoint: int | None,
        now: datetime,
    ) -> str | None:
        if not trial.holds(token):
            return "LeaseLostError"
        if measured is not None and measured[1] is None and not trial.reported:
            self._end(trial, "FAILED", "USER_ERROR")
            return "InvalidArgumentError"
        trial.expires = now + self._lease
        if checkpoint is not None:
            trial.checkpoint, trial.kept = checkpoint, True
        if measured is not None:
            trial.reported[measured[0]] = measured[1]
            trial.result = self._result(list(trial.reported.items()))
        if self.state == "STOPPED":
            trial.stop = True
        return None

    def _result(self, measured: Sequence[Measured]) -> Measured | None:
        complete = [(step, value) for step, value in measured if value is not None]
        if self.rules.last:
            return max(complete, default=None, key=lambda pair: pair[0])
        finite = [(step, value) for step, value in complete if math.isfinite(value)]
        if not finite:
            # Kept to be shown; it never wins.
            return complete[-1] if complete else None
        within, sign = self.rules.within, self.rules.sign
        return max(finite, key=lambda pair: (within(pair[1]), sign * pair[1]))

    def complete(self, trial: TrialModel, token: str, final: Measured | None) -> str | None:
        if not trial.holds(token):
            return "LeaseLostError"
        if final is not None and final[1] is None:
            return "InvalidArgumentError"
        if final is None and trial.result is None:
            if trial.reported:
                self._end(trial, "FAILED", "USER_ERROR")
            return "InvalidArgumentError"
        trial.result = final or trial.result
        self._end(trial, "PRUNED" if trial.stop else "SUCCEEDED")
        return None

    def fail(self, trial: TrialModel, token: str, cause: str) -> str | None:
        if not trial.holds(token):
            return "LeaseLostError"
        if cause == "CRASHED" and (trial.kept or trial.step > trial.furthest):
            cause = "LOST"
        if cause == "INFEASIBLE":
            self._end(trial, "INFEASIBLE", cause)
        elif trial.stop and cause in ("LOST", "PREEMPTED", "CRASHED"):
            self._end(trial, "FAILED" if trial.result is None else "PRUNED", cause)
        elif trial.stop or trial.causes.count(cause) >= RETRIES[cause]:
            self._end(trial, "FAILED", cause)
        else:
            self._end(trial, "QUEUED", cause)
        return None

    def _end(self, trial: TrialModel, state: str, cause: str | None = None) -> None:
        trial.state, trial.worker, trial.expires = state, None, None
        if cause is not None:
            trial.causes.append(cause)
            trial.furthest = max(trial.furthest, trial.step)
        if state not in ("SUCCEEDED", "PRUNED"):
            trial.result = None
        if state != "QUEUED":
            self._ended(trial)
        self.settle()

    def _ended(self, trial: TrialModel) -> None:
        if trial.origin != "PAST":
            self.since_best.add(trial.number)
        score = self.score(trial)
        if score is None:
            return
        before = None if self.best is None else self.score(self.trials[self.best])
        if before is None or score > before:
            self.best = trial.number
            self.since_best = set()
        elif score == before:
            self.best = min(self.best or 0, trial.number)

    def score(self, trial: TrialModel) -> float | None:
        if trial.state not in ("SUCCEEDED", "PRUNED") or trial.result is None:
            return None
        return self.rules.score(trial.result[1])

    def settle(self) -> None:
        """Ends the study if a limit was reached and nothing is left."""
        reached = self.reached()
        if self.state not in ("ACTIVE", "PAUSED") or not reached:
            return
        if reached == "over":
            for trial in self.of("QUEUED"):
                trial.state, trial.result = "FAILED", None
                self._ended(trial)
        if not self.of("QUEUED", "RUNNING"):
            self.state = "COMPLETED"

    def tick(self, now: datetime) -> None:
        if self.state in ("COMPLETED", "STOPPED") and not self.of("RUNNING"):
            return
        if now - self._ticked > self._lease / 2:
            self._forgive(now)
        self._ticked = now
        for trial in self.of("RUNNING"):
            if trial.expires is not None and trial.expires <= now:
                self.fail(trial, trial.tokens[-1], "LOST")
        self.settle()

    def taken_over(self, now: datetime) -> None:
        """A server starts."""
        self._ticked = now
        self._forgive(now)
        for trial in self.of("RUNNING"):
            trial.kept = trial.checkpoint is not None

    def _forgive(self, now: datetime) -> None:
        """Where the server was away, workers get half a lease to be heard."""
        for trial in self.of("RUNNING"):
            if trial.expires is not None:
                trial.expires = max(trial.expires, now + self._lease / 2)

    # --- what people do ---

    def stop_trial(self, trial: TrialModel) -> None:
        if trial.state == "QUEUED":
            trial.state = "FAILED"
            self._ended(trial)
            self.settle()
        elif trial.state == "RUNNING":
            trial.stop = True

    def retry(self, trials: Sequence[TrialModel]) -> str | None:
        if self.state == "STOPPED":
            return "FailedPreconditionError"
        if any(trial.state != "FAILED" for trial in trials):
            return "FailedPreconditionError"
        chosen = list(trials) or self.of("FAILED")
        if not chosen:
            return None
        since_best = set(self.since_best)
        for trial in chosen:
            trial.state = "QUEUED"
            self.since_best.discard(trial.number)
        if self.state == "COMPLETED":
            if self.reached() == "over":
                self.since_best = since_best
                for trial in chosen:
                    trial.state = "FAILED"
                return "FailedPreconditionError"
            self.state = "ACTIVE"
        for trial in chosen:
            trial.stop, trial.result = False, None
        return None

    def add(self, results: Sequence[float | None], now: datetime) -> str | None:
        """Trials to be run where the result is None, past ones elsewhere."""
        due = sum(value is None for value in results)
        if due and self.state in ("COMPLETED", "STOPPED"):
            return "FailedPreconditionError"
        if due > self.room:
            return "FailedPreconditionError"
        for value in results:
            trial = TrialModel(number=len(self.trials), origin="GIVEN", state="QUEUED")
            self.trials.append(trial)
            if value is not None:
                trial.origin, trial.state, trial.attempt = "PAST", "SUCCEEDED", 1
                trial.result = (0, value)
                self._ended(trial)
        self.settle()
        return None

    def pause(self) -> str | None:
        if self.state not in ("ACTIVE", "PAUSED"):
            return "FailedPreconditionError"
        self.state = "PAUSED"
        return None

    def resume(self) -> str | None:
        if self.state in ("COMPLETED", "STOPPED"):
            reached = self.reached()
            if reached == "over" or (reached and not self.of("QUEUED", "RUNNING")):
                return "FailedPreconditionError"
        self.state = "ACTIVE"
        return None

    def stop(self) -> None:
        if self.state in ("ACTIVE", "PAUSED"):
            self.state = "STOPPED"
