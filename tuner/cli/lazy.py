"""The commands, and a group that imports each only when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command lives, what it is for, and the extra whose packages it needs."""

    module: str
    attribute: str
    help: str
    extra: str = ""


#: Every command, grouped as `tuner --help` shows them.
COMMANDS: Mapping[str, Mapping[str, Entry]] = {
    "Start": {
        "demo": Entry(
            "tuner.cli.demo", "demo", "Show everything on real data, in minutes.", "all"
        ),
        "up": Entry("tuner.cli.up", "up", "Start everything on this machine.", "all"),
        "server": Entry("tuner.cli.up", "server", "Start the study server alone.", "server"),
        "runner": Entry("tuner.cli.up", "runner", "Start a runner alone.", "worker"),
        "web": Entry("tuner.cli.web", "web", "Start the web pages alone.", "web"),
        "gateway": Entry(
            "tuner.cli.gateway", "gateway", "Serve models over REST and gRPC.", "serving"
        ),
    },
    "Backup": {
        "backup": Entry(
            "tuner.cli.backup", "backup", "Write all studies to a file, online.", "server"
        ),
        "restore": Entry(
            "tuner.cli.backup", "restore", "Read such a file into an empty database.", "server"
        ),
    },
    "Study": {
        "check": Entry("tuner.cli.check", "check", "Find every mistake in a study file."),
        "submit": Entry("tuner.cli.submit", "submit", "Start the study that a file describes."),
        "studies": Entry("tuner.cli.studies", "studies", "List the studies."),
        "watch": Entry("tuner.cli.studies", "watch", "Show a study until it ends."),
        "trials": Entry("tuner.cli.studies", "trials", "List a study's trials."),
        "add": Entry("tuner.cli.add", "add", "Add trials to try, and past results."),
        "logs": Entry("tuner.cli.logs", "logs", "Show what a trial printed, and why it failed."),
        "stop": Entry("tuner.cli.control", "stop", "End a study."),
        "pause": Entry("tuner.cli.control", "pause", "Start no more trials until resumed."),
        "resume": Entry("tuner.cli.control", "resume", "Take up a paused or ended study."),
        "retry": Entry("tuner.cli.control", "retry", "Run failed trials again."),
        "delete": Entry("tuner.cli.control", "delete", "Delete a study with its trials."),
    },
    "Model": {
        "models": Entry("tuner.cli.registry", "models", "List and manage published models."),
        "deploy": Entry("tuner.cli.endpoints", "deploy", "Give a version traffic of an endpoint."),
        "endpoints": Entry("tuner.cli.endpoints", "endpoints", "List and manage endpoints."),
        "export": Entry(
            "tuner.cli.models", "export", "Export a trial's model, or a published one.", "worker"
        ),
        "import": Entry(
            "tuner.cli.models", "import_", "Publish a SavedModel from elsewhere.", "worker"
        ),
        "predict": Entry(
            "tuner.cli.models", "predict", "Predict raw rows with a model.", "serving"
        ),
        "statistics": Entry(
            "tuner.cli.statistics", "statistics", "Show what a data file holds.", "worker"
        ),
    },
    "Administration": {
        "token": Entry("tuner.cli.admin", "token", "Make, list and revoke tokens."),
        "audit": Entry("tuner.cli.admin", "audit", "List who changed what."),
        "servers": Entry("tuner.cli.admin", "servers", "List the study servers."),
    },
}

_ENTRIES: Mapping[str, Entry] = {
    name: entry for group in COMMANDS.values() for name, entry in group.items()
}


class LazyGroup(click.Group):
    """Knows its commands by the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command."""
        return list(_ENTRIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command."""
        entry = _ENTRIES.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry.module), entry.attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the commands without importing them."""
        for title, commands in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in commands.items()])


def missing_extra(error: ModuleNotFoundError, arguments: Sequence[str]) -> str:
    """Says which extra to install for the command that was called."""
    command = next((word for word in arguments if word in _ENTRIES), None)
    extra = _ENTRIES[command].extra if command else ""
    if command is None or not extra:
        return f"the package {error.name!r} is not installed: pip install 'tuner[all]'."
    return f"`tuner {command}` needs the {extra} extra: pip install 'tuner[all]'."
