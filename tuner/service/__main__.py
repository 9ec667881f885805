"""`python -m tuner.service`: the study server with settings from the environment."""

from __future__ import annotations

import json
import logging
import os
import sys

from tuner.config import Settings
from tuner.errors import TunerError
from tuner.service.server import StudyServer, serve


def main() -> int:
    """Says on standard output, as one line of JSON, that it is ready or why it refuses."""
    try:
        settings = Settings.read()
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        serve(settings, on_ready=_say_ready)
    except TunerError as error:
        print(
            json.dumps({"error": {"reason": error.reason, "message": error.message}}), flush=True
        )
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    return 0


def _say_ready(server: StudyServer) -> None:
    print(json.dumps({"address": server.address, "pid": os.getpid()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
