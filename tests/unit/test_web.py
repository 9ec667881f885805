"""The pages, asked through the ASGI application without sockets."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.unit.web_source import (
    HOSTILE,
    SHARES,
    START,
    MemorySource,
    a_study,
    some_trials,
)
from tuner.errors import InvalidArgumentError
from tuner.space import Space
from tuner.study import (
    Constraint,
    Feature,
    Goal,
    Measurement,
    Metric,
    Origin,
    Study,
    StudyState,
    TrialState,
)
from tuner.web import create_app
from tuner.web.serving import allowed_hosts, url

with warnings.catch_warnings():
    # Starlette warns that it would rather have httpx's successor.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

TRIALS = some_trials(42)
FAILED, RUNNING = TRIALS[6], TRIALS[41]
STUDY = "/studies/adult-income"


@pytest.fixture
def source() -> MemorySource:
    source = MemorySource([a_study(trials=TRIALS)], TRIALS)
    source.shares = SHARES
    return source


@pytest.fixture
def web(source: MemorySource) -> Iterator[TestClient]:
    app = create_app(source)
    # A page for people must come out of a failure too, so that failures are not raised here.
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def text_of(html: str) -> str:
    """What a reader sees, spaces made one."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


# --- the list of studies -------------------------------------------------------------------


def test_the_list_says_how_each_study_does(web: TestClient) -> None:
    text = text_of(web.get("/").text)
    for words in ("adult-income", "active", "val_auc", "0.9166", "40 / 60", "25 succeeded"):
        assert words in text


def test_an_empty_list_says_what_to_do() -> None:
    with TestClient(create_app(MemorySource()), base_url="http://127.0.0.1") as web:
        assert "tuner submit FILE" in web.get("/").text


def test_a_stopped_study_says_why_in_the_list(web: TestClient, source: MemorySource) -> None:
    source.put(a_study("bad", StudyState.STOPPED, state_reason="column 'x' is not in train.csv."))
    assert "column &#39;x&#39; is not in train.csv." in web.get("/").text


def test_more_studies_than_a_page_holds_are_paged(web: TestClient, source: MemorySource) -> None:
    for n in range(130):
        source.put(a_study(f"s-{n}", create_time=START + timedelta(hours=n + 1)))
    first = web.get("/").text
    assert 'href="/?page_token=100"' in first and ">adult-income</a>" not in first
    assert ">adult-income</a>" in web.get("/?page_token=100").text


def test_the_best_value_of_a_study_is_asked_for_once(
    web: TestClient, source: MemorySource
) -> None:
    web.get("/")
    web.get("/")
    assert source.calls.count("get_trial") == 1


# --- one study -----------------------------------------------------------------------------


def test_a_study_shows_what_it_is_and_what_it_found(web: TestClient) -> None:
    text = text_of(web.get(STUDY).text)
    for words in (
        "tpe: the space is conditional",
        "32,561 rows",
        "label income",
        "2 at once, 20 without a better one",
        "preprocessing 36 %",
        "learning_rate",
        "34.0 %",
        "1 infeasible",
        "★",
    ):
        assert words in text


