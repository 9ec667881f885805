"""How a verb answers: the message made of its result, kept for the request's repetition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from tuner_storage import Answer

R = TypeVar("R")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[R, M]):
    """Builds a verb's answer from its result `R`; a request without an id is not kept."""

    build: Callable[[R], M]
    parse: Callable[[bytes], M]
    method: str = ""
    request_id: str = ""

    def keep(self, message: M) -> Answer:
        """What the database keeps together with the change."""
        if not self.request_id:
            return Answer()
        body = message.SerializeToString()
        return Answer(request_id=self.request_id, method=self.method, body=body)

    @property
    def question(self) -> Answer:
        """What the database finds a kept answer by."""
        return Answer(request_id=self.request_id, method=self.method)


def silent() -> Reply[Any, Empty]:
    """The reply of a change that nobody asked for."""
    return Reply(build=lambda _: Empty(), parse=Empty.FromString)
