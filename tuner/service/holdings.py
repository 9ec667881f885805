"""What a server holds in memory, counted for its metrics."""

from __future__ import annotations

from tuner.service.metrics import Holdings
from tuner.service.studies import Studies
from tuner.study import TrialState


def holdings(studies: Studies) -> Holdings:
    """Counts the studies that the server works on, with their trials, leases and watchers.

    No study is locked for it: the counts of different studies may be of different moments.
    """
    records = [live.record for live in studies.owned]
    trials = {state: sum(r.board.count(state) for r in records) for state in TrialState}
    return Holdings(
        studies=len(records),
        trials=trials,
        leases=trials[TrialState.RUNNING],
        watchers=sum(record.events.watchers for record in records),
    )
