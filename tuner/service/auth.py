"""Tokens: how they are made, and the guard that lets nobody in without one."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tuner.admin import Role, Token
from tuner.errors import TunerError, UnauthenticatedError
from tuner.service import roles
from tuner.service.call import Call, Metadata
from tuner_storage.tokens import HashedToken

logger = logging.getLogger(__name__)

_PREFIX = "tuner_"
_SECRET_BYTES = 32
#: For so long a token that was revoked on another server may still be let in.
_KNOWN_SECONDS = 1.0
#: For so long what was read is enough to turn strangers away without a look at the database.
_TRUSTED_SECONDS = 5.0
#: A token that is not known may have been made since; it is looked up so often at most.
_UNKNOWN_SECONDS = 0.1


def new_secret() -> str:
    """A secret that nobody guesses."""
    return _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)


def hash_of(secret: str) -> bytes:
    """What is kept of a secret; it is long and random, and needs no salt and no slowness."""
    return hashlib.sha256(secret.encode()).digest()


@dataclass(frozen=True, slots=True)
class _Known:
    """The tokens as they were read, or why they could not be."""

    by_hash: Mapping[bytes, HashedToken]
    read_time: float
    error: TunerError | None = None


class TokenGuard:
    """Lets in who has a token whose role allows the method. Thread-safe.

    All tokens are read at once and at most ten times a second, whatever is sent: strangers who
    guess cost the database nothing.

    Args:
        read: The tokens that open anything at a time.
    """

    def __init__(
        self,
        read: Callable[[datetime], Sequence[HashedToken]],
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._read_active = read
        self._now = now
        self._monotonic = monotonic
        self._sleep = sleep
        self._reading = threading.Lock()
        self._known = _Known({}, float("-inf"))

    def admit(self, call: Call, request: Any) -> None:
        """Says in `call` who calls.

        Raises:
            UnauthenticatedError: without a token, or with one that opens nothing.
            PermissionDeniedError: its role does not allow the method.
        """
        try:
            token = self._holder(_bearer(call.metadata))
            call.caller, call.is_admin = token.token_id, token.role is Role.ADMIN
            roles.check_role(call.method, token.token_id, token.role)
        except TunerError as error:
            logger.info("refused %s of %s: %s", call.method, call.peer, error.message)
            raise

    def is_stranger(self, metadata: Metadata) -> bool:
        """Whether the tokens that were read last hold none that came with a call.

        It waits for nothing: all calls of the server pass through the thread that asks. Who has a
        token that was made since is told to try again.
        """
        known = self._known
        if known.error is not None or self._monotonic() - known.read_time > _TRUSTED_SECONDS:
            return False
        sent = {key: value for key, value in metadata or () if isinstance(value, str)}
        try:
            return hash_of(_bearer(sent)) not in known.by_hash
        except UnauthenticatedError:
            return True

    def refresh(self) -> None:
        """Reads the tokens, if that was not done lately: call it every second."""
        with suppress(TunerError):
            self._read(_KNOWN_SECONDS)

    def forget(self) -> None:
        """Reads the tokens anew for the next call: they were changed here."""
        with self._reading:
            self._known = _Known({}, float("-inf"))

    def _holder(self, secret: str) -> Token:
        wanted = hash_of(secret)
        found = self._read(_KNOWN_SECONDS).get(wanted)
        if found is None:
            # It may have been made a moment ago, on another server.
            self._wait(self._known.read_time + _UNKNOWN_SECONDS - self._monotonic())
            found = self._read(_UNKNOWN_SECONDS).get(wanted)
        if (
            found is None
            or not hmac.compare_digest(found.secret_hash, wanted)
            or not found.token.is_active(self._now())
        ):
            raise UnauthenticatedError(
                "the token is unknown, revoked or expired; ask an admin for a new one "
                "(tuner token create NAME --role writer) and set TUNER_TOKEN."
            )
        return found.token

    def _wait(self, seconds: float) -> None:
        if 0 < seconds < _UNKNOWN_SECONDS:
            self._sleep(seconds)

    def _read(self, seconds: float) -> Mapping[bytes, HashedToken]:
        """The tokens as they were at most so long ago; one thread reads, the others wait."""
        known = self._known
        if self._monotonic() - known.read_time >= seconds:
            with self._reading:
                known = self._known
                if self._monotonic() - known.read_time >= seconds:
                    known = self._known = self._read_now()
        if known.error is not None:
            raise type(known.error)(known.error.message)
        return known.by_hash

    def _read_now(self) -> _Known:
        start = self._monotonic()
        try:
            found = self._read_active(self._now())
        except TunerError as error:
            # Those who waited are refused with it; a moment later it is tried again.
            return _Known({}, self._monotonic() - _KNOWN_SECONDS + _UNKNOWN_SECONDS, error)
        return _Known({token.secret_hash: token for token in found}, start)


def _bearer(metadata: Mapping[str, str]) -> str:
    scheme, _, secret = metadata.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise UnauthenticatedError(
            "this study server wants a token: set TUNER_TOKEN, or call tuner.connect(token=...); "
            "an admin makes one by tuner token create NAME --role writer."
        )
    return secret.strip()
