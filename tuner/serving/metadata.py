"""What a model takes and gives, as TensorFlow Serving tells it."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf import json_format
from tensorflow.core.protobuf import meta_graph_pb2


def to_json(meta_graph: meta_graph_pb2.MetaGraphDef) -> bytes:
    """The `metadata` of the answer to GET .../metadata, as TensorFlow Serving writes it."""
    signatures: dict[str, Any] = {
        name: json_format.MessageToDict(
            definition,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, definition in sorted(meta_graph.signature_def.items())
    }
    return json.dumps({"signature_def": {"signature_def": signatures}}, indent=1).encode()
