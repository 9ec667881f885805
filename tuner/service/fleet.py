"""The study servers that share a database: this one's registration, and who owns which study."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from tuner.errors import NotFoundError, TunerError, UnavailableError
from tuner_storage import ServerEntry, Store
from tuner_storage.directory import replace_file

logger = logging.getLogger(__name__)

#: How long a server that says nothing counts as alive, and how often it says something. What a
#: dead server owned is taken over after the first, and the look for it, at the latest.
LEASE = timedelta(seconds=3)
BEAT_SECONDS = 1.0
#: How long another server is believed to own a study.
_BELIEVED_SECONDS = 1.0


class ElsewhereError(TunerError):
    """Another server owns the study; the call goes there. It never reaches a client."""

    code = "UNAVAILABLE"
    reason = "ELSEWHERE"

    def __init__(self, message: str, address: str = "", fleet: Fleet | None = None) -> None:
        super().__init__(message)
        self.address = address
        self._fleet = fleet

    def doubt(self) -> None:
        """That server does not answer, or owns the study no more: ask the database again."""
        if self._fleet is not None:
            self._fleet.doubt(self.address)


class Fleet:
    """This server among those that share its database. Thread-safe.

    Args:
        store: The shared database.
        data_dir: The data directory, which this process has to itself: who starts in it again is
            the same server, and need not wait until its predecessor counts as dead.
    """

    def __init__(self, store: Store, data_dir: Path) -> None:
        self.server = _identity(data_dir)
        self._store = store
        self._believed: dict[str, tuple[str, float]] = {}
        self._stop = threading.Event()
        self._beat_time = _now()
        self._lapsed = threading.Event()

    @contextmanager
    def joined(self, address: str) -> Iterator[None]:
        """Registers this server, at an address that the others reach, and keeps it registered.

        A server that could not for a while may have lost its studies: then its next write is
        refused, as every write names the epoch of its claim.
        """
        self._store.forget_servers()
        self._beat(address)
        thread = threading.Thread(target=self._run, args=(address,), name="fleet", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(10)
            try:
                self._store.leave_server(self.server)
            except TunerError as error:
                logger.warning("this server is not signed off: %s", error.message)

    def _run(self, address: str) -> None:
        away = False
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self._beat(address)
                away = False
            except TunerError as error:
                if not away:
                    logger.warning("the registration is not renewed: %s", error.message)
                away = True

    def _beat(self, address: str) -> None:
        begun = _now()
        self._store.enter_server(self.server, address, LEASE)
        if begun - self._beat_time > LEASE.total_seconds():
            self._lapsed.set()
        self._beat_time = begun

    @property
    def may_have_lost(self) -> bool:
        """Whether this server counted as dead for a while, and has not looked around since."""
        silent = _now() - self._beat_time > LEASE.total_seconds()
        return silent or self._lapsed.is_set()

    def list_owned(self) -> Mapping[int, int]:
        """The epochs of the studies that are this server's, by key."""
        self._lapsed.clear()
        try:
            return self._store.list_owned(self.server)
        except TunerError:
            self._lapsed.set()
            raise

    def claim(self, study_id: str) -> int:
        """Makes this server the owner of a study; returns the epoch to write with.

        Raises:
            NotFoundError: there is no such study.
            ElsewhereError: another living server owns it.
        """
        address, until = self._believed.get(study_id, ("", 0.0))
        if time.monotonic() < until:
            raise ElsewhereError(f"{address} owns study {study_id!r}.", address, self)
        epoch = self._store.claim_study(self.server, study_id)
        if epoch is not None:
            self._believed.pop(study_id, None)
            return epoch
        owner = self._store.find_owner(study_id)
        if owner is None:
            raise NotFoundError(f"no study is called {study_id!r}; `tuner studies` lists them.")
        if not owner:
            raise UnavailableError(f"study {study_id!r} is changing its server; try again.")
        self._believed[study_id] = (owner, time.monotonic() + _BELIEVED_SECONDS)
        raise ElsewhereError(f"{owner} owns study {study_id!r}.", owner, self)

    def doubt(self, address: str) -> None:
        """Forgets which studies a server owned."""
        for study_id, (owner, _) in list(self._believed.items()):
            if owner == address:
                self._believed.pop(study_id, None)

    def others(self) -> list[ServerEntry]:
        """The other servers that are alive."""
        return [entry for entry in self._store.list_servers() if entry.server != self.server]


def _now() -> float:
    """Seconds that also pass while this machine sleeps, where it can tell."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


def _identity(data_dir: Path) -> UUID:
    """The id of the server of a data directory; a copy of the directory is another server's."""
    file, place = data_dir / "server-id.json", f"{socket.gethostname()}:{data_dir}"
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        if said["place"] == place:
            return UUID(said["server"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # the first start, or a file that nobody can read: a new server
    server = uuid4()
    replace_file(file, json.dumps({"server": str(server), "place": place}) + "\n")
    return server
