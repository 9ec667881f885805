"""Small studies for runners; the trials of some wait in the middle until a test lets them go on.

What a test does to a trial in the middle it does there, however quick or slow the machine is; and
a few epochs are enough.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from tuner import code, study_file
from tuner.client import Client, Study, Trial
from tuner.study import TrialState

STUDY = """
study: {name}
metric: {{name: val_loss, goal: minimize}}
data: {{train: {data}, validation: 0.25, label: bought}}
trainer: tabular
features:
  age: {{kind: numeric, buckets: {{int: [2, 8]}}}}
  city: {{kind: categorical, vocabulary: {{int: [2, 4]}}}}
parameters: {{layers: 1, units: {{int: [4, 16]}}}}
search: {{algorithm: random, seed: 1, early_stopping: none}}
limits: {{trials: {trials}, parallel: {parallel}}}
training: {{epochs: {epochs}, batch_size: 32}}
resources: {{workers: {workers}}}
"""

_PARAMETERS = "parameters: {layers: 1, units: {int: [4, 16]}}\n"

#: Of trials that wait in the second one.
EPOCHS = 4

_MODULE = """
import pathlib
import time

import keras


def build(trial, inputs):
    @trial.after_epoch
    def wait(epoch, network):
        while epoch == 2 and not pathlib.Path({gate!r}).exists():
            time.sleep(0.02)

    return keras.layers.Dense(8, activation="relu")(inputs)
"""


def write_rows(path: Path, rows: int = 200) -> None:
    """Writes people of whom the old ones and those from Ulm buy."""
    draw = random.Random(5)
    lines = ["age,city,bought"]
    for _ in range(rows):
        age, city = draw.randint(18, 80), draw.choice(["Ulm", "Bonn", "Kiel"])
        lines.append(f"{age},{city},{'yes' if age > 55 or city == 'Ulm' else 'no'}")
    path.write_text("\n".join(lines) + "\n")


class Gated:
    """A study, and the gate at which its trials wait in their second epoch; the first is kept.

    Args:
        folder: where its file and its data lie.
        artifacts: those of the runners, for the trainer's code.
        changes: of the study's file, by the names in `STUDY`.
    """

    def __init__(
        self, client: Client, folder: Path, artifacts: Path, name: str, **changes: object
    ) -> None:
        self._gate = folder / f"{name}.gate"
        values = {"trials": 1, "parallel": 1, "epochs": EPOCHS, "workers": 2, "data": "rows.csv"}
        text = STUDY.format(name=name, **(values | changes))
        text = text.replace("trainer: tabular", "trainer: gated:build")
        path = folder / f"{name}.yaml"
        path.write_text(text.replace(_PARAMETERS, ""))
        (folder / "gated.py").write_text(_MODULE.format(gate=str(self._gate)))
        write_rows(folder / "rows.csv")
        study_id, spec = study_file.load(path)
        self.study: Study = client.create(study_id or name, code.ship(spec, artifacts))

    def wait(self, count: int = 1, seconds: float = 200.0) -> list[Trial]:
        """Waits until so many trials are in their second epoch; returns them."""
        deadline = time.monotonic() + seconds
        while True:
            running = [*self.study.trials(states=[TrialState.RUNNING])]
            found = [trial for trial in running if trial.record.checkpoint]
            if len(found) >= count:
                return found
            record = self.study.refresh()
            assert time.monotonic() < deadline and not record.state.is_finished, record
            time.sleep(0.05)

    def open(self) -> None:
        """Lets all trials go on, those to come as well."""
        self._gate.touch()
