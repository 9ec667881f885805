"""The pages over a real study server."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

import tuner
from tests.integration.web_study import (
    ROWS,
    leased,
    pages,
    prepared,
    published,
    spec,
    work,
    write_log,
)
from tuner.client import Client, Study
from tuner.config import Settings
from tuner.errors import UnavailableError
from tuner.service.server import StudyServer
from tuner.web import format
from tuner.web.serving import AddressInUseError, listen
from tuner.web.source import StudySource

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudyServer]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("server"), server_port=0)
    with StudyServer(settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: StudyServer) -> Iterator[Client]:
    with tuner.connect(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def study(client: Client) -> Study:
    """A study with ended trials, one of them failed."""
    study = prepared(client, "adult-income")
    work(study, 14, fail=4)
    return study


@pytest.fixture(scope="module")
def web(server: StudyServer) -> Iterator[httpx.Client]:
    with pages(StudySource(server.address)) as address:
        with httpx.Client(base_url=address, timeout=20) as web:
            yield web


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 30
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.1)
    return holds()


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", answer.text))


def test_the_pages_show_what_the_server_knows(web: httpx.Client, study: Study) -> None:
    best = study.best()
    assert best.value is not None
    listed = text_of(web.get("/"))
    assert "adult-income" in listed and f"{best.value:.4f}" in listed
    page = text_of(web.get("/studies/adult-income"))
    assert f"trial {best.number}" in page and f"{ROWS:,} rows" in page
    counts = study.refresh().trial_counts
    spent = format.cost(study.refresh().cost)
    assert spent.endswith(" of CPUs") and spent in page
    assert f"{counts.succeeded} succeeded" in page and f"{counts.failed} failed" in page


def test_the_figures_hold_every_trial(web: httpx.Client, study: Study) -> None:
    states = study.refresh().trial_counts
    figure = web.get("/studies/adult-income/figures/progress").json()
    drawn = {trace["name"]: len(trace["x"]) for trace in figure["data"]}
    assert drawn["succeeded"] == states.succeeded
    assert drawn.get("pruned", 0) == states.pruned and drawn["failed"] == states.failed
    curves = web.get("/studies/adult-income/figures/curves?metric=val_loss").json()
    reported = {t.number for t in study.trials(full=True) if t.measurements}
    assert {n for trace in curves["data"] for n in trace["customdata"]} - {None} == reported


def test_what_mattered_adds_up(web: httpx.Client, study: Study) -> None:
    part = text_of(web.get("/studies/adult-income/parts/importance"))
    shares = re.findall(r"(?:model|preprocessing|training) (\d+) %", part)
    assert abs(sum(map(int, shares)) - 100) <= 2


def test_a_failed_trial_shows_each_attempts_stack(web: httpx.Client, study: Study) -> None:
    page = web.get("/studies/adult-income/trials/4")
    assert "no such activation" in text_of(page)
    assert page.text.count("Traceback (most recent call last)") == study.trial(4).record.attempt


def test_a_report_and_a_log_appear_while_the_trial_runs(
    web: httpx.Client, client: Client, study: Study
) -> None:
    with leased(study) as trial:
        summary = "/studies/adult-income/parts/summary"
        tag = web.get(summary).headers["ETag"]
        assert trial.report({"val_auc": 0.7654}, step=0)
        write_log(client, trial, "epoch 0: <b>0.7654</b>\n")
        assert eventually(
            lambda: web.get(summary, headers={"If-None-Match": tag}).status_code == 200
        )
        table = "/studies/adult-income/parts/trials?state=RUNNING"
        assert eventually(lambda: "0.7654" in text_of(web.get(table)))
        log = f"/studies/adult-income/trials/{trial.number}/parts/log"
        assert eventually(lambda: "epoch 0: &lt;b&gt;0.7654" in web.get(log).text)
        trial.complete()
        assert eventually(lambda: "0.7654" not in text_of(web.get(table)))


def test_a_study_that_waits_for_its_runner_has_a_page(web: httpx.Client, client: Client) -> None:
    client.create("waiting", spec())
    assert "preparing" in text_of(web.get("/studies/waiting"))


def test_a_deleted_study_is_gone_and_its_successor_is_another(
    web: httpx.Client, client: Client
) -> None:
    work(prepared(client, "again"), 2)
    assert "trial-1" in web.get("/studies/again").text
    client.get_study("again").delete(force=True)
    assert eventually(lambda: web.get("/studies/again").status_code == 404)
    prepared(client, "again")
    assert eventually(lambda: web.get("/studies/again").status_code == 200)
    assert "trial-1" not in web.get("/studies/again").text


def test_the_api_speaks_protobuf_json(web: httpx.Client, study: Study) -> None:
    found = web.get("/api/studies/adult-income/trials?order_by=best&page_size=1").json()
    assert found["trials"][0]["name"] == f"studies/adult-income/trials/{study.best().number}"


def test_a_server_that_went_away_is_said_to_be_gone() -> None:
    with listen("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    source = StudySource(f"127.0.0.1:{port}")
    with pytest.raises(UnavailableError):
        source.get_study("any")
    with pages(source) as address:
        answer = httpx.get(address + "/studies/any")
    assert answer.status_code == 503 and "does not answer" in answer.text


def test_the_process_serves_until_it_is_told_to_stop(server: StudyServer, tmp_path: Path) -> None:
    code = (
        "from tuner.config import Settings; from tuner.web import serve; "
        f"serve(Settings(data_dir={str(tmp_path)!r}, server={server.address!r}, web_port=0), "
        "ready=lambda url: print(url, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(url + "/healthz", timeout=20).status_code == 200
        assert httpx.get(url, headers={"Host": "evil.example"}, timeout=20).status_code == 421
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_port_in_use_is_said_to_be_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUseError, match=f"127.0.0.1:{port}.*TUNER_WEB_PORT"):
            listen("127.0.0.1", port)


def test_models_are_pages_and_json(web: httpx.Client, client: Client, study: Study) -> None:
    published(client, study, "births", 1)
    assert "births" in web.get("/models").text
    page = web.get("/models/births/versions/latest")
    assert page.status_code == 200 and "<script>alert" not in page.text
    assert f'href="/studies/{study.study_id}/trials/0"' in page.text
    part = web.get("/models/births/parts/versions")
    again = web.get(
        "/models/births/parts/versions", headers={"If-None-Match": part.headers["ETag"]}
    )
    assert again.status_code == 304
    (version,) = web.get("/api/models/births/versions").json()["versions"]
    assert version["name"] == "models/births/versions/1" and "card" not in version
    names = [model["name"] for model in web.get("/api/models").json()["models"]]
    assert names == ["models/births"]
    for path in ("/models/nobody", "/models/births/versions/9", "/models/births/versions/0"):
        assert web.get(path).status_code == 404, path
    assert web.get("/models/births/versions/%C3%9C").status_code in (400, 404)
