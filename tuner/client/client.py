"""The way into a study server: `connect` and the client it returns."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tuner import code, convert, study_file
from tuner.client import specification
from tuner.client.access import Access
from tuner.client.admin import Admin
from tuner.client.channel import Connection
from tuner.client.endpoints import Endpoint, list_endpoints, list_gateways
from tuner.client.heartbeat import Heartbeat
from tuner.client.local import LocalTuner
from tuner.client.models import Models
from tuner.client.statistics import ServerShelf
from tuner.client.study import Study
from tuner.config import Settings
from tuner.endpoint import Gateway
from tuner.errors import InvalidArgumentError, TunerError, UnavailableError
from tuner.study import (
    Limits,
    Search,
    StudySpec,
    StudyState,
    check_study_id,
)
from tuner.v1 import study_pb2
from tuner.v1 import study_service_pb2 as pb

_PAGE = 500
#: How long to wait for a server that was named: it may be starting.
_CONNECT_SECONDS = 5.0


def connect(
    address: str | None = None, *, token: str | None = None, tls_ca: str | None = None
) -> Client:
    """Connects to a study server.

    Args:
        address: host:port, or several with commas between: where nobody answers at one, the next
            is asked. Left out: `TUNER_SERVER`, else the server that runs on this machine, else
            one is started that ends with this process.
        token: what proves who you are. Left out: `TUNER_TOKEN`; the server of this machine needs
            none.
        tls_ca: turns TLS on: a PEM file with whom to trust, or `system`. Left out: `TUNER_TLS_CA`.

    Raises:
        UnavailableError: nobody answers at the address.
        UnauthenticatedError: the server wants a token, or another one.
    """
    settings = Settings.read(server=address, token=token, tls_ca=tls_ca)
    if settings.server:
        return _answering(settings, _CONNECT_SECONDS)
    with suppress(UnavailableError):
        return _answering(settings, 0.0)
    local = LocalTuner.start(settings)
    try:
        return _answering(settings, _CONNECT_SECONDS, local)
    except TunerError:
        local.close()
        raise


def _answering(
    settings: Settings, patience_seconds: float, local: LocalTuner | None = None
) -> Client:
    client = Client(Access.of(settings), local=local)
    try:
        client.ping(patience_seconds)
    except TunerError:
        client.close()
        raise
    return client


class Client:
    """A study server's client. Threads may share it; it survives a fork."""

    def __init__(self, access: Access | str, *, local: LocalTuner | None = None) -> None:
        self._connection = Connection(access)
        self._heartbeat = Heartbeat()
        self._local = local

    def __repr__(self) -> str:
        return f"Client({self.address!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection, and the server if it was started for it."""
        self._heartbeat.close()
        self._connection.close()
        if self._local is not None:
            self._local.close()

    @property
    def address(self) -> str:
        """The server's address; of several, that of the one in use."""
        return self._connection.address

    @property
    def admin(self) -> Admin:
        """Tokens, the audit log and the servers; for admins."""
        return Admin(self._connection)

    @property
    def models(self) -> Models:
        """The registry of models."""
        return Models(self._connection)

    def endpoints(self) -> Iterator[Endpoint]:
        """Yields the endpoints, by name."""
        return list_endpoints(self._connection)

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint of a name; deploying a version to it creates it if there is none."""
        return Endpoint(self._connection, name)

    def gateways(self) -> list[Gateway]:
        """Returns the gateways that report."""
        return list_gateways(self._connection)

    @property
    def shelf(self) -> ServerShelf:
        """What the server keeps of what is known of data sets."""
        return ServerShelf(self._connection)

    def ping(self, patience_seconds: float = 0.0) -> None:
        """Returns if a study server answers; raises UnavailableError."""
        self._connection.call(
            lambda stub: stub.ListStudies,
            pb.ListStudiesRequest(page_size=1),
            timeout_seconds=_CONNECT_SECONDS,
            patience_seconds=patience_seconds,
        )

    def submit(
        self, study: str | Path | StudySpec, *, name: str | None = None, wait: bool = False
    ) -> Study:
        """Creates the study that a file describes, or a specification and a name.

        Args:
            study: the path of a study file, or a specification.
            name: the study's name; the file's own if left out.
            wait: return when the study has ended.

        Raises:
            StudyFileError: the file has mistakes; one line for each.
            AlreadyExistsError: another study has the name.
        """
        if isinstance(study, StudySpec):
            study_id, spec = name, study
        else:
            study_id, spec = study_file.load(study)
        if name is None and study_id is None:
            raise InvalidArgumentError("a specification needs a name: submit(spec, name=...).")
        created = self.create(name or study_id or "", spec)
        if wait:
            created.wait_prepared()
            created.wait()
        return created

    def create_study(
        self,
        name: str,
        space: specification.SpaceLike,
        *,
        maximize: str | None = None,
        minimize: str | None = None,
        metrics: Mapping[str, str] | None = None,
        constraints: specification.Constraints = (),
        measurement: Literal["best", "last"] | None = None,
        warm_start: Sequence[str] = (),
        trials: int = 100,
        parallel: int | None = None,
        search: str = "auto",
        early_stopping: specification.EarlyStopping = "asha",
        seed: int = 0,
    ) -> Study:
        """Creates a study that scripts work on; the same study again is returned as it is.

        Args:
            name: a-z, 0-9 and -.
            space: domains by name, `{"units": tuner.Int(16, 256)}`, or a list of
                `tuner.Parameter`, which may have children.
            maximize: the metric, if larger is better.
            minimize: the metric, if smaller is better.
            metrics: several, each with `maximize` or `minimize`; `best` refers to the first.
            constraints: bounds that trials must keep to, such as
                `{"latency_ms": {"at_most": 50}}`; or a list of `tuner.Constraint`.
            measurement: which of a trial's measurements is its result: `best` by the metric, the
                usual with one, or the `last`, the usual with several.
            warm_start: earlier studies whose results the search starts from, up to 5.
            trials: how many.
            parallel: how many at once; None for as many as ask.
            search: auto, random, grid, qmc, tpe, gp, cma-es or nsga-ii.
            early_stopping: a rule such as asha, hyperband, median, percentile, no-progress or
                none, or one with its parameters, such as `{"rule": "asha", "eta": 4}`; none with
                several metrics.
            seed: the same seed and the same results give the same trials.
        """
        rule, stopping = specification.early_stopping_of(early_stopping)
        for count, value, least in (
            ("trials", trials, 1),
            ("parallel", parallel, 1),
            ("seed", seed, 0),
        ):
            specification.check_count(count, value, least)
        spec = StudySpec(
            metrics=specification.metrics_of(maximize, minimize, metrics),
            space=specification.space_of(space),
            search=Search(algorithm=search, early_stopping=rule, stopping=stopping, seed=seed),
            limits=Limits(trials=trials, parallel=parallel),
            constraints=specification.constraints_of(constraints),
            measurement_selection=specification.selection_of(measurement),
            warm_start=specification.warm_start_of(warm_start),
        )
        return self.create(name, spec)

    def create(self, study_id: str, spec: StudySpec) -> Study:
        """Creates a study; code of its own is put among the artifacts, `TUNER_ARTIFACTS`."""
        spec = code.ship(spec, Settings.read().artifacts_dir)
        request = pb.CreateStudyRequest(
            study=convert.spec_to_proto(spec),
            study_id=check_study_id(study_id),
            request_id=str(uuid.uuid4()),
        )
        return self._handle(self._connection.call(lambda stub: stub.CreateStudy, request))

    def get_study(self, name: str) -> Study:
        """Returns the study; raises NotFoundError."""
        request = pb.GetStudyRequest(name=f"studies/{check_study_id(name)}")
        return self._handle(self._connection.call(lambda stub: stub.GetStudy, request))

    def studies(self, *, states: Iterable[StudyState] = ()) -> Iterator[Study]:
        """Yields the studies, newest first; only those in one of `states` if any is given."""
        token = ""
        while True:
            request = pb.ListStudiesRequest(
                page_size=_PAGE,
                page_token=token,
                states=[study_pb2.Study.State.Value(state) for state in states],
            )
            page = self._connection.call(lambda stub: stub.ListStudies, request)
            yield from map(self._handle, page.studies)
            token = page.next_page_token
            if not token:
                return

    def _handle(self, message: study_pb2.Study) -> Study:
        return Study(self._connection, self._heartbeat, convert.study_from_proto(message))
