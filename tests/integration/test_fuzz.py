"""Whatever is sent to a study server, it answers as documented, keeps its memory, and works on."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import EncodeError, Message

import tuner.v1
from tests.integration.hostile import STUDIES, Hostile, deep_space
from tests.integration.service_support import Caller, request_id, study_of
from tuner.v1 import study_pb2, trial_pb2
from tuner.v1 import study_service_pb2 as pb

REQUESTS = 3000
THREADS = 4
SECONDS = 20.0
#: What the server's memory may grow by, in MiB, while it is beset; the studies in it included.
GROWTH = 200

#: The codes that are documented. What is too long gRPC itself refuses, as RESOURCE_EXHAUSTED.
DOCUMENTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNAVAILABLE,
}


def methods() -> list[MethodDescriptor]:
    """Every method of every service of the package."""
    found: list[MethodDescriptor] = []
    for module in pkgutil.iter_modules(tuner.v1.__path__):
        if module.name.endswith("_pb2"):
            loaded: Any = importlib.import_module(f"tuner.v1.{module.name}")
            for service in loaded.DESCRIPTOR.services_by_name.values():
                found += service.methods
    return found


METHODS = methods()


class Server:
    """`python -m tuner.service` on a database, and what it says."""

    def __init__(self, folder: Path, database_url: str, **environment: str) -> None:
        folder.mkdir()
        self._log = folder / "log"
        values = {
            **os.environ,
            "TUNER_DATA_DIR": str(folder / "data"),
            "TUNER_SERVER_PORT": "0",
            "TUNER_DATABASE_URL": database_url,
            "TUNER_LEASE_SECONDS": "2",
            **environment,
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tuner.service"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=values,
            )
        assert self.process.stdout is not None
        self.address: str = json.loads(self.process.stdout.readline())["address"]

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def megabytes(self) -> int:
        """The memory that the process holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) // 1024

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(40) == 0
        finally:
            self.process.kill()
            self.process.communicate()


@contextmanager
def serving(folder: Path, database_url: str, **environment: str) -> Iterator[Server]:
    server = Server(folder, database_url, **environment)
    try:
        yield server
    finally:
        server.close()


class Siege:
    """Sends hostile requests from some threads, and counts the answers."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.codes: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def lay(self, threads: int, requests: int, work: Callable[[Hostile], None]) -> None:
        def run(seed: int) -> None:
            hostile = Hostile(seed)
            for _ in range(requests // threads):
                work(hostile)

        workers = [threading.Thread(target=run, args=(seed,)) for seed in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(240)
            assert not worker.is_alive()

    def any_request(self, hostile: Hostile) -> None:
        method = hostile.random.choice(METHODS)
        if method.name in ("DeleteStudy", "StopStudy") and hostile.random.random() < 0.8:
            # Else there is little to do any harm to.
            method = next(m for m in METHODS if m.name == "CreateStudy")
        request = hostile.request(method.name, method.input_type)
        try:
            body = request.SerializeToString()
        except EncodeError:
            return
        if hostile.random.random() < 0.1:
            body = hostile.noise(request)
        answer = self.send(method, body, hostile.random.choice((0, 1, 1000)), repr(request))
        if isinstance(answer, pb.SuggestTrialsResponse):
            hostile.leases += [(trial.name, trial.lease.token) for trial in answer.trials]
            hostile.tokens += [trial.lease.token for trial in answer.trials]
            del hostile.tokens[4:-20]
        page = getattr(answer, "next_page_token", "")
        if page:
            hostile.pages = [*hostile.pages[:6], *hostile.pages[6:][-10:], page]

    def send(
        self, method: MethodDescriptor, body: bytes, messages: int = 1000, shown: str = ""
    ) -> Message | None:
        """Sends bytes to a method; of a stream it reads so many messages and hangs up."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        code, answer = grpc.StatusCode.OK, None
        try:
            if method.server_streaming:
                self._read(path, body, messages)
            else:
                kind: Any = message_factory.GetMessageClass(method.output_type)
                call: Any = self.channel.unary_unary(path, response_deserializer=kind.FromString)
                answer = call(body, timeout=SECONDS)
        except grpc.RpcError as error:
            code = error.code()
            if code not in DOCUMENTED and len(body) < 2**24:
                with self._lock:
                    self.wrong.append(f"{method.name}: {code} {error.details()}\n{shown[:3000]}")
        with self._lock:
            self.codes[method.name, code.name] += 1
        return answer

    def _read(self, path: str, body: bytes, messages: int) -> None:
        call: Any = self.channel.unary_stream(path)
        # A stream that follows goes on until its time is over.
        stream = call(body, timeout=0.3)
        try:
            for number, _ in enumerate(stream):
                if number >= messages:
                    break
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        finally:
            stream.cancel()

    def report(self) -> str:
        lines = []
        for method in METHODS:
            codes = {code: n for (name, code), n in self.codes.items() if name == method.name}
            lines.append(f"  {method.name}: {codes}")
        return "\n".join(lines)


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[Server]:
    with serving(tmp_path / "server", database_url) as server:
        yield server


