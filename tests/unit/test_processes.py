"""Child processes: ready, refused, restarted, stopped, and never orphaned, with real processes."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tuner.processes import (
    Child,
    Command,
    ProcessError,
    RefusedError,
    RestartPolicy,
    Supervisor,
    python,
)

pytestmark = pytest.mark.timeout(60)

READY = "import json, os, time; print(json.dumps({'pid': os.getpid()}), flush=True)\n"
#: A daemon that left its parent's session, as PostgreSQL's server does.
DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open({path!r}, 'w').write(str(os.getpid()))
        time.sleep(600)
    os._exit(0)
os.wait()
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Command]:
    def make(code: str, grace_seconds: float = 5.0) -> Command:
        return Command(
            name="child",
            args=python("-c", textwrap.dedent(code)),
            log=tmp_path / "logs" / "child.log",
            grace_seconds=grace_seconds,
        )

    return make


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_child_says_that_it_is_ready_and_stops_when_asked(
    command: Callable[..., Command],
) -> None:
    child = Child(command(READY + "time.sleep(600)"))
    child.start()
    said = child.wait_ready(time.monotonic() + 20)
    assert alive(said["pid"])
    assert child.exit_code() is None
    child.stop()
    assert not alive(said["pid"])


def test_what_a_child_refuses_is_told_in_its_own_words(command: Callable[..., Command]) -> None:
    child = Child(command('print(\'{"error": {"message": "port 1 is taken."}}\'); exit(2)'))
    child.start()
    with pytest.raises(RefusedError, match=r"^port 1 is taken\.$"):
        child.wait_ready(time.monotonic() + 20)
    child.stop()


def test_a_crash_while_starting_names_the_log_and_the_log_has_the_cause(
    command: Callable[..., Command],
) -> None:
    child = Child(command("raise ValueError('broken')"))
    child.start()
    with pytest.raises(ProcessError, match=r"stopped while it was starting; see .*child\.log"):
        child.wait_ready(time.monotonic() + 20)
    child.stop()
    assert "ValueError: broken" in child.command.log.read_text()


def test_a_child_that_answers_nothing_is_given_up_in_time(command: Callable[..., Command]) -> None:
    child = Child(command("import time; time.sleep(600)"))
    child.start()
    with pytest.raises(ProcessError, match="did not answer in time"):
        child.wait_ready(time.monotonic() + 0.2)
    child.stop()


def test_a_child_that_ignores_sigterm_is_killed_after_its_grace(
    command: Callable[..., Command],
) -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    child = Child(command(deaf + READY + "time.sleep(600)", grace_seconds=0.3))
    child.start()
    pid = child.wait_ready(time.monotonic() + 20)["pid"]
    child.stop()
    assert not alive(pid)


def test_a_daemon_of_a_killed_child_ends_too(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    path = tmp_path / "daemon"
    child = Child(
        command("import os, time\n" + DAEMON.format(path=str(path)) + READY + "time.sleep(600)")
    )
    child.start()
    pid = child.wait_ready(time.monotonic() + 20)["pid"]
    until(lambda: path.exists() and path.read_text())
    daemon = int(path.read_text())
    assert alive(daemon)
    os.kill(pid, signal.SIGKILL)
    until(lambda: child.exit_code() is not None)
    assert child.exit_code() == 128 + signal.SIGKILL
    assert not alive(daemon)
    child.stop()


PARENT = """
import sys, time
from pathlib import Path
from tuner.processes import Child, Command, python
child = Child(Command(name="child", args=python("-c", sys.argv[1]), log=Path(sys.argv[2])))
child.start()
print(child.keeper_pid, child.wait_ready(time.monotonic() + 20)["pid"], flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_outlives_a_killed_parent(number: signal.Signals, tmp_path: Path) -> None:
    path = tmp_path / "daemon"
    code = "import os, time\n" + DAEMON.format(path=str(path)) + READY + "time.sleep(600)"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, code, str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    with parent.stdout:
        keeper, child = map(int, parent.stdout.readline().split())
    until(lambda: path.exists() and path.read_text())
    daemon = int(path.read_text())
    assert alive(keeper) and alive(child) and alive(daemon)
    parent.send_signal(number)
    parent.wait(20)
    until(lambda: not (alive(keeper) or alive(child) or alive(daemon)))


def test_a_crashed_child_is_started_again(command: Callable[..., Command]) -> None:
    events: list[str] = []
    policy = RestartPolicy(first_delay_seconds=0.05)
    with Supervisor(policy=policy, on_event=events.append) as supervisor:
        (said,) = supervisor.start([command(READY + "time.sleep(600)")])
        os.kill(said["pid"], signal.SIGKILL)
        (child,) = supervisor._children()
        first = child.keeper_pid

        def restarted() -> bool:
            supervisor.check()
            return child.keeper_pid not in (0, first)

        until(restarted)
        again = child.wait_ready(time.monotonic() + 20)["pid"]
        assert again != said["pid"] and alive(again)
    assert not alive(again)
    assert events == ["the child stopped (signal 9); starting it again in 0.05 s"]


def test_a_child_that_keeps_crashing_is_given_up(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    once = tmp_path / "once"
    code = f"""
    import os, json
    if os.path.exists({str(once)!r}):
        print(json.dumps({{"error": "no luck"}}))
        exit(2)
    open({str(once)!r}, "w").close()
    print("{{}}", flush=True)
    """
    policy = RestartPolicy(first_delay_seconds=0.01, quick_deaths=3)
    with Supervisor(policy=policy, on_event=lambda text: None) as supervisor:
        supervisor.start([command(code)])
        with pytest.raises(
            ProcessError, match="stopped 3 times in a row, the last time with no luck"
        ):
            until(supervisor.check)


def test_a_lock_is_held_until_the_last_process_has_ended(
    command: Callable[..., Command], tmp_path: Path
) -> None:
    path = tmp_path / "lock"
    lock = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    child = Child(command(READY + "time.sleep(600)"), keep_open=[lock])
    child.start()
    child.wait_ready(time.monotonic() + 20)
    os.close(lock)
    with path.open() as other:
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.stop()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_a_ready_child_says_is_an_object(command: Callable[..., Command]) -> None:
    child = Child(command(f"print({json.dumps('ready')!r})"))
    child.start()
    with pytest.raises(ProcessError, match="one line of JSON was expected"):
        child.wait_ready(time.monotonic() + 20)
    child.stop()


def test_one_that_refuses_is_heard_while_others_still_start(
    command: Callable[..., Command],
) -> None:
    slow = command("import time; time.sleep(600)")
    refusing = command('print(\'{"error": "no"}\'); exit(2)')
    with Supervisor(start_seconds=60) as supervisor:
        with pytest.raises(RefusedError, match=r"^no$"):
            supervisor.start([slow], [refusing])


def test_batches_stop_last_first(command: Callable[..., Command], tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = """
    import os, signal, sys, time
    def stop(*_):
        time.sleep({pause})
        open({path!r}, "a").write({name!r} + "\\n")
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    print("{{}}", flush=True)
    time.sleep(600)
    """

    def each(name: str, pause: float) -> Command:
        return command(code.format(name=name, pause=pause, path=str(order)))

    with Supervisor() as supervisor:
        supervisor.start([each("first", 0)], [each("second", 0.3), each("third", 0)])
    assert order.read_text().split() == ["third", "second", "first"]


KEEP = """
import sys
from tuner.processes import keep
sys.exit(keep([sys.executable, "-c", sys.argv[1]], {"WORD": "hello"}))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 7)]
)
def test_a_kept_program_runs_in_the_foreground_and_ends_with_it(
    number: signal.Signals, code: int
) -> None:
    program = """
import os, signal, sys, time
from tuner.processes import is_kept
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(os.environ["WORD"], is_kept(os.environ), os.getpid(), flush=True)
time.sleep(600)
"""
    outer = subprocess.Popen([sys.executable, "-c", KEEP, program], stdout=subprocess.PIPE)
    assert outer.stdout is not None
    with outer.stdout:
        word, kept, pid = outer.stdout.readline().split()
    assert (word, kept) == (b"hello", b"True")
    outer.send_signal(number)
    assert outer.wait(20) == code
    until(lambda: not alive(int(pid)))
