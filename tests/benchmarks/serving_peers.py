"""Other servers of the same model, as one writes them by hand.

    python -m tests.benchmarks.serving_peers async|threads|ray|nothing DIRECTORY

`async` is FastAPI with a pydantic body over the SavedModel's signature, in one process, with
uvloop and httptools; `threads` is the same with a `def` for its endpoint, which FastAPI calls in
threads. `ray` is a deployment of Ray Serve with one replica; it needs `ray[serve]`,
which tuner does not, so that this module imports nothing of tuner. `nothing` is an ASGI
application that answers what is always the same: the floor of HTTP in Python. Each says on
standard output where it is, as JSON.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

PATH = "/predict"


def _say(address: str) -> None:
    print(json.dumps({"rest": address}), flush=True)


def _predictor(directory: str) -> tuple[Callable[[Mapping[str, Sequence[Any]]], Any], Any]:
    """What predicts columns, and the inputs of the signature by name."""
    import tensorflow as tf

    model = tf.saved_model.load(directory)
    call = model.signatures["serving_default"]
    inputs = call.structured_input_signature[1]

    def predict(columns: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        tensors = {
            name: tf.constant(columns[name], dtype=spec.dtype) for name, spec in inputs.items()
        }
        outputs = {name: value.numpy() for name, value in call(**tensors).items()}
        rows = zip(outputs["classes"], outputs["scores"], outputs["predicted"], strict=True)
        return {
            "predictions": [
                {
                    "classes": [name.decode() for name in classes],
                    "scores": scores.tolist(),
                    "predicted": predicted.decode(),
                }
                for classes, scores, predicted in rows
            ]
        }

    predict.model = model  # type: ignore[attr-defined]  # a signature does not keep its model
    return predict, inputs


def _serve(app: Any) -> None:
    import uvicorn

    config = uvicorn.Config(
        app, port=0, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )
    listening = config.bind_socket()
    listening.listen(config.backlog)
    _say("{}:{}".format(*listening.getsockname()[:2]))
    uvicorn.Server(config).run(sockets=[listening])


def serve_fastapi(directory: str, *, in_threads: bool) -> None:
    """FastAPI."""
    import tensorflow as tf
    from fastapi import FastAPI
    from pydantic import create_model

    predict, inputs = _predictor(directory)
    types = {name: str if spec.dtype == tf.string else float for name, spec in inputs.items()}
    fields: Any = {name: (kind, ...) for name, kind in types.items()}
    row = create_model("Row", **fields)
    body: Any = create_model("Body", instances=(list[row], ...))  # type: ignore[valid-type]
    app = FastAPI()

    def endpoint(body: Any) -> Any:
        rows = body.instances
        return predict({name: [getattr(row, name) for row in rows] for name in types})

    async def async_endpoint(body: Any) -> Any:
        return endpoint(body)

    chosen = endpoint if in_threads else async_endpoint
    chosen.__annotations__["body"] = body
    app.post(PATH)(chosen)
    _serve(app)


def serve_nothing(directory: str) -> None:
    """Reads a request, and answers the same always."""
    with open(os.path.join(directory, "..", "..", "..", "answer.json"), "rb") as file:
        answer = file.read()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

    _serve(app)


def serve_ray(directory: str) -> None:
    """Ray Serve."""
    import ray
    from ray import serve

    class Deployment:
        def __init__(self) -> None:
            self._predict, self._inputs = _predictor(directory)

        async def __call__(self, request: Any) -> Any:
            rows = (await request.json())["instances"]
            return self._predict({name: [row[name] for row in rows] for name in self._inputs})

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_TOKEN=secrets.token_hex(32))
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    # More under way than callers: none waits for its turn outside of the replica.
    deployment: Any = serve.deployment(Deployment, num_replicas=1, max_ongoing_requests=64)
    serve.run(deployment.bind(), route_prefix=PATH)
    _say(f"127.0.0.1:{port}")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


_SERVERS: Mapping[str, Callable[[str], None]] = {
    "async": partial(serve_fastapi, in_threads=False),
    "threads": partial(serve_fastapi, in_threads=True),
    "ray": serve_ray,
    "nothing": serve_nothing,
}

if __name__ == "__main__":
    # What is not for the benchmark goes to the log.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    _SERVERS[sys.argv[1]](sys.argv[2])
