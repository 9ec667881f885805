"""Publishes a SavedModel, and says `renamed` and waits before it tells the server: to be killed.

python -m tests.integration.dying_publisher ADDRESS SAVED_MODEL ROOT
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path

from tuner.client import Client, Models
from tuner.model import Lineage, ModelVersion, Published
from tuner.registry import ModelRoot, Registry, Source


class Waiting(Models):
    """The registry, whose last word is never said."""

    def finish(self, begun: ModelVersion, outcome: Published | str) -> ModelVersion:
        """Waits to be killed."""
        assert isinstance(outcome, Published), outcome
        print("renamed", flush=True)
        time.sleep(300)
        return super().finish(begun, outcome)


def main(address: str, saved_model: str, root: str) -> None:
    """Publishes."""
    with Client(address) as client:
        models = Waiting(client._connection)
        publishing = Registry(models, ModelRoot(root), ttl=timedelta(seconds=1))
        source = Source.of_saved_model(Path(saved_model))
        publishing.publish("small", Lineage(source=saved_model), source)


if __name__ == "__main__":
    main(*sys.argv[1:])
