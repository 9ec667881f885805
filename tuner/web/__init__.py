"""The web pages: a gRPC client of the study server, like a user's script."""

from __future__ import annotations

from tuner.web.app import create_app
from tuner.web.serving import serve

__all__ = ["create_app", "serve"]
