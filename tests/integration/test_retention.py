"""A runner removes the code that no study needs any more."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tuner import code
from tuner.client import Client
from tuner.client.access import Access
from tuner.client.channel import Connection
from tuner.config import Settings
from tuner.runner.chore import Chore
from tuner.runner.retention import Retention
from tuner.service import StudyServer

STUDY = """
study: {name}
metric: {{name: loss, goal: minimize}}
trainer: {{program: python train.py, code: {name}}}
parameters: {{rate: {{float: [0.0, 1.0]}}}}
"""


def test_only_the_code_of_ended_studies_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path / "data", server_port=0)
    artifacts = settings.artifacts_dir
    monkeypatch.setenv("TUNER_ARTIFACTS", str(artifacts))
    with StudyServer(settings) as server, Client(server.address) as client:
        digests = {}
        for name in ("ended", "needed"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "train.py").write_text(f"# {name}")
            (tmp_path / f"{name}.yaml").write_text(STUDY.format(name=name))
            study = client.submit(tmp_path / f"{name}.yaml")
            digests[name] = study.record.spec.own.code
            if name == "ended":
                study.stop()
        for digest in digests.values():
            then = time.time() - 2 * code.RETENTION.total_seconds()
            os.utime(code.archive_path(artifacts, digest), (then, then))
        connection = Connection(Access.to(server.address))
        chore = Chore("retention", Retention(connection, artifacts).work, 3600)
        chore.tend()
        assert chore._thread is not None
        chore._thread.join(30)
        connection.close()
    left = {path.stem for path in (artifacts / "code").iterdir()}
    assert left == {digests["needed"]}
