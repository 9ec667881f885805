"""`tuner models`: the registry, from the list of models to their aliases and what is kept."""

from __future__ import annotations

import sys

import click

from tuner.cli import documents
from tuner.cli.session import Session, server_option
from tuner.client import tables
from tuner.errors import InvalidArgumentError
from tuner.model import Model, ModelVersion, VersionState, check_alias, parse_reference

_GIB, _MIB = 1 << 30, 1 << 20


@click.group(invoke_without_command=True)
@server_option
@click.pass_context
def models(context: click.Context) -> None:
    """List and manage published models; alone, it lists them.

    MODEL/VERSION, MODEL@VERSION and MODEL@ALIAS name a version.
    """
    if context.invoked_subcommand is None:
        _list(context.find_object(Session) or Session())


@models.command("list")
@server_option
@click.pass_obj
def list_(session: Session) -> None:
    """List the models."""
    _list(session)


def _list(session: Session) -> None:
    found = list(session.client.models)
    if session.as_json:
        session.print_json([documents.model(item) for item in found])
    elif found:
        view = tables.table()
        for title in ("model", "newest", "versions", "aliases", "changed"):
            view.add_column(title, no_wrap=True)
        for item in found:
            view.add_row(
                item.model_id,
                str(item.latest_version or "none"),
                str(item.version_count),
                ", ".join(f"{alias} {number}" for alias, number in item.aliases.items()),
                f"{tables.age(item.update_time)} ago",
            )
        session.out.print(view)
    else:
        session.say("no models; `tuner models publish STUDY MODEL` makes one of its best trial")


@models.command()
@click.argument("name", metavar="MODEL[@ALIAS|/VERSION]")
@server_option
@click.pass_obj
def show(session: Session, name: str) -> None:
    """Show a MODEL with its versions, or a version with its card."""
    if parse_reference(name)[1]:
        _show_version(session, session.client.models.version(name))
    else:
        model = session.client.models.get(name)
        _show_model(session, model, list(session.client.models.versions(name)))


def _show_model(session: Session, model: Model, versions: list[ModelVersion]) -> None:
    if session.as_json:
        listed = [documents.model_version(version) for version in versions]
        session.print_json({**documents.model(model), "versions": listed})
        return
    keep = f"; keeps {model.keep_versions} without an alias" if model.keep_versions else ""
    session.say(f"{model.model_id}{keep}")
    if model.description:
        session.say(model.description)
    view = tables.table()
    for title in ("version", "state", "aliases", "from", "size", "published"):
        view.add_column(title, no_wrap=title != "from")
    for version in versions:
        done = version.finish_time
        view.add_row(
            str(version.version),
            tables.state(version.state),
            ", ".join(version.aliases),
            version.lineage.trial or version.lineage.source,
            _size(version.size_bytes),
            "" if done is None else f"{tables.age(done)} ago",
        )
    session.out.print(view)
    for version in versions:
        if version.state is VersionState.REJECTED:
            session.say(f"{version.version} was rejected: {version.report}")


def _show_version(session: Session, version: ModelVersion) -> None:
    if session.as_json:
        session.print_json({**documents.model_version(version), "card": version.card})
        return
    lines = {
        "state": version.state.lower(),
        "report": version.report,
        "aliases": ", ".join(version.aliases),
        "from": version.lineage.trial or version.lineage.source,
        "at": version.uri,
        "size": _size(version.size_bytes),
        "sha256": version.sha256,
        "publisher": version.publisher,
    }
    session.say(f"{version.model_id}/{version.version}")
    for title, text in lines.items():
        if text:
            session.say(f"{title:10} {text}")
    if version.card:
        session.say("")
        session.say(version.card.rstrip())


@models.command()
@click.argument("study")
@click.argument("model")
@click.option("--trial", "number", type=click.IntRange(0), help="Not the best, but this trial.")
@click.option("--no-wait", is_flag=True, help="Return before it is published.")
@server_option
@click.pass_obj
def publish(session: Session, study: str, model: str, number: int | None, no_wait: bool) -> None:
    """Publish the best trial of STUDY as the next version of MODEL; a runner does it."""
    handle = session.client.get_study(study)
    trial = handle.best() if number is None else handle.trial(number)
    with session.spinner(f"waiting for a runner to publish trial {trial.number}"):
        version = trial.publish(model, wait=not no_wait)
    if session.as_json:
        session.print_json(documents.model_version(version))
    elif version.state is VersionState.READY:
        session.say(f"version {version.version} of {model} is published at {version.uri}")
    else:
        session.say(f"version {version.version} of {model} is {version.state.lower()}")


@models.group()
def alias() -> None:
    """Give versions names of their own, such as champion and challenger."""


@alias.command("set")
@click.argument("name", metavar="MODEL@ALIAS")
@click.argument("version", type=click.IntRange(1))
@server_option
@click.pass_obj
def set_(session: Session, name: str, version: int) -> None:
    """Make MODEL@ALIAS name VERSION."""
    model, word = _alias(name)
    _say(session, session.client.models.set_alias(model, word, version), f"{name} is {version}")


@alias.command()
@click.argument("name", metavar="MODEL@ALIAS")
@server_option
@click.pass_obj
def remove(session: Session, name: str) -> None:
    """Make MODEL@ALIAS name nothing; its version stays."""
    model, word = _alias(name)
    _say(session, session.client.models.delete_alias(model, word), f"{name} names nothing now")


@models.command()
@click.argument("model")
@click.option(
    "--keep", type=click.IntRange(0), required=True, help="How many; 0 keeps all versions."
)
@server_option
@click.pass_obj
def retention(session: Session, model: str, keep: int) -> None:
    """Keep the newest versions of MODEL without an alias; a runner removes the files of older."""
    changed = session.client.models.update(model, keep_versions=keep)
    _say(session, changed, f"{model} keeps {keep or 'all'} versions without an alias")


@models.command()
@click.argument("name", metavar="MODEL[/VERSION]")
@click.option(
    "--files-removed", is_flag=True, help="The version's files are gone: no runner removes them."
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@server_option
@click.pass_obj
def delete(session: Session, name: str, files_removed: bool, yes: bool) -> None:
    """Delete a version, or a MODEL that has none; a runner removes the files."""
    registry = session.client.models
    model, word = parse_reference(name)
    if word and not word.isdecimal():
        raise InvalidArgumentError(f"name the version by its number: {model}/VERSION.")
    if not yes:
        if session.as_json or not sys.stdin.isatty():
            raise click.UsageError(f"deleting {name} needs --yes")
        click.confirm(f"delete {name}?", abort=True)
    if word:
        version = registry.version(name)
        registry.delete_version(version)
        if files_removed and version.uri:
            registry.delete_version(version, files_removed=True)
    else:
        registry.delete(model)
    if session.as_json:
        session.print_json({"deleted": name})
    else:
        session.say(f"{name} is deleted")


def _alias(name: str) -> tuple[str, str]:
    model, word = parse_reference(name)
    if not word or word.isdecimal():
        raise InvalidArgumentError(f"write MODEL@ALIAS, not {name!r}.")
    return model, check_alias(word)


def _say(session: Session, model: Model, text: str) -> None:
    if session.as_json:
        session.print_json(documents.model(model))
    else:
        session.say(text)


def _size(size_bytes: int) -> str:
    if not size_bytes:
        return ""
    if size_bytes >= _GIB:
        return f"{size_bytes / _GIB:.1f} GiB"
    return f"{max(size_bytes / _MIB, 0.1):.1f} MiB"
