"""The command line: `tuner ...`. Commands are loaded when they are called."""

from __future__ import annotations

import json
import os
import sys
import traceback

import click

from tuner import errors
from tuner.cli.lazy import LazyGroup, missing_extra
from tuner.cli.session import Session

#: The exit code of anything that was asked for and cannot be done.
FAILED = 2
#: The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--server", metavar="ADDRESS", help="The study server, host:port.")
@click.version_option(package_name="tuner", message="tuner %(version)s")
@click.pass_obj
def cli(session: Session, server: str | None) -> None:
    """Tunes models and their preprocessing, on this machine or on a Ray cluster.

    `tuner up` starts everything; `tuner submit study.yaml` then runs a study.
    """
    session.server = server


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits: 0 if it did what was asked, 2 with one line of cause if not."""
    arguments = sys.argv[1:] if arguments is None else arguments
    session = Session(as_json="--json" in arguments)
    try:
        code = cli.main(arguments, prog_name="tuner", standalone_mode=False, obj=session)
    except click.ClickException as error:
        code = _refuse(session, "USAGE", _usage(error))
    except errors.TunerError as error:
        code = _refuse(session, error.reason, error.message)
    except ModuleNotFoundError as error:
        code = _refuse(session, "MISSING_EXTRA", missing_extra(error, arguments))
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left; Python would complain once more at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # the boundary of the process
        code = _crash(session, error)
    finally:
        session.close()
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{message}; see `{context.command_path} --help`." if context else f"{message}."


def _refuse(session: Session, reason: str, message: str) -> int:
    sys.stdout.flush()
    if session.as_json:
        # One line: a process that starts us reads it as our answer.
        print(json.dumps({"error": {"reason": reason, "message": message}}), flush=True)
    # The mistakes of a study file are lines of their own, as compilers write them.
    prefix = "" if reason == errors.StudyFileError.reason else "error: "
    print(prefix + message, file=sys.stderr)
    return FAILED


def _crash(session: Session, error: Exception) -> int:
    if os.environ.get("TUNER_LOG_LEVEL") == "debug":
        traceback.print_exception(error)
    message = f"unexpected {type(error).__name__}: {error}; TUNER_LOG_LEVEL=debug shows where."
    return _refuse(session, "INTERNAL", message)
