"""Publishes trials as immutable model versions, each only after it replayed its golden rows."""

from tuner.registry.publishing import Registry, Source, copy_to, export_to, fetch
from tuner.registry.root import ModelRoot

__all__ = ["ModelRoot", "Registry", "Source", "copy_to", "export_to", "fetch"]
