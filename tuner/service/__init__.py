"""The gRPC study server: leases, limits, events, and the one door to the database."""

from tuner.service.server import StudyServer, serve

__all__ = ["StudyServer", "serve"]
