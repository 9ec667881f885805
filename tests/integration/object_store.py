"""A small object store that speaks enough of S3's protocol: buckets are folders."""

from __future__ import annotations

import io
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

#: Whose requests are answered, and from whom the bucket `secret` is kept.
ACCESS_KEY, SECRET_KEY = "tester", "not-so-secret"
FORBIDDEN_BUCKET = "secret"


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """Where the store is reached, and the folder of its buckets."""

    endpoint: str
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which it is used."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running(folder: Path) -> Iterator[ObjectStore]:
    """Serves the folders below `folder` as buckets until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder))
    thread = threading.Thread(target=server.serve_forever, name="object-store", daemon=True)
    thread.start()
    try:
        yield ObjectStore(f"http://127.0.0.1:{server.server_address[1]}", folder)
    finally:
        server.shutdown()
        thread.join(timeout=60)
        server.server_close()


def _handler(folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            if self._may_write():
                place, query, body = self._place(), self._query(), self._body()
                if "partNumber" in query:
                    part = folder / ".parts" / query["uploadId"] / f"{int(query['partNumber']):05}"
                    part.write_bytes(body)
                elif not self.path.endswith("/"):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(body)
                self._send(200, b"", {"ETag": '"e"'})

        def do_POST(self) -> None:
            """Uploads in parts, and deletes several."""
            if not self._may_write():
                return
            place, query, body = self._place(), self._query(), self._body()
            xml = {"Content-Type": "application/xml"}
            if "delete" in query:
                for key in re.findall(r"<Key>([^<]*)</Key>", body.decode()):
                    _remove(place / unescape(key))
                self._send(200, b"<DeleteResult></DeleteResult>", xml)
            elif "uploads" in query:
                upload = uuid.uuid4().hex
                (folder / ".parts" / upload).mkdir(parents=True)
                answer = (
                    "<InitiateMultipartUploadResult>"
                    f"<UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
                )
                self._send(200, answer.encode(), xml)
            else:
                parts = sorted((folder / ".parts" / query["uploadId"]).iterdir())
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(b"".join(part.read_bytes() for part in parts))
                answer = (
                    "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
                )
                self._send(200, answer.encode(), xml)

        def do_DELETE(self) -> None:
            if self._may_write():
                _remove(self._place())
                self._send(204, b"", {})

        def _may_write(self) -> bool:
            bucket = unquote(urlsplit(self.path).path).lstrip("/").partition("/")[0]
            known = f"Credential={ACCESS_KEY}/" in self.headers.get("Authorization", "")
            if known and bucket != FORBIDDEN_BUCKET and (folder / bucket).is_dir():
                return True
            self._body()
            known = known and bucket != FORBIDDEN_BUCKET
            self._fail(*((404, "NoSuchBucket") if known else (403, "AccessDenied")))
            return False

        def _place(self) -> Path:
            return folder / unquote(urlsplit(self.path).path).lstrip("/")

        def _query(self) -> dict[str, str]:
            parsed = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
            return {key: values[0] for key, values in parsed.items()}

        def _body(self) -> bytes:
            """The body; chunks of HTTP, and the AWS SDK's own within them."""
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = _dechunked(self.rfile)
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "aws-chunked" in self.headers.get("Content-Encoding", ""):
                return _dechunked(io.BytesIO(body))
            return body

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

        def _answer(self) -> None:
            url = urlsplit(self.path)
            bucket, _, key = unquote(url.path).lstrip("/").partition("/")
            signer = f"Credential={ACCESS_KEY}/"
            if signer not in self.headers.get("Authorization", "") or bucket == FORBIDDEN_BUCKET:
                self._fail(403, "AccessDenied")
            elif not (folder / bucket).is_dir():
                self._fail(404, "NoSuchBucket")
            elif not key:
                self._list(bucket, {k: v[0] for k, v in parse_qs(url.query).items()})
            elif (folder / bucket / key).is_file():
                self._object(folder / bucket / key)
            else:
                self._fail(404, "NoSuchKey")

        def _object(self, path: Path) -> None:
            content, status = path.read_bytes(), 200
            headers = {
                "Last-Modified": format_datetime(_modified(path), usegmt=True),
                "Accept-Ranges": "bytes",
                "Content-Type": "application/octet-stream",
            }
            if self.command == "HEAD":
                return self._send(200, b"", headers | {"Content-Length": str(len(content))})
            asked = self.headers.get("Range")
            if asked:
                first, last = asked.removeprefix("bytes=").split("-")
                part = content[int(first) : int(last) + 1]
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                content, status = part, 206
            self._send(status, content, headers)

        def _list(self, bucket: str, query: dict[str, str]) -> None:
            prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
            contents, prefixes = "", dict[str, None]()
            for path in sorted((folder / bucket).rglob("*")):
                key = path.relative_to(folder / bucket).as_posix()
                if not path.is_file() or not key.startswith(prefix):
                    continue
                inside, found, _ = key.removeprefix(prefix).partition(delimiter or "\0")
                if found:
                    prefixes[prefix + inside + delimiter] = None
                else:
                    contents += (
                        f"<Contents><Key>{escape(key)}</Key><Size>{path.stat().st_size}</Size>"
                        f"<LastModified>{_modified(path):%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
                        "</Contents>"
                    )
            common = "".join(
                f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
                for name in prefixes
            )
            self._send(
                200,
                f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{common}"
                "</ListBucketResult>".encode(),
                {"Content-Type": "application/xml"},
            )

        def _fail(self, status: int, code: str) -> None:
            body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
            if self.command == "HEAD":
                body = b""
            self._send(status, body, {"Content-Type": "application/xml"})

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


def _remove(path: Path) -> None:
    """Removes an object; folders are no objects."""
    if path.is_file():
        path.unlink()


def _dechunked(file: io.BufferedIOBase) -> bytes:
    """Chunks, each with its length before it; checksums may come last."""
    body = bytearray()
    while size := int(file.readline().split(b";")[0], 16):
        body += file.read(size)
        file.readline()
    while file.readline().strip():
        pass
    return bytes(body)


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)
