"""What the tests of the store share: a study in the hands of a server."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from tuner.space import Float, Int, Space
from tuner.study import (
    Cost,
    Failure,
    Goal,
    Lease,
    Measurement,
    Metric,
    Origin,
    Study,
    StudySpec,
    StudyState,
    Trial,
    TrialState,
    lease_token,
)
from tuner_storage import Ownership, Store, StoredStudy, TrialPage, Write, writes

NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(seconds=9)
LEASE = timedelta(seconds=30)
METRIC = Metric(name="loss", goal=Goal.MINIMIZE)
SPEC = StudySpec(
    metrics=(METRIC,),
    space=Space.of({"rate": Float(1e-5, 1.0, log=True), "layers": Int(1, 3)}),
    settings={"on": True, "big": 1e22, "whole": 2.0},
    labels={"who": "me"},
)
STUDY = Study(
    study_id="mine",
    spec=SPEC,
    state=StudyState.ACTIVE,
    space_version=1,
    create_time=NOW,
    update_time=NOW,
    etag="1",
)

#: Of each attempt: nine seconds of two workers with half a CPU each.
COST = Cost(worker_time=timedelta(seconds=18), cpu_time=timedelta(seconds=9))


def flat(changes: Iterable[Write | Sequence[Write]]) -> list[Write]:
    """Changes in a row, of which some are one each and some several."""
    return [w for change in changes for w in ([change] if isinstance(change, Write) else change)]


class Held:
    """A study in the hands of a server, and a server's words in short."""

    def __init__(self, store: Store, server: UUID, study: Study = STUDY) -> None:
        self.store = store
        self.key = store.create_study(study)
        self.study_id = study.study_id
        self.ownership = self.claim(server)

    def claim(self, server: UUID) -> Ownership:
        """Makes a server the owner; what was owned before is worth nothing then."""
        epoch = self.store.claim_study(server, self.study_id)
        assert epoch is not None
        return Ownership(key=self.key, server=server, epoch=epoch)

    def commit(self, *changes: Write | Sequence[Write]) -> None:
        self.store.commit(self.ownership, flat(changes))

    def trial(self, number: int, **changes: object) -> Trial:
        """A running trial, with changes."""
        attempt = changes.get("attempt", 1)
        assert isinstance(attempt, int)
        token = lease_token(self.key, number, attempt)
        made = Trial(
            study_id=self.study_id,
            number=number,
            state=TrialState.RUNNING,
            parameters={"rate": 0.5, "layers": 2},
            attempt=attempt,
            lease=Lease(worker_id="ann", expire_time=NOW + LEASE, token=token),
            create_time=NOW,
            start_time=NOW,
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    def lease(self, *numbers: int, due: Sequence[Trial] = (), host: str = "box") -> None:
        proposed = [self.trial(number) for number in numbers]
        self.commit(writes.lease_trials(due=due, proposed=proposed, host=host))

    def report(self, number: int, measured: Measurement, attempt: int = 1) -> None:
        self.commit(self.reported(number, measured, attempt))

    def reported(self, number: int, measured: Measurement, attempt: int = 1) -> Write:
        trial = self.trial(number, attempt=attempt, final_measurement=measured)
        return writes.report(SPEC, trial, measurement=measured, stop_reason=None, now=NOW)

    def end(
        self,
        number: int,
        state: TrialState = TrialState.SUCCEEDED,
        *further: Write,
        final: Measurement | None = None,
        failure: Failure | None = None,
        attempt: int = 1,
    ) -> None:
        ended = self.trial(
            number,
            state=state,
            attempt=attempt,
            lease=None,
            final_measurement=final,
            end_time=LATER if state.is_finished else None,
        )
        self.commit(
            writes.end_attempt(SPEC, ended, failure=failure, cost=COST, now=LATER), *further
        )

    def get(self, number: int) -> Trial:
        return self.store.get_trial(self.key, self.study_id, number, full=True)

    def list(self, page: TrialPage | None = None) -> list[Trial]:
        page = page or TrialPage()
        return [trial for trial, _ in self.store.list_trials(self.key, self.study_id, page)]

    def stored(self) -> StoredStudy:
        found = self.store.find_study(self.study_id)
        assert found is not None
        return found


def entered(store: Store, address: str = "", lease: timedelta = LEASE) -> UUID:
    """A server that has registered."""
    server = uuid4()
    store.enter_server(server, address or f"{server}:80", lease)
    return server


def loss(value: float, step: int = 0) -> Measurement:
    elapsed = timedelta(seconds=step, microseconds=5)
    return Measurement(step=step, metrics={"loss": value}, elapsed=elapsed)


def given(held: Held, number: int, **changes: object) -> Trial:
    """A trial to be run, with changes."""
    values = {"state": TrialState.QUEUED, "attempt": 0, "lease": None, "start_time": None}
    return held.trial(number, **{**values, "origin": Origin.GIVEN, **changes})


def past(held: Held, number: int, *measured: Measurement, **changes: object) -> Trial:
    """A past result, with changes."""
    trial = held.trial(
        number,
        state=TrialState.SUCCEEDED,
        lease=None,
        origin=Origin.PAST,
        final_measurement=measured[-1],
        within_constraints=True,
        measurements=measured,
        end_time=NOW,
    )
    return replace(trial, **changes)  # type: ignore[arg-type]
