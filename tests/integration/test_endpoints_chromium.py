"""An endpoint's pages in a real browser, over a real gateway and a model that predicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, expect

import tuner
from tests.integration.test_serving import until
from tests.integration.test_web_chromium import browser as browser
from tests.integration.test_web_chromium import page as page
from tests.integration.web_study import pages
from tuner.client import Client
from tuner.config import Settings
from tuner.errors import NotFoundError
from tuner.model import Lineage, Published
from tuner.service.server import StudyServer
from tuner.web.source import StudySource

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("endpoint-pages")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    """A server with the model `half`, of which two versions are ready."""
    command = [sys.executable, "-m", "tests.integration.serving_models", str(folder / "models")]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    settings = Settings(data_dir=folder / "server", server_port=0)
    with StudyServer(settings) as server, tuner.connect(server.address) as client:
        for version in (1, 2):
            lineage = Lineage(source="elsewhere")
            begun = client.models.begin("half", lineage, publisher="box:1")
            what = Published(
                uri=str(folder / "models" / "half" / str(version)),
                size_bytes=1,
                sha256="ab" * 32,
                lineage=lineage,
            )
            client.models.finish(begun, what)
        yield client


@pytest.fixture(scope="module")
def gateway(client: Client, folder: Path) -> Iterator[str]:
    """The REST address of a gateway that serves the server's endpoints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tuner.cli", "gateway", "--rest-port", "0", "--grpc-port", "0",
         "--server", client.address, "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TUNER_DATA_DIR": str(folder / "gateway")},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["rest"]
    finally:
        process.stdout.close()
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def address(client: Client) -> Iterator[str]:
    with pages(StudySource(client.address)) as address:
        yield address


def test_an_endpoint_is_watched_split_and_tried(
    page: Page, address: str, client: Client, gateway: str
) -> None:
    page.goto(f"{address}/endpoints")
    expect(page.locator("#endpoints")).to_contain_text("No endpoints yet")

    endpoint = client.endpoint("halves")
    endpoint.deploy("half@1")
    endpoint.deploy("half@2", 10)
    page.get_by_role("link", name="halves").click()
    page.wait_for_url("**/endpoints/halves")
    expect(page.get_by_label("Percent of version 1")).to_have_value("90")
    expect(page.locator("#endpoint")).to_contain_text(f"http://{gateway}/v1/models/halves:predict")

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
