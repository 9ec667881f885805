"""`tuner web`: the pages alone."""

from __future__ import annotations

import json

import click

from tuner import web as pages
from tuner.cli.session import Session, server_option
from tuner.config import Settings


@click.command()
@click.option("--host", help="The address to listen on.  [TUNER_HOST; 127.0.0.1]")
@click.option("--web-port", type=int, help="The port; 0 takes a free one.  [TUNER_WEB_PORT; 8480]")
@server_option
@click.pass_obj
def web(session: Session, host: str | None, web_port: int | None) -> None:
    """Start the web pages alone, for a study server that runs already."""
    settings = Settings.read(server=session.server, host=host, web_port=web_port)

    def ready(url: str) -> None:
        if session.as_json:
            click.echo(json.dumps({"url": url}))
        else:
            session.say(f"{url}  (Ctrl-C stops it)")

    pages.serve(settings, ready=ready)
