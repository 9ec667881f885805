"""A process that fits models: `python -m tuner.fits.worker`, its connection as standard input."""

from __future__ import annotations

import os
import queue
import socket
import sys
import threading
import traceback

from tuner.engine.gp import Array
from tuner.engine.gp.propose import propose
from tuner.fits import wire


def main() -> None:
    """Solves one problem after the other, until the connection is cut."""
    line = wire.Line(socket.socket(fileno=os.dup(0)))
    problems: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, problems), daemon=True).start()
    answers = wire.Line(socket.socket(fileno=os.dup(0)))
    answers.send(wire.READY)
    while True:
        answers.send(wire.answer_to_bytes(solved(problems.get())))


def _listen(line: wire.Line, problems: queue.SimpleQueue[bytes]) -> None:
    """Passes problems on; ends the process once the server is gone, in the middle of a fit too."""
    try:
        while True:
            problems.put(line.receive())
    except (EOFError, OSError):
        os._exit(0)


def solved(message: bytes) -> Array | str:
    """The answer to a problem, or what went wrong."""
    try:
        return propose(wire.problem_from_bytes(message))
    except Exception as error:
        # The border of the process: the server takes another search, and says so.
        traceback.print_exc(file=sys.stderr)
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
