"""What fitting models costs the rest: pairs per second, and how late reports are meanwhile.

    python -m tests.benchmarks.fits [--algorithm gp] [--trials 200] [--clients 8] [--seconds 10]

A study of so many finished trials is worked on by clients that suggest and complete; beside them
one worker reports on a trial of the same study, and one on a trial of another study. Afterwards
both report on a server at rest. With --json, standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc

from tests.benchmarks import ours
from tests.benchmarks.bench import STUDY, Place
from tests.benchmarks.crowd import Crowd
from tuner.v1 import study_service_pb2 as pb
from tuner.v1.study_service_pb2_grpc import StudyServiceStub

_CALL_SECONDS = 60.0
_PAUSE_SECONDS = 0.005
_OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reports:
    """How long reports took, in milliseconds."""

    count: int
    median: float
    p99: float
    longest: float


class Reporter:
    """A worker that reports again and again until it is told to end."""

    def __init__(self, address: str, study: str) -> None:
        self._channel = grpc.insecure_channel(address)
        self._stub = StudyServiceStub(self._channel)
        asked = pb.SuggestTrialsRequest(parent=f"studies/{study}", worker_id="reporter")
        self._trial = self._stub.SuggestTrials(asked, timeout=_CALL_SECONDS).trials[0]
        self._step = 0
        self._end = threading.Event()
        self._laps: list[float] = []

    def run(self) -> None:
        """Reports, with a short pause after each."""
        while not self._end.wait(_PAUSE_SECONDS):
            self._step += 1
            request = pb.ReportTrialRequest(
                name=self._trial.name, lease_token=self._trial.lease.token
            )
            request.measurement.step = self._step
            request.measurement.metrics["score"] = -10.0
            begun = time.perf_counter()
            self._stub.ReportTrial(request, timeout=_CALL_SECONDS)
            self._laps.append(1000 * (time.perf_counter() - begun))

    def end(self) -> None:
        """Tells it to end."""
        self._end.set()

    @property
    def reports(self) -> Reports:
        """What it has seen."""
        laps = sorted(self._laps)
        return Reports(
            count=len(laps),
            median=round(laps[len(laps) // 2], 2),
            p99=round(laps[int(0.99 * len(laps))], 2),
            longest=round(laps[-1], 2),
        )


def reporting(address: str, meanwhile: Callable[[], object]) -> dict[str, Reports]:
    """How late reports were while something else was done."""
    reporters = {name: Reporter(address, study) for name, study in _STUDIES.items()}
    threads = [threading.Thread(target=reporter.run) for reporter in reporters.values()]
    for thread in threads:
        thread.start()
    try:
        meanwhile()
    finally:
        for reporter in reporters.values():
            reporter.end()
        for thread in threads:
            thread.join(_CALL_SECONDS)
    return {name: reporter.reports for name, reporter in reporters.items()}


_STUDIES = {"the same study": STUDY, "another study": _OTHER}


def main() -> int:
    """Measures, and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--algorithm", default="gp")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(url="", folder=Path(folder), algorithm=asked.algorithm, history=asked.trials)
        with ours.running(place) as (address, _):
            ours.study(address, STUDY, asked.algorithm, asked.trials)
            ours.study(address, _OTHER, "random", asked.trials)
            with Crowd(ours.Pairs(address, STUDY), asked.clients) as crowd:
                done = crowd.run(asked.seconds)
                busy = reporting(address, lambda: crowd.run(asked.seconds))
            rest = reporting(address, lambda: time.sleep(asked.seconds / 2))
    print(f"{done.rate:.1f} pairs/s, p99 {done.quantile(0, 0.99):.0f} ms", file=sys.stderr)
    for what, reports in (("fitting", busy), ("at rest", rest)):
        for name, seen in reports.items():
            print(f"{what}, reports to {name}: {seen}", file=sys.stderr)
    if asked.json:
        found = {
            "pairs_per_second": round(done.rate, 2),
            "fitting": {name: asdict(seen) for name, seen in busy.items()},
            "at_rest": {name: asdict(seen) for name, seen in rest.items()},
        }
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
