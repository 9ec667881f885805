"""What the server and its fitting processes say to each other: problems and answers as bytes."""

from __future__ import annotations

import json
import socket
import struct
import time
from dataclasses import fields

import numpy as np
from optuna.distributions import distribution_to_json, json_to_distribution

from tuner.engine.gp import Array, Cube, Problem
from tuner.engine.gp.cube import Axis

#: What a process says once it has started.
READY = b"ready"

_LENGTH = struct.Struct("<Q")
_CHUNK_BYTES = 1 << 20
_SOLVED, _FAILED = b"+", b"-"
_ARRAYS = tuple(field.name for field in fields(Problem) if field.name not in ("cube", "seed"))


class SolverError(Exception):
    """A problem could not be solved."""


class Line:
    """One end of a connection on which messages go both ways. One thread reads, one writes."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(self, message: bytes, deadline: float | None = None) -> None:
        """Sends a message; raises TimeoutError at the deadline (monotonic), OSError if cut."""
        self._limit(deadline)
        self._socket.sendall(_LENGTH.pack(len(message)) + message)

    def receive(self, deadline: float | None = None) -> bytes:
        """The next message; raises as `send` does, and EOFError where there is none any more."""
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size, deadline))
        return self._read(length, deadline)

    def _read(self, count: int, deadline: float | None) -> bytes:
        parts, left = list[bytes](), count
        while left:
            self._limit(deadline)
            part = self._socket.recv(min(left, _CHUNK_BYTES))
            if not part:
                raise EOFError("the other end is closed.")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _limit(self, deadline: float | None) -> None:
        # A socket takes a timeout of 0 for none at all.
        left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
        self._socket.settimeout(left)

    def close(self) -> None:
        """Cuts the connection."""
        self._socket.close()


def problem_to_bytes(problem: Problem) -> bytes:
    """A problem as its numbers, after a line of JSON that says what they are."""
    arrays = [np.ascontiguousarray(getattr(problem, name), np.float64) for name in _ARRAYS]
    head = {
        "seed": problem.seed,
        "names": problem.cube.names,
        "axes": [
            [distribution_to_json(axis.distribution), axis.parent, axis.when]
            for axis in problem.cube.axes
        ],
        "shapes": [array.shape for array in arrays],
    }
    return b"".join([json.dumps(head).encode(), b"\n", *(array.tobytes() for array in arrays)])


def problem_from_bytes(message: bytes) -> Problem:
    """The inverse of `problem_to_bytes`."""
    head, _, numbers = message.partition(b"\n")
    said = json.loads(head)
    axes = tuple(
        Axis(json_to_distribution(distribution), parent, tuple(when))
        for distribution, parent, when in said["axes"]
    )
    arrays, start = dict[str, Array](), 0
    for name, shape in zip(_ARRAYS, said["shapes"], strict=True):
        count = int(np.prod(shape))
        arrays[name] = np.frombuffer(numbers, np.float64, count, start).reshape(shape).copy()
        start += 8 * count
    return Problem(cube=Cube(tuple(said["names"]), axes), seed=tuple(said["seed"]), **arrays)


def answer_to_bytes(answer: Array | str) -> bytes:
    """A point [axes], or what went wrong."""
    if isinstance(answer, str):
        return _FAILED + answer.encode()
    return _SOLVED + np.ascontiguousarray(answer, np.float64).tobytes()


def answer_from_bytes(message: bytes) -> Array:
    """The point; raises SolverError with what went wrong."""
    if message[:1] != _SOLVED:
        raise SolverError(message[1:].decode(errors="replace"))
    return np.frombuffer(message[1:], np.float64).copy()
