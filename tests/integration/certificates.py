"""Certificates made for a test by the program openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The files of a certificate and its key."""

    certificate: str
    key: str


class Authority:
    """Signs certificates; its own is the file `ca`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.ca = str(folder / f"{name}.crt")
        self._key = str(folder / f"{name}.key")
        _openssl(
            "req", "-x509", *_new_key(self._key), "-out", self.ca, "-days", "2",
            "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE",
        )  # fmt: skip

    def sign(self, name: str, *alternatives: str) -> Pair:
        """A certificate for `name`, and for others such as DNS:localhost and IP:127.0.0.1."""
        file = self._folder / f"{self._name}-{name}"
        request, certificate, key = (str(file.with_suffix(s)) for s in (".csr", ".crt", ".key"))
        extensions = file.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={','.join(alternatives or (f'DNS:{name}',))}\n")
        _openssl("req", *_new_key(key), "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-days", "2",
            "-CAcreateserial", "-extfile", str(extensions), "-out", certificate,
        )  # fmt: skip
        return Pair(certificate=certificate, key=key)


def _new_key(file: str) -> tuple[str, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=30)
