"""The token that a server makes for the other processes of its machine."""

from __future__ import annotations

import logging
import secrets
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from tuner.admin import LOCAL_PREFIX, Role, Token
from tuner.errors import DataDirectoryError, TunerError
from tuner.service import auth
from tuner_storage.directory import replace_file
from tuner_storage.tokens import AdminStore, HashedToken

logger = logging.getLogger(__name__)

#: So long the token of a server that was killed lasts, unless the server starts again before.
_LIFETIME = timedelta(days=1)
_RENEW_SECONDS = 3600.0


class LocalToken:
    """An admin's token, in a file that only this user may read; use it in a `with`.

    It takes the place of the one of the server's last start, and ends with the server. A thread
    renews it, so that the token of a server that was killed ends by itself.

    Raises:
        DataDirectoryError: the file cannot be written.
    """

    def __init__(self, store: AdminStore, file: Path) -> None:
        self._store = store
        self._file = file
        secret = auth.new_secret()
        self._hash = auth.hash_of(secret)
        self._token_id = LOCAL_PREFIX + secrets.token_hex(4)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="local-token", daemon=True)
        self._delete_last()
        now = datetime.now(UTC)
        token = Token(
            token_id=self._token_id,
            role=Role.ADMIN,
            create_time=now,
            expire_time=now + _LIFETIME,
        )
        store.keep_local_token(HashedToken(token=token, secret_hash=self._hash))
        _write(file, secret)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        self._file.unlink(missing_ok=True)
        try:
            self._store.delete_local_token(self._hash)
        except TunerError as error:
            logger.warning("the server's own token ends in a day: %s", error.message)

    def _delete_last(self) -> None:
        try:
            secret = self._file.read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return
        self._store.delete_local_token(auth.hash_of(secret))

    def _renew(self) -> None:
        while not self._stop.wait(_RENEW_SECONDS):
            now = datetime.now(UTC)
            try:
                self._store.renew_local_token(self._token_id, now, now + _LIFETIME)
            except TunerError as error:
                logger.warning("the server's own token is renewed later: %s", error.message)


def _write(file: Path, secret: str) -> None:
    try:
        replace_file(file, secret + "\n", private=True)
    except OSError as error:
        raise DataDirectoryError(
            f"{file} cannot be written ({error.strerror}); make its directory writable, or name "
            "another by TUNER_DATA_DIR."
        ) from error
