"""The files for clusters are what Ray and Kubernetes read, and what this tuner knows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # comes with Ray
import pytest
import yaml

from tests.conftest import REPOSITORY
from tuner.config import VARIABLES

FOLDER = REPOSITORY / "docs" / "cluster"
LOCKED = re.search(r"^ray==([\d.]+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def manifests() -> dict[tuple[str, str], Any]:
    """The Kubernetes objects, by kind and name."""
    documents = yaml.safe_load_all((FOLDER / "kuberay.yaml").read_text())
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def pods(manifests: dict[tuple[str, str], Any]) -> Iterator[Any]:
    """What each kind of pod is made of."""
    ray = manifests["RayCluster", "tuner"]["spec"]
    yield ray["headGroupSpec"]["template"]["spec"]
    yield from (group["template"]["spec"] for group in ray["workerGroupSpecs"])
    for (kind, _), manifest in manifests.items():
        if kind == "Deployment":
            yield manifest["spec"]["template"]["spec"]


def test_rays_launcher_takes_its_file() -> None:
    spec = find_spec("ray")
    assert spec is not None and spec.origin is not None
    schema = json.loads(
        Path(spec.origin).with_name("autoscaler").joinpath("ray-schema.json").read_text()
    )
    config = yaml.safe_load((FOLDER / "ray.yaml").read_text())
    jsonschema.validate(config, schema)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    (head,) = (c for c in config["head_start_ray_commands"] if "ray start" in c)
    (worker,) = (c for c in config["worker_start_ray_commands"] if "ray start" in c)
    assert "--head" in head and "--num-cpus=0" in head and "$RAY_HEAD_IP:6379" in worker
    assert all("RAY_AUTH_MODE=token" in command for command in (head, worker))
    assert "~/.ray/auth_token" in config["file_mounts"]


def test_the_versions_are_the_pinned_ones(manifests: dict[tuple[str, str], Any]) -> None:
    assert LOCKED is not None
    assert manifests["RayCluster", "tuner"]["spec"]["rayVersion"] == LOCKED[1]
    assert f"FROM rayproject/ray:{LOCKED[1]}-py311" in (FOLDER / "Dockerfile").read_text()


def test_the_manifests_belong_together(manifests: dict[tuple[str, str], Any]) -> None:
    ray = manifests["RayCluster", "tuner"]
    assert ray["apiVersion"] == "ray.io/v1" and ray["spec"]["authOptions"] == {"mode": "token"}
    claims = {name for kind, name in manifests if kind == "PersistentVolumeClaim"}
    for pod in pods(manifests):
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container.get("volumeMounts", [])} == set(volumes)
        for volume in volumes.values():
            assert volume.get("persistentVolumeClaim", {}).get("claimName") in {None, *claims}
    for name in ("tuner-server", "tuner-runner"):
        deployment = manifests["Deployment", name]["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert deployment["selector"]["matchLabels"] == labels
    server = manifests["Service", "tuner-server"]["spec"]
    assert (
        server["selector"]
        == manifests["Deployment", "tuner-server"]["spec"]["selector"]["matchLabels"]
    )


def test_processes_are_told_what_they_understand(manifests: dict[tuple[str, str], Any]) -> None:
    known = {variable for variable, _ in VARIABLES.values()}
    told: dict[str, dict[str, str | None]] = {}
    for pod in pods(manifests):
        (container,) = pod["containers"]
        told[container["name"]] = {item["name"]: item.get("value") for item in container["env"]}
        names = set(told[container["name"]])
        assert {name for name in names if name.startswith("TUNER_")} <= known
        mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        for name, value in told[container["name"]].items():
            if name in (
                "TUNER_ARTIFACTS",
                "TUNER_TLS_CA",
                "TUNER_TLS_CERTIFICATE",
                "TUNER_TLS_KEY",
            ):
                assert value is not None and any(value.startswith(f"{path}/") for path in mounts)
    runner, server = told["runner"], told["server"]
    assert runner["TUNER_RAY_ADDRESS"] == "tuner-head-svc:6379"
    assert runner["TUNER_SERVER"] == "tuner-server:8470"
    assert {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "TUNER_TOKEN"} <= set(runner)
    assert server["TUNER_AUTH"] == "token" and "TUNER_DATABASE_URL" in server


def test_the_page_names_every_file() -> None:
    page = (REPOSITORY / "docs" / "cluster.md").read_text()
    assert [path.name for path in FOLDER.iterdir() if f"(cluster/{path.name})" not in page] == []
