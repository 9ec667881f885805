"""Stands in for the package cloudml-hypertune, which is not installed: it writes the same file.

That is the last 100 records, each a line of JSON with sorted keys and its values as text, in a
file that is emptied and written anew for every record.
"""

from __future__ import annotations

import collections
import json
import os
import time


class HyperTune:
    """Reports metrics."""

    def __init__(self) -> None:
        self.path = os.environ["CLOUD_ML_HP_METRIC_FILE"]
        self.records: collections.deque[dict[str, object]] = collections.deque(maxlen=100)

    def report_hyperparameter_tuning_metric(
        self,
        hyperparameter_metric_tag: str,
        metric_value: float,
        global_step: int | None = None,
        checkpoint_path: str = "",
    ) -> None:
        self.records.append(
            {
                "timestamp": time.time(),
                "trial": os.environ["CLOUD_ML_TRIAL_ID"],
                hyperparameter_metric_tag: str(float(metric_value)),
                "global_step": str(int(global_step) if global_step else 0),
                "checkpoint_path": checkpoint_path,
            }
        )
        with open(self.path, "w") as file:
            for record in self.records:
                file.write(json.dumps(record, sort_keys=True) + "\n")
