"""A script that works on a study in the way of the README: plain Keras, and no Ray.

python -m tests.acceptance.script_worker LEDGER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import tuner
from tuner.client import Client, Study
from tuner.space import Domain

TRIALS, EPOCHS = 8, 3
#: So long that somebody can be killed in the middle of a trial.
EPOCH_SECONDS = 0.4


def create(client: Client) -> Study:
    """The study; whoever comes second gets that of the first."""
    space: dict[str, Domain] = {
        "units": tuner.Int(4, 16, log=True),
        "rate": tuner.Float(1e-3, 1e-1, log=True),
    }
    return client.create_study("mine", space, maximize="val_auc", trials=TRIALS)


def build(units: Any, rate: Any) -> Any:
    """A network: float32 [batch, 4] to float32 [batch, 1]."""
    import keras

    model = keras.Sequential([keras.layers.Dense(units, "relu"), keras.layers.Dense(1, "sigmoid")])
    auc = keras.metrics.AUC(name="auc")
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=[auc])
    return model


def rows(count: int, seed: int) -> tuple[Any, Any]:
    """Inputs, float32 [count, 4], and whether their sum is positive, float32 [count]."""
    import numpy as np

    x = np.random.default_rng(seed).normal(size=(count, 4)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("float32")


def main(ledger: Path) -> None:
    """Works until the study has ended, and writes down what it was leased."""
    import keras  # only here: the test imports the module, too

    (x, y), val = rows(256, seed=1), rows(128, seed=2)
    slow = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: time.sleep(EPOCH_SECONDS))
    with ledger.open("a", encoding="utf-8", buffering=1) as book:

        def note(**what: Any) -> None:
            book.write(json.dumps(what) + "\n")

        note(ready=True)
        study = create(tuner.connect())
        for trial in study:
            note(leased=[trial.number, trial.attempt])
            with trial as p:
                model = build(units=p["units"], rate=p["rate"])
                callbacks = [trial.keras_callback(), slow]
                model.fit(x, y, validation_data=val, epochs=EPOCHS, verbose=0, callbacks=callbacks)
        note(ended=True, ray="ray" in sys.modules)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
