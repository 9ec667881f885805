"""A replica: one model version in a process of its own, which answers a gateway's frames.

    python -m tuner.serving.replica DIRECTORY SOCKET [--threads N] [--host HOST]

It listens on a Unix socket, or on a free port of a host, where callers show the secret that it
finds in TUNER_REPLICA_SECRET. It says on standard output, as JSON, that it is ready, and ends at
SIGTERM. What its model prints there goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import uvloop

from tuner.errors import InternalError, TunerError, UnimplementedError
from tuner.serving import examples, inference, json_tensors, metadata, protos
from tuner.serving.batching import Batcher, Outputs
from tuner.serving.model import Model, zeros
from tuner.serving.wire import CODES, OK, SECRET, Frames, Method

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Answer = Callable[[int, bytes], None]

_UNEXPECTED = b"an unexpected error; the gateway's log tells more."
#: How much is said of a failure: lines of several replicas on one pipe are whole up to 4 KiB.
_SAID = 800


class Replica:
    """Answers calls to one model. It belongs to an event loop."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._batcher = Batcher(model.run)
        #: Set when a gateway wants it to end.
        self.ends = asyncio.Event()

    def warm_up(self) -> None:
        """Predicts a row with each signature, so that the first client does not wait for that."""
        for signature in self._model.signatures.values():
            inputs = zeros(signature)
            if inputs is None:
                continue
            try:
                self._model.run(signature, inputs)
            except TunerError as error:
                # A row of nothing is not everybody's.
                logger.info("not warmed up: %s: %s", signature.name, error.message)

    def close(self) -> None:
        """Ends its thread, and frees the model."""
        self._batcher.close()
        self._model.close()

    def handle(self, method: int, body: bytes, answer: Answer) -> None:
        """Answers a call, now or later, with a status and a body."""
        try:
            self._handle(method, body, answer)
        except TunerError as error:
            answer(CODES[error.code], error.message.encode())
        except Exception:
            logger.exception("unexpected error in a call")
            answer(CODES[InternalError.code], _UNEXPECTED)

    def _handle(self, method: int, body: bytes, answer: Answer) -> None:
        find = self._model.signature
        match method:
            case Method.PREDICT_JSON:
                request = json_tensors.read_predict(body, find)
                write = partial(json_tensors.write_predict, in_rows=request.in_rows)
                self._call((request.signature, request.inputs, write), answer)
            case Method.CLASSIFY_JSON:
                classify = *examples.read(body, find), examples.write_classifications
                self._call(classify, answer)
            case Method.REGRESS_JSON:
                regress = *examples.read(body, find), examples.write_regressions
                self._call(regress, answer)
            case Method.PREDICT_PROTO:
                self._call(protos.read_predict(body, find), answer)
            case Method.CLASSIFY_PROTO:
                self._call(protos.read_classify(body, find), answer)
            case Method.REGRESS_PROTO:
                self._call(protos.read_regress(body, find), answer)
            case Method.METADATA_PROTO:
                answer(OK, protos.metadata(body, self._model.meta_graph))
            case Method.INFER_JSON:
                self._call(inference.read(body, find), answer)
            case Method.DESCRIBE_JSON:
                answer(OK, inference.describe(find("")))
            case Method.SHOW_PROTO:
                answer(OK, protos.to_json(body))
            case Method.ABOUT_JSON:
                answer(OK, json.dumps(self._model.about).encode())
            case Method.METADATA_JSON:
                answer(OK, metadata.to_json(self._model.meta_graph))
            case Method.HELLO:
                answer(OK, b"")
            case Method.END:
                answer(OK, b"")
                self.ends.set()
            case _:
                raise UnimplementedError(f"there is no method {method}.")

    def _call(self, call: protos.Call, answer: Answer) -> None:
        signature, inputs, write = call

        def done(outputs: Outputs | TunerError) -> None:
            try:
                if isinstance(outputs, TunerError):
                    raise outputs
                body = write(outputs)
            except TunerError as error:
                answer(CODES[error.code], error.message.encode())
            except Exception:  # the others of its batch are answered all the same
                logger.exception("unexpected error in an answer")
                answer(CODES[InternalError.code], _UNEXPECTED)
            else:
                answer(OK, body)

        self._batcher.predict(signature, inputs, done)


class _Connection(Frames):
    """A gateway's connection.

    Args:
        replica: Answers.
        secret: What the first frame has to say; empty: nothing.
    """

    def __init__(self, replica: Replica, secret: bytes) -> None:
        super().__init__()
        self._replica = replica
        self._secret = secret

    def received(self, number: int, code: int, body: bytes) -> None:
        """Has a call answered."""
        if self._secret:
            if code != Method.HELLO or not hmac.compare_digest(body, self._secret):
                logger.warning("a connection without the secret was closed")
                self.close()
                return
            self._secret = b""
        self._replica.handle(code, body, partial(self.send, number))


async def serve(
    replica: Replica, socket: Path, host: str, secret: str, ready: Callable[[int], None]
) -> None:
    """Answers whoever connects, until SIGTERM or SIGINT.

    Args:
        replica: Answers.
        socket: The Unix socket to listen on, unless there is a host.
        host: The address to listen on, at a free port; empty: the socket.
        secret: What callers have to show first; not read for a socket, which others cannot open.
        ready: Is told the port, 0 for a socket.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, replica.ends.set)
    if host:
        server = await loop.create_server(lambda: _Connection(replica, secret.encode()), host, 0)
    else:
        server = await loop.create_unix_server(lambda: _Connection(replica, b""), str(socket))
    async with server:
        ready(server.sockets[0].getsockname()[1] if host else 0)
        await replica.ends.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a replica; a failure is one line on standard output, and a non-zero status."""
    parser = argparse.ArgumentParser(prog="python -m tuner.serving.replica")
    parser.add_argument("directory", type=Path)
    parser.add_argument("socket", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--host", default="")
    options = parser.parse_args(arguments)
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a model may print

    def say(**said: object) -> None:
        document = {"socket": str(options.socket), **said}
        print(json.dumps(document, ensure_ascii=False), file=output, flush=True)

    try:
        replica = Replica(Model(options.directory, threads=options.threads))
    except TunerError as error:
        say(error=error.message[:_SAID])
        return 2
    replica.warm_up()

    def said(port: int) -> None:
        say(port=port)

    try:
        secret = os.environ.get(SECRET, "")
        # It writes all answers of a batch at once, where asyncio writes each by itself.
        uvloop.run(serve(replica, options.socket, options.host, secret, said))
    finally:
        replica.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
