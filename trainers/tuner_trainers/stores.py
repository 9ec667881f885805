"""The places that data and models lie in: the machine's own files, S3 and Google Cloud Storage.

Object stores are reached through pyarrow, which is told the usual variables: AWS_ENDPOINT_URL,
AWS_REGION and the SDK's ways to credentials; GOOGLE_APPLICATION_CREDENTIALS and
STORAGE_EMULATOR_HOST.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow as pa

from tuner.errors import DataError, first_line

_CONNECT_SECONDS = 5.0
_REQUEST_SECONDS = 30.0
_ATTEMPTS = 4

#: Where the AWS SDK finds credentials besides the instance that it runs on.
_AWS_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SHARED_CREDENTIALS_FILE",
)

#: What credentials must be allowed on S3 and on Google Cloud Storage.
_NEEDED = {
    "read": ("s3:GetObject and s3:ListBucket", "storage.objects.get and .list"),
    "write": ("s3:PutObject and s3:ListBucket", "storage.objects.create and .list"),
    "remove": ("s3:DeleteObject and s3:ListBucket", "storage.objects.delete and .list"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it was when it was looked for; `str` gives the name for people."""

    store: Store
    path: str
    size_bytes: int
    mtime_ns: int

    def __str__(self) -> str:
        return self.store.prefix + self.path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    def open(self) -> Any:
        """Opens the file, as a pyarrow file that can be read from any position.

        Raises:
            DataError: it cannot be read.
        """
        with self.store.explained(self.path):
            return self.store.open(self.path)


class Store(Protocol):
    """A place with files, whose paths have no scheme."""

    #: The scheme that stands before the paths, for people.
    prefix: str

    def find(self, path: str) -> tuple[Sequence[File], bool]:
        """What is at a path: the file, or all files in the directory, or the pattern's matches.

        Returns:
            Files in order of their paths, and whether they are those of a directory.
        """
        ...

    def open(self, path: str) -> Any:
        """Opens a file, as a pyarrow file that can be read from any position."""
        ...

    @contextmanager
    def explained(self, path: str) -> Iterator[None]:
        """Raises DataError in place of OSError, and says what to do."""
        ...


def locate(uri: str) -> tuple[Store, str]:
    """Returns the store of `uri` and the path in it; raises DataError for other schemes."""
    scheme, found, path = uri.partition("://")
    if not found:
        return LocalStore(), uri
    if scheme == "file":
        return LocalStore(), path
    bucket = path.partition("/")[0]
    if scheme not in ("s3", "gs"):
        raise DataError(f"{uri}: {scheme}:// is not read; give a path, s3:// or gs://.")
    if not bucket:
        raise DataError(f"{uri} names no bucket; write {scheme}://BUCKET/PATH.")
    return ObjectStore(scheme, bucket), path.rstrip("/")


class LocalStore:
    """The files of this machine."""

    prefix = ""

    def find(self, path: str) -> tuple[Sequence[File], bool]:
        """See Store."""
        with self.explained(path):
            if Path(path).is_dir():
                inside = sorted(Path(path).iterdir())
                return [self._file(file) for file in inside if file.is_file()], True
            if Path(path).exists():
                return [self._file(Path(path))], False
            matches = sorted(Path(match) for match in glob.glob(path, recursive=True))
            return [self._file(match) for match in matches if match.is_file()], False

    def open(self, path: str) -> Any:
        """See Store."""
        with open(path, "rb"):  # for Python's own errors
            return pa.OSFile(path)

    @contextmanager
    def explained(self, path: str) -> Iterator[None]:
        """See Store."""
        try:
            yield
        except OSError as error:
            raise DataError(
                f"cannot read {path}: {error.strerror or first_line(error)}; check its "
                "permissions."
            ) from error

    def _file(self, path: Path) -> File:
        stat = path.stat()
        return File(store=self, path=str(path), size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)