def work_on(caller: Caller, study_id: str, trials: int) -> None:
    """As a script does, to the end."""
    caller.create(study_id, trials=trials)
    for number in range(trials):
        trial = caller.one("me", study_id=study_id)
        caller.report(trial, 0, auc=number / trials)
        caller.complete(trial)
    study = caller.study(study_id)
    assert study.state == study_pb2.Study.COMPLETED
    assert study.best_trial == f"studies/{study_id}/trials/{trials - 1}"


@pytest.mark.timeout(300)
def test_a_server_that_is_beset_answers_as_documented(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        caller, siege = Caller(channel), Siege(channel)
        work_on(caller, "before", 5)
        caller.create("healthy", trials=20)
        held = caller.one("me", study_id="healthy")
        for study_id in STUDIES:
            caller.create(study_id)
        # What is only imported when it is first needed is no growth.
        caller.stub.GetImportance(pb.GetImportanceRequest(name="studies/before"), timeout=60)
        siege.lay(THREADS, 400, siege.any_request)
        warm = server.megabytes
        siege.lay(THREADS, REQUESTS, siege.any_request)
        end = server.megabytes
        print(f"\n{sum(siege.codes.values())} requests; memory {warm} MiB, then {end} MiB")
        print(siege.report())
        assert siege.wrong == [], f"{len(siege.wrong)} wrong, first: {siege.wrong[0]}"
        assert end < warm + GROWTH
        # Whoever was not meant noticed nothing.
        with suppress(grpc.RpcError):
            caller.complete(held, 0.5)
        trial = caller.one("me", study_id="healthy")
        assert caller.complete(trial, 0.75).state == trial_pb2.Trial.SUCCEEDED
        work_on(caller, "after", 5)
    assert {method.name for method in METHODS} == {name for name, _ in siege.codes}
    assert "unexpected error" not in server.log, server.log
    assert "Traceback" not in server.log, server.log


def test_what_is_too_much_is_refused(server: Server) -> None:
    by_name = {method.name: method for method in METHODS}
    with grpc.insecure_channel(
        server.address, options=[("grpc.max_send_message_length", -1)]
    ) as channel:
        siege = Siege(channel)

        def refusal(name: str, body: bytes) -> str:
            before = siege.codes.copy()
            siege.send(by_name[name], body)
            ((method, code),) = siege.codes - before
            assert method == name
            return code

        def create(study: study_pb2.Study) -> str:
            request = pb.CreateStudyRequest(study=study, study_id="s")
            return refusal("CreateStudy", request.SerializeToString())

        long = study_pb2.Study(labels={"a": "x" * (17 * 2**20)})
        assert create(long) == "RESOURCE_EXHAUSTED"
        wide = study_of()
        for number in range(100_000):
            wide.space.parameters.add(name=f"p{number}").float_domain.high = 1
        assert create(wide) == "INVALID_ARGUMENT"
        choices = study_of()
        kind = choices.space.parameters.add(name="kind").categorical_domain.choices
        for number in range(200_000):
            kind.add().int_value = number
        assert create(choices) == "INVALID_ARGUMENT"
        words = study_of()
        for number in range(50_000):
            words.settings[f"s{number}"].string_value = "x" * 100
        assert create(words) == "INVALID_ARGUMENT"
        heavy = study_of()
        for number in range(100):
            heavy.space.parameters.add(name=f"p{number}").categorical_domain.choices.add(
                string_value="x" * 1000
            )
        assert create(heavy) == "INVALID_ARGUMENT"
        assert create(study_of(labels={"a": "x" * (5 * 2**20)})) == "INVALID_ARGUMENT"
        for depth in (17, 30, 45):
            assert create(study_of(space=deep_space(depth))) == "INVALID_ARGUMENT"
        # Deeper than protobuf itself reads or writes: by hand.
        body = b""
        for _ in range(300):
            body = b"\x42" + _length(len(body) + _size(body)) + b"\x12" + _length(len(body)) + body
        for outer in (b"\x0a", b"\x2a", b"\x0a"):
            body = outer + _length(len(body)) + body
        assert refusal("CreateStudy", body) == "INVALID_ARGUMENT"
        assert siege.wrong == []
    assert "unexpected error" not in server.log, server.log
    assert "Traceback" not in server.log, server.log


def _length(length: int) -> bytes:
    """A varint."""
    out = b""
    while length > 127:
        out += bytes([length & 127 | 128])
        length >>= 7
    return out + bytes([length])


def _size(body: bytes) -> int:
    """What a child's field adds to its parameter."""
    return 1 + len(_length(len(body)))


def test_streams_that_are_left_open_cost_no_more_than_their_time(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        caller.create()
        trial = caller.one()
        before = server.megabytes
        for _ in range(150):
            streams = [caller.watch(), caller.read_log(trial, follow=True)]
            next(streams[0])
            for stream in streams:
                stream.cancel()
        caller.report(trial, 0, auc=0.5)
        assert caller.complete(trial).state == trial_pb2.Trial.SUCCEEDED
        assert server.megabytes < before + 100
    assert "Traceback" not in server.log, server.log


def test_without_a_token_nothing_is_answered(tmp_path: Path, database_url: str) -> None:
    with (
        serving(tmp_path / "server", database_url, TUNER_AUTH="token") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        siege, hostile = Siege(channel), Hostile(0)
        for method in METHODS:
            request = hostile.request(method.name, method.input_type)
            for body in (b"", request.SerializeToString(), hostile.noise(request)):
                siege.send(method, body)
        codes = {code for _, code in siege.codes}
        assert codes == {"UNAUTHENTICATED"}, siege.report()
        assert "Traceback" not in server.log, server.log


def test_hostile_metadata_harms_nobody(server: Server) -> None:
    with grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel)
        caller.create()
        for metadata in (
            (("x-request-id", "x" * 5000),),
            (("x-request-id", "a  b"),),
            (("x-request-id", ""),),
            (("authorization", "Bearer " + "x" * 4000),),
            (("authorization", "Basic"),),
            (("tuner-forwarded", "1"),),
            (("traceparent", "00-" + "f" * 32 + "-" + "f" * 16 + "-01"),),
            (("traceparent", "zz"), ("tracestate", "a=b,,,=")),
            (("junk-bin", b"\x00\xff"), ("x-request-id-bin", b"\n")),
            tuple((f"k{n}", "v") for n in range(50)),
        ):
            request = pb.SuggestTrialsRequest(
                parent="studies/s", worker_id="ann", request_id=request_id()
            )
            answer = caller.stub.SuggestTrials(request, metadata=metadata, timeout=20)
            assert answer.trials[0].name == "studies/s/trials/0"
    assert "Traceback" not in server.log, server.log
