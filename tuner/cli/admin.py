"""`tuner token`, `tuner audit` and `tuner servers`, for admins."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from tuner.admin import Role, Token
from tuner.cli import documents
from tuner.cli.session import Session, server_option
from tuner.client import tables


@click.group()
def token() -> None:
    """Make, list and revoke tokens: who may call the study server."""


@token.command()
@click.argument("name")
@click.option(
    "--role",
    required=True,
    type=click.Choice([role.value.lower() for role in Role], case_sensitive=False),
    help="What its holder may do.",
)
@click.option("--days", type=click.FloatRange(0, min_open=True), help="How long it is good for.")
@server_option
@click.pass_obj
def create(session: Session, name: str, role: str, days: float | None) -> None:
    """Make a token for NAME, and print its secret: the only time that it is shown."""
    ttl = None if days is None else timedelta(days=days)
    made = session.client.admin.create_token(name, Role(role.upper()), ttl)
    if session.as_json:
        session.print_json({**documents.token(made.token), "secret": made.secret})
        return
    # The secret alone on standard output, so that it can be sent straight into a file.
    session.note(f"the token of {name}, a {role.lower()}; it is not shown again:")
    click.echo(made.secret)
    session.note("its holder sets TUNER_TOKEN, or calls tuner.connect(token=...)")


@token.command("list")
@server_option
@click.pass_obj
def list_(session: Session) -> None:
    """List the tokens, without their secrets."""
    found = list(session.client.admin.tokens())
    if session.as_json:
        session.print_json([documents.token(item) for item in found])
    elif found:
        view = tables.table()
        for title in ("token", "role", "state", "created"):
            view.add_column(title, no_wrap=True)
        for item in found:
            created = f"{tables.age(item.create_time)} ago"
            view.add_row(item.token_id, item.role.lower(), _state(item), created)
        session.out.print(view)
    else:
        session.say("no tokens; `tuner token create NAME --role writer` makes one")


def _state(item: Token) -> str:
    now = datetime.now(UTC)
    if item.revoke_time is not None:
        return f"revoked {tables.age(item.revoke_time)} ago"
    if not item.is_active(now):
        return "expired"
    if item.expire_time is None:
        return "active"
    return f"active for {tables.duration(item.expire_time - now)}"


@token.command()
@click.argument("name")
@server_option
@click.pass_obj
def revoke(session: Session, name: str) -> None:
    """End a token; within a second no server lets it in."""
    revoked = session.client.admin.revoke_token(name)
    if session.as_json:
        session.print_json(documents.token(revoked))
    else:
        session.say(f"the token of {name} is revoked")


@click.command()
@click.option("--resource", default="", help="Only changes of this: studies/adult, tokens/ann.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@server_option
@click.pass_obj
def audit(session: Session, resource: str, limit: int) -> None:
    """List who changed what, newest first."""
    found = list(session.client.admin.audit(resource, limit=limit))
    if session.as_json:
        session.print_json([documents.audit_entry(entry) for entry in found])
    elif found:
        view = tables.table()
        for title in ("time", "caller", "method", "resource", "request"):
            view.add_column(title, no_wrap=title != "resource", overflow="fold")
        for entry in found:
            time = f"{entry.time.astimezone():%Y-%m-%d %H:%M:%S}"
            view.add_row(time, entry.caller or "-", entry.method, entry.resource, entry.request)
        session.out.print(view)
    else:
        session.say("nothing was changed")


@click.command()
@server_option
@click.pass_obj
def servers(session: Session) -> None:
    """List the study servers that share the database."""
    found = session.client.admin.servers()
    if session.as_json:
        session.print_json([documents.server(server) for server in found])
    elif found:
        view = tables.table()
        view.add_column("server", no_wrap=True)
        view.add_column("studies", justify="right", no_wrap=True)
        view.add_column("started", no_wrap=True)
        for server in found:
            started = f"{tables.age(server.start_time)} ago"
            view.add_row(server.address, str(server.studies), started)
        session.out.print(view)
    else:
        session.say("no study server has entered itself yet")