class ObjectStore:
    """A bucket of S3 or Google Cloud Storage."""

    def __init__(self, scheme: str, bucket: str) -> None:
        self.prefix = f"{scheme}://"
        self._bucket = bucket
        with self.explained(bucket):
            self._files = _file_system(scheme, bucket)
        self._scheme = scheme

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str, str]]:
        # Another process asks with its own credentials, over connections of its own.
        return ObjectStore, (self._scheme, self._bucket)

    def find(self, path: str) -> tuple[Sequence[File], bool]:
        """See Store."""
        from pyarrow import fs  # loads the SDKs of the clouds

        with self.explained(path):
            info = self._files.get_file_info(path)
            if info.type == fs.FileType.File:
                return [self._file(info)], False
            if info.type == fs.FileType.Directory:
                return self._listed(path, recursive=False), True
            if not glob.has_magic(path):
                self._check_bucket()
                return [], False
            parts = path.split("/")
            fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
            within = self._listed("/".join(parts[:fixed]), recursive=True)
            if not within:
                self._check_bucket()
            return [f for f in within if _matches(f.path.split("/"), parts)], False

    def open(self, path: str) -> Any:
        """See Store."""
        return self._files.open_input_file(path)

    def create(self, path: str) -> Any:
        """Opens a new file for writing; it is there once it is closed."""
        return self._files.open_output_stream(path)

    def walk(self, path: str) -> Sequence[File]:
        """All files below a path, however deep."""
        with self.explained(path):
            self._check_bucket()
            return self._listed(path, recursive=True)

    def remove(self, path: str) -> None:
        """Removes all files below a path, if there are any."""
        with self.explained(path, "remove"):
            if self._listed(path, recursive=True):
                self._files.delete_dir(path)

    @contextmanager
    def explained(self, path: str, verb: str = "read") -> Iterator[None]:
        """See Store."""
        try:
            yield
        except OSError as error:
            message = _cloud_error(self.prefix, self._bucket, first_line(error), verb)
            raise DataError(f"cannot {verb} {self.prefix}{path}: {message}") from error

    def _listed(self, path: str, *, recursive: bool) -> list[File]:
        from pyarrow import fs  # loads the SDKs of the clouds

        selector = fs.FileSelector(path, recursive=recursive, allow_not_found=True)
        found = [info for info in self._files.get_file_info(selector) if info.is_file]
        return sorted(map(self._file, found), key=lambda file: file.path.split("/"))

    def _check_bucket(self) -> None:
        from pyarrow import fs  # loads the SDKs of the clouds

        if self._files.get_file_info(self._bucket).type == fs.FileType.NotFound:
            raise OSError("NO_SUCH_BUCKET")

    def _file(self, info: Any) -> File:
        return File(store=self, path=info.path, size_bytes=info.size, mtime_ns=info.mtime_ns or 0)


def _file_system(scheme: str, bucket: str) -> Any:
    if scheme == "gs":
        return _google(os.environ.get("STORAGE_EMULATOR_HOST", ""))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
    # Credentials are part of the key, so that a process that is given others uses them.
    known = tuple(os.environ.get(name, "") for name in (*_AWS_CREDENTIALS, "AWS_SESSION_TOKEN"))
    return _amazon(bucket if not endpoint else "", endpoint, region, known)


@lru_cache(maxsize=8)
def _amazon(bucket: str, endpoint: str, region: str, _credentials: tuple[str, ...]) -> Any:
    """The file system; `bucket` says where its region is to be asked for."""
    from pyarrow import fs  # loads the SDKs of the clouds

    if not region and bucket:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        endpoint_override=endpoint or None,
        region=region or None,
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        # Small files by one request instead of three.
        allow_delayed_open=True,
    )


@lru_cache(maxsize=2)
def _google(emulator: str) -> Any:
    from pyarrow import fs  # loads the SDKs of the clouds

    limit = timedelta(seconds=_REQUEST_SECONDS)
    if not emulator:
        return fs.GcsFileSystem(retry_time_limit=limit)
    scheme, _, host = emulator.rpartition("://")
    return fs.GcsFileSystem(
        anonymous=True,
        scheme=scheme or "http",
        endpoint_override=host.rstrip("/"),
        retry_time_limit=limit,
    )


def _cloud_error(prefix: str, bucket: str, message: str, verb: str = "read") -> str:
    """What an object store's error means, and what to do."""
    aws = prefix == "s3://"
    message = message.partition(" error_info=")[0]
    if "NO_SUCH_BUCKET" in message or ("NOT_FOUND" in message and not aws):
        endpoint = "AWS_ENDPOINT_URL and AWS_REGION" if aws else "the project"
        return f"there is no bucket {bucket!r}; check its name, and {endpoint}."
    denied = ("ACCESS_DENIED", "403", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "401")
    if any(word in message for word in denied):
        if aws and not _has_aws_credentials():
            return (
                "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
                "AWS_PROFILE, where the runner runs."
            )
        needed = _NEEDED[verb][0 if aws else 1]
        return f"no permission ({message}); allow these credentials {needed}."
    if "NETWORK_CONNECTION" in message or "Could not connect" in message:
        endpoint = "AWS_ENDPOINT_URL" if aws else "STORAGE_EMULATOR_HOST"
        return f"the store cannot be reached ({message}); check {endpoint} and the network."
    if not aws and "credentials" in message.lower():
        return f"there are no credentials ({message}); set GOOGLE_APPLICATION_CREDENTIALS."
    return f"{message}."


def _has_aws_credentials() -> bool:
    named = any(os.environ.get(name) for name in _AWS_CREDENTIALS)
    return named or (Path.home() / ".aws" / "credentials").exists()


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a pattern, `**` any number of them."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    if not parts or (parts[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
