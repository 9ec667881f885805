"""A process that has imported TensorFlow, and becomes replicas by forking.

    python -m tuner.serving.zygote

It reads lines of JSON, `{"directory": ..., "socket": ..., "threads": "1", "host": ""}`, and forks
a replica for each; `{"kill": SOCKET}` ends one at once. On standard output it says
`{"ready": true}` once, its replicas what `replica` says, and `{"exited": SOCKET, "code": N}` when
one has ended. It ends with its standard input, and its replicas end with it.

Importing TensorFlow takes seconds, and its memory is shared. To fork is safe as long as
TensorFlow has run nothing and started no threads: so this process never calls it.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from functools import partial

from tuner import keeper
from tuner.serving import replica

_WAKE_SECONDS = 0.2


def main() -> int:
    """Runs until the end of standard input."""
    if threading.active_count() > 1:
        print(json.dumps({"error": "threads run, so forking is not safe"}), flush=True)
        return 2
    print(json.dumps({"ready": True}), flush=True)
    replicas: dict[int, str] = {}
    unread = b""
    while True:
        readable, _, _ = select.select([0], [], [], _WAKE_SECONDS)
        _reap(replicas)
        if not readable:
            continue
        received = os.read(0, 65536)
        if not received:
            break
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            asked = json.loads(line)
            if "kill" in asked:
                _kill(replicas, asked["kill"])
                continue
            replicas[keeper.fork(partial(_replicate, asked))] = asked["socket"]
    for pid in replicas:
        os.kill(pid, signal.SIGTERM)
    return 0


def _replicate(asked: dict[str, str]) -> int:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    named = ["--threads", asked["threads"], "--host", asked["host"]]
    return replica.main([asked["directory"], asked["socket"], *named])


def _kill(replicas: dict[int, str], socket: str) -> None:
    for pid, known in replicas.items():
        if known == socket:
            os.kill(pid, signal.SIGKILL)


def _reap(replicas: dict[int, str]) -> None:
    while replicas:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"exited": replicas.pop(pid, ""), "code": code}), flush=True)


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    # Python would take TensorFlow apart first, for seconds on a busy machine.
    os._exit(code)
