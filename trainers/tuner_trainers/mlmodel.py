"""The file `MLmodel`, by which MLflow loads a version as a TensorFlow model and as a function.

See https://mlflow.org/docs/latest/ml/model/ for its fields. MLflow calls the signature of a
SavedModel for flavors of the type `tf1-estimator`, whatever TensorFlow wrote it.
"""

from __future__ import annotations

import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from tuner_trainers.layout import MLMODEL, REQUIREMENTS, SIGNATURE

#: Types of columns by TensorFlow's.
_COLUMNS: Mapping[str, str] = {
    "DT_DOUBLE": "double",
    "DT_FLOAT": "float",
    "DT_INT64": "long",
    "DT_INT32": "integer",
    "DT_STRING": "string",
    "DT_BOOL": "boolean",
}
#: What a version needs to be loaded.
_PACKAGES = ("tensorflow", "keras", "numpy")


def write(directory: Path, metadata: Mapping[str, Any]) -> None:
    """Writes `MLmodel` and `requirements.txt`.

    Args:
        directory: the version.
        metadata: what its metadata.json says.
    """
    made = datetime.fromisoformat(metadata["create_time"])
    document = {
        "artifact_path": metadata["model"] or "model",
        "flavors": {
            "python_function": {
                "loader_module": "mlflow.tensorflow",
                "python_version": platform.python_version(),
            },
            "tensorflow": {
                "code": None,
                "meta_graph_tags": ["serve"],
                "model_type": "tf1-estimator",
                "saved_model_dir": ".",
                "signature_def_key": SIGNATURE,
            },
        },
        "metadata": {
            name: metadata[name] for name in ("study", "trial", "source") if name in metadata
        },
        "model_uuid": uuid.uuid4().hex,
        "utc_time_created": made.strftime("%Y-%m-%d %H:%M:%S.%f"),
    }
    inputs = _inputs(metadata["inputs"])
    if inputs:
        document["signature"] = {"inputs": json.dumps(inputs), "outputs": None, "params": None}
    text = yaml.safe_dump(document, sort_keys=True, allow_unicode=True)
    (directory / MLMODEL).write_text(text, encoding="utf-8")
    exported = metadata["versions"]["exported"]
    lines = [f"{name}=={exported[name]}" for name in _PACKAGES if name in exported]
    (directory / REQUIREMENTS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _inputs(inputs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The inputs as columns; nothing if one of them is none."""
    if any(i.get("shape", [None]) != [None] or i["dtype"] not in _COLUMNS for i in inputs):
        return []
    # MLflow passes columns on as Python arguments.
    return [{"type": _type(i), "name": i["argument"], "required": True} for i in inputs]


def _type(column: Mapping[str, Any]) -> str:
    return "binary" if column.get("kind") == "bytes" else _COLUMNS[column["dtype"]]
