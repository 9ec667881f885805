"""An endpoint's pages in a real browser, over a real gateway and a model that predicts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

import tuner
from tests.integration.conftest import database_of, make_database
from tests.integration.gateways import Gateway, until
from tests.integration.gateways import gateway as running_gateway
from tests.integration.test_gateway_endpoints import publish
from tests.integration.test_web_chromium import browser as browser
from tests.integration.test_web_chromium import page as page
from tests.integration.web_study import pages
from tuner.client import Client
from tuner.config import Settings
from tuner.errors import NotFoundError
from tuner.service.server import StudyServer
from tuner.web.source import StudySource
from tuner_storage import EmbeddedPostgres

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endpoint-pages")


@pytest.fixture(scope="module")
def client(folder: Path, postgres: EmbeddedPostgres, models: Path) -> Iterator[Client]:
    """A server with the model `half`, of which two versions are ready."""
    name = f"endpoint_pages_{os.getpid()}"
    make_database(postgres, name)
    url = database_of(postgres, name)
    settings = Settings(data_dir=folder / "server", server_port=0, database_url=url)
    with StudyServer(settings) as server, tuner.connect(server.address) as client:
        for version in (1, 2):
            publish(client, "half", models / "half" / str(version))
        yield client


@pytest.fixture(scope="module")
def gateway(client: Client, folder: Path) -> Iterator[Gateway]:
    """A gateway that serves the server's endpoints."""
    environment = {"TUNER_SERVER": client.address, "TUNER_DATA_DIR": str(folder / "gateway")}
    with running_gateway(environment=environment) as running:
        yield running


@pytest.fixture(scope="module")
def address(client: Client) -> Iterator[str]:
    with pages(StudySource(client.address)) as address:
        yield address


def test_an_endpoint_is_watched_split_and_tried(
    page: Page, address: str, client: Client, gateway: Gateway
) -> None:
    page.goto(f"{address}/endpoints")
    expect(page.locator("#endpoints")).to_contain_text("No endpoints yet")

    endpoint = client.endpoint("halves")
    endpoint.deploy("half@1")
    endpoint.deploy("half@2", 10)
    page.get_by_role("link", name="halves").click()
    page.wait_for_url("**/endpoints/halves")
    expect(page.get_by_label("Percent of version 1")).to_have_value("90")
    expect(page.locator("#endpoint")).to_contain_text(
        f"http://{gateway.rest}/v1/models/halves:predict"
    )

    # Another's change arrives by itself; a slider moves the other one, and nothing else.
    endpoint.split({1: 80, 2: 20})
    expect(page.get_by_label("Percent of version 2")).to_have_value("20")
    page.get_by_label("Percent of version 2").fill("35")
    expect(page.get_by_label("Percent of version 1")).to_have_value("65")
    page.get_by_role("button", name="Apply").click()
    expect(page.get_by_role("button", name="Apply")).to_be_hidden()
    assert endpoint.refresh().percents == {1: 65, 2: 35}

    # What is not applied can be taken back.
    page.get_by_label("Percent of version 2").fill("50")
    page.get_by_role("button", name="Reset").click()
    expect(page.get_by_label("Percent of version 2")).to_have_value("35")

    # The form is made of the signature, and asks the version that is chosen.
    page.get_by_role("button", name="Show the model's inputs").click()
    page.get_by_label("x number").fill("5")
    page.get_by_label("Version that answers").select_option("1")
    page.get_by_role("button", name="Predict").click()
    expect(page.locator("#prediction")).to_contain_text("Version 1")
    expect(page.locator("#prediction")).to_contain_text("4.5")

    # Calls are counted, and drawn.
    assert endpoint.predict([1.0], version=2) == [3.5]
    until(lambda: sum(m.traffic.requests for m in endpoint.report().minutes) >= 2)
    expect(page.locator("#figure-requests.js-plotly-plot")).to_be_visible()


def test_nobody_else_changes_anything(address: str, client: Client) -> None:
    body = {"percents": {"1": 100, "2": 0}, "etag": client.endpoint("halves").record.etag}
    refused = httpx.post(f"{address}/endpoints/halves/traffic", json=body)
    assert refused.status_code == 403
    # Nor what was changed meanwhile.
    client.endpoint("halves").split({1: 70, 2: 30})
    stale = httpx.post(f"{address}/endpoints/halves/traffic", json=body, headers={"X-Tuner": "1"})
    assert stale.status_code == 409 and "changed since it was read" in stale.text
    assert client.endpoint("halves").refresh().percents == {1: 70, 2: 30}
    unknown = httpx.get(f"{address}/endpoints/none")
    assert unknown.status_code == 404
    with pytest.raises(NotFoundError):
        client.endpoint("none").refresh()
