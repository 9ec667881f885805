"""Processes that trials leave behind, and those of a worker that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

from tuner.runner.isolation import Isolation


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, or will be in a moment."""
    for _ in range(200):
        if not os.path.exists(f"/proc/{pid}"):
            return True
        time.sleep(0.05)
    return False


def test_processes_that_a_trial_leaves_are_ended_with_their_own() -> None:
    earlier = subprocess.Popen(["sleep", "60"])
    with Isolation() as isolation:
        script = ["sh", "-c", "sleep 60 & echo $!; wait"]
        left = subprocess.Popen(script, stdout=subprocess.PIPE, text=True)
        assert left.stdout is not None
        below = int(left.stdout.readline())
    left.stdout.close()
    assert not isolation.leftovers
    assert _is_gone(left.pid) and _is_gone(below)
    assert earlier.poll() is None, "it is not the trial's"
    earlier.kill()
    earlier.wait()
    left.wait()


def test_a_fork_ends_with_its_killed_worker() -> None:
    """It holds the worker's sockets: Ray would not notice that the worker is gone."""
    script = (
        "import os, time; from tuner.runner import offspring; offspring.bind()\n"
        "pid = os.fork()\n"
        "if pid: print(pid, flush=True)\n"
        "time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    fork = int(worker.stdout.readline())
    time.sleep(0.1)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    assert _is_gone(fork)
