"""Finds managed studies, and owns the threads and the gangs that work on them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any, Self

from tuner import convert
from tuner.client.access import Access
from tuner.client.channel import Connection
from tuner.client.heartbeat import Heartbeat
from tuner.config import Settings
from tuner.errors import UnavailableError
from tuner.runner import places
from tuner.runner.chore import Chore
from tuner.runner.cluster import Cluster
from tuner.runner.gang import Gang
from tuner.runner.managed import ManagedStudy
from tuner.runner.pool import Pool
from tuner.runner.publisher import Publisher
from tuner.runner.retention import Retention
from tuner.runner.shape import Shape
from tuner.runner.slot import WORKED_ON, Tools
from tuner.runner.spares import Spares
from tuner.study import Study
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as pb
from tuner_trainers.storage import GIB, Storage
from tuner_trainers.transfer import is_remote, local_path

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0
_PUBLISH_SECONDS = 10.0
_RETENTION_SECONDS = 3600.0
_STOP_SECONDS = 5.0
_GIVE_UP_SECONDS = 10.0
_PAGE = 1000


class Runner:
    """Works on every managed study of a server until it is stopped. Used by the main thread."""

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._cluster = cluster
        access = Access.of(settings)
        self._connection = Connection(access)
        self._spares = spares = Spares(access.carried())
        layout = settings.placement.upper()

        def build(shape: Shape) -> Gang:
            return Gang(shape, spares, layout)

        self._tools = Tools(
            connection=self._connection,
            access=access,
            heartbeat=Heartbeat(),
            pool=Pool(cluster.capacity, build, idle_seconds=settings.idle_seconds),
            artifacts=settings.artifacts_dir,
            storage=Storage(
                cache_dir=settings.rows_dir,
                cache_bytes=int(settings.cache_gib * GIB),
                memory_bytes=int(settings.memory_gib * GIB),
            ),
            stopping=threading.Event(),
        )
        publisher = Publisher(self._connection, settings.artifacts_dir, settings.models_uri)
        retention = Retention(self._connection, settings.artifacts_dir)
        self._publishing = Chore("publish", publisher.work, _PUBLISH_SECONDS)
        self._chores = (
            self._publishing,
            Chore("retention", retention.work, _RETENTION_SECONDS),
        )
        self._warm = ""
        self._studies: dict[str, ManagedStudy] = {}

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
    def address(self) -> str:
        """The address of the study server in use."""
        return self._connection.address

    def stop(self) -> None:
        """Asks run() to return; may be called by a signal handler and by any thread."""
        self._tools.stopping.set()

    def run(self) -> None:
        """Works until stop() is called.

        Raises:
            UnavailableError: Ray died.
        """
        while not self._tools.stopping.is_set():
            self._cluster.check()
            self.poll()
            self._tools.stopping.wait(_POLL_SECONDS)

    def poll(self) -> None:
        """Looks once for studies to work on, to leave, and to publish."""
        try:
            listed = self._list()
        except UnavailableError as error:
            logger.warning("%s", error.message)
            return
        for study in listed.values():
            self._take(study)
        for study_id in [*self._studies]:
            if study_id not in listed:
                self._leave(study_id)
        self._tools.pool.tidy()
        self._spares.tend()
        for chore in self._chores:
            chore.tend()
        self._tell_what_is_warm()

    def close(self, patience_seconds: float = _STOP_SECONDS) -> None:
        """Gives the trials in flight back, and ends the gangs.

        Args:
            patience_seconds: How long to wait for threads; one that builds a gang needs a while.
        """
        self.stop()
        deadline = time.monotonic() + patience_seconds
        self._tools.pool.close()
        self._spares.close()
        for study in self._studies.values():
            study.join(deadline)
        self._tools.heartbeat.close()
        self._connection.close()

    def _tell_what_is_warm(self) -> None:
        """Says what holds memory on the nodes when that has changed: only what trains costs."""
        training, idle = self._tools.pool.counts()
        warm = f"{training} gangs in use, {idle} idle, {self._spares.count} spare workers"
        if warm != self._warm:
            self._warm = warm
            logger.info("warm: %s", warm)

    def _list(self) -> dict[str, Study]:
        request = pb.ListStudiesRequest(
            states=[study_pb2.Study.State.Value(state) for state in WORKED_ON],
            managed_only=True,
            page_size=_PAGE,
        )
        answer = self._connection.call(
            lambda stub: stub.ListStudies, request, patience_seconds=0.0
        )
        studies = (convert.study_from_proto(message) for message in answer.studies)
        return {study.study_id: study for study in studies}

    def _take(self, study: Study) -> None:
        known = self._studies.get(study.study_id)
        if known is None:
            capacity = self._cluster.capacity()
            self._studies[study.study_id] = ManagedStudy(self._tools, study, capacity)
        else:
            known.update(study)

    def _leave(self, study_id: str) -> None:
        study = self._studies[study_id]
        study.reload()
        if study.ended:
            study.sweep()
            del self._studies[study_id]
            self._publishing.hurry()


def serve(settings: Settings, ready: Callable[[Mapping[str, Any]], None]) -> None:
    """Runs until SIGTERM or SIGINT. Call it in the main thread.

    Args:
        ready: Called once with what is offered, when trials can be trained.

    Raises:
        InvalidArgumentError: what trials leave, or the models, could not be written.
    """
    places.check_writable(settings.artifacts_dir)
    if not is_remote(settings.models_uri):
        places.check_writable(local_path(settings.models_uri), "TUNER_MODELS")
    with Cluster(settings) as cluster, Runner(settings, cluster) as runner:

        def stop(number: int, frame: FrameType | None) -> None:
            runner.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        capacity = cluster.capacity()
        ready(
            {
                "address": runner.address,
                "cpus": capacity.cpus,
                "gpus": capacity.gpus,
                "pid": os.getpid(),
            }
        )
        try:
            runner.run()
        except UnavailableError as error:
            logger.error("%s", error.message)
            _give_up_soon()
            raise


def _give_up_soon() -> None:
    """Ends the process if it does not end by itself: what is left of Ray may be waited for."""
    timer = threading.Timer(_GIVE_UP_SECONDS, os._exit, (2,))
    timer.daemon = True
    timer.start()