def test_several_metrics_constraints_labels_and_the_creator_are_shown() -> None:
    metrics = (Metric(name="val_auc"), Metric(name="val_loss", goal=Goal.MINIMIZE))
    spec = replace(
        a_study().spec,
        metrics=metrics,
        constraints=(Constraint(metric="loss", at_most=0.33),),
        labels={"team": "credit", HOSTILE: ""},
    )
    trials = [
        replace(
            trial,
            within_constraints=spec.within_constraints(trial.final_measurement),
            labels={"from": "2024"} if trial.number == 0 else {},
            origin=Origin.PAST if trial.number == 0 else Origin.GIVEN,
        )
        for trial in TRIALS[:4]
        if trial.final_measurement
    ]
    study = replace(a_study(trials=trials, creator="ann"), spec=spec)
    beyond = [t for t in trials if not t.within_constraints]
    assert 0 < len(beyond) < len(trials)
    with TestClient(create_app(MemorySource([study], trials)), base_url="http://127.0.0.1") as web:
        page, listed = web.get(STUDY).text, web.get("/").text
        first = web.get(f"{STUDY}/trials/0").text
        outside = web.get(f"{STUDY}/trials/{beyond[0].number}").text
    text = text_of(page)
    for words in ("within loss ≤ 0.33", "team: credit", "by ann", "from: 2024", "past", "given"):
        assert words in text
    assert HOSTILE not in page
    assert page.count('title="beyond the constraint loss ≤ 0.33"') == len(beyond)
    assert "val_loss" in text_of(listed)
    assert "beyond loss ≤ 0.33" in text_of(outside)
    assert "a past result" in text_of(first)


def test_a_study_that_was_exported_says_where_to(web: TestClient, source: MemorySource) -> None:
    source.put(a_study(trials=TRIALS, exported_model_uri="models/adult-income/3"))
    assert "models/adult-income/3" in web.get(STUDY).text


@pytest.mark.parametrize(
    "study",
    [
        a_study("new", StudyState.PREPARING, statistics=None, algorithm_in_use=""),
        replace(
            a_study("new"),
            spec=replace(a_study().spec, trainer=None, data=None, space=Space()),
            statistics=None,
        ),
        a_study(
            "new", StudyState.STOPPED, state_reason="its data cannot be read.", end_time=START
        ),
    ],
    ids=["preparing", "script", "stopped"],
)
def test_a_study_without_trials_has_a_page(
    web: TestClient, source: MemorySource, study: Study
) -> None:
    source.put(study)
    page = web.get("/studies/new")
    assert page.status_code == 200
    assert study.state_reason in page.text
    assert web.get("/studies/new/figures/progress").json()["data"] == []
    assert web.get("/studies/new/figures/curves").json()["data"] == []


def test_a_study_shows_why_its_features_are_what_they_are(
    web: TestClient, source: MemorySource
) -> None:
    why = "9 different numbers; tells <4%> of income"
    proposed = Feature(
        name="age", kind="numeric", columns=("age",), settings={"buckets": 8}, reason=why
    )
    mine = Feature(name="town", kind="categorical", columns=("town",))
    study = a_study(trials=TRIALS)
    source.put(replace(study, spec=replace(study.spec, features=(proposed, mine))))
    page = text_of(web.get(STUDY).text)
    assert "age numeric buckets 8 9 different numbers; tells &lt;4%&gt; of income" in page
    assert "town categorical the study file says so" in page


def rows(html: str) -> list[int]:
    return [int(number) for number in re.findall(r'id="trial-(\d+)"', html)]


def test_the_table_of_trials_is_newest_first_and_can_be_sorted(web: TestClient) -> None:
    part = STUDY + "/parts/trials"
    assert rows(web.get(part).text) == list(range(41, -1, -1))
    assert rows(web.get(part + "?order=number").text) == list(range(42))
    best = rows(web.get(part + "?order=best").text)
    values = {
        t.number: t.final_measurement.metrics["val_auc"] for t in TRIALS if t.final_measurement
    }
    complete = [n for n in best if TRIALS[n].state is TrialState.SUCCEEDED]
    assert best[: len(complete)] == complete
    assert [values[n] for n in complete] == sorted((values[n] for n in complete), reverse=True)


def test_the_table_shows_trials_of_one_state(web: TestClient) -> None:
    html = web.get(STUDY + "/parts/trials?state=FAILED").text
    assert rows(html) == [t.number for t in TRIALS[::-1] if t.state is TrialState.FAILED]
    assert "No trial is queued." in text_of(web.get(STUDY + "/parts/trials?state=QUEUED").text)


