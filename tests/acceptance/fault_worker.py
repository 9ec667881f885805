"""A worker of the fault test: works on a study, and writes down what the server acknowledged.

python -m tests.acceptance.fault_worker ADDRESSES STUDY LEDGER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from tuner.client import Client

STEPS = 4
STEP_SECONDS = 0.04


def main(address: str, study: str, ledger: Path) -> None:
    """Works until the study has ended; a line is written after the server's answer."""
    with ledger.open("a", encoding="utf-8", buffering=1) as book, Client(address) as client:

        def note(**what: Any) -> None:
            book.write(json.dumps(what) + "\n")

        for trial in client.get_study(study):
            name = {"trial": trial.number, "attempt": trial.attempt}
            note(leased=name)
            with trial as parameters:
                for step in range(STEPS):
                    time.sleep(STEP_SECONDS)
                    value = float(parameters["x"]) + step + trial.attempt / 1000
                    if not trial.report(value, step=step):
                        break
                    note(reported=name, step=step, value=value)
                else:
                    trial.complete(value)
                    if not trial.lost:
                        note(completed=name, value=value)
    note_end = ledger.with_suffix(".end")
    note_end.touch()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
