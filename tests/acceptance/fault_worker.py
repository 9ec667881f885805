"""A worker of the fault test: works on a study, and writes down what the server acknowledged.

python -m tests.acceptance.fault_worker ADDRESSES STUDY LEDGER loop|optimize
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuner.client import Client, RunningTrial

STEPS = 4
STEP_SECONDS = 0.04


def main(address: str, study: str, ledger: Path, how: str) -> None:
    """Works until the study has ended; a line is written after the server's answer."""
    with ledger.open("a", encoding="utf-8", buffering=1) as book, Client(address) as client:

        def note(**what: Any) -> None:
            book.write(json.dumps(what) + "\n")

        def run(trial: RunningTrial, parameters: Mapping[str, Any]) -> float | None:
            """The result; None if it was stopped."""
            name = {"trial": trial.number, "attempt": trial.attempt}
            note(leased=name)
            value = 0.0
            for step in range(STEPS):
                time.sleep(STEP_SECONDS)
                value = float(parameters["x"]) + step + trial.attempt / 1000
                if not trial.report(value, step=step):
                    return None
                note(reported=name, step=step, value=value)
            return value

        def completed(trial: RunningTrial, value: float | None) -> None:
            if value is not None and not trial.lost:
                note(completed={"trial": trial.number, "attempt": trial.attempt}, value=value)

        if how == "optimize":
            ended: list[tuple[RunningTrial, float | None]] = []

            def objective(trial: RunningTrial) -> float | None:
                # That the next one comes says that the one before was taken.
                for earlier in ended:
                    completed(*earlier)
                ended[:] = [(trial, run(trial, trial.parameters))]
                return ended[0][1]

            client.get_study(study).optimize(objective)
        else:
            for trial in client.get_study(study):
                with trial as parameters:
                    value = run(trial, parameters)
                    if value is not None:
                        trial.complete(value)
                completed(trial, value)
    note_end = ledger.with_suffix(".end")
    note_end.touch()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