def test_the_table_is_paged_and_keeps_its_order(source: MemorySource) -> None:
    trials = some_trials(120)
    source = MemorySource([a_study(trials=trials)], trials)
    with TestClient(create_app(source), base_url="http://127.0.0.1") as web:
        last = web.get(STUDY + "?order=number&page=3").text
        assert rows(last) == list(range(100, 120))
        assert f'hx-get="{STUDY}/parts/trials?order=number&amp;page=2"' in last
        assert "3 of 3, 120 trials" in text_of(last)
        assert rows(web.get(STUDY + "/parts/trials?order=number&page=999").text) == rows(last)


def test_a_parameter_that_is_not_active_is_a_dash(web: TestClient) -> None:
    html = web.get(STUDY + "/parts/trials?state=RUNNING").text
    dashes = html.count('off">–')
    absent = sum(
        name not in t.parameters
        for t in TRIALS[-2:]
        for name in ("native_country.vocabulary", "native_country.hash_buckets")
    )
    assert dashes == absent == 2


def test_curves_are_those_of_the_best_and_the_newest() -> None:
    trials = some_trials(200)
    source = MemorySource([a_study(trials=trials)], trials)
    with TestClient(create_app(source), base_url="http://127.0.0.1") as web:
        figure = web.get(STUDY + "/figures/curves").json()
        drawn = {n for trace in figure["data"] for n in trace["customdata"] if n is not None}
        newest = {t.number for t in trials[-25:] if t.measurements}
        assert newest <= drawn and len(drawn) <= 50
        assert figure["metrics"] == ["auc", "loss", "val_auc", "val_loss"]
        assert source.calls.count("get_trial") <= 50
        source.calls.clear()
        web.get(STUDY + "/figures/curves?metric=loss")
        assert "get_trial" not in source.calls


# --- what costs little ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/parts/studies",
        STUDY + "/parts/summary",
        STUDY + "/parts/trials?order=best",
        STUDY + "/parts/importance",
        STUDY + "/parts/winner",
        STUDY + "/figures/progress",
        STUDY + "/figures/curves?metric=loss",
        STUDY + "/trials/6/parts/summary",
        STUDY + "/trials/6/parts/attempts",
        STUDY + "/trials/2/figures/metrics?scale=loss",
    ],
)
def test_what_has_not_changed_is_not_sent_again(web: TestClient, path: str) -> None:
    first = web.get(path)
    assert first.status_code == 200 and first.content
    again = web.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert again.status_code == 304 and not again.content
    assert web.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_page_carries_the_tag_of_its_poll(web: TestClient) -> None:
    for page, part in ((STUDY, STUDY + "/parts/summary"), ("/", "/parts/studies")):
        tag = re.search(r'data-etag="([^"]+)"', web.get(page).text)
        assert tag is not None
        known = tag[1].replace("&#34;", '"')
        assert web.get(part, headers={"If-None-Match": known}).status_code == 304


def test_a_change_is_sent_and_announced(web: TestClient, source: MemorySource) -> None:
    path = STUDY + "/parts/summary"
    tag = web.get(path).headers["ETag"]
    source.report(RUNNING, Measurement(step=9, metrics={"val_auc": 0.9}))
    for _ in range(200):
        answer = web.get(path, headers={"If-None-Match": tag})
        if answer.status_code == 200:
            break
    assert answer.headers["HX-Trigger-After-Swap"] == "changed"


def test_an_idle_page_asks_the_server_for_no_trials(web: TestClient, source: MemorySource) -> None:
    tag = web.get(STUDY + "/parts/summary").headers["ETag"]
    source.calls.clear()
    for _ in range(5):
        web.get(STUDY + "/parts/summary", headers={"If-None-Match": tag})
    assert set(source.calls) <= {"get_study"}


# --- one trial -----------------------------------------------------------------------------


