"""Code on its way to where trials run: the same archive everywhere, unpacked once and whole."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from tuner import code
from tuner.errors import InvalidArgumentError, UnavailableError
from tuner.study import Metric, OwnTrainer, StudySpec


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of the test's own."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def names(archive: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(archive)).namelist()


def spec(path: Path) -> StudySpec:
    return StudySpec(metrics=(Metric(name="m"),), trainer="a:B", own=OwnTrainer(code=str(path)))


def put(root: Path, *files: str) -> Path:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return root


def test_the_same_files_give_the_same_archive(tmp_path: Path) -> None:
    one = put(tmp_path / "one", "b.py", "a.py", "deep/c.py")
    two = put(tmp_path / "two", "deep/c.py", "a.py", "b.py")
    os.utime(two / "a.py", (1e9, 1e9))
    (two / "b.py").chmod(0o600)
    assert code.pack(one) == code.pack(two)
    assert names(code.pack(one)) == ["a.py", "b.py", "deep/c.py"]
    (two / "a.py").write_text("# other\n")
    assert code.pack(one) != code.pack(two)


def test_what_can_be_executed_is_part_of_the_archive(tmp_path: Path) -> None:
    one, two = put(tmp_path / "one", "run.sh"), put(tmp_path / "two", "run.sh")
    (two / "run.sh").chmod(0o755)
    assert code.pack(one) != code.pack(two)


def test_what_is_no_code_stays_behind(tmp_path: Path) -> None:
    root = put(
        tmp_path / "root",
        "task.py",
        "words.txt",
        "package/data/__init__.py",
        "data/rows.py",
        "rows.csv",
        "model.keras",
        ".git/config",
        ".env",
        "__pycache__/task.pyc",
        "venv/lib.py",
        "own/pyvenv.cfg",
        "own/lib.py",
        "x.egg-info/PKG-INFO",
    )
    assert names(code.pack(root)) == ["package/data/__init__.py", "task.py", "words.txt"]


def test_a_package_and_a_module_keep_their_names(tmp_path: Path) -> None:
    put(tmp_path, "trainer/__init__.py", "trainer/task.py", "other.py")
    assert names(code.pack(tmp_path / "trainer")) == ["trainer/__init__.py", "trainer/task.py"]
    assert names(code.pack(tmp_path / "other.py")) == ["other.py"]


def test_too_much_is_refused_and_the_largest_files_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.py")
    (tmp_path / "vectors.bin").write_bytes(b"0" * (code.LIMIT_BYTES + 1))
    with pytest.raises(InvalidArgumentError, match=r"largest files: vectors\.bin, a\.py"):
        code.pack(tmp_path)


@pytest.mark.parametrize(("name", "message"), [("missing", "does not exist"), ("", "no code in")])
def test_nothing_to_pack_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "tmp" / "empty").mkdir()
    with pytest.raises(InvalidArgumentError, match=message):
        code.pack(tmp_path / "tmp" / "empty" / name)


def test_code_is_shipped_under_its_digest_and_comes_out_as_it_was(tmp_path: Path) -> None:
    put(tmp_path / "mine", "a.py", "deep/b.py")
    (tmp_path / "mine" / "a.py").chmod(0o755)
    artifacts = tmp_path / "artifacts"
    shipped = code.ship(spec(tmp_path / "mine"), artifacts)
    digest = shipped.own.code
    archive = code.archive_path(artifacts, digest)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest
    assert code.ship(shipped, artifacts) is shipped, "it is shipped once"
    folder = code.unpack(artifacts, digest)
    assert (folder / "deep/b.py").read_text() == "# deep/b.py\n"
    assert os.access(folder / "a.py", os.X_OK) and not os.access(folder / "deep/b.py", os.X_OK)
    assert [path.name for path in folder.parent.iterdir()] == [digest]


def test_what_lost_a_file_is_unpacked_again(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    digest = code.ship(spec(put(tmp_path / "mine", "a.py", "b.py")), artifacts).own.code
    folder = code.unpack(artifacts, digest)
    before = (folder / "b.py").stat().st_ino
    assert (code.unpack(artifacts, digest) / "b.py").stat().st_ino == before
    (folder / "a.py").unlink()
    assert (code.unpack(artifacts, digest) / "a.py").read_text() == "# a.py\n"


def test_an_archive_that_is_missing_or_was_changed_is_refused(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    digest = code.ship(spec(put(tmp_path / "mine", "a.py")), artifacts).own.code
    with code.archive_path(artifacts, digest).open("ab") as file:
        file.write(b"more")
    with pytest.raises(UnavailableError, match="was changed"):
        code.unpack(artifacts, digest)
    shutil.rmtree(artifacts)
    with pytest.raises(UnavailableError, match="TUNER_ARTIFACTS"):
        code.unpack(artifacts, digest)
    with pytest.raises(UnavailableError, match="is not at"):
        code.unpack(artifacts, "../../etc")


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, home: Path) -> None:
    artifacts = tmp_path / "artifacts"
    digest = code.ship(spec(put(tmp_path / "mine", "a.py")), artifacts).own.code
    theirs = home / f"tuner-code-{os.getuid()}"
    theirs.mkdir()
    theirs.chmod(0o777)
    with pytest.raises(UnavailableError, match="belongs to somebody else"):
        code.unpack(artifacts, digest)


# --- retention ---


def shipped(artifacts: Path, root: Path, name: str) -> str:
    """Ships a folder with one file; returns what names it."""
    return code.ship(spec(put(root / name, f"{name}.py")), artifacts).own.code


def last_used(path: Path, age: timedelta) -> None:
    then = time.time() - age.total_seconds()
    os.utime(path, (then, then))


def test_code_that_nobody_uses_goes_and_what_a_study_needs_stays(tmp_path: Path) -> None:
    artifacts = tmp_path / "artifacts"
    old, needed, fresh = (shipped(artifacts, tmp_path, name) for name in "abc")
    for digest in (old, needed):
        last_used(code.archive_path(artifacts, digest), code.RETENTION + timedelta(hours=1))
    last_used(code.archive_path(artifacts, fresh), code.RETENTION - timedelta(hours=1))
    assert code.remove_unused(artifacts, {needed}) == [old]
    assert code.remove_unused(artifacts, {needed}) == []
    assert not code.archive_path(artifacts, old).exists()
    assert code.archive_path(artifacts, fresh).exists()
    code.unpack(artifacts, needed)
    assert shipped(artifacts, tmp_path, "a") == old, "submitted again, it is there again"


@pytest.mark.parametrize("use", ["ship", "unpack"])
def test_use_keeps_code(tmp_path: Path, use: str) -> None:
    artifacts = tmp_path / "artifacts"
    digest = shipped(artifacts, tmp_path, "a")
    last_used(code.archive_path(artifacts, digest), 2 * code.RETENTION)
    if use == "ship":
        shipped(artifacts, tmp_path, "a")
    else:
        code.unpack(artifacts, digest)
    assert code.remove_unused(artifacts, ()) == []


def test_of_too_much_code_the_oldest_goes_but_not_what_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = tmp_path / "artifacts"
    digests = [shipped(artifacts, tmp_path, name) for name in "abcd"]
    for days, digest in enumerate(digests):
        last_used(code.archive_path(artifacts, digest), timedelta(days=2 * days, hours=1))
    monkeypatch.setattr(
        code, "LIMIT_KEPT_BYTES", 2 * code.archive_path(artifacts, digests[0]).stat().st_size
    )
    assert code.remove_unused(artifacts, {digests[2]}) == [digests[3]]
    monkeypatch.setattr(code, "LIMIT_KEPT_BYTES", 0)
    assert code.remove_unused(artifacts, ()) == digests[1:3]
    assert code.archive_path(artifacts, digests[0]).exists(), "it was used today"


def test_what_is_unpacked_goes_when_nobody_uses_it(tmp_path: Path, home: Path) -> None:
    artifacts = tmp_path / "artifacts"
    old, recent, new = (shipped(artifacts, tmp_path, name) for name in "abc")
    folder = code.unpack(artifacts, old).parent
    code.unpack(artifacts, recent)
    # A process was killed while it unpacked.
    (folder / ".unpacking-1").mkdir()
    for name in (old, ".unpacking-1"):
        last_used(folder / name, code.RETENTION + timedelta(hours=1))
    code.unpack(artifacts, new)
    assert {path.name for path in folder.iterdir()} == {recent, new}
    assert (code.unpack(artifacts, old) / "a.py").is_file()
