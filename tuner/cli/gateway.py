"""`tuner gateway`: predictions over REST and gRPC."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tuner import logs
from tuner.cli.session import Session, json_option
from tuner.config import Settings, is_loopback
from tuner.errors import FailedPreconditionError, InvalidArgumentError
from tuner.runner import environment
from tuner.serving.gateway import Options, run
from tuner.serving.pool import Scaling


@click.command()
@click.argument("models", required=False, type=click.Path(path_type=Path))
@click.option("--host", help="The address to listen on.  [TUNER_HOST; 127.0.0.1]")
@click.option("--rest-port", type=int, default=8501, show_default=True, help="0: a free one.")
@click.option("--grpc-port", type=int, default=8500, show_default=True, help="0: a free one.")
@click.option(
    "--least-replicas",
    type=int,
    default=0,
    show_default=True,
    help="What each version keeps without traffic.",
)
@click.option(
    "--most-replicas", type=int, default=1, show_default=True, help="What each version may have."
)
@click.option(
    "--concurrency",
    type=float,
    default=16.0,
    show_default=True,
    help="The calls under way that one replica is meant to have.",
)
@click.option(
    "--idle-seconds",
    type=float,
    default=300.0,
    show_default=True,
    help="After how long without traffic the last replica ends.",
)
@click.option("--threads", type=int, default=1, show_default=True, help="Of each replica.")
@click.option(
    "--here", is_flag=True, help="Replicas on this machine, even with TUNER_RAY_ADDRESS."
)
@click.option("--cors", is_flag=True, help="Let pages of other sites call.")
@json_option
@click.pass_obj
def gateway(session: Session, /, models: Path | None, **flags: Any) -> None:
    """Serve the models in a folder, as TensorFlow Serving would.

    MODELS holds MODEL/VERSION/saved_model.pb; left out, it is where studies publish theirs.
    """
    settings = Settings.read(host=flags["host"])
    if not is_loopback(settings.host) and not settings.insecure:
        raise FailedPreconditionError(
            f"on {settings.host} anybody could call, unasked who they are; put a proxy that asks "
            "in front, and set TUNER_INSECURE=1 if this is what you want."
        )
    least, most = flags["least_replicas"], flags["most_replicas"]
    if not 0 <= least <= most or most < 1:
        raise InvalidArgumentError(
            f"--least-replicas is 0 to --most-replicas, which is at least 1, but got {least} and "
            f"{most}."
        )
    if not flags["concurrency"] > 0 or not flags["idle_seconds"] >= 0 or flags["threads"] < 1:
        raise InvalidArgumentError(
            "--concurrency is above 0, --idle-seconds at least 0, and --threads at least 1."
        )
    if models is None and "://" in settings.models_uri:
        raise FailedPreconditionError(
            f"models are published at {settings.models_uri}, but a gateway serves a folder: name "
            "one, such as a copy made by tuner export."
        )
    logs.configure(settings)
    environment.prepare(os.environ, own_cluster=False)
    options = Options(
        models=(models or Path(settings.models_uri)).expanduser().absolute(),
        host=settings.host,
        rest_port=flags["rest_port"],
        grpc_port=flags["grpc_port"],
        scaling=Scaling(
            least=least,
            most=most,
            concurrency=flags["concurrency"],
            idle_seconds=flags["idle_seconds"],
        ),
        threads=flags["threads"],
        cors=flags["cors"],
        ray_address="" if flags["here"] else settings.ray_address,
    )

    def ready(said: Mapping[str, Any]) -> None:
        if session.as_json:
            session.print_line(said)
        else:
            session.say(
                f"models in {options.models}: http://{said['rest']}/v1/models/MODEL:predict and "
                f"gRPC at {said['grpc']}  (Ctrl-C stops it)"
            )

    run(options, ready=ready)