def test_a_failed_trial_shows_its_message_stack_and_log(
    web: TestClient, source: MemorySource
) -> None:
    source.log_text = "epoch 1\nout of luck\n"
    html = web.get(STUDY + "/trials/6").text
    for words in ("user error", "runner-1/slot-0 on node-a", "Traceback", "epoch 2: loss 0.47"):
        assert words in html
    assert "out of luck" in html
    assert "int [1, 4]" in html
    assert FAILED.state is TrialState.FAILED


def test_a_trial_has_a_figure_for_each_scale(web: TestClient) -> None:
    html = web.get(STUDY + "/trials/2").text
    assert re.findall(r"figures/metrics\?scale=(\w+)", html) == ["auc", "loss"]
    figure = web.get(STUDY + "/trials/2/figures/metrics?scale=auc").json()
    assert [trace["name"] for trace in figure["data"]] == ["val_auc", "auc"]


def test_every_attempt_is_shown(web: TestClient) -> None:
    text = text_of(web.get(STUDY + "/trials/5").text)
    assert "lost" in text and "the worker fell silent for 30 s." in text and "ended" in text


# --- text of users, addresses, other machines ----------------------------------------------


@pytest.mark.parametrize("path", [STUDY, STUDY + "/trials/6", STUDY + "/trials/2", "/"])
def test_what_users_wrote_is_text_not_html(
    web: TestClient, source: MemorySource, path: str
) -> None:
    source.log_text = f"log {HOSTILE}"
    source.put(
        a_study(
            trials=TRIALS,
            state_reason=f"because {HOSTILE}",
            algorithm_in_use=HOSTILE,
            exported_model_uri=f"x{HOSTILE}",
        )
    )
    html = web.get(path).text
    assert HOSTILE not in html and "<b>none" not in html
    assert path == "/" or "&lt;script&gt;alert" in html


@pytest.mark.parametrize("path", [STUDY, STUDY + "/trials/6", "/", "/studies/none"])
def test_nothing_comes_from_elsewhere_and_no_script_is_inline(web: TestClient, path: str) -> None:
    html = web.get(path).text
    assert not re.search(r"(https?:)?//\w", html)
    assert not re.search(r"<script(?![^>]+src=)", html)
    assert not re.search(r"\son\w+=", html) and " style=" not in html
    for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', html):
        answer = web.get(address)
        assert answer.status_code == 200 and "immutable" in answer.headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/studies", "/studies/none", "/nowhere"])
def test_every_answer_carries_the_policy(web: TestClient, path: str) -> None:
    headers = web.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8480", "localhost:8480", "[::1]:8480"])
def test_this_machine_may_ask_under_its_own_names(web: TestClient, host: str) -> None:
    assert web.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8480", "127.0.0.1.evil.example", ""]
)
def test_another_name_for_this_machine_is_refused(web: TestClient, host: str) -> None:
    answer = web.get("/", headers={"Host": host})
    assert answer.status_code == 421 and "adult-income" not in answer.text


def test_other_names_are_fine_where_others_may_ask(source: MemorySource) -> None:
    assert allowed_hosts("0.0.0.0") is None
    assert "127.0.0.1" in (allowed_hosts("localhost") or ())
    with TestClient(create_app(source, allowed_hosts=None), base_url="http://tuner.lan") as web:
        assert web.get("/").status_code == 200


def test_the_address_to_open_works_on_this_machine() -> None:
    assert url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert url("::1", 80) == "http://[::1]:80"
    assert url("example.test", 80) == "http://example.test:80"


# --- when something is wrong ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/studies/none", "no study"),
        ("/studies/None!", "no study"),
        (STUDY + "/trials/999", "no trial 999"),
        (STUDY + "/trials/x", "no such page"),
        ("/nowhere", "no such page"),
    ],
)
def test_what_is_not_there_is_said_to_be_so(web: TestClient, path: str, words: str) -> None:
    answer = web.get(path)
    assert answer.status_code == 404
    assert words in answer.text and 'href="/"' in answer.text


