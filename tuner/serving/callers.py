"""Who may ask a gateway: those who have one of the study server's tokens."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable

from tuner.errors import UnauthenticatedError
from tuner.v1 import endpoint_service_pb2 as pb

_SCHEME = b"bearer"
_HINT = "an admin of the study server makes one by tuner token create NAME --role reader."


class Callers:
    """The tokens that are good, as the study server last said; nothing is asked per call.

    Args:
        is_open: Whether everybody may call until the study server says that it has tokens, and
            where it has none.
    """

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self._has_tokens = False
        #: When each ends, in seconds since the epoch, by the SHA-256 of its secret.
        self._ends: dict[bytes, float] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether callers must show a token."""
        return self._has_tokens

    def update(self, has_tokens: bool, callers: Iterable[pb.ReportGatewayResponse.Caller]) -> None:
        """Takes note of what the study server said."""
        self._has_tokens = has_tokens
        self._ends = {
            bytes.fromhex(caller.sha256): caller.expire_time.ToNanoseconds() / 1e9
            if caller.HasField("expire_time")
            else float("inf")
            for caller in callers
        }

    def check(self, authorization: bytes) -> None:
        """Raises UnauthenticatedError unless a header `Authorization` lets its caller in."""
        if not self._has_tokens:
            if not self.is_open:
                raise UnauthenticatedError(
                    "this gateway listens beyond its machine, and its study server asks for no "
                    "tokens: set TUNER_AUTH=token there, or TUNER_INSECURE=1 here."
                )
            return
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() != _SCHEME or not secret.strip():
            raise UnauthenticatedError(
                "predictions need a token here: send the header Authorization: Bearer TOKEN; "
                + _HINT
            )
        # What is looked up is a hash: how long that takes tells nothing of a secret.
        ends = self._ends.get(hashlib.sha256(secret.strip()).digest())
        if ends is None or ends <= time.time():
            raise UnauthenticatedError(f"the token is unknown, revoked or expired; {_HINT}")
