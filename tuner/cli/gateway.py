"""`tuner gateway`: predictions over REST and gRPC."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from tuner import logs
from tuner.cli.session import Session, server_option
from tuner.config import Settings
from tuner.endpoint import Scaling
from tuner.errors import InvalidArgumentError
from tuner.runner import environment
from tuner.serving.gateway import Options, run

_OF_FOLDER = "  Of a folder's models."


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--host", help="The address to listen on.  [TUNER_HOST; 127.0.0.1]")
@click.option("--rest-port", type=int, help="0: a free one.  [TUNER_REST_PORT; 8501]")
@click.option("--grpc-port", type=int, help="0: a free one.  [TUNER_GRPC_PORT; 8500]")
@click.option(
    "--least-replicas",
    type=int,
    default=0,
    show_default=True,
    help="What each version keeps without traffic." + _OF_FOLDER,
)
@click.option(
    "--most-replicas",
    type=int,
    default=1,
    show_default=True,
    help="What each version may have." + _OF_FOLDER,
)
@click.option(
    "--concurrency",
    type=float,
    default=16.0,
    show_default=True,
    help="The calls under way that one replica is meant to have." + _OF_FOLDER,
)
@click.option(
    "--idle-seconds",
    type=float,
    default=300.0,
    show_default=True,
    help="After how long without traffic the last replica ends." + _OF_FOLDER,
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="What an operation of a model may use.",
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=4096,
    show_default=True,
    help="What each port may have; then those that idle longest are closed.",
)
@click.option(
    "--here", is_flag=True, help="Replicas on this machine, even with TUNER_RAY_ADDRESS."
)
@click.option("--cors", is_flag=True, help="Let pages of other sites call.")
@server_option
@click.pass_obj
def gateway(session: Session, /, folder: Path | None, **flags: Any) -> None:
    """Serve the endpoints of the study server, or the models in FOLDER.

    FOLDER holds MODEL/VERSION/saved_model.pb, and is served as TensorFlow Serving would.
    """
    settings = Settings.read(
        server=session.server,
        **{name: flags[name] for name in ("host", "rest_port", "grpc_port")},
    )
    logs.configure(settings)
    environment.prepare(os.environ, own_cluster=False)
    options = Options(
        settings=settings,
        models=None if folder is None else folder.expanduser().absolute(),
        scaling=_scaling(flags),
        threads=flags["threads"],
        connections=flags["connections"],
        cors=flags["cors"],
        ray_address="" if flags["here"] else settings.ray_address,
    )
    scheme = "https" if settings.tls_certificate else "http"
    what = "the study server's endpoints" if folder is None else f"models in {options.models}"

    def ready(said: Mapping[str, Any]) -> None:
        if session.as_json:
            session.print_line(said)
        else:
            session.say(
                f"{what}: {scheme}://{said['rest']}/v1/models/NAME:predict and gRPC at "
                f"{said['grpc']}  (Ctrl-C stops it)"
            )

    run(options, ready=ready)


def _scaling(flags: Mapping[str, Any]) -> Scaling:
    least, most = flags["least_replicas"], flags["most_replicas"]
    if not 0 <= least <= most or most < 1:
        raise InvalidArgumentError(
            f"--least-replicas is 0 to --most-replicas, which is at least 1, but got {least} and "
            f"{most}."
        )
    if not 0 < flags["concurrency"] < 1e6 or not 0 <= flags["idle_seconds"] < 1e9:
        raise InvalidArgumentError("--concurrency is above 0, and --idle-seconds at least 0.")
    return Scaling(
        min_replicas=least,
        max_replicas=most,
        target_concurrency=flags["concurrency"],
        idle_time=timedelta(seconds=flags["idle_seconds"]),
    )
