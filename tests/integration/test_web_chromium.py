"""The pages in a real browser: figures are drawn, changes arrive, nothing complains."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

import tuner
from tests.integration.web_study import (
    leased,
    pages,
    prepared,
    published,
    work,
    write_log,
)
from tuner.client import Client, Study
from tuner.config import Settings
from tuner.model import Lineage
from tuner.service.server import StudyServer
from tuner.web.source import StudySource

pytestmark = pytest.mark.timeout(240)

PATIENCE_MILLISECONDS = 30_000
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


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
    study = prepared(client, "adult-income")
    work(study, 12, fail=4)
    return study


@pytest.fixture(scope="module")
def address(server: StudyServer) -> Iterator[str]:
    with pages(StudySource(server.address)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium on this machine; Debian: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails its test when anything is written to its console as a warning or error."""
    page = browser.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None,
    )
    page.on("request", lambda r: complaints.append(r.url) if not _is_own(r.url) else None)
    yield page
    page.close()
    assert complaints == []


def _is_own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def test_a_study_is_drawn_and_follows_what_happens(
    page: Page, address: str, client: Client, study: Study
) -> None:
    page.goto(f"{address}/studies/adult-income")
    expect(page.locator("#progress .main-svg").first).to_be_visible()
    expect(page.locator("#curves .scatterlayer .lines path").first).to_be_attached()
    ended = study.refresh().trial_counts.finished
    expect(page.locator("#progress .scatterlayer .point")).to_have_count(ended)
    # The very same element is drawn upon again: nothing flickers.
    page.locator("#progress .main-svg").first.evaluate("node => { node.kept = true }")
    with leased(study) as newest:
        newest.report({"val_auc": 0.6543, "auc": 0.6}, step=0)
        row = page.locator("tr", has=page.locator(f"#trial-{newest.number}"))
        expect(row).to_contain_text("running")
        expect(row).to_contain_text("0.6543")
        newest.complete()
        expect(row.locator(".badge")).not_to_have_text("running")
    expect(page.locator("#progress .scatterlayer .point")).to_have_count(ended + 1)
    assert page.locator("#progress .main-svg").first.evaluate("node => node.kept") is True


def test_a_reader_can_sort_filter_and_choose(page: Page, address: str, study: Study) -> None:
    page.goto(f"{address}/studies/adult-income")
    page.click("#order-best")
    expect(page.locator("#order-best")).to_have_attribute("aria-current", "true")
    first = page.locator("table.trials tbody tr").first
    expect(first).to_have_class("best")
    assert page.url.endswith("?order=best")
    page.click("#state-FAILED")
    expect(page.locator("table.trials tbody tr")).to_have_count(1)
    page.reload()
    expect(page.locator("table.trials tbody tr")).to_have_count(1)
    expect(page.locator("#curves-metric option")).to_have_count(4)
    with page.expect_response(lambda answer: "metric=val_loss" in answer.url):
        page.select_option("#curves-metric", "val_loss")
    with page.expect_response(lambda answer: "by=time" in answer.url):
        page.select_option("#progress-by", "time")


def test_a_trial_is_drawn_and_its_log_grows(
    page: Page, address: str, client: Client, study: Study
) -> None:
    with leased(study) as trial:
        trial.report({"val_auc": 0.8, "loss": 0.5}, step=0)
        write_log(client, trial, "epoch 0\n")
        page.goto(f"{address}/studies/adult-income/trials/{trial.number}")
        expect(page.locator("#log")).to_contain_text("epoch 0")
        expect(page.locator("#figures .chart")).to_have_count(2)
        trial.report({"val_auc": 0.81, "loss": 0.4}, step=1)
        write_log(client, trial, "<script>alert(1)</script>\n", offset=len("epoch 0\n"))
        expect(page.locator("#log")).to_contain_text("<script>alert(1)</script>")
        expect(page.locator("#figure-1 .scatterlayer .point")).to_have_count(2)
        trial.complete()
        expect(page.locator("#summary .badge")).not_to_have_text("running")


def test_models_lead_to_their_versions_trials_and_cards(
    page: Page, address: str, client: Client, study: Study
) -> None:
    page.goto(f"{address}/models")
    expect(page.locator("#models")).to_contain_text("No models yet")
    first, second = published(client, study, "adult", 2)
    client.models.set_alias("adult", "champion", first.version)
    # The list is asked for again by itself.
    expect(page.locator("tr", has=page.locator("#model-adult"))).to_contain_text("champion: 1")
    page.click("#model-adult")
    expect(page.locator("#card h1")).to_have_text("adult-income")
    expect(page.locator("#card")).to_contain_text("<script>alert('x')</script>")
    expect(page.locator("#card td").last).to_have_text("0.91")
    assert page.locator("#card a").count() == 0
    expect(page.locator("#version .lead")).to_contain_text(str(second.version))
    page.click("#version-1")
    assert page.url.endswith("/models/adult/versions/1")
    expect(page.locator("#version .lead")).to_contain_text("1")
    begun = client.models.begin("adult", Lineage(trial=f"{study.name}/trials/4"), publisher="b:1")
    row = page.locator("#versions tr", has=page.locator("#version-3"))
    expect(row).to_contain_text("publishing")
    client.models.finish(begun, "it predicts something else")
    expect(row).to_contain_text("it predicts something else")
    page.click("#version >> text=trial 0")
    expect(page.locator("h1")).to_have_text("Trial 0")
    page.set_viewport_size({"width": 390, "height": 800})
    for path in ("/models", "/models/adult", "/models/adult/versions/champion"):
        page.goto(address + path)
        expect(page.locator("main")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_it_fits_a_phone(page: Page, address: str, study: Study) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    for path in ("/", "/studies/adult-income", "/studies/adult-income/trials/4"):
        page.goto(address + path)
        expect(page.locator("main")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_dark_reader_gets_dark_figures(browser: Browser, address: str, study: Study) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(f"{address}/studies/adult-income")
    expect(page.locator("#progress .main-svg").first).to_be_visible()
    background = "getComputedStyle(document.querySelector('#progress .main-svg')).backgroundColor"
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    # Not wait_for_function: it polls by eval, which the pages' policy forbids.
    for _ in range(PATIENCE_MILLISECONDS // 100):
        if page.evaluate(background) != dark:
            break
        page.wait_for_timeout(100)
    assert page.evaluate(background) != dark
    page.close()


def test_a_page_says_when_nobody_answers_and_recovers(
    browser: Browser, server: StudyServer, study: Study
) -> None:
    source = StudySource(server.address)
    with pages(source) as address:
        page = browser.new_page()
        page.goto(f"{address}/studies/adult-income")
        expect(page.locator("#progress .main-svg").first).to_be_visible()
    expect(page.locator("#offline")).to_contain_text("does not answer")
    with pages(StudySource(server.address), port=int(address.rpartition(":")[2])):
        expect(page.locator("#offline")).to_be_hidden()
    page.close()
