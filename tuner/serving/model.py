"""A loaded model version."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2

from tuner.errors import DataError, InvalidArgumentError, first_line
from tuner.serving.signature import DTYPES, Signature, Tensor
from tuner.serving.wire import RefusedError
from tuner_trainers.layout import IMPORTED, METADATA

Array = npt.NDArray[Any]

DEFAULT = "serving_default"
#: Signatures that TensorFlow keeps for itself.
_INTERNAL = "__saved_model_"


class Model:
    """A SavedModel, ready to be called. Its methods may be called by several threads.

    It runs in a session, as in TensorFlow Serving: a call costs a twentieth of what calling the
    signature from Python does.

    Args:
        directory: The SavedModel.
        threads: How many threads an operation may use.

    Raises:
        DataError: there is no model that can be loaded.
    """

    def __init__(self, directory: Path, *, threads: int = 1) -> None:
        self._graph = tf.Graph()
        config = config_pb2.ConfigProto(
            intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1
        )
        with self._graph.as_default():
            self._session = tf.compat.v1.Session(graph=self._graph, config=config)
            try:
                self.meta_graph = tf.compat.v1.saved_model.load(
                    self._session, [tf.saved_model.SERVING], str(directory)
                )
            except (OSError, RuntimeError, ValueError, tf.errors.OpError) as error:
                raise DataError(f"{directory} cannot be loaded: {first_line(error)}.") from error
        #: What tuner wrote of it; empty for others.
        self.about = read_metadata(directory)
        # Of what was imported nobody knows what a missing value would mean to it.
        takes_missing = bool(self.about) and self.about.get("kind") != IMPORTED
        self.signatures: dict[str, Signature] = {
            name: _signature(name, definition, takes_missing)
            for name, definition in self.meta_graph.signature_def.items()
            if not name.startswith(_INTERNAL)
        }
        self._calls: dict[str, Callable[..., list[Any]]] = {}

    def signature(self, name: str) -> Signature:
        """The signature of a name, empty for the default; raises InvalidArgumentError."""
        known = self.signatures.get(name or DEFAULT)
        if known is None:
            raise InvalidArgumentError(
                f'Serving signature name: "{name or DEFAULT}" not found in signature def'
            )
        return known

    def run(self, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Calls the model.

        Raises:
            InvalidArgumentError: the inputs do not fit, or the model does not take their values.
            RefusedError: TensorFlow's own error, under its code.
        """
        call = self._calls.get(signature.name)
        if call is None:
            call = self._calls[signature.name] = self._callable(signature)
        try:
            found = call(*(inputs[name] for name in signature.inputs))
        except tf.errors.OpError as error:
            raise RefusedError(error.error_code, _first_line(error)) from error
        except (ValueError, TypeError) as error:
            raise InvalidArgumentError(_first_line(error)) from error
        return dict(zip(signature.outputs, found, strict=True))

    def close(self) -> None:
        """Frees what it holds."""
        self._session.close()

    def _callable(self, signature: Signature) -> Callable[..., list[Any]]:
        definition = self.meta_graph.signature_def[signature.name]
        options = config_pb2.CallableOptions()
        options.feed.extend(definition.inputs[name].name for name in signature.inputs)
        options.fetch.extend(definition.outputs[name].name for name in signature.outputs)
        # In the caller's own thread: handing small operations over costs more than they do.
        options.run_options.inter_op_thread_pool = -1
        # Session.make_callable is public, and takes ten times as long for each call.
        call: Callable[..., list[Any]] = self._session._make_callable_from_options(options)
        return call


def _signature(
    name: str, definition: meta_graph_pb2.SignatureDef, takes_missing: bool
) -> Signature:
    return Signature(
        name=name,
        inputs=_tensors(definition.inputs),
        outputs=_tensors(definition.outputs),
        method=definition.method_name,
        takes_missing=takes_missing,
    )


def _tensors(infos: Mapping[str, meta_graph_pb2.TensorInfo]) -> dict[str, Tensor]:
    return {
        name: Tensor(
            name=name,
            dtype=types_pb2.DataType.Name(info.dtype),
            shape=None
            if info.tensor_shape.unknown_rank
            else tuple(None if d.size < 0 else d.size for d in info.tensor_shape.dim),
        )
        for name, info in sorted(infos.items())
    }


def _first_line(error: Exception) -> str:
    message = error.message if isinstance(error, tf.errors.OpError) else str(error)
    return (str(message).strip().splitlines() or [type(error).__name__])[0]


def zeros(signature: Signature) -> dict[str, Array] | None:
    """A row of nothing, to warm a signature up with; None if there is none."""
    if not signature.is_batched or not all(t.dtype in DTYPES for t in signature.inputs.values()):
        return None
    made: dict[str, Array] = {}
    for name, tensor in signature.inputs.items():
        shape = (1, *(1 if size is None else size for size in (tensor.shape or ())[1:]))
        if tensor.dtype == "DT_STRING":
            made[name] = np.full(shape, b"", np.object_)
        else:
            made[name] = np.zeros(shape, DTYPES[tensor.dtype][1])
    return made


def read_metadata(directory: Path) -> dict[str, Any]:
    """What tuner's own models say of themselves; empty for others."""
    try:
        found: dict[str, Any] = json.loads((directory / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
