"""`python -m tuner.service`: the study server with settings from the environment."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from tuner import logs
from tuner.config import Settings
from tuner.errors import TunerError
from tuner.service import access
from tuner.service.server import serve


def main() -> int:
    """Says on standard output, as one line of JSON, that it is ready or why it refuses."""
    try:
        settings = Settings.read()
        logs.configure(settings, access.context)
        serve(settings, ready=_say)
    except TunerError as error:
        _say({"error": {"reason": error.reason, "message": error.message}})
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    return 0


def _say(what: Mapping[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main())
