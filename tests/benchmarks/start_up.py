"""From a trial's assignment to its first step: a warm gang beside Ray Train.

Both train the same trial of the tabular trainer on the same Ray, in as many processes. Ray Train
starts its workers anew for every trial; what can be warm for it (files, Ray's own processes) is.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.benchmarks.report import Report
from tuner.runner import environment


def measure(folder: Path, quick: bool) -> Report:
    """Measures both, with one worker and with two."""
    environment.prepare(os.environ, own_cluster=True)
    from tests.benchmarks import start_up_trials  # imports Ray, which reads the environment then

    return start_up_trials.measure(folder, quick)
