"""One managed study in the hands of a runner: prepared, then trained in its slots."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace

from tuner import convert
from tuner.errors import InvalidArgumentError, NotFoundError, TunerError, UnavailableError
from tuner.runner.places import folder_of
from tuner.runner.pool import Capacity
from tuner.runner.preparation import Preparation, prepare_study, shape_of
from tuner.runner.shape import Shape
from tuner.runner.slot import WORKED_ON, Slot, Tools, due, parallel, remove_checkpoints
from tuner.study import Study, StudyState
from tuner.v1 import study_service_pb2 as pb

logger = logging.getLogger(__name__)


class ManagedStudy:
    """The threads that work on a study: one that prepares it, and one for each slot.

    Slots start while the data is read, so that gangs are warm when the first trial is due. Owned
    by the runner's main thread, the only one that calls its methods.
    """

    def __init__(self, tools: Tools, study: Study, capacity: Capacity) -> None:
        self._tools = tools
        self._study = study
        self._lock = threading.Lock()
        self._shape = self._fitting_shape(capacity)
        self._preparing: threading.Thread | None = None
        self._slots: dict[int, threading.Thread] = {}
        logger.info("%s: taken up", study.name)
        self.update(study)

    @property
    def ended(self) -> bool:
        """Whether no thread works on the study any more."""
        return not any(thread.is_alive() for thread in self._threads())

    def update(self, study: Study) -> None:
        """Takes notice of the study as it is now; starts the threads that it asks for."""
        self._set(study)
        study = self._study
        if self._shape is None or self._tools.stopping.is_set():
            return
        if study.state is StudyState.PREPARING and not _is_alive(self._preparing):
            self._preparing = self._start("prepare", self._prepare)
        if study.state in WORKED_ON:
            self._fill_slots(study, self._shape)

    def _fill_slots(self, study: Study, shape: Shape) -> None:
        """Starts as many slots as there are trials to start and no slot waits for."""
        free = [n for n in range(parallel(study)) if not _is_alive(self._slots.get(n))]
        waiting = max(0, parallel(study) - len(free) - study.trial_counts.running)
        for number in free[: max(0, due(study) - waiting)]:
            slot = Slot(self._tools, lambda: self._study, shape, number)
            self._slots[number] = self._start(str(number), slot.run)

    def reload(self) -> None:
        """Asks the server how the study is: it is not among those that are worked on any more."""
        try:
            request = pb.GetStudyRequest(name=self._study.name)
            message = self._tools.connection.call(
                lambda stub: stub.GetStudy, request, patience_seconds=0.0
            )
        except NotFoundError:
            self._study = replace(self._study, state=StudyState.STOPPED)
        except UnavailableError as error:
            logger.warning("%s", error.message)
        else:
            self.update(convert.study_from_proto(message))

    def sweep(self) -> None:
        """Removes the checkpoints of a study that is over: of trials that ended with no word."""
        if self._study.state.is_finished:
            trials = folder_of(self._tools.artifacts, self._study.study_id, 0).parent
            for trial in trials.glob("*/"):
                remove_checkpoints(trial)

    def join(self, deadline: float) -> None:
        """Waits for the threads until a time of the monotonic clock."""
        for thread in self._threads():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _threads(self) -> list[threading.Thread]:
        preparing = [] if self._preparing is None else [self._preparing]
        return [*preparing, *self._slots.values()]

    def _start(self, what: str, run: Callable[[], None]) -> threading.Thread:
        name = f"{self._study.study_id}-{what}"
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def _set(self, study: Study) -> None:
        with self._lock:  # a list of studies may be older than what preparing has just returned
            if study.update_time >= self._study.update_time:
                self._study = study

    def _fitting_shape(self, capacity: Capacity) -> Shape | None:
        try:
            spec = self._study.spec
            shape = shape_of(spec.resources, spec.trainer)
            capacity.check(shape)
        except InvalidArgumentError as error:
            self._refuse(error)
            return None
        return shape

    def _prepare(self) -> None:
        study, start = self._study, time.monotonic()
        try:
            access = self._tools.access.carried()
            preparation = prepare_study(study, self._tools.artifacts, access)
        except TunerError as error:
            self._refuse(error)
            return
        for note in preparation.notes:
            logger.warning("%s: %s", study.name, note)
        request = pb.PrepareStudyRequest(name=study.name, request_id=str(uuid.uuid4()))
        request.prepared.CopyFrom(_prepared_to_proto(preparation))
        self._answer(request)
        logger.info(
            "%s: prepared in %.1f s, %s",
            study.name,
            time.monotonic() - start,
            "from what was known of its data" if preparation.was_known else "by reading its data",
        )

    def _refuse(self, error: TunerError) -> None:
        logger.warning("%s: %s", self._study.name, error.message)
        if self._study.state is StudyState.PREPARING:
            self._answer(
                pb.PrepareStudyRequest(
                    name=self._study.name, failure=error.message, request_id=str(uuid.uuid4())
                )
            )

    def _answer(self, request: pb.PrepareStudyRequest) -> None:
        try:
            message = self._tools.connection.call(lambda stub: stub.PrepareStudy, request)
        except TunerError as error:  # another runner was faster, or the study is gone
            logger.info("%s: %s", self._study.name, error.message)
        else:
            self._set(convert.study_from_proto(message))


def _is_alive(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _prepared_to_proto(preparation: Preparation) -> pb.PrepareStudyRequest.Prepared:
    message = pb.PrepareStudyRequest.Prepared(
        space=convert.space_to_proto(preparation.space),
        features=[convert.feature_to_proto(feature) for feature in preparation.features],
        settings=convert.values_to_proto(preparation.settings),
    )
    if preparation.statistics is not None:
        message.statistics.CopyFrom(convert.statistics_to_proto(preparation.statistics))
    return message
