"""The directory of a model version: what lies where. TensorFlow Serving serves it as it stands.

saved_model.pb  variables/  assets/   what TensorFlow reads
MLmodel  requirements.txt             what MLflow reads
assets.extra/
    tf_serving_warmup_requests        what TensorFlow Serving predicts before it serves
    tuner/
        metadata.json                 where it comes from, its inputs and outputs
        card.md                       the same for people, with an example request
        schema.json                   what each input may hold
        statistics.json               the statistics of the training data
        golden.jsonl                  raw rows with their predictions
        model.keras                   the model as Keras saves it
        SHA256SUMS                    checksums of every file
"""

from __future__ import annotations

from pathlib import Path

FORMAT_VERSION = 1
SIGNATURE = "serving_default"

SAVED_MODEL = Path("saved_model.pb")
MLMODEL = Path("MLmodel")
REQUIREMENTS = Path("requirements.txt")
WARMUP = Path("assets.extra/tf_serving_warmup_requests")
#: What is not TensorFlow's.
EXTRA = Path("assets.extra/tuner")
METADATA = EXTRA / "metadata.json"
CARD = EXTRA / "card.md"
SCHEMA = EXTRA / "schema.json"
STATISTICS = EXTRA / "statistics.json"
GOLDEN = EXTRA / "golden.jsonl"
KERAS = EXTRA / "model.keras"
SUMS = EXTRA / "SHA256SUMS"

#: What `metadata.json` calls a model that was not trained here.
IMPORTED = "imported"

#: The exit status of an exporter that wrote a model which does not pass its check.
UNVERIFIED = 3
