"""How a verb answers: the message made of its result, kept for the request's repetition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

R = TypeVar("R")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[R, M]):
    """Builds a verb's answer from its result `R`; without a request id it is not kept."""

    build: Callable[[R], M]
    parse: Callable[[bytes], M]
    method: str = ""
    request_id: str = ""
    #: What else the request is about: another trial is another request.
    about: str = ""
    #: The name of what is changed, for the audit log; empty for what workers do all the time.
    audited: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What a repeated request is known by."""
        return self.request_id, f"{self.method} {self.about}" if self.about else self.method


def silent() -> Reply[Any, Empty]:
    """The reply of a change that nobody asked for."""
    return Reply(build=lambda _: Empty(), parse=Empty.FromString)
