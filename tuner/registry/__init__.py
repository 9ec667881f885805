"""Publishes trials as immutable model versions, each only after it replayed its golden rows."""

from tuner.registry.publishing import export_to, publish

__all__ = ["export_to", "publish"]