@pytest.mark.parametrize("path", ["/", STUDY, STUDY + "/trials/6"])
def test_a_server_that_does_not_answer_gives_a_page_that_tries_again(
    web: TestClient, source: MemorySource, path: str
) -> None:
    source.reachable = False
    answer = web.get(path)
    assert answer.status_code == 503
    assert '<meta http-equiv="refresh" content="3">' in answer.text
    assert "tuner up" in answer.text and "Traceback" not in answer.text


def test_a_poll_while_the_server_does_not_answer_gets_one_line(
    web: TestClient, source: MemorySource
) -> None:
    source.reachable = False
    answer = web.get("/parts/studies", headers={"HX-Request": "true"})
    assert answer.status_code == 503
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == "no study server at memory: start one with `tuner up`."


def test_the_page_comes_back_with_the_server(web: TestClient, source: MemorySource) -> None:
    source.reachable = False
    assert web.get(STUDY).status_code == 503
    source.reachable = True
    assert web.get(STUDY).status_code == 200


def test_a_failure_of_ours_shows_no_stack(
    web: TestClient, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "list_studies", lambda *_: 1 / 0)
    answer = web.get("/")
    assert answer.status_code == 500
    assert "division" not in answer.text and "log of the web process" in answer.text


def test_words_that_the_server_refuses_are_told(
    web: TestClient, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise InvalidArgumentError("page_token must come from the page before.")

    monkeypatch.setattr(source, "list_studies", refuse)
    answer = web.get("/?page_token=x")
    assert answer.status_code == 400 and "page_token must come" in answer.text


@pytest.mark.parametrize("query", ["order=worst", "state=LOST", "page=0", "page=x"])
def test_a_query_that_cannot_be_is_refused(web: TestClient, query: str) -> None:
    assert web.get(f"{STUDY}?{query}").status_code == 400


# --- JSON ----------------------------------------------------------------------------------


def test_the_api_gives_what_the_protos_say(web: TestClient) -> None:
    studies = web.get("/api/studies").json()
    assert studies["studies"][0]["name"] == "studies/adult-income"
    assert studies["next_page_token"] == ""
    study = web.get("/api/studies/adult-income").json()
    assert study["state"] == "ACTIVE" and study["trial_counts"]["failed"] == 3
    trial = web.get("/api/studies/adult-income/trials/2").json()
    assert trial["parameters"]["layers"] == {"int_value": str(TRIALS[2].parameters["layers"])}
    assert len(trial["measurements"]) == 10


def test_the_api_gives_trials_page_by_page(web: TestClient) -> None:
    first = web.get("/api/studies/adult-income/trials?page_size=30").json()
    token = first["next_page_token"]
    second = web.get(f"/api/studies/adult-income/trials?page_size=30&page_token={token}").json()
    names = [trial["name"] for trial in (*first["trials"], *second["trials"])]
    assert names == [f"studies/adult-income/trials/{n}" for n in range(42)]
    assert second["next_page_token"] == ""


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/studies/none", 404, "NOT_FOUND"),
        ("/api/studies/adult-income/trials/999", 404, "NOT_FOUND"),
        ("/api/nowhere", 404, "NOT_FOUND"),
        ("/api/studies?page_size=0", 400, "INVALID_ARGUMENT"),
    ],
)
def test_the_api_says_what_is_wrong_in_json(
    web: TestClient, path: str, status: int, code: str
) -> None:
    answer = web.get(path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code and answer.json()["error"]["message"]


def test_the_health_of_this_process_is_not_the_servers(
    web: TestClient, source: MemorySource
) -> None:
    source.reachable = False
    assert web.get("/healthz").json() == {"status": "ok"}
    assert web.get("/api/studies").status_code == 503


def test_plotly_is_sent_compressed_to_who_takes_it(web: TestClient) -> None:
    path = "/static/vendor/plotly.min.js"
    packed = web.get(path)
    assert packed.headers["Content-Encoding"] == "gzip"
    plain = web.get(path, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers and plain.text == packed.text
